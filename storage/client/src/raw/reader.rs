use strongroom_proto::{
    BlockId, ExtentId, Failure, FileId, Reason, ZonePath,
    block::v1 as block_pb,
    metadata::v1 as pb,
    transport::{Repeat, retry},
};

use super::{RawBlock, RawError, RawHeader};
use crate::{
    FsError, NodeTrouble, Stat, ZoneFs,
    block_map::{BlockMap, Page},
    nodes::Node,
    opening::Opening,
};

/// How often what is at a path is looked at, at most: each time it was something else at the end than at the beginning.
pub(super) const LOOKS_MAX: usize = 5;

/// Reads a file's ciphertext, block by block.
pub struct RawReader {
    fs: ZoneFs,
    path: ZonePath,
    header: RawHeader,
    map: BlockMap,
    /// Where each extent is stored, and how many of its blocks show.
    extents: Vec<(ExtentId, u32)>,
    /// The next block: of which extent, and its index there.
    next: (usize, u32),
}

impl ZoneFs {
    /// Opens a file's ciphertext, which takes the right to read the file in the namespace and no key. Its ACL and attributes come with it.
    ///
    /// # Errors
    /// As [`Self::open`], but for what has to do with keys; [`RawError::Restless`] if it does not stay the same file with the same permissions
    /// while they are read.
    pub async fn open_raw(&self, path: &ZonePath) -> Result<RawReader, FsError> {
        for _ in 0..LOOKS_MAX {
            if let Some(reader) = self.look_raw(path).await? {
                return Ok(reader);
            }
        }
        Err(restless(path))
    }

    /// `None` if what was read may be of two files.
    async fn look_raw(&self, path: &ZonePath) -> Result<Option<RawReader>, FsError> {
        let request = pb::OpenFileRequest {
            path: path.into(),
            ..pb::OpenFileRequest::default()
        };
        let wire = retry(Repeat::Harmless, || self.metadata().open_file(request.clone())).await?;
        let opening = Opening::parse(path, wire.clone())?;
        let mut header = RawHeader::of(&opening, &wire)?;
        header.extended = self.raw_extended(path, &opening.stat).await?;
        if header.extended.is_none() {
            return Ok(None);
        }
        let map = BlockMap::new(self.metadata().clone(), opening.stat.file_id);
        Ok(Some(RawReader {
            fs: self.clone(),
            path: path.clone(),
            extents: opening.stored.iter().copied().zip(header.shown_blocks()).collect(),
            header,
            map,
            next: (0, 0),
        }))
    }

    /// What the file or directory has beyond its mode that was `seen` at a path. It is read by the path: `None` if something else was there
    /// meanwhile, which may have more rights, or if its permissions are not what they were.
    pub(super) async fn raw_extended(&self, path: &ZonePath, seen: &Stat) -> Result<Option<pb::RawExtended>, FsError> {
        let mut acl = Vec::new();
        if seen.has_acl {
            let told = self.acl(path).await?;
            if permissions(&told.stat) != permissions(seen) {
                return Ok(None);
            }
            acl = told.entries;
        }
        let xattrs = self.xattrs(path, &[]).await?.into_iter();
        let now = self.stat(path).await?;
        Ok((permissions(&now) == permissions(seen)).then(|| pb::RawExtended {
            acl: acl.iter().map(Into::into).collect(),
            xattrs: xattrs.map(|(name, value)| pb::Xattr { name, value }).collect(),
        }))
    }
}

/// Of which file or directory, and what shows of its permissions.
fn permissions(stat: &Stat) -> (FileId, u32, &str, &str, bool) {
    (stat.file_id, stat.mode, &stat.owner, &stat.group, stat.has_acl)
}

pub(super) fn restless(path: &ZonePath) -> FsError {
    FsError::Raw {
        path: path.clone(),
        source: RawError::Restless,
    }
}

impl RawReader {
    /// What there is to the file but its blocks.
    #[must_use]
    pub const fn header(&self) -> &RawHeader {
        &self.header
    }

    /// The next block, none after the last.
    ///
    /// # Errors
    /// [`FsError::BlockUnreadable`] if no node has it sound; [`FsError::CutShort`].
    pub async fn next_block(&mut self) -> Result<Option<RawBlock>, FsError> {
        while let Some(&(extent, blocks)) = self.extents.get(self.next.0) {
            let index = self.next.1;
            if index < blocks {
                let block = self.fetch(BlockId { extent, index }, blocks).await?;
                self.next.1 += 1;
                return Ok(Some(block));
            }
            self.next = (self.next.0 + 1, 0);
        }
        Ok(None)
    }

    async fn fetch(&self, block: BlockId, blocks: u32) -> Result<RawBlock, FsError> {
        let mut stale = None;
        loop {
            let page = self.map.page(block, blocks, stale).await?;
            if !page.has(block.index) {
                return Err(FsError::CutShort {
                    path: self.path.clone(),
                });
            }
            let troubles = match self.fetch_any(&page, block).await {
                Ok(fetched) => return Ok(fetched),
                Err(troubles) => troubles,
            };
            // A fresh list may name other replicas and carries a fresh capability.
            if stale.replace(page.generation).is_some() {
                return Err(FsError::BlockUnreadable {
                    path: self.path.clone(),
                    block,
                    troubles,
                });
            }
        }
    }

    async fn fetch_any(&self, page: &Page, block: BlockId) -> Result<RawBlock, Vec<NodeTrouble>> {
        let mut troubles = Vec::new();
        let known = page.holders(block.index).filter_map(|(_, node)| node).collect();
        for node in self.fs.nodes().healthy_first(known) {
            match self.fetch_one(node, page, block).await {
                Ok(fetched) => return Ok(fetched),
                Err(failure) => troubles.push(NodeTrouble {
                    node: node.id.clone(),
                    failure,
                }),
            }
        }
        Err(troubles)
    }

    async fn fetch_one(&self, node: &Node, page: &Page, block: BlockId) -> Result<RawBlock, Failure> {
        let (length, crc32c) = page.sum(block.index);
        let request = block_pb::GetBlockRequest {
            capability: page.capability.clone(),
            block_id: Some(block.into()),
            offset: 0,
            length,
        };
        let bytes = self.fs.nodes().get(node, request).await?.data;
        let fetched = RawBlock { bytes, crc32c };
        if fetched.bytes.len() == length as usize && fetched.is_sound() {
            return Ok(fetched);
        }
        Err(Failure::new(
            Reason::BlockCorrupt,
            "it gave other bytes than were recorded",
        ))
    }
}

impl std::fmt::Debug for RawReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawReader({})", self.path)
    }
}
