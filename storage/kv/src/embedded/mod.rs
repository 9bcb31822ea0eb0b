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

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use redb::ReadOnlyTable;
use tokio::sync::oneshot;

pub use file::OpenError;

use self::{
    committer::{Committer, Request},
    file::DatabaseFile,
    reads::ReadSet,
};
use crate::{CommitError, Store, StoreError, Txn, writes::WriteSet};

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

    async fn begin(&self) -> Result<EmbeddedTxn, StoreError> {
        let snapshot = self.engine.file.snapshot()?;
        Ok(EmbeddedTxn {
            engine: Arc::clone(&self.engine),
            snapshot,
            reads: ReadSet::default(),
            writes: WriteSet::default(),
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

/// A transaction of an [`EmbeddedStore`].
pub struct EmbeddedTxn {
    engine: Arc<Engine>,
    snapshot: Snapshot,
    reads: ReadSet,
    writes: WriteSet,
}

impl EmbeddedTxn {
    fn stored(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.snapshot.table.get(key);
        let found = found.map_err(|error| self.engine.file.failed("read", error))?;
        Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
    }

    /// Stored pairs of `[start, end)` overlaid with own writes, and whether more may follow.
    fn merged(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let failed = |error| self.engine.file.failed("read", error);
        let mut stored = self.snapshot.table.range(start..end).map_err(failed)?.peekable();
        let mut own = self.writes.range(start, end).peekable();
        let mut found = Vec::new();
        while found.len() < limit {
            let order = match (stored.peek(), own.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (Some(Ok((key, _))), Some((own_key, _))) => key.value().cmp(own_key.as_ref()),
                (None | Some(Err(_)), Some(_)) => std::cmp::Ordering::Greater,
            };
            // Where both have the key, the own write hides the stored pair.
            let from_store = if order.is_le() {
                stored.next().transpose().map_err(failed)?
            } else {
                None
            };
            if order.is_ge() {
                let own_pair = own.next().and_then(|(key, value)| Some((key.clone(), value.clone()?)));
                found.extend(own_pair);
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

impl Txn for EmbeddedTxn {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if let Some(own) = self.writes.get(key) {
            return Ok(own.clone());
        }
        self.reads.add_key(key)?;
        self.stored(key)
    }

    async fn range(&mut self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if start >= end || limit == 0 {
            return Ok(Vec::new());
        }
        let found = self.merged(start, end, limit)?;
        match found.last() {
            Some((last, _)) if found.len() == limit => self.reads.add_range(start, &[last, &[0][..]].concat())?,
            _ => self.reads.add_range(start, end)?,
        }
        Ok(found)
    }

    fn put(&mut self, key: &[u8], value: impl Into<Bytes>) {
        self.writes.add(key, Some(value.into()));
    }

    fn delete(&mut self, key: &[u8]) {
        self.writes.add(key, None);
    }

    async fn commit(self) -> Result<(), CommitError> {
        let writes = self.writes.checked()?;
        if writes.is_empty() {
            // All reads were of one snapshot: the transaction took place when that was current.
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        let request = Request {
            sequence: self.snapshot.sequence,
            reads: self.reads,
            writes,
            answer,
        };
        // The snapshot keeps old pages of the file alive: give it up before waiting.
        drop(self.snapshot);
        let committer = &self.engine.committer;
        committer.submit(request).await?;
        answered.await.map_err(|_| committer.stopped())?
    }
}
