//! SQLite with a write-ahead log and `synchronous = FULL`, which flushes the log at each commit. One connection writes; readers take
//! one each from a pool.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::engine::{CACHE_BYTES, Engine, Pair, View, Writes};

/// Bytes that a connection caches for itself; beyond that the file is mapped, which all share.
const READER_CACHE_KIB: usize = 2 << 10;

pub(crate) struct Sqlite {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
}

struct At<'a> {
    pool: &'a Sqlite,
    /// Taken when this is dropped.
    reader: Option<Connection>,
}

impl Sqlite {
    pub(crate) fn open(directory: &Path) -> Self {
        let path = directory.join("data.sqlite");
        let writer = connect(&path, CACHE_BYTES >> 10);
        let table = "CREATE TABLE IF NOT EXISTS data (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID";
        writer.execute(table, []).expect("a table");
        Self {
            path,
            writer: Mutex::new(writer),
            readers: Mutex::default(),
        }
    }
}

fn connect(path: &Path, cache_kib: usize) -> Connection {
    let connection = Connection::open(path).expect("it opens");
    let settings = format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -{cache_kib}; PRAGMA mmap_size = {CACHE_BYTES}; PRAGMA busy_timeout = 10000"
    );
    connection.execute_batch(&settings).expect("settings");
    connection
}

impl Engine for Sqlite {
    fn view(&self) -> Box<dyn View + '_> {
        let idle = self.readers.lock().expect("no panic").pop();
        let reader = idle.unwrap_or_else(|| connect(&self.path, READER_CACHE_KIB));
        reader.execute_batch("BEGIN").expect("a snapshot");
        Box::new(At {
            pool: self,
            reader: Some(reader),
        })
    }

    fn commit(&self, writes: &Writes) {
        let mut writer = self.writer.lock().expect("no panic");
        let txn = writer.transaction().expect("the one writer");
        for (key, value) in writes {
            match value {
                Some(value) => {
                    let mut put = txn.prepare_cached("INSERT OR REPLACE INTO data VALUES (?1, ?2)");
                    put.as_mut().expect("SQL").execute(params![key, value]).expect("room");
                }
                None => {
                    let mut delete = txn.prepare_cached("DELETE FROM data WHERE k = ?1");
                    delete.as_mut().expect("SQL").execute([key]).expect("room");
                }
            }
        }
        txn.commit().expect("durable");
    }
}

impl View for At<'_> {
    fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let reader = self.reader.as_ref().expect("taken at the end");
        let mut get = reader.prepare_cached("SELECT v FROM data WHERE k = ?1").expect("SQL");
        get.query_row([key], |row| row.get(0)).optional().expect("readable")
    }

    fn scan(&mut self, start: &[u8], end: &[u8], limit: usize) -> Vec<Pair> {
        let reader = self.reader.as_ref().expect("taken at the end");
        let mut scan = reader
            .prepare_cached("SELECT k, v FROM data WHERE k >= ?1 AND k < ?2 ORDER BY k LIMIT ?3")
            .expect("SQL");
        let found = scan.query_map(params![start, end, limit as i64], |row| Ok((row.get(0)?, row.get(1)?)));
        found.expect("readable").collect::<Result<_, _>>().expect("readable")
    }
}

impl Drop for At<'_> {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.execute_batch("COMMIT").expect("it ends");
            self.pool.readers.lock().expect("no panic").push(reader);
        }
    }
}
