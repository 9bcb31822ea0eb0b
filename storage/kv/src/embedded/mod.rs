//! The engine for one process, on redb: a copy-on-write B-tree in one file.
//!
//! Reads run on the caller's thread: they come out of redb's or the system's page cache within microseconds,
//! less than a hop to a blocking thread costs. Commits wait for the disk and belong to one thread
//! ([`committer`]). The number of the last commit is stored *in* the database, so that a snapshot and its
//! number can never disagree.

mod committer;
mod file;
mod reads;
mod window;

use std::{cmp::Ordering, path::Path, sync::Arc};

use bytes::Bytes;
use redb::ReadOnlyTable;

pub use file::OpenError;

use self::{
    committer::{Committer, Seen},
    file::DatabaseFile,
    reads::ReadSet,
};
use crate::{CommitError, Reader, Store, StoreError, Txn, counter::Delta, writes::WriteSet};

/// A store in one file, owned by one process.
#[derive(Clone)]
pub struct EmbeddedStore {
    engine: Arc<Engine>,
}

impl EmbeddedStore {
    /// Opens or creates the store in the file `path`, with its directory. Beside it stands `path` + `.lock`,
    /// which names the process that has it. Blocks: after a crash, for as long as the file takes to read.
    ///
    /// # Errors
    /// Says which process has the file, or that a newer release wrote it, or what failed.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let file = Arc::new(DatabaseFile::open(path)?);
        let committer = Committer::start(Arc::clone(&file))?;
        Ok(Self {
            engine: Arc::new(Engine { file, committer }),
        })
    }
}

impl Store for EmbeddedStore {
    type Txn = EmbeddedTxn;
    type Snapshot = EmbeddedSnapshot;

    async fn begin(&self) -> Result<EmbeddedTxn, StoreError> {
        Ok(EmbeddedTxn {
            snapshot: self.snapshot().await?,
            reads: ReadSet::default(),
            writes: WriteSet::default(),
        })
    }

    async fn snapshot(&self) -> Result<EmbeddedSnapshot, StoreError> {
        Ok(EmbeddedSnapshot {
            state: self.engine.file.snapshot()?,
            engine: Arc::clone(&self.engine),
        })
    }

    fn is_shared(&self) -> bool {
        false
    }
}

/// The file and the thread that writes it; closed when the last store handle and transaction are gone.
struct Engine {
    file: Arc<DatabaseFile>,
    committer: Committer,
}

/// What the database was after the commit number `sequence`.
struct Snapshot {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
    sequence: u64,
}

/// A view of an [`EmbeddedStore`]. The file keeps old pages while it lives.
pub struct EmbeddedSnapshot {
    state: Snapshot,
    engine: Arc<Engine>,
}

impl EmbeddedSnapshot {
    fn stored(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.state.table.get(key);
        let found = found.map_err(|error| self.engine.file.failed("read", error))?;
        Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
    }

    /// Stored pairs of `[start, end)` overlaid with `own` writes, and whether more may follow.
    fn merged(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
        own: &WriteSet,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let failed = |error| self.engine.file.failed("read", error);
        let mut stored = self.state.table.range(start..end).map_err(failed)?.peekable();
        let mut own = own.range(start, end).peekable();
        let mut found = Vec::new();
        while found.len() < limit {
            let order = match (stored.peek(), own.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (Some(Ok((key, _))), Some((own_key, _))) => key.value().cmp(own_key.as_ref()),
                (None | Some(Err(_)), Some(_)) => Ordering::Greater,
            };
            // Where both have the key, the own write goes over the stored pair.
            let from_store = if order.is_le() {
                stored.next().transpose().map_err(failed)?
            } else {
                None
            };
            if order.is_ge() {
                if let Some((key, write)) = own.next() {
                    let value = write.over(key, from_store.as_ref().map(|(_, value)| value.value()))?;
                    found.extend(value.map(|value| (key.clone(), value)));
                }
            } else if let Some((key, value)) = from_store {
                found.push((
                    Bytes::copy_from_slice(key.value()),
                    Bytes::copy_from_slice(value.value()),
                ));
            }
        }
        Ok(found)
    }
}

impl Reader for EmbeddedSnapshot {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.stored(key)
    }

    async fn range(&mut self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if start >= end {
            return Ok(Vec::new());
        }
        self.merged(start, end, limit, &WriteSet::default())
    }
}

/// A transaction of an [`EmbeddedStore`].
pub struct EmbeddedTxn {
    snapshot: EmbeddedSnapshot,
    reads: ReadSet,
    writes: WriteSet,
}

impl Reader for EmbeddedTxn {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if self.writes.decides(key) {
            return self.writes.over(key, None);
        }
        self.reads.add_key(key)?;
        self.writes.over(key, self.snapshot.stored(key)?)
    }

    async fn range(&mut self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if start >= end || limit == 0 {
            return Ok(Vec::new());
        }
        let found = self.snapshot.merged(start, end, limit, &self.writes)?;
        match found.last() {
            Some((last, _)) if found.len() == limit => self.reads.add_range(start, &[last, &[0][..]].concat())?,
            _ => self.reads.add_range(start, end)?,
        }
        Ok(found)
    }
}

impl Txn for EmbeddedTxn {
    fn put(&mut self, key: &[u8], value: impl Into<Bytes>) {
        self.writes.put(key, value.into());
    }

    fn delete(&mut self, key: &[u8]) {
        self.writes.delete(key);
    }

    fn add(&mut self, key: &[u8], by: i64, max: i64) {
        self.writes.add(key, Delta { by, max });
    }

    fn is_overtaken(&self) -> bool {
        false
    }

    async fn commit(self) -> Result<(), CommitError> {
        let writes = self.writes.checked()?;
        if writes.is_empty() {
            // All reads were of one snapshot: the transaction took place when that was current.
            return Ok(());
        }
        let EmbeddedSnapshot { state, engine } = self.snapshot;
        let seen = Seen {
            sequence: state.sequence,
            reads: self.reads,
        };
        // The snapshot keeps old pages of the file alive: give it up before waiting.
        drop(state);
        engine.committer.commit(seen, writes).await
    }
}
