//! From a path to what is there and its zone, and back, within one transaction. The walk takes the right to pass through each directory.

use strongroom_kv::Reader;
use strongroom_proto::{FileId, JobId, ZoneId, ZonePath};

use super::permission::{Rights, check};
use crate::{
    authority::Caller,
    error::MetadataError,
    quota::{self, QuotaAt},
    schema::{ROOT, access, keys, records},
};

/// Directories between an inode and the root, at most, and below the one that a walk begins with. A path's bytes bound it for what is made;
/// renames further up can add to it.
pub(super) const DEPTH_MAX: usize = 2048;

/// A zone and where its root is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ZoneAt {
    pub(crate) id: ZoneId,
    pub(crate) path: ZonePath,
}

/// What a path led to.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) id: FileId,
    /// Where its entry stands.
    pub(crate) key: Vec<u8>,
    /// Too long to be asked for, if it was found from below and a rename moved it there.
    pub(crate) path: ZonePath,
    pub(crate) entry: records::Entry,
    /// The nearest zone: its own, or that of a directory above.
    pub(crate) zone: Option<ZoneAt>,
    /// Quotas from the root on: of the directories above, and its own.
    pub(crate) quotas: Vec<QuotaAt>,
    /// The job that moves it, or a directory above, to another zone.
    pub(crate) moving: Option<JobId>,
}

/// Where a path ends: the directory that would hold its last name, and what is there.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) parent: Found,
    pub(crate) name: String,
    pub(crate) found: Option<Found>,
}

/// What is at `path`.
pub(crate) async fn find(txn: &mut impl Reader, who: &Caller, path: &ZonePath) -> Result<Found, MetadataError> {
    let mut at = root(txn).await?;
    for name in path.names() {
        at = step(txn, who, &at, name)
            .await?
            .ok_or_else(|| MetadataError::NotFound(path.clone()))?;
    }
    Ok(at)
}

/// A path's directory, which must exist, and its last name, which need not. `root_what` says what cannot be
/// done to the root.
pub(crate) async fn slot(
    txn: &mut impl Reader,
    who: &Caller,
    path: &ZonePath,
    root_what: &'static str,
) -> Result<Slot, MetadataError> {
    let (parent, name) = path.split_last().ok_or(MetadataError::Root(root_what))?;
    let parent = find(txn, who, &parent).await?;
    let found = step(txn, who, &parent, name).await?;
    Ok(Slot {
        parent,
        name: name.to_owned(),
        found,
    })
}

/// The child `name` of `at`, which must be a directory.
pub(crate) async fn step(
    txn: &mut impl Reader,
    who: &Caller,
    at: &Found,
    name: &str,
) -> Result<Option<Found>, MetadataError> {
    if !at.entry.is_directory() {
        return Err(MetadataError::NotADirectory(at.path.clone()));
    }
    check(who, at, Rights::PASS, &at.path.child(name)?)?;
    match access::entry(txn, at.id, name).await? {
        Some(entry) => child(at, name, entry).map(Some),
        None => Ok(None),
    }
}

/// The child `name` of `parent`, whose entry is known.
pub(crate) fn child(parent: &Found, name: &str, entry: records::Entry) -> Result<Found, MetadataError> {
    let path = parent.path.child(name)?;
    let zone = match entry.zone()? {
        Some(id) => Some(ZoneAt { id, path: path.clone() }),
        None => parent.zone.clone(),
    };
    let own = quota::at(&path, &entry)?;
    let moving = entry.moving()?.or(parent.moving);
    Ok(Found {
        id: entry.file_id()?,
        key: keys::dentry(parent.id, name),
        quotas: parent.quotas.iter().cloned().chain(own).collect(),
        path,
        entry,
        zone,
        moving,
    })
}

pub(crate) async fn root(txn: &mut impl Reader) -> Result<Found, MetadataError> {
    let key = keys::root();
    let entry: records::Entry = access::record(txn, &key, "root directory")
        .await?
        .ok_or(MetadataError::Corrupt { what: "root directory" })?;
    let zone = entry.zone()?.map(|id| ZoneAt {
        id,
        path: ZonePath::root(),
    });
    Ok(Found {
        id: ROOT,
        key,
        quotas: quota::at(&ZonePath::root(), &entry)?.into_iter().collect(),
        path: ZonePath::root(),
        entry,
        zone,
        moving: None,
    })
}

/// The inode `id` found from below, or `None` if it is gone or cut off from the root.
pub(crate) async fn climb(txn: &mut impl Reader, who: &Caller, id: FileId) -> Result<Option<Found>, MetadataError> {
    let mut names = Vec::new();
    let mut next = id;
    while next != ROOT {
        let Some(place) = access::place(txn, next).await?.filter(|place| !place.unlinked) else {
            return Ok(None);
        };
        if names.len() == DEPTH_MAX {
            return Err(MetadataError::TooDeep(place.name));
        }
        next = access::file_id(&place.parent)?;
        names.push(place.name);
    }
    let mut at = root(txn).await?;
    while let Some(name) = names.pop() {
        at = step(txn, who, &at, &name).await?.ok_or(MetadataError::Corrupt {
            what: "directory entry",
        })?;
    }
    Ok(Some(at))
}
