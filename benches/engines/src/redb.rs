//! redb as the embedded store uses it: one table, default durability, no quick repair.

use std::path::Path;

use redb::{Database, ReadOnlyTable, ReadableDatabase as _, TableDefinition};

use crate::engine::{CACHE_BYTES, Engine, Pair, View, Writes};

const DATA: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("data");

pub(crate) struct Redb {
    database: Database,
}

impl Redb {
    pub(crate) fn open(directory: &Path) -> Self {
        let path = directory.join("data.redb");
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let database = database.expect("the file opens");
        let txn = database.begin_write().expect("the one writer");
        txn.open_table(DATA).expect("the table");
        txn.commit().expect("durable");
        Self { database }
    }
}

impl Engine for Redb {
    fn view(&self) -> Box<dyn View + '_> {
        let txn = self.database.begin_read().expect("readable");
        Box::new(txn.open_table(DATA).expect("the table"))
    }

    fn commit(&self, writes: &Writes) {
        let txn = self.database.begin_write().expect("the one writer");
        {
            let mut data = txn.open_table(DATA).expect("the table");
            for (key, value) in writes {
                match value {
                    Some(value) => _ = data.insert(key.as_slice(), value.as_slice()).expect("room"),
                    None => _ = data.remove(key.as_slice()).expect("room"),
                }
            }
        }
        txn.commit().expect("durable");
    }
}

impl View for ReadOnlyTable<&'static [u8], &'static [u8]> {
    fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let found = Self::get(self, key).expect("readable");
        found.map(|value| value.value().to_vec())
    }

    fn scan(&mut self, start: &[u8], end: &[u8], limit: usize) -> Vec<Pair> {
        let found = self.range(start..end).expect("readable").take(limit);
        let pair = |found: Result<_, redb::StorageError>| {
            let (key, value): (redb::AccessGuard<'_, &[u8]>, redb::AccessGuard<'_, &[u8]>) = found.expect("readable");
            (key.value().to_vec(), value.value().to_vec())
        };
        found.map(pair).collect()
    }
}
