use std::{mem, sync::Arc};

use bytes::Bytes;
use strongroom_dataplane::{ExtentKey, ExtentKeyError, FrameRun, Geometry, Manifest, ManifestExtent, Runs};
use strongroom_proto::{BlockId, ExtentId, Failure, Reason, block::v1 as block_pb, transport::Pauses};
use tokio::sync::OnceCell;

use crate::{
    ByteStream, FsError, NodeTrouble, Stat, ZoneFs,
    block_map::{BlockMap, Page},
    nodes::Node,
    opening::Opening,
    plain::{FileKey, PlainAllowed},
};

/// Reads a file, anywhere in it. Cheap to clone; clones share what is known of the file's blocks.
///
/// The file is what its path named when it was opened, whatever happens to the path later.
#[derive(Clone)]
pub struct FileReader {
    file: Arc<OpenFile>,
}

struct OpenFile {
    fs: ZoneFs,
    stat: Stat,
    geometry: Geometry,
    extents: Vec<OpenExtent>,
    map: BlockMap,
    generation: u64,
    same_since: u64,
    /// Whether it is not encrypted, which is allowed then. What it is rewritten to may be, and never the other way round.
    plain: Option<PlainAllowed>,
    /// The same bytes, once the file is known to be rewritten.
    successor: OnceCell<FileReader>,
}

struct OpenExtent {
    /// Position of its first byte in the file.
    start: u64,
    id: ExtentId,
    /// Plaintext bytes that were sealed: it tells which frame is the last.
    length: u64,
    /// Those of them that belong to the file, and the blocks that have some.
    visible: u64,
    blocks: u32,
    key: ExtentKey,
}

impl std::fmt::Debug for FileReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "FileReader({}, file {})",
            self.file.stat.path, self.file.stat.file_id
        )
    }
}

impl FileReader {
    /// Proves the opening with the file's DEK, of which nothing is kept but the extents' keys.
    pub(crate) fn new(fs: ZoneFs, opening: Opening, key: &FileKey<'_>) -> Result<Self, FsError> {
        let manifest = opening.prove(key)?;
        let file = opening.stat.file_id;
        let map = BlockMap::new(fs.metadata().clone(), file);
        let extents = open_extents(manifest, &opening, key).map_err(|source| FsError::ExtentKey {
            path: opening.stat.path.clone(),
            source,
        })?;
        if let (Some(first), Some(blocks)) = (extents.first(), opening.blocks.clone()) {
            map.seed(first.id, first.blocks, blocks)?;
        }
        Ok(Self {
            file: Arc::new(OpenFile {
                fs,
                geometry: manifest.geometry(),
                generation: manifest.generation(),
                stat: opening.stat,
                extents,
                map,
                same_since: opening.same_since,
                plain: key.plain(),
                successor: OnceCell::new(),
            }),
        })
    }

    /// What is known of the file.
    #[must_use]
    pub fn stat(&self) -> &Stat {
        &self.file.stat
    }

    /// Plaintext bytes of the file, proven by its manifest.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.file.stat.length
    }

    /// Whether the file has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset` on and says how many bytes it has now: fewer than its length only at the end of
    /// the file, 0 at and beyond it. Fetches only the frames that hold them, of up to four blocks at once. Needs a Tokio
    /// runtime.
    ///
    /// # Errors
    /// [`FsError::BlockUnreadable`] if no replica of a block can be read. The blocks before it may be in `buf`.
    pub async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        let end = offset.saturating_add(buf.len() as u64);
        let mut parts = ByteStream::new(self.clone(), offset, end);
        let mut read = 0;
        while let Some(part) = parts.next().await.transpose()? {
            buf[read..read + part.len()].copy_from_slice(&part);
            read += part.len();
        }
        Ok(read)
    }

    /// The bytes from `from` to the end in order, fetched up to four blocks ahead. Needs a Tokio runtime.
    #[must_use]
    pub fn stream(self, from: u64) -> ByteStream {
        ByteStream::new(self, from, u64::MAX)
    }

    /// What to fetch for `start..end`, cut at the end of the file.
    pub(crate) fn plan(&self, start: u64, end: u64) -> Plan {
        Plan {
            file: Arc::clone(&self.file),
            next: start,
            end: end.min(self.len()),
            extent: 0,
            runs: None,
        }
    }

    /// The wanted bytes of one run of frames.
    pub(crate) async fn fetch(&self, piece: Piece) -> Result<Bytes, FsError> {
        self.file.fetch(piece).await
    }
}

fn open_extents(manifest: &Manifest, opening: &Opening, key: &FileKey<'_>) -> Result<Vec<OpenExtent>, ExtentKeyError> {
    let geometry = manifest.geometry();
    let mut next = 0;
    let open = |(extent, stored): (&ManifestExtent, &ExtentId)| {
        let start = next;
        next += extent.visible;
        Ok(OpenExtent {
            start,
            id: *stored,
            length: extent.length,
            visible: extent.visible,
            blocks: geometry
                .blocks(extent.visible)
                .expect("no more than the manifest checked"),
            key: key.extent(opening.crypto_id, extent.seed, geometry)?,
        })
    };
    manifest.extents().iter().zip(&opening.stored).map(open).collect()
}

/// A run of frames of one extent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    extent: usize,
    run: FrameRun,
}

/// The pieces that hold a range of a file, in order.
pub(crate) struct Plan {
    file: Arc<OpenFile>,
    next: u64,
    end: u64,
    extent: usize,
    runs: Option<Runs>,
}

impl Iterator for Plan {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        loop {
            if let Some(run) = self.runs.as_mut().and_then(Iterator::next) {
                let extent = self.extent - 1;
                return Some(Piece { extent, run });
            }
            let extent = self.file.extents.get(self.extent)?;
            self.extent += 1;
            let start = self.next.max(extent.start) - extent.start;
            let end = self.end.saturating_sub(extent.start).min(extent.visible);
            if start < end {
                let runs = self.file.geometry.runs(extent.length, start..end);
                self.runs = Some(runs.expect("the range is cut to the extent, whose length the manifest checked"));
            }
        }
    }
}

impl OpenFile {
    async fn fetch(&self, piece: Piece) -> Result<Bytes, FsError> {
        let extent = &self.extents[piece.extent];
        let block = BlockId {
            extent: extent.id,
            index: piece.run.block,
        };
        let mut out = vec![0; piece.run.plain_bytes as usize];
        let (mut pauses, mut stale, mut refreshed) = (Pauses::new(), None, false);
        loop {
            let page = self.map.page(block, extent.blocks, stale).await?;
            if !page.has(block.index) {
                return self.fetch_rewritten(extent, &piece.run).await;
            }
            let troubles = match self.read_any(&page, block, extent, &piece.run, &mut out).await {
                Ok(()) => return Ok(Bytes::from(out).slice(piece.run.wanted_range())),
                Err(troubles) => troubles,
            };
            stale = Some(page.generation);
            // A fresh list may name other replicas and carries a fresh capability; time helps only the transient.
            let transient = troubles.iter().any(|trouble| trouble.failure.is_transient());
            let again = if transient {
                pauses.pause().await
            } else {
                !mem::replace(&mut refreshed, true)
            };
            if !again {
                return Err(FsError::BlockUnreadable {
                    path: self.stat.path.clone(),
                    block,
                    troubles,
                });
            }
        }
    }

    /// The wanted bytes of a run from what the file was rewritten to since.
    async fn fetch_rewritten(&self, extent: &OpenExtent, run: &FrameRun) -> Result<Bytes, FsError> {
        let successor = self.successor.get_or_try_init(|| self.open_rewritten()).await?;
        let wanted = run.wanted_range();
        let first = u64::from(run.first_frame) * u64::from(self.geometry.frame_bytes());
        let start = extent.start + first + wanted.start as u64;
        let mut buf = vec![0; wanted.len()];
        let read = Box::pin(successor.read_at(start, &mut buf)).await?;
        buf.truncate(read);
        Ok(buf.into())
    }

    /// The file as it is now, if it has the bytes that it had.
    async fn open_rewritten(&self) -> Result<FileReader, FsError> {
        let again = self
            .fs
            .open_again(&self.stat.path, self.stat.file_id, self.plain)
            .await?;
        let is_same = again.file.same_since <= self.generation && again.len() == self.stat.length;
        if is_same && again.file.generation > self.generation {
            return Ok(again);
        }
        Err(FsError::CutShort {
            path: self.stat.path.clone(),
        })
    }

    /// Tries the block's replicas in turn until one gives frames that open.
    async fn read_any(
        &self,
        page: &Page,
        block: BlockId,
        extent: &OpenExtent,
        run: &FrameRun,
        out: &mut [u8],
    ) -> Result<(), Vec<NodeTrouble>> {
        let mut troubles = Vec::new();
        let mut known = Vec::new();
        for (id, node) in page.holders(block.index) {
            match node {
                Some(node) => known.push(node),
                None => troubles.push(NodeTrouble {
                    node: id.clone(),
                    failure: Failure::new(Reason::Unavailable, "its address is not known"),
                }),
            }
        }
        // The metadata service gives each block's nodes in the order to ask them.
        for node in self.fs.nodes().healthy_first(known) {
            match self.read_one(node, page, block, extent, run, out).await {
                Ok(()) => return Ok(()),
                Err(failure) => troubles.push(NodeTrouble {
                    node: node.id.clone(),
                    failure,
                }),
            }
        }
        Err(troubles)
    }

    async fn read_one(
        &self,
        node: &Node,
        page: &Page,
        block: BlockId,
        extent: &OpenExtent,
        run: &FrameRun,
        out: &mut [u8],
    ) -> Result<(), Failure> {
        let request = block_pb::GetBlockRequest {
            capability: page.capability.clone(),
            block_id: Some(block.into()),
            offset: run.sealed_offset,
            length: run.sealed_bytes,
        };
        let answer = self.fs.nodes().get(node, request).await?;
        extent
            .key
            .open_frames(extent.length, run.first_frame, &answer.data, out)
            .map_err(|error| Failure::new(Reason::BlockCorrupt, error.to_string()))
    }
}
