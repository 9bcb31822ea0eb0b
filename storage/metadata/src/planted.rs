//! Trees of directories for tests of what goes through them, in an embedded store.

use strongroom_kv::{EmbeddedStore, Store, Txn};
use strongroom_proto::{FileId, ZoneId, ZonePath, metadata::v1 as pb};
use tempfile::TempDir;

use crate::{
    answers::Call,
    authority::Caller,
    namespace::{
        rename::rename,
        resolve::{Found, find},
    },
    quota::links::put_new,
    schema::{ROOT, access, counted, keys, records},
};

/// Directories or files made in one transaction.
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

    /// `/a` and `/b` of alice's, that are open to all; in `/b` is something of bob's that is closed to her.
    pub(crate) async fn with_bobs() -> Self {
        let planted = Self::new().await;
        for path in ["/a", "/b"] {
            planted.directory(path, "alice", 0o777).await;
        }
        planted.directory("/b/private", "bob", 0o700).await;
        planted.directory("/b/private/x", "bob", 0o755).await;
        planted
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

    /// Makes so many directories, each in the one before. Says which is the last one.
    pub(crate) async fn chain(&self, top: &Found, directories: usize) -> Found {
        let mut txn = self.store.begin().await.expect("a transaction");
        let mut at = top.clone();
        for _ in 0..directories {
            at = put_new(&mut txn, &at, "d", entry("alice", 0o755)).expect("new");
        }
        txn.commit().await.expect("committed");
        at
    }

    /// Makes files `0` and so on, which are not encrypted and empty, each in one of these directories in turn.
    pub(crate) async fn plain_files(&self, at: &[&Found], files: usize) {
        let numbered: Vec<_> = (0..files).zip(at.iter().cycle()).collect();
        for part in numbered.chunks(AT_ONCE) {
            let mut txn = self.store.begin().await.expect("a transaction");
            for (number, above) in part {
                plain_file(&mut txn, above, &number.to_string());
            }
            txn.commit().await.expect("committed");
        }
    }

    /// Makes a directory the root of a zone that adopts what it holds.
    pub(crate) async fn adopting(&self, root: &Found) -> ZoneId {
        let zone = ZoneId::generate();
        let entry = records::Entry {
            zone_id: zone.into(),
            ..root.entry.clone()
        };
        let record = records::Zone {
            adoption: Some(records::Adoption::default()),
            ..records::Zone::default()
        };
        let mut txn = self.store.begin().await.expect("a transaction");
        access::put(&mut txn, &root.key, &entry);
        access::put(&mut txn, &keys::zone(zone), &record);
        txn.commit().await.expect("committed");
        zone
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

fn plain_file(txn: &mut impl Txn, above: &Found, name: &str) {
    let entry = records::Entry {
        file: Some(records::Size::default()),
        ..entry("alice", 0o644)
    };
    let id = entry.file_id().expect("an id");
    let body = records::Body {
        plain: Some(records::Plain::default()),
        ..records::Body::default()
    };
    put_new(txn, above, name, entry).expect("new");
    counted::enter(txn, &body, id).expect("a plain file");
    access::put(txn, &keys::body(id), &body);
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
