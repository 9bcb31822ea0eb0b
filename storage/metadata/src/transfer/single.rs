//! Moving one file to another zone: its EDEK and its entry change in one transaction.

use strongroom_kv::{Store, Txn};
use strongroom_proto::metadata::v1 as pb;

use super::{
    Route,
    begin::{Crossing, Move, crossing},
    check_has_code,
    present::{Signed, fresh},
    staged,
};
use crate::{
    answers::Call,
    core::Core,
    error::MetadataError,
    namespace::{
        rename::{check_room, relink},
        stat::stat,
    },
    quota::{explained, links::check_room_for},
    schema::{access, access::transact, counted, keys, records::Edek},
    zones::source::EdekSource,
};

/// Moves a file, for whose EDEK the caller signed.
pub(crate) async fn transfer<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    call: &Call,
    asked: &Move,
    signed: &Signed,
) -> Result<pb::Stat, MetadataError> {
    let mut txn = core.store.begin().await?;
    if let Some(done) = call.answer(&mut txn).await? {
        return Ok(done);
    }
    let Crossing { ends, route } = crossing(&mut txn, asked).await?;
    if ends.moved.entry.is_directory() {
        return Err(MetadataError::IsADirectory(asked.from.clone()));
    }
    // Before the key service makes an EDEK that nobody needs.
    check_room(&mut txn, &asked.who, &ends.target, false, asked.overwrite).await?;
    check_room_for(&mut txn, &ends.moved, &ends.target).await?;
    drop(txn);
    signed.check(&asked.who, &route, 1)?;
    let answer = signed.present(core, &route).await?;
    let wrapped = answer.results.first().cloned();
    let wrapped = wrapped.ok_or(MetadataError::Corrupt { what: "answer" })??;
    let edek = fresh(&route, &answer, &wrapped);
    let moved = transact!(&core.store, [call, asked, signed, route, edek], |txn| move_once(
        txn, &call, &asked, &signed, &route, &edek
    ))
    .await;
    explained(&core.store, &asked.who, moved).await
}

async fn move_once(
    txn: &mut impl Txn,
    call: &Call,
    asked: &Move,
    signed: &Signed,
    route: &Route,
    edek: &Edek,
) -> Result<pb::Stat, MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        return Ok(done);
    }
    let crossing = crossing(txn, asked).await?;
    let file = crossing.ends.moved.id;
    let body = access::body(txn, file).await?;
    let mut body = body.ok_or_else(|| MetadataError::IsADirectory(asked.from.clone()))?;
    check_has_code(&body, &asked.from)?;
    staged::settle(txn, file, &mut body).await?;
    let least = access::zone(txn, route.to.zone).await?.unwrap_or_default().version_min;
    let old = body.edek.take().ok_or(MetadataError::Corrupt { what: "file" })?;
    // Another file, another zone, or re-wrapped since: the caller signs for what is there now.
    if crossing.route != *route || !signed.names(0, &old) || edek.key_version < least {
        return Err(MetadataError::MovedOn(asked.from.clone()));
    }
    counted::delete_index(txn, &old, file)?;
    counted::put_index(txn, edek, file)?;
    body.edek = Some(edek.clone());
    access::put(txn, &keys::body(file), &body);
    let overwrite_ms = asked.overwrite.then(|| call.now_ms());
    let moved = relink(txn, &asked.who, crossing.ends, overwrite_ms).await?;
    let stat = stat(txn, &moved).await?;
    call.keep(txn, &stat);
    Ok(stat)
}
