//! redb as the embedded store uses it, with the records of a file that is made: an inode, an entry and an index row, at places that
//! are spread over the whole file, and two counters.

use std::{
    cell::Cell,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ExitCode},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use redb::{Database, ReadableDatabase as _, ReadableTableMetadata as _, TableDefinition};

const DATA: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("data");
/// As the store's.
const CACHE_BYTES: usize = 256 << 20;
const ROWS_PER_FILE: u64 = 3;
const FILES_PER_FILL: u64 = 10_000;
const VALUE_BYTES: usize = 250;
/// Commits before a writer counts as being in the middle of its work.
const COMMITS_BEFORE_KILL: usize = 50;

pub(super) struct Engine {
    database: Database,
    quick: bool,
    random: Cell<u64>,
}

impl Engine {
    /// Opens a file; one that was not closed is repaired here.
    pub(super) fn open(path: &Path, quick: bool) -> Self {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        Self {
            database: database.expect("the file opens"),
            quick,
            random: Cell::new(rand::random()),
        }
    }

    pub(super) fn fill(&self, keys: u64) {
        for _ in 0..keys.div_ceil(ROWS_PER_FILE * FILES_PER_FILL) {
            self.commit(FILES_PER_FILL);
        }
    }

    /// Makes so many files in one durable commit.
    pub(super) fn commit(&self, files: u64) {
        let mut rng = StdRng::seed_from_u64(self.random.get());
        let mut txn = self.database.begin_write().expect("the one writer");
        txn.set_quick_repair(self.quick);
        {
            let mut data = txn.open_table(DATA).expect("the table");
            for _ in 0..files {
                let id: [u8; 16] = rng.random();
                for (table, bytes) in [(b'i', VALUE_BYTES), (b'd', 16), (b'x', 0)] {
                    let key = [&[table][..], &id].concat();
                    data.insert(key.as_slice(), vec![7; bytes].as_slice()).expect("room");
                }
            }
            for counter in [b"cx", b"co"] {
                data.insert(&counter[..], &[0; 8][..]).expect("room");
            }
        }
        txn.commit().expect("durable");
        self.random.set(rng.random());
    }

    pub(super) fn keys(&self) -> u64 {
        let txn = self.database.begin_read().expect("readable");
        txn.open_table(DATA).expect("the table").len().expect("readable")
    }
}

/// Commits and says so, until it is killed.
pub(super) fn write_until_killed(path: &Path, quick: bool) -> ExitCode {
    let engine = Engine::open(path, quick);
    let mut out = std::io::stdout().lock();
    loop {
        engine.commit(8);
        if writeln!(out, "committed").and_then(|()| out.flush()).is_err() {
            return ExitCode::FAILURE;
        }
    }
}

/// Returns when `writer` is in the middle of its work.
pub(super) fn wait_for_commits(writer: &mut Child) {
    let out = writer.stdout.as_mut().expect("it is piped");
    let lines = BufReader::new(out).lines().map_while(Result::ok);
    let seen = lines.take(COMMITS_BEFORE_KILL).count();
    assert_eq!(seen, COMMITS_BEFORE_KILL, "the writer ended by itself");
}
