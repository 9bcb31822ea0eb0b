//! Rename, with HDFS' rule of zones: the zones of the two *parents* must be the same, so that the root of a
//! zone can move within the zone that holds it, and no file leaves the zone that its EDEK is bound to.

use strongroom_kv::{Store, Txn};
use strongroom_proto::{ZonePath, metadata::v1 as pb};

use super::{
    remove::unlink_file,
    resolve::{Slot, ZoneAt, child, slot},
    stat::stat,
};
use crate::{
    answers::Call,
    error::MetadataError,
    schema::{access, access::transact},
};

/// Moves `from` to `to`; with `overwrite` a file replaces a file there.
pub(crate) async fn rename(
    store: &impl Store,
    call: &Call,
    from: &ZonePath,
    to: &ZonePath,
    overwrite: bool,
) -> Result<pb::Stat, MetadataError> {
    transact!(store, [call, from, to], |txn| rename_once(
        txn, &call, &from, &to, overwrite
    ))
    .await
}

async fn rename_once(
    txn: &mut impl Txn,
    call: &Call,
    from: &ZonePath,
    to: &ZonePath,
    overwrite: bool,
) -> Result<pb::Stat, MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        return Ok(done);
    }
    let stat = rename_in(txn, from, to, overwrite).await?;
    call.keep(txn, &stat);
    Ok(stat)
}

async fn rename_in(
    txn: &mut impl Txn,
    from: &ZonePath,
    to: &ZonePath,
    overwrite: bool,
) -> Result<pb::Stat, MetadataError> {
    let source = slot(txn, from, "renamed").await?;
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
    let target = slot(txn, to, "replaced").await?;
    check_zones(from, source.parent.zone.as_ref(), target.parent.zone.as_ref())?;
    make_room(txn, &target, moved.entry.is_directory(), overwrite).await?;
    txn.delete(&moved.key);
    access::link(txn, target.parent.id, &target.name, &moved.entry)?;
    let moved = child(&target.parent, &target.name, moved.entry)?;
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

async fn make_room(
    txn: &mut impl Txn,
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
    if there.entry.is_directory() {
        return Err(MetadataError::IsADirectory(there.path.clone()));
    }
    if moves_directory {
        return Err(MetadataError::NotADirectory(there.path.clone()));
    }
    unlink_file(txn, there).await
}
