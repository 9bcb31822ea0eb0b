//! Trees of directories for tests of what goes through them, in an embedded store.

use strongroom_kv::{EmbeddedStore, Store, Txn};
use strongroom_proto::{FileId, ZonePath, metadata::v1 as pb};
use tempfile::TempDir;

use crate::{
    answers::Call,
    authority::Caller,
    namespace::{
        rename::rename,
        resolve::{Found, find},
    },
    quota::links::put_new,
    schema::{ROOT, access, keys, records},
};

/// Directories made in one transaction.
const AT_ONCE: usize = 2000;

pub(crate) struct Planted {
    pub(crate) store: EmbeddedStore,
    _dir: TempDir,
}

impl Planted {
    /// A root that is open to all.
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = EmbeddedStore::open(&dir.path().join("store")).expect("a store");
        let mut txn = store.begin().await.expect("a transaction");
        let root = records::Entry {
            id: ROOT.into(),
            ..entry("root", 0o777)
        };
        access::put(&mut txn, &keys::root(), &root);
        txn.commit().await.expect("committed");
        Self { store, _dir: dir }
    }

    /// What is at a path.
    pub(crate) async fn at(&self, path: &str) -> Option<Found> {
        let mut view = self.store.snapshot().await.expect("a view");
        find(&mut view, &keeper(), &parsed(path)).await.ok()
    }

    /// Makes a directory in one that is there.
    pub(crate) async fn directory(&self, path: &str, owner: &str, mode: u32) -> Found {
        let path = parsed(path);
        let (above, name) = path.split_last().expect("not the root");
        let mut txn = self.store.begin().await.expect("a transaction");
        let above = find(&mut txn, &keeper(), &above).await.expect("there");
        let made = put_new(&mut txn, &above, name, entry(owner, mode)).expect("new");
        txn.commit().await.expect("committed");
        made
    }

    /// Makes directories `0000` and so on in one that is there.
    pub(crate) async fn fill(&self, path: &str, owner: &str, directories: usize) {
        let above = self.at(path).await.expect("there");
        for first in (0..directories).step_by(AT_ONCE) {
            let mut txn = self.store.begin().await.expect("a transaction");
            for number in first..directories.min(first + AT_ONCE) {
                put_new(&mut txn, &above, &format!("{number:04}"), entry(owner, 0o755)).expect("new");
            }
            txn.commit().await.expect("committed");
        }
    }

    /// Makes so many directories, each in the one before.
    pub(crate) async fn chain(&self, top: &Found, directories: usize) {
        let mut txn = self.store.begin().await.expect("a transaction");
        let mut at = top.clone();
        for _ in 0..directories {
            at = put_new(&mut txn, &at, "d", entry("alice", 0o755)).expect("new");
        }
        txn.commit().await.expect("committed");
    }
}

/// Renames, with the right to all.
pub(crate) async fn moved(store: &EmbeddedStore, from: &str, to: &str) {
    let who = keeper();
    let call = Call::of("rename", &who.name, &[], &pb::RenameRequest::default(), 1).expect("a call");
    let renamed = rename(store, &who, &call, &parsed(from), &parsed(to), false).await;
    renamed.expect("renamed");
}

pub(crate) fn parsed(path: &str) -> ZonePath {
    ZonePath::parse(path.as_bytes()).expect("a path")
}

fn keeper() -> Caller {
    Caller::keeper("keeper".parse().expect("a user"))
}

fn entry(owner: &str, mode: u32) -> records::Entry {
    records::Entry {
        id: FileId::generate().into(),
        mode,
        owner: owner.to_owned(),
        ..records::Entry::default()
    }
}
