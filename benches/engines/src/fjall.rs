//! fjall with one keyspace; each commit is a batch that is synchronized to the disk.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable as _, Snapshot};

use crate::engine::{CACHE_BYTES, Engine, Pair, View, Writes};

pub(crate) struct Fjall {
    database: Database,
    data: Keyspace,
}

struct At<'a> {
    snapshot: Snapshot,
    data: &'a Keyspace,
}

impl Fjall {
    pub(crate) fn open(directory: &Path) -> Self {
        let database = Database::builder(directory).cache_size(CACHE_BYTES as u64).open();
        let database = database.expect("it opens");
        let data = database.keyspace("data", KeyspaceCreateOptions::default);
        Self {
            data: data.expect("the keyspace"),
            database,
        }
    }
}

impl Engine for Fjall {
    fn view(&self) -> Box<dyn View + '_> {
        Box::new(At {
            snapshot: self.database.snapshot(),
            data: &self.data,
        })
    }

    fn commit(&self, writes: &Writes) {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(&self.data, key.as_slice(), value.as_slice()),
                None => batch.remove(&self.data, key.as_slice()),
            }
        }
        batch.commit().expect("durable");
    }
}

impl View for At<'_> {
    fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let found = self.snapshot.get(self.data, key).expect("readable");
        found.map(|value| value.to_vec())
    }

    fn scan(&mut self, start: &[u8], end: &[u8], limit: usize) -> Vec<Pair> {
        let found = self.snapshot.range(self.data, start..end).take(limit);
        found
            .map(|guard| {
                let (key, value) = guard.into_inner().expect("readable");
                (key.to_vec(), value.to_vec())
            })
            .collect()
    }
}
