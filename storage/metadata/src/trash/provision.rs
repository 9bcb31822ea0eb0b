//! The directory in the root of a zone in which every user can have a trash: anybody may make a directory there, and nobody may take
//! another's (mode 1777). It belongs to the owner of the zone's root.

use strongroom_kv::{Store, Txn};
use strongroom_proto::{ZonePath, metadata::v1 as pb};

use super::{Fresh, TRASH};
use crate::{
    answers::Call,
    authority::Caller,
    error::MetadataError,
    namespace::{
        remove::is_empty,
        resolve::{Found, child, find},
        stat::stat,
    },
    schema::{access, access::transact, keys, records::Entry},
};

/// Its mode, as in HDFS.
const MODE: u32 = 0o1777;

/// Has the trash of the zone whose root is at `path` there as it should be. That the caller is a superuser was checked before.
pub(crate) async fn provision(
    store: &impl Store,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
) -> Result<pb::Stat, MetadataError> {
    transact!(store, [who, call, path], |txn| provision_once(txn, &who, &call, &path)).await
}

async fn provision_once(
    txn: &mut impl Txn,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
) -> Result<pb::Stat, MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        return Ok(done);
    }
    let root = find(txn, who, path).await?;
    if root.entry.zone()?.is_none() {
        return Err(MetadataError::NotZoneRoot {
            path: path.clone(),
            zone: root.zone.map(|zone| zone.path),
        });
    }
    let trash = ensure(txn, &root, call.now_ms()).await?;
    let stat = stat(txn, &trash).await?;
    call.keep(txn, &stat);
    Ok(stat)
}

/// Has the trash of a zone there as it should be.
pub(crate) async fn ensure(txn: &mut impl Txn, root: &Found, now_ms: u64) -> Result<Found, MetadataError> {
    let Some(entry) = access::entry(txn, root.id, TRASH).await? else {
        return make(txn, root, now_ms);
    };
    let mut found = child(root, TRASH, entry)?;
    if !found.entry.is_directory() {
        return Err(MetadataError::NotADirectory(found.path));
    }
    // Whoever made it first might own it otherwise, and with it what others throw away.
    let whole = Entry {
        mode: MODE,
        owner: root.entry.owner.clone(),
        group: root.entry.group.clone(),
        acl: None,
        default_acl: None,
        ..found.entry.clone()
    };
    if found.entry != whole {
        found.entry = whole;
        access::put(txn, &found.key, &found.entry);
    }
    Ok(found)
}

/// Makes the directory in a zone's root that has none.
pub(super) fn make(txn: &mut impl Txn, root: &Found, now_ms: u64) -> Result<Found, MetadataError> {
    let fresh = Fresh {
        owner: &root.entry.owner,
        mode: MODE,
        now_ms,
    };
    fresh.make(txn, root, TRASH)
}

/// Whether a directory has a trash, and nothing in it, and nothing else.
pub(crate) async fn is_all(txn: &mut impl Txn, directory: &Found) -> Result<bool, MetadataError> {
    let found = access::page(txn, &keys::dentries(directory.id), 2).await?;
    let [(key, value)] = found.as_slice() else {
        return Ok(false);
    };
    if keys::dentry_name(key) != Some(TRASH) {
        return Ok(false);
    }
    let trash = child(directory, TRASH, access::decode(value.clone(), "directory entry")?)?;
    is_fresh(txn, &trash).await
}

/// Whether a directory has something else than an empty directory where a zone's trash would be.
pub(crate) async fn is_in_the_way(txn: &mut impl Txn, directory: &Found) -> Result<bool, MetadataError> {
    let Some(entry) = access::entry(txn, directory.id, TRASH).await? else {
        return Ok(false);
    };
    let there = child(directory, TRASH, entry)?;
    Ok(!is_fresh(txn, &there).await?)
}

async fn is_fresh(txn: &mut impl Txn, trash: &Found) -> Result<bool, MetadataError> {
    Ok(trash.entry.is_directory() && trash.entry.zone_id.is_empty() && is_empty(txn, trash).await?)
}
