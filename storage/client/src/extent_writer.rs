//! One extent on its way to the nodes: sealed block by block, each made durable, all told to the metadata service.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use strongroom_dataplane::{ExtentSealer, Geometry, ManifestExtent, SealError, Seed, UnsealedBlock};
use strongroom_proto::{BlockId, FileId, NodeId, ZonePath, limits::BLOCKS_PER_CALL_MAX, metadata::v1 as pb};
use tokio::task::JoinSet;

use crate::{FsError, ZoneFs, lease::Lease, nodes::SealedBlock, plain::FileKey, random, replicate::replicate};

/// Blocks of one file that are being sealed and stored at once.
const BLOCKS_IN_FLIGHT: usize = 4;

/// Writes the extent that a lease grants. Holds at most four blocks and the one being filled.
pub(crate) struct ExtentWriter {
    fs: ZoneFs,
    path: ZonePath,
    lease: Arc<Lease>,
    sealer: ExtentSealer,
    seed: Seed,
    /// Where this extent's rotation over the targets starts.
    spread: usize,
    tasks: JoinSet<Result<(u32, pb::BlockPlacement), FsError>>,
    /// Durable blocks that the metadata service does not know yet.
    placed: BTreeMap<u32, pb::BlockPlacement>,
    /// Blocks that it knows: all before this one.
    recorded: u32,
}

/// An extent all of whose blocks are durable.
pub(crate) struct Ended {
    /// What goes into the manifest.
    pub(crate) extent: ManifestExtent,
    /// The first block that the metadata service does not know, and all from it on.
    pub(crate) first_index: u32,
    pub(crate) blocks: Vec<pb::BlockPlacement>,
}

impl ExtentWriter {
    /// An extent of `file` under a key of its own: no other of the file ever has its seed.
    pub(crate) fn new(
        fs: ZoneFs,
        path: ZonePath,
        lease: Arc<Lease>,
        key: &FileKey<'_>,
        file: FileId,
        geometry: Geometry,
        seed: Seed,
    ) -> Result<Self, FsError> {
        let key = key.extent(file, seed, geometry).map_err(|source| FsError::ExtentKey {
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            fs,
            path,
            lease,
            sealer: ExtentSealer::new(key),
            seed,
            spread: random::spread(),
            tasks: JoinSet::new(),
            placed: BTreeMap::new(),
            recorded: 0,
        })
    }

    /// Adds `data`. Returns once it is sealed or buffered; the failure of an earlier block can come back here.
    pub(crate) async fn append(&mut self, mut data: &[u8]) -> Result<(), FsError> {
        while !data.is_empty() {
            let full = self.sealer.append(&mut data);
            if let Some(block) = full.map_err(|source| self.seal_error(source))? {
                self.send(block).await?;
            }
        }
        Ok(())
    }

    /// Seals what is left and waits until all is durable. None of an extent without a byte.
    pub(crate) async fn end(mut self) -> Result<Option<Ended>, FsError> {
        let length = self.sealer.length();
        let last = self.sealer.finish();
        if let Some(block) = last.map_err(|source| self.seal_error(source))? {
            self.send(block).await?;
        }
        while !self.tasks.is_empty() {
            self.collect().await?;
        }
        self.record().await?;
        Ok((length > 0).then(|| Ended {
            extent: ManifestExtent {
                id: *self.lease.extent().as_bytes(),
                seed: self.seed,
                length,
                visible: length,
                blocks: self.sealer.blocks(),
            },
            first_index: self.recorded,
            blocks: mem::take(&mut self.placed).into_values().collect(),
        }))
    }

    /// Ends the tasks without waiting for what they store.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }

    /// Hands the block to a task that seals and stores it; waits while too many are under way.
    async fn send(&mut self, block: UnsealedBlock) -> Result<(), FsError> {
        self.lease.check()?;
        while self.tasks.len() >= BLOCKS_IN_FLIGHT {
            self.collect().await?;
        }
        let task = BlockTask {
            fs: self.fs.clone(),
            path: self.path.clone(),
            lease: Arc::clone(&self.lease),
            first: self.spread.wrapping_add(block.index() as usize),
            block,
        };
        let permit = self.fs.block_permit().await;
        self.tasks.spawn(async move {
            let outcome = task.run().await;
            drop(permit);
            outcome
        });
        self.record().await
    }

    fn seal_error(&self, source: SealError) -> FsError {
        FsError::Seal {
            path: self.path.clone(),
            source,
        }
    }

    /// Waits for one block.
    async fn collect(&mut self) -> Result<(), FsError> {
        match self.tasks.join_next().await {
            Some(Ok(outcome)) => {
                let (index, placement) = outcome?;
                self.placed.insert(index, placement);
                Ok(())
            }
            Some(Err(_)) => Err(FsError::Machine { what: "block task" }),
            None => Ok(()),
        }
    }

    /// Tells the metadata service about durable blocks, as many as one call takes at a time. Fewer wait for the
    /// next call or go with the commit.
    async fn record(&mut self) -> Result<(), FsError> {
        while self.placed.len() >= BLOCKS_PER_CALL_MAX {
            let end = self.recorded + BLOCKS_PER_CALL_MAX as u32;
            let ready: Vec<_> = (self.recorded..end)
                .map_while(|index| self.placed.get(&index).cloned())
                .collect();
            if ready.len() < BLOCKS_PER_CALL_MAX {
                return Ok(());
            }
            self.lease.record(self.recorded, ready).await?;
            self.placed = self.placed.split_off(&end);
            self.recorded = end;
        }
        Ok(())
    }
}

/// Seals one block and makes it durable. As each block has a task of its own, all cores seal at once; to have several at one
/// block would gain nothing while there are others (`docs/performance.md`).
struct BlockTask {
    fs: ZoneFs,
    path: ZonePath,
    lease: Arc<Lease>,
    first: usize,
    block: UnsealedBlock,
}

impl BlockTask {
    async fn run(self) -> Result<(u32, pb::BlockPlacement), FsError> {
        let sealed = self.block.seal();
        let block = SealedBlock {
            id: BlockId {
                extent: self.lease.extent(),
                index: sealed.index,
            },
            bytes: sealed.bytes.into(),
            crc32c: sealed.crc32c,
        };
        let stored = replicate(self.fs.nodes(), &self.lease, &self.path, &block, self.first).await?;
        Ok((sealed.index, placement(&block, stored)))
    }
}

/// What the metadata service is told of a stored block.
pub(crate) fn placement(block: &SealedBlock, stored: BTreeSet<NodeId>) -> pb::BlockPlacement {
    pb::BlockPlacement {
        length: block.bytes.len() as u32,
        crc32c: block.crc32c,
        nodes: stored.into_iter().map(|node| node.as_str().to_owned()).collect(),
    }
}
