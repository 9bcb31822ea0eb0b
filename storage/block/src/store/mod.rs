//! Blocks on the local disk.
//!
//! All file work runs on blocking threads, at most [`OPERATIONS_MAX`] at a time, so that neither the executor nor
//! memory suffers under a flood: who waits longer than [`OPERATION_WAIT`] for a turn is told to come again later.

mod directory;
mod disk;
mod engine;
mod file;
mod format;
mod survey;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use strongroom_proto::{BlockId, ExtentId, Incarnation, NodeId};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use self::{directory::Directory, disk::Disk};
pub use self::{
    directory::OpenError,
    disk::StoreError,
    engine::Engine,
    file::{BlockContent, BlockFile},
    format::Sealed,
    survey::{Checked, Expected, Found, Lacking, Position, Survey},
};

/// Reads and writes under way at once; each holds a block in memory.
const OPERATIONS_MAX: usize = 32;
/// How long an operation waits for its turn.
const OPERATION_WAIT: Duration = Duration::from_secs(5);

/// The blocks of one node on its disk. Clones are handles of the same store.
#[derive(Clone)]
pub struct BlockStore {
    disk: Arc<Disk>,
    turns: Arc<Semaphore>,
}

/// Bytes out of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The bytes asked for, as far as the block goes.
    pub data: Bytes,
    /// Length of the whole block.
    pub block_length: u32,
}

/// How full a node is.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Bytes that its disk has.
    pub capacity_bytes: u64,
    /// Bytes that blocks may still take: what is free, less the reserve.
    pub free_bytes: u64,
    /// Blocks stored.
    pub blocks: u64,
}

impl BlockStore {
    /// Opens or makes the data directory of `node` and clears what an interrupted write left. Blocks.
    ///
    /// # Errors
    /// Says who has the directory, or which release or node it belongs to, or what failed.
    pub fn open(path: &Path, node: NodeId, reserve_bytes: u64) -> Result<Self, OpenError> {
        let directory = Directory::open(path, &node)?;
        Ok(Self {
            disk: Arc::new(Disk::new(directory, node, reserve_bytes)?),
            turns: Arc::new(Semaphore::new(OPERATIONS_MAX)),
        })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let overloaded = |_| StoreError::Overloaded {
            node: self.disk.node().clone(),
        };
        let turn = timeout(OPERATION_WAIT, Arc::clone(&self.turns).acquire_owned());
        let turn = turn.await.map_err(overloaded)?.expect("the semaphore is never closed");
        let disk = Arc::clone(&self.disk);
        // The turn goes along: a caller that went away does not make room while its work still runs.
        joined(
            spawn_blocking(move || {
                let _turn = turn;
                work(&disk)
            })
            .await,
        )
    }
}

#[tonic::async_trait]
impl Engine for BlockStore {
    async fn seal(&self, id: BlockId, data: Bytes, crc32c: u32) -> Result<Sealed, StoreError> {
        self.run(move |_| Sealed::new(id, data, crc32c).ok_or(StoreError::Damaged { id }))
            .await
    }

    async fn put(&self, block: Sealed) -> Result<(), StoreError> {
        self.run(move |disk| disk.put(&block)).await
    }

    async fn get(&self, id: BlockId, offset: u32, length: u32) -> Result<Part, StoreError> {
        self.run(move |disk| disk.get(id, offset, length)).await
    }

    async fn delete(&self, id: BlockId) -> Result<(), StoreError> {
        self.run(move |disk| disk.delete(id)).await
    }

    async fn delete_extent(&self, extent: ExtentId) -> Result<(), StoreError> {
        self.run(move |disk| disk.delete_extent(extent)).await
    }

    fn incarnation(&self) -> Incarnation {
        self.disk.incarnation()
    }

    async fn survey(&self, from: Position) -> Result<Survey, StoreError> {
        self.run(move |disk| survey::survey(disk, from)).await
    }

    async fn check(&self, expected: Vec<Expected>, deep: bool) -> Result<Checked, StoreError> {
        self.run(move |disk| Ok(survey::check(disk, &expected, deep))).await
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        let disk = Arc::clone(&self.disk);
        joined(spawn_blocking(move || disk.usage()).await)
    }
}

fn joined<T>(outcome: Result<Result<T, StoreError>, tokio::task::JoinError>) -> Result<T, StoreError> {
    match outcome {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Stopping),
        },
    }
}
