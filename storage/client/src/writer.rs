use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use strongroom_dataplane::{
    DataKey, ExtentKey, ExtentSealer, Geometry, Manifest, ManifestExtent, ManifestKey, SealError, UnsealedBlock,
};
use strongroom_proto::{BlockId, NodeId, RequestId, ZonePath, limits::BLOCKS_PER_CALL_MAX, metadata::v1 as pb};
use tokio::task::JoinSet;

use crate::{
    FsError, Stat, ZoneFs,
    lease::{Keeper, Lease},
    nodes::SealedBlock,
    random,
    replicate::replicate,
};

/// Blocks of one file that are being sealed and stored at once.
const BLOCKS_IN_FLIGHT: usize = 4;

/// How a new file is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateOptions {
    /// Permission bits, at most 0o7777.
    pub mode: u32,
    /// Replace a file at the path, at [`FileWriter::finish`].
    pub overwrite: bool,
}

/// Writes one new file, front to back. Nothing shows under its path until [`FileWriter::finish`]; a writer that
/// is dropped before that gives the file up. Holds at most four blocks and the one being filled.
pub struct FileWriter {
    fs: ZoneFs,
    path: ZonePath,
    lease: Arc<Lease>,
    keeper: Option<Keeper>,
    sealer: ExtentSealer,
    manifest_key: ManifestKey,
    salt: [u8; 16],
    /// Where this file's rotation over the targets starts.
    spread: usize,
    tasks: JoinSet<Result<(u32, pb::BlockPlacement), FsError>>,
    /// Durable blocks that the metadata service does not know yet.
    placed: BTreeMap<u32, pb::BlockPlacement>,
    /// Blocks that it knows: all before this one.
    recorded: u32,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Failed,
    /// Published or given up.
    Over,
}

impl std::fmt::Debug for FileWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileWriter({}, file {})", self.path, self.lease.file())
    }
}

impl FileWriter {
    pub(crate) fn new(
        fs: ZoneFs,
        path: ZonePath,
        lease: Arc<Lease>,
        dek: &DataKey<'_>,
        geometry: Geometry,
    ) -> Result<Self, FsError> {
        let salt = random::bytes()?;
        let file = lease.file();
        Ok(Self {
            fs,
            path,
            keeper: Some(Keeper::start(Arc::clone(&lease))),
            sealer: ExtentSealer::new(ExtentKey::derive(dek, file.as_bytes(), &salt, geometry)),
            manifest_key: ManifestKey::derive(dek, file.as_bytes()),
            lease,
            salt,
            spread: random::spread(),
            tasks: JoinSet::new(),
            placed: BTreeMap::new(),
            recorded: 0,
            state: State::Open,
        })
    }

    /// Appends `data`. Returns once it is sealed or buffered, not yet durable; the failure of an earlier block
    /// can come back here.
    ///
    /// # Errors
    /// As storing a block fails: [`FsError::TooFewNodes`], or what the metadata service refuses. After an error, or
    /// if its future is dropped before it ends, the writer can only be abandoned.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), FsError> {
        self.check_open()?;
        // A call that is cancelled on the way leaves nobody to say how much of `data` went in.
        self.state = State::Failed;
        self.append(data).await?;
        self.state = State::Open;
        Ok(())
    }

    /// Makes everything durable and publishes the file under its path, all at once, with the modification time
    /// `mtime_ms` in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// As [`FileWriter::write`]; also if the path was taken meanwhile. Then nothing shows under the path.
    pub async fn finish(mut self, mtime_ms: u64) -> Result<Stat, FsError> {
        self.check_open()?;
        let stat = self.publish(mtime_ms).await?;
        self.state = State::Over;
        Ok(stat)
    }

    /// Gives the file up, so that its blocks are deleted soon.
    ///
    /// # Errors
    /// If the metadata service cannot be told; it finds out by itself when the lease ends.
    pub async fn abandon(mut self) -> Result<(), FsError> {
        self.state = State::Over;
        self.keeper = None;
        self.tasks.shutdown().await;
        Ok(self.lease.abandon().await?)
    }

    fn check_open(&self) -> Result<(), FsError> {
        if self.state == State::Open {
            return Ok(());
        }
        Err(FsError::WriterFailed {
            path: self.path.clone(),
        })
    }

    async fn append(&mut self, mut data: &[u8]) -> Result<(), FsError> {
        while !data.is_empty() {
            let full = self.sealer.append(&mut data);
            if let Some(block) = full.map_err(|source| self.seal_error(source))? {
                self.send(block).await?;
            }
        }
        Ok(())
    }

    /// Hands the block to a task that seals and stores it; waits while too many are under way.
    async fn send(&mut self, block: UnsealedBlock) -> Result<(), FsError> {
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

    async fn publish(&mut self, mtime_ms: u64) -> Result<Stat, FsError> {
        let length = self.sealer.length();
        let last = self.sealer.finish();
        if let Some(block) = last.map_err(|source| self.seal_error(source))? {
            self.send(block).await?;
        }
        while !self.tasks.is_empty() {
            self.collect().await?;
        }
        self.record().await?;
        let request = self.commit_request(length, mtime_ms)?;
        let mut published = self.lease.commit(request).await?;
        if published.path.is_empty() {
            // A rename further up moved it where no path leads for now; this is the one that it was begun under.
            published.path = (&self.path).into();
        }
        let stat = Stat::try_from(published)?;
        if stat.length != length || stat.file_id != self.lease.file() {
            return Err(FsError::metadata_contradiction("it published another file"));
        }
        Ok(stat)
    }

    fn commit_request(&mut self, length: u64, mtime_ms: u64) -> Result<pb::CommitFileRequest, FsError> {
        let extent = ManifestExtent {
            id: *self.lease.extent().as_bytes(),
            salt: self.salt,
            length,
            blocks: self.sealer.blocks(),
        };
        let extents = if length == 0 { Vec::new() } else { vec![extent] };
        let manifest = Manifest::new(self.sealer.geometry(), extents).map_err(|source| FsError::Manifest {
            path: self.path.clone(),
            source,
        })?;
        let wire = |extent: &ManifestExtent| pb::Extent {
            extent_id: Bytes::copy_from_slice(&extent.id),
            salt: Bytes::copy_from_slice(&extent.salt),
            length: extent.length,
            blocks: extent.blocks,
        };
        Ok(pb::CommitFileRequest {
            file_id: self.lease.file().into(),
            extents: manifest.extents().iter().map(wire).collect(),
            first_index: self.recorded,
            blocks: std::mem::take(&mut self.placed).into_values().collect(),
            manifest_mac: Bytes::copy_from_slice(&self.manifest_key.authenticate(&manifest)),
            mtime_ms,
            request_id: RequestId::generate().into(),
        })
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if self.state != State::Over {
            Arc::clone(&self.lease).abandon_in_background();
        }
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

fn placement(block: &SealedBlock, stored: BTreeSet<NodeId>) -> pb::BlockPlacement {
    pb::BlockPlacement {
        length: block.bytes.len() as u32,
        crc32c: block.crc32c,
        nodes: stored.into_iter().map(|node| node.as_str().to_owned()).collect(),
    }
}
