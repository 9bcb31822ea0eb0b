//! Directories: make, look, list, set attributes.

use strongroom_kv::{Store, Txn};
use strongroom_proto::{FileId, ZonePath, limits::PAGE_ENTRIES_MAX, metadata::v1 as pb, transport::UserName};

use super::{
    resolve::{Found, find, load, root, step},
    stat::stat,
};
use crate::{
    answers::Call,
    error::MetadataError,
    schema::{access, access::transact, keys, records},
};

/// Bytes of paths in one page of a listing, so that a page of the longest names still fits a message.
const LIST_BYTES_MAX: usize = 2 << 20;

/// Makes a directory; with `parents` also those above it, and a directory that exists is accepted.
pub(crate) async fn make(
    store: &impl Store,
    call: &Call,
    path: &ZonePath,
    mode: u32,
    parents: bool,
    owner: &UserName,
) -> Result<pb::Stat, MetadataError> {
    let fresh = records::Inode {
        mode,
        owner: owner.as_str().to_owned(),
        mtime_ms: call.now_ms(),
        ..records::Inode::default()
    };
    transact!(store, [call, path, fresh], |txn| make_once(
        txn, &call, &path, &fresh, parents
    ))
    .await
}

async fn make_once(
    txn: &mut impl Txn,
    call: &Call,
    path: &ZonePath,
    fresh: &records::Inode,
    parents: bool,
) -> Result<pb::Stat, MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        return Ok(done);
    }
    let stat = make_in(txn, path, fresh, parents).await?;
    call.keep(txn, &stat);
    Ok(stat)
}

async fn make_in(
    txn: &mut impl Txn,
    path: &ZonePath,
    fresh: &records::Inode,
    parents: bool,
) -> Result<pb::Stat, MetadataError> {
    let mut at = root(txn).await?;
    let depth = path.names().count();
    let mut made = false;
    for (position, name) in path.names().enumerate() {
        made = false;
        at = match step(txn, &at, name).await? {
            Some(found) => found,
            None if parents || position + 1 == depth => {
                made = true;
                add(txn, &at, name, fresh).await?
            }
            None => return Err(MetadataError::NotFound(at.path.join(name)?)),
        };
    }
    if !at.inode.is_directory() || (!made && !parents) {
        return Err(MetadataError::Exists(path.clone()));
    }
    stat(txn, &at).await
}

async fn add(txn: &mut impl Txn, parent: &Found, name: &str, fresh: &records::Inode) -> Result<Found, MetadataError> {
    let inode = records::Inode {
        parent: parent.id.into(),
        name: name.to_owned(),
        ..fresh.clone()
    };
    let id = FileId::generate();
    access::link(txn, id, &inode)?;
    load(txn, parent, id, name).await
}

/// What is at a path.
pub(crate) async fn look(store: &impl Store, path: &ZonePath) -> Result<pb::Stat, MetadataError> {
    let mut txn = store.begin().await?;
    let found = find(&mut txn, path).await?;
    stat(&mut txn, &found).await
}

/// A page of a directory: up to `limit` names greater than `after`, in the order of their bytes.
pub(crate) async fn list(
    store: &impl Store,
    path: &ZonePath,
    after: &str,
    limit: usize,
) -> Result<pb::ListResponse, MetadataError> {
    let mut txn = store.begin().await?;
    let directory = find(&mut txn, path).await?;
    if !directory.inode.is_directory() {
        return Err(MetadataError::NotADirectory(path.clone()));
    }
    let mut range = keys::dentries(directory.id);
    if !after.is_empty() {
        range = range.after(&keys::dentry(directory.id, after));
    }
    let limit = limit.min(PAGE_ENTRIES_MAX);
    let found = access::page(&mut txn, &range, limit + 1).await?;
    let mut response = pb::ListResponse {
        entries: Vec::with_capacity(found.len().min(limit)),
        more: found.len() > limit,
    };
    let mut bytes = 0;
    for (key, value) in found.iter().take(limit) {
        if bytes > LIST_BYTES_MAX {
            response.more = true;
            break;
        }
        let name = keys::dentry_name(key).ok_or(MetadataError::Corrupt {
            what: "directory entry",
        })?;
        let child = load(&mut txn, &directory, access::file_id(value)?, name).await?;
        let stat = stat(&mut txn, &child).await?;
        bytes += stat.path.len() + stat.zone_path.len();
        response.entries.push(stat);
    }
    Ok(response)
}

/// Sets mode and time of modification where given.
pub(crate) async fn set_attributes(
    store: &impl Store,
    call: &Call,
    path: &ZonePath,
    mode: Option<u32>,
    mtime_ms: Option<u64>,
) -> Result<pb::Stat, MetadataError> {
    transact!(store, [call, path], |txn| set_in(txn, &call, &path, mode, mtime_ms)).await
}

async fn set_in(
    txn: &mut impl Txn,
    call: &Call,
    path: &ZonePath,
    mode: Option<u32>,
    mtime_ms: Option<u64>,
) -> Result<pb::Stat, MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        return Ok(done);
    }
    let mut found = find(txn, path).await?;
    found.inode.mode = mode.unwrap_or(found.inode.mode);
    found.inode.mtime_ms = mtime_ms.unwrap_or(found.inode.mtime_ms);
    access::put_inode(txn, found.id, &found.inode);
    let stat = stat(txn, &found).await?;
    call.keep(txn, &stat);
    Ok(stat)
}
