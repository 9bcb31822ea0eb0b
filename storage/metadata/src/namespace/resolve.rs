//! From a path to an inode and its zone, and back, within one transaction.

use strongroom_kv::Txn;
use strongroom_proto::{FileId, ZoneId, ZonePath};

use crate::{
    error::MetadataError,
    schema::{ROOT, access, records},
};

/// Directories between a file and the root, at most: a path's bytes bound it.
const DEPTH_MAX: usize = 2048;

/// A zone and where its root is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ZoneAt {
    pub(crate) id: ZoneId,
    pub(crate) path: ZonePath,
}

/// An inode that a path led to.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) id: FileId,
    pub(crate) path: ZonePath,
    pub(crate) inode: records::Inode,
    /// The nearest zone: its own, or that of a directory above.
    pub(crate) zone: Option<ZoneAt>,
}

/// Where a path ends: the directory that would hold its last name, and what is there.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) parent: Found,
    pub(crate) name: String,
    pub(crate) found: Option<Found>,
}

/// What is at `path`.
pub(crate) async fn find(txn: &mut impl Txn, path: &ZonePath) -> Result<Found, MetadataError> {
    let mut at = root(txn).await?;
    for name in path.names() {
        at = step(txn, &at, name)
            .await?
            .ok_or_else(|| MetadataError::NotFound(path.clone()))?;
    }
    Ok(at)
}

/// A path's directory, which must exist, and its last name, which need not. `root_what` says what cannot be
/// done to the root.
pub(crate) async fn slot(txn: &mut impl Txn, path: &ZonePath, root_what: &'static str) -> Result<Slot, MetadataError> {
    let (parent, name) = path.split_last().ok_or(MetadataError::Root(root_what))?;
    let parent = find(txn, &parent).await?;
    let found = step(txn, &parent, name).await?;
    Ok(Slot {
        parent,
        name: name.to_owned(),
        found,
    })
}

/// The child `name` of `at`, which must be a directory.
pub(crate) async fn step(txn: &mut impl Txn, at: &Found, name: &str) -> Result<Option<Found>, MetadataError> {
    if !at.inode.is_directory() {
        return Err(MetadataError::NotADirectory(at.path.clone()));
    }
    match access::child(txn, at.id, name).await? {
        Some(id) => load(txn, at, id, name).await.map(Some),
        None => Ok(None),
    }
}

/// The inode `id`, known to be the child `name` of `parent`.
pub(crate) async fn load(txn: &mut impl Txn, parent: &Found, id: FileId, name: &str) -> Result<Found, MetadataError> {
    let inode = access::inode(txn, id).await?.ok_or(MetadataError::Corrupt {
        what: "directory entry",
    })?;
    let path = parent.path.join(name)?;
    let zone = match inode.zone()? {
        Some(id) => Some(ZoneAt { id, path: path.clone() }),
        None => parent.zone.clone(),
    };
    Ok(Found { id, path, inode, zone })
}

pub(crate) async fn root(txn: &mut impl Txn) -> Result<Found, MetadataError> {
    let inode = access::inode(txn, ROOT)
        .await?
        .ok_or(MetadataError::Corrupt { what: "root directory" })?;
    let zone = inode.zone()?.map(|id| ZoneAt {
        id,
        path: ZonePath::root(),
    });
    Ok(Found {
        id: ROOT,
        path: ZonePath::root(),
        inode,
        zone,
    })
}

/// The inode `id` found from below, or `None` if it is gone or cut off from the root.
pub(crate) async fn climb(txn: &mut impl Txn, id: FileId) -> Result<Option<Found>, MetadataError> {
    let mut chain = Vec::new();
    let mut next = id;
    while next != ROOT {
        let Some(inode) = access::inode(txn, next).await? else {
            return Ok(None);
        };
        if inode.unlinked || chain.len() == DEPTH_MAX {
            return Ok(None);
        }
        let parent = inode.parent_id()?;
        chain.push((next, inode));
        next = parent;
    }
    let mut at = root(txn).await?;
    for (id, inode) in chain.into_iter().rev() {
        let path = at.path.join(&inode.name)?;
        let zone = match inode.zone()? {
            Some(id) => Some(ZoneAt { id, path: path.clone() }),
            None => at.zone.clone(),
        };
        at = Found { id, path, inode, zone };
    }
    Ok(Some(at))
}
