//! Rename, with HDFS' rule of zones: the zones of the two *parents* must be the same, so that the root of a
//! zone can move within the zone that holds it, and no file leaves the zone that its EDEK is bound to.

use strongroom_kv::{Store, Txn};
use strongroom_proto::{ZonePath, metadata::v1 as pb};

use super::{
    permission::{Rights, check, check_taking},
    remove::{is_empty, unlink_empty, unlink_file},
    resolve::{Slot, ZoneAt, slot},
    stat::stat,
};
use crate::{
    answers::Call,
    authority::Caller,
    error::MetadataError,
    quota::{explained, links::put_elsewhere},
    schema::access::transact,
};

/// Moves `from` to `to`; with `overwrite` a file replaces a file there, and a directory an empty one.
pub(crate) async fn rename(
    store: &impl Store,
    who: &Caller,
    call: &Call,
    from: &ZonePath,
    to: &ZonePath,
    overwrite: bool,
) -> Result<pb::Stat, MetadataError> {
    let renamed = transact!(store, [who, call, from, to], |txn| rename_once(
        txn, &who, &call, &from, &to, overwrite
    ))
    .await;
    explained(store, who, renamed).await
}

async fn rename_once(
    txn: &mut impl Txn,
    who: &Caller,
    call: &Call,
    from: &ZonePath,
    to: &ZonePath,
    overwrite: bool,
) -> Result<pb::Stat, MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        return Ok(done);
    }
    let stat = rename_in(txn, who, from, to, overwrite.then(|| call.now_ms())).await?;
    call.keep(txn, &stat);
    Ok(stat)
}

async fn rename_in(
    txn: &mut impl Txn,
    who: &Caller,
    from: &ZonePath,
    to: &ZonePath,
    overwrite_ms: Option<u64>,
) -> Result<pb::Stat, MetadataError> {
    let source = slot(txn, who, from, "renamed").await?;
    let Some(moved) = source.found else {
        return Err(MetadataError::NotFound(from.clone()));
    };
    if to.is_within(from) {
        let why = if from == to {
            "source and destination are the same"
        } else {
            "a directory cannot be below itself"
        };
        return Err(MetadataError::InvalidMove {
            from: from.clone(),
            to: to.clone(),
            why,
        });
    }
    let target = slot(txn, who, to, "replaced").await?;
    check_taking(who, &source.parent, &moved)?;
    check(who, &target.parent, Rights::CHANGE, to)?;
    check_zones(from, source.parent.zone.as_ref(), target.parent.zone.as_ref())?;
    make_room(txn, who, &target, moved.entry.is_directory(), overwrite_ms).await?;
    let moved = put_elsewhere(txn, moved, &target.parent, &target.name).await?;
    stat(txn, &moved).await
}

fn check_zones(path: &ZonePath, from: Option<&ZoneAt>, to: Option<&ZoneAt>) -> Result<(), MetadataError> {
    let border = match (from, to) {
        (None, None) => return Ok(()),
        (Some(from), Some(to)) if from.id == to.id => return Ok(()),
        (Some(from), Some(to)) => format!("from encryption zone {} to encryption zone {}", from.path, to.path),
        (Some(_), None) => "from an encryption zone".to_owned(),
        (None, Some(_)) => "into an encryption zone".to_owned(),
    };
    Err(MetadataError::CrossZone {
        path: path.clone(),
        border,
    })
}

/// Removes what is at the target, if it is to be overwritten: then `overwrite_ms` is the time.
async fn make_room(
    txn: &mut impl Txn,
    who: &Caller,
    target: &Slot,
    moves_directory: bool,
    overwrite_ms: Option<u64>,
) -> Result<(), MetadataError> {
    let Some(there) = &target.found else {
        return Ok(());
    };
    let Some(now_ms) = overwrite_ms else {
        return Err(MetadataError::Exists(there.path.clone()));
    };
    check_taking(who, &target.parent, there)?;
    match (moves_directory, there.entry.is_directory()) {
        (true, false) => Err(MetadataError::NotADirectory(there.path.clone())),
        (false, true) => Err(MetadataError::IsADirectory(there.path.clone())),
        (false, false) => unlink_file(txn, there).await,
        (true, true) if is_empty(txn, there).await? => unlink_empty(txn, there, now_ms).await,
        (true, true) => Err(MetadataError::NotEmpty(there.path.clone())),
    }
}
