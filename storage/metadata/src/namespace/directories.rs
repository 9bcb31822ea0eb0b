//! Directories: make, look, list, set attributes.

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{FileId, ZonePath, limits::PAGE_ENTRIES_MAX, metadata::v1 as pb, transport::UserName};

use super::{
    resolve::{Found, child, find, root, step},
    stat::{deficits, listed, stat},
};
use crate::{
    answers::Call,
    error::MetadataError,
    schema::{access, access::transact, keys, records},
};

/// Makes a directory; with `parents` also those above it, and a directory that exists is accepted.
pub(crate) async fn make(
    store: &impl Store,
    call: &Call,
    path: &ZonePath,
    mode: u32,
    parents: bool,
    owner: &UserName,
) -> Result<pb::Stat, MetadataError> {
    let fresh = records::Entry {
        mode,
        owner: owner.as_str().to_owned(),
        mtime_ms: call.now_ms(),
        ..records::Entry::default()
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
    fresh: &records::Entry,
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
    fresh: &records::Entry,
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
    if !at.entry.is_directory() || (!made && !parents) {
        return Err(MetadataError::Exists(path.clone()));
    }
    stat(txn, &at).await
}

async fn add(txn: &mut impl Txn, parent: &Found, name: &str, fresh: &records::Entry) -> Result<Found, MetadataError> {
    let entry = records::Entry {
        id: FileId::generate().into(),
        group: parent.entry.group.clone(),
        ..fresh.clone()
    };
    access::link(txn, parent.id, name, &entry)?;
    child(parent, name, entry)
}

/// What is at a path.
pub(crate) async fn look(store: &impl Store, path: &ZonePath) -> Result<pb::Stat, MetadataError> {
    let mut txn = store.snapshot().await?;
    let found = find(&mut txn, path).await?;
    Ok(pb::Stat {
        blocks_in_deficit: deficits(&mut txn, found.id).await?,
        ..stat(&mut txn, &found).await?
    })
}

/// Where a page of a listing begins.
#[derive(Debug, Clone, Default)]
pub(crate) struct After {
    /// Behind this name; empty at the beginning.
    pub(crate) name: String,
    /// The directory that earlier pages were of.
    pub(crate) directory: Option<FileId>,
}

/// A page of a directory: up to `limit` names behind `after`, in the order of their bytes.
pub(crate) async fn list(
    store: &impl Store,
    path: &ZonePath,
    after: &After,
    limit: usize,
) -> Result<pb::ListResponse, MetadataError> {
    list_in(&mut store.snapshot().await?, path, after, limit).await
}

async fn list_in(
    txn: &mut impl Reader,
    path: &ZonePath,
    after: &After,
    limit: usize,
) -> Result<pb::ListResponse, MetadataError> {
    let directory = find(txn, path).await?;
    if !directory.entry.is_directory() {
        return Err(MetadataError::NotADirectory(path.clone()));
    }
    if after.directory.is_some_and(|begun| begun != directory.id) {
        return Err(MetadataError::Replaced(path.clone()));
    }
    let mut range = keys::dentries(directory.id);
    if !after.name.is_empty() {
        range = range.after(&keys::dentry(directory.id, &after.name));
    }
    let limit = limit.min(PAGE_ENTRIES_MAX);
    let mut found = access::page(txn, &range, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let entries = found.into_iter().map(|(key, value)| {
        let name = keys::dentry_name(&key).ok_or(MetadataError::Corrupt {
            what: "directory entry",
        })?;
        Ok(listed(name, &access::decode(value, "directory entry")?))
    });
    Ok(pb::ListResponse {
        entries: entries.collect::<Result<_, MetadataError>>()?,
        more,
        directory_id: directory.id.into(),
    })
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
    found.entry.mode = mode.unwrap_or(found.entry.mode);
    found.entry.mtime_ms = mtime_ms.unwrap_or(found.entry.mtime_ms);
    access::put(txn, &found.key, &found.entry);
    let stat = stat(txn, &found).await?;
    call.keep(txn, &stat);
    Ok(stat)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use strongroom_kv::{EmbeddedStore, StoreError};

    use super::*;
    use crate::schema::ROOT;

    /// Counts what is read through it.
    struct Counting<R> {
        inner: R,
        gets: usize,
        ranges: usize,
    }

    impl<R: Reader> Reader for Counting<R> {
        async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
            self.gets += 1;
            self.inner.get(key).await
        }

        async fn range(&mut self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
            self.ranges += 1;
            self.inner.range(start, end, limit).await
        }
    }

    #[tokio::test]
    async fn a_page_of_a_listing_is_the_walk_to_the_directory_and_one_range() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = EmbeddedStore::open(&dir.path().join("store")).expect("a store");
        let mut txn = store.begin().await.expect("a transaction");
        let at = FileId::from_bytes([1; 16]);
        let entry = |id: FileId| records::Entry {
            id: id.into(),
            ..records::Entry::default()
        };
        access::put(&mut txn, &keys::root(), &entry(ROOT));
        access::link(&mut txn, ROOT, "d", &entry(at)).expect("an id");
        for number in 0..1500 {
            let file = records::Entry {
                file: Some(records::Size { length: 5, blocks: 1 }),
                ..entry(FileId::generate())
            };
            access::link(&mut txn, at, &format!("{number:04}"), &file).expect("an id");
        }
        txn.commit().await.expect("committed");
        let path = ZonePath::parse(b"/d").expect("a path");
        let mut after = After::default();
        for (entries, last) in [(1000, "0999"), (500, "1499")] {
            let mut view = Counting {
                inner: store.snapshot().await.expect("a view"),
                gets: 0,
                ranges: 0,
            };
            let page = list_in(&mut view, &path, &after, 1000).await.expect("a page");
            assert_eq!((page.entries.len(), page.more), (entries, entries == 1000));
            assert_eq!(page.entries.last().map(|entry| entry.name.as_str()), Some(last));
            assert_eq!((view.gets, view.ranges), (2, 1), "the root, /d, and the page");
            after.name = last.to_owned();
            after.directory = Some(at);
        }
    }
}
