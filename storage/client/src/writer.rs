use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use strongroom_dataplane::{DataKey, ExtentKey, Geometry, Manifest, ManifestExtent, ManifestKey};
use strongroom_proto::{BlockId, NodeId, ZonePath, limits::BLOCKS_PER_CALL_MAX, metadata::v1 as pb};
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
    key: Arc<ExtentKey>,
    manifest_key: ManifestKey,
    salt: [u8; 16],
    /// The block being filled, laid out as [`ExtentKey::seal_block`] takes it.
    block: Vec<u8>,
    /// Plaintext bytes in `block`.
    filled: u32,
    /// Blocks before `block`.
    sent: u32,
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
            key: Arc::new(ExtentKey::derive(dek, file.as_bytes(), &salt, geometry)),
            manifest_key: ManifestKey::derive(dek, file.as_bytes()),
            lease,
            salt,
            block: Vec::new(),
            filled: 0,
            sent: 0,
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
            // A full block waits for a byte after it: only then is it known not to be the last.
            if self.filled == self.key.geometry().block_bytes() {
                self.send(false).await?;
            }
            data = &data[self.fill(data)..];
        }
        Ok(())
    }

    /// Takes bytes up to the end of the frame, with room for a tag after each full frame; returns how many.
    fn fill(&mut self, data: &[u8]) -> usize {
        let frame = self.key.geometry().frame_bytes();
        let room = frame - self.filled % frame;
        let taken = data.len().min(room as usize);
        self.block.extend_from_slice(&data[..taken]);
        self.filled += taken as u32;
        if taken == room as usize {
            self.add_tag_room();
        }
        taken
    }

    fn add_tag_room(&mut self) {
        let room = self.block.len() + strongroom_dataplane::TAG_BYTES as usize;
        self.block.resize(room, 0);
    }

    /// Hands the block to a task that seals and stores it; waits while too many are under way.
    async fn send(&mut self, last: bool) -> Result<(), FsError> {
        if !self.filled.is_multiple_of(self.key.geometry().frame_bytes()) {
            self.add_tag_room();
        }
        while self.tasks.len() >= BLOCKS_IN_FLIGHT {
            self.collect().await?;
        }
        let capacity = if last { 0 } else { self.block.len() };
        let task = BlockTask {
            fs: self.fs.clone(),
            path: self.path.clone(),
            lease: Arc::clone(&self.lease),
            key: Arc::clone(&self.key),
            index: self.sent,
            last,
            block: std::mem::replace(&mut self.block, Vec::with_capacity(capacity)),
            first: self.spread.wrapping_add(self.sent as usize),
        };
        let permit = self.fs.block_permit().await;
        self.tasks.spawn(async move {
            let outcome = task.run().await;
            drop(permit);
            outcome
        });
        self.sent += 1;
        self.filled = 0;
        self.record().await
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
        let length = u64::from(self.sent) * u64::from(self.key.geometry().block_bytes()) + u64::from(self.filled);
        if length > 0 {
            self.send(true).await?;
        }
        while !self.tasks.is_empty() {
            self.collect().await?;
        }
        self.record().await?;
        let request = self.commit_request(length, mtime_ms)?;
        let stat = Stat::try_from(self.lease.commit(request).await?)?;
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
            blocks: self.sent,
        };
        let extents = if length == 0 { Vec::new() } else { vec![extent] };
        let manifest = Manifest::new(self.key.geometry(), extents).map_err(|source| FsError::Manifest {
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

/// Seals one block and makes it durable. Sealing 4 MiB takes about a millisecond, less than handing it to another
/// thread is worth.
struct BlockTask {
    fs: ZoneFs,
    path: ZonePath,
    lease: Arc<Lease>,
    key: Arc<ExtentKey>,
    index: u32,
    last: bool,
    block: Vec<u8>,
    first: usize,
}

impl BlockTask {
    async fn run(mut self) -> Result<(u32, pb::BlockPlacement), FsError> {
        let sealed = self.key.seal_block(self.index, self.last, &mut self.block);
        let crc32c = sealed.map_err(|source| FsError::Seal {
            path: self.path.clone(),
            source,
        })?;
        let block = SealedBlock {
            id: BlockId {
                extent: self.lease.extent(),
                index: self.index,
            },
            bytes: self.block.into(),
            crc32c,
        };
        let stored = replicate(self.fs.nodes(), &self.lease, &self.path, &block, self.first).await?;
        Ok((self.index, placement(&block, stored)))
    }
}

fn placement(block: &SealedBlock, stored: BTreeSet<NodeId>) -> pb::BlockPlacement {
    pb::BlockPlacement {
        length: block.bytes.len() as u32,
        crc32c: block.crc32c,
        nodes: stored.into_iter().map(|node| node.as_str().to_owned()).collect(),
    }
}
