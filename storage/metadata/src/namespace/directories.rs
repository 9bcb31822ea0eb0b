//! Directories: make, look, list.

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{FileId, ZonePath, limits::PAGE_ENTRIES_MAX, metadata::v1 as pb};

use super::{
    permission::{Rights, born_in, check},
    resolve::{Found, find, root, step},
    stat::{deficits, listed, stat},
};
use crate::{
    answers::Call,
    authority::Caller,
    error::MetadataError,
    quota::{explained, links::put_new},
    schema::{access, access::transact, keys, records},
};

/// The permission bits that a caller wants for something new.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode {
    pub(crate) bits: u32,
    /// Those that it does not get, unless its directory has a default ACL.
    pub(crate) umask: u32,
}

/// What is wanted of directories that are made.
#[derive(Debug, Clone)]
struct Making {
    fresh: records::Entry,
    umask: u32,
    parents: bool,
    who: Caller,
}

impl Making {
    /// The directory that is made under a name of `parent`: the one that was asked for, or another on the way to it.
    fn made_in(&self, parent: &records::Entry, is_asked_for: bool) -> records::Entry {
        if is_asked_for {
            return born_in(parent, self.fresh.clone(), self.umask);
        }
        let fresh = records::Entry {
            mode: 0o777,
            ..self.fresh.clone()
        };
        let born = born_in(parent, fresh, self.umask);
        // As in HDFS and mkdir(1): its maker has to be able to go on in it.
        records::Entry {
            mode: born.mode | 0o300,
            ..born
        }
    }
}

/// Makes a directory; with `parents` also those above it, and a directory that exists is accepted.
pub(crate) async fn make(
    store: &impl Store,
    call: &Call,
    path: &ZonePath,
    mode: Mode,
    parents: bool,
    who: &Caller,
) -> Result<pb::Stat, MetadataError> {
    let fresh = records::Entry {
        mode: mode.bits,
        owner: who.name.as_str().to_owned(),
        mtime_ms: call.now_ms(),
        ..records::Entry::default()
    };
    let making = Making {
        fresh,
        umask: mode.umask,
        parents,
        who: who.clone(),
    };
    let made = transact!(store, [call, path, making], |txn| make_once(txn, &call, &path, &making)).await;
    explained(store, who, made).await
}

async fn make_once(
    txn: &mut impl Txn,
    call: &Call,
    path: &ZonePath,
    making: &Making,
) -> Result<pb::Stat, MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        return Ok(done);
    }
    let stat = make_in(txn, path, making).await?;
    call.keep(txn, &stat);
    Ok(stat)
}

async fn make_in(txn: &mut impl Txn, path: &ZonePath, making: &Making) -> Result<pb::Stat, MetadataError> {
    let mut at = root(txn).await?;
    let depth = path.names().count();
    let mut made = false;
    for (position, name) in path.names().enumerate() {
        made = false;
        at = match step(txn, &making.who, &at, name).await? {
            Some(found) => found,
            None if making.parents || position + 1 == depth => {
                made = true;
                let fresh = making.made_in(&at.entry, position + 1 == depth);
                add(txn, &at, name, fresh, &making.who)?
            }
            None => return Err(MetadataError::NotFound(at.path.join(name)?)),
        };
    }
    if !at.entry.is_directory() || (!made && !making.parents) {
        return Err(MetadataError::Exists(path.clone()));
    }
    stat(txn, &at).await
}

fn add(
    txn: &mut impl Txn,
    parent: &Found,
    name: &str,
    fresh: records::Entry,
    who: &Caller,
) -> Result<Found, MetadataError> {
    check(who, parent, Rights::CHANGE, &parent.path.child(name)?)?;
    let entry = records::Entry {
        id: FileId::generate().into(),
        ..fresh
    };
    put_new(txn, parent, name, entry)
}

/// What is at a path.
pub(crate) async fn look(store: &impl Store, who: &Caller, path: &ZonePath) -> Result<pb::Stat, MetadataError> {
    let mut txn = store.snapshot().await?;
    let found = find(&mut txn, who, path).await?;
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
    who: &Caller,
    path: &ZonePath,
    after: &After,
    limit: usize,
) -> Result<pb::ListResponse, MetadataError> {
    list_in(&mut store.snapshot().await?, who, path, after, limit).await
}

async fn list_in(
    txn: &mut impl Reader,
    who: &Caller,
    path: &ZonePath,
    after: &After,
    limit: usize,
) -> Result<pb::ListResponse, MetadataError> {
    let directory = find(txn, who, path).await?;
    if !directory.entry.is_directory() {
        return Err(MetadataError::NotADirectory(path.clone()));
    }
    check(who, &directory, Rights::LIST, path)?;
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use strongroom_kv::{EmbeddedStore, StoreError};

    use super::*;
    use strongroom_proto::groups::Groups;

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
        access::put(&mut txn, &keys::dentry(ROOT, "d"), &entry(at));
        for number in 0..1500 {
            let file = records::Entry {
                file: Some(records::Size {
                    length: 5,
                    blocks: 1,
                    ..records::Size::default()
                }),
                ..entry(FileId::generate())
            };
            access::put(&mut txn, &keys::dentry(at, &format!("{number:04}")), &file);
        }
        txn.commit().await.expect("committed");
        let (path, who) = (
            ZonePath::parse(b"/d").expect("a path"),
            Caller::of("fsadmin", Groups::default(), true),
        );
        let mut after = After::default();
        for (entries, last) in [(1000, "0999"), (500, "1499")] {
            let mut view = Counting {
                inner: store.snapshot().await.expect("a view"),
                gets: 0,
                ranges: 0,
            };
            let page = list_in(&mut view, &who, &path, &after, 1000).await.expect("a page");
            assert_eq!((page.entries.len(), page.more), (entries, entries == 1000));
            assert_eq!(page.entries.last().map(|entry| entry.name.as_str()), Some(last));
            assert_eq!((view.gets, view.ranges), (2, 1), "the root, /d, and the page");
            after.name = last.to_owned();
            after.directory = Some(at);
        }
    }
}
