//! Rename, with HDFS' rule of zones: the zones of the two *parents* must be the same, so that the root of a
//! zone can move within the zone that holds it, and no file leaves the zone that its EDEK is bound to. Moving to another zone is a
//! transfer ([`crate::transfer`]), which begins and ends as a rename does.

use strongroom_kv::{Store, Txn};
use strongroom_proto::{ZonePath, metadata::v1 as pb};

use super::{
    permission::{Rights, check, check_taking},
    remove::{is_empty, unlink_empty, unlink_file},
    resolve::{Found, Slot, ZoneAt, slot},
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
    let ends = ends(txn, who, from, to).await?;
    let target = &ends.target.parent;
    check_zones(from, to, ends.parent.zone.as_ref(), target.zone.as_ref())?;
    let moved = relink(txn, who, ends, overwrite_ms).await?;
    stat(txn, &moved).await
}

/// Both ends of a move.
pub(crate) struct Ends {
    /// The directory of what is moved.
    pub(crate) parent: Found,
    pub(crate) moved: Found,
    pub(crate) target: Slot,
}

/// What is at both ends of a move that the caller may make, as far as the zones let him and there is room for it.
pub(crate) async fn ends(
    txn: &mut impl Txn,
    who: &Caller,
    from: &ZonePath,
    to: &ZonePath,
) -> Result<Ends, MetadataError> {
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
    Ok(Ends {
        parent: source.parent,
        moved,
        target,
    })
}

/// Moves an entry, which replaces what is at its target if it is to be overwritten: then `overwrite_ms` is the time.
pub(crate) async fn relink(
    txn: &mut impl Txn,
    who: &Caller,
    ends: Ends,
    overwrite_ms: Option<u64>,
) -> Result<Found, MetadataError> {
    let Ends { moved, target, .. } = ends;
    check_room(txn, who, &target, moved.entry.is_directory(), overwrite_ms.is_some()).await?;
    if let (Some(there), Some(now_ms)) = (&target.found, overwrite_ms) {
        if there.entry.is_directory() {
            unlink_empty(txn, there, now_ms).await?;
        } else {
            unlink_file(txn, there).await?;
        }
    }
    put_elsewhere(txn, moved, &target.parent, &target.name).await
}

fn check_zones(
    path: &ZonePath,
    to: &ZonePath,
    from_zone: Option<&ZoneAt>,
    to_zone: Option<&ZoneAt>,
) -> Result<(), MetadataError> {
    let (border, transferable) = match (from_zone, to_zone) {
        (None, None) => return Ok(()),
        (Some(from), Some(to)) if from.id == to.id => return Ok(()),
        (Some(from), Some(to)) => (
            format!("from encryption zone {} to encryption zone {}", from.path, to.path),
            true,
        ),
        (Some(_), None) => ("from an encryption zone".to_owned(), false),
        (None, Some(_)) => ("into an encryption zone".to_owned(), false),
    };
    Err(MetadataError::CrossZone {
        path: path.clone(),
        border,
        to: transferable.then(|| to.clone()),
    })
}

/// Refuses what cannot be replaced at the target: anything unless it is to be overwritten, and then a directory by a file, a file by a
/// directory, and a directory that holds something.
pub(crate) async fn check_room(
    txn: &mut impl Txn,
    who: &Caller,
    target: &Slot,
    moves_directory: bool,
    overwrite: bool,
) -> Result<(), MetadataError> {
    let Some(there) = &target.found else {
        return Ok(());
    };
    if !overwrite {
        return Err(MetadataError::Exists(there.path.clone()));
    }
    check_taking(who, &target.parent, there)?;
    match (moves_directory, there.entry.is_directory()) {
        (true, false) => Err(MetadataError::NotADirectory(there.path.clone())),
        (false, true) => Err(MetadataError::IsADirectory(there.path.clone())),
        (true, true) if !is_empty(txn, there).await? => Err(MetadataError::NotEmpty(there.path.clone())),
        _ => Ok(()),
    }
}
