use strongroom_proto::{
    BlockId, ExtentId, Failure, Reason, ZonePath,
    block::v1 as block_pb,
    metadata::v1 as pb,
    transport::{Repeat, retry},
};

use super::{RawBlock, RawHeader};
use crate::{
    FsError, NodeTrouble, ZoneFs,
    block_map::{BlockMap, Page},
    nodes::Node,
    opening::Opening,
};

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
    /// As [`Self::open`], but for what has to do with keys.
    pub async fn open_raw(&self, path: &ZonePath) -> Result<RawReader, FsError> {
        let request = pb::OpenFileRequest {
            path: path.into(),
            ..pb::OpenFileRequest::default()
        };
        let wire = retry(Repeat::Harmless, || self.metadata().open_file(request.clone())).await?;
        let opening = Opening::parse(path, wire.clone())?;
        let mut header = RawHeader::of(&opening, &wire)?;
        header.extended = Some(self.raw_extended(path, opening.stat.has_acl).await?);
        let map = BlockMap::new(self.metadata().clone(), opening.stat.file_id);
        Ok(RawReader {
            fs: self.clone(),
            path: path.clone(),
            extents: opening.stored.iter().copied().zip(header.shown_blocks()).collect(),
            header,
            map,
            next: (0, 0),
        })
    }

    /// What a file or directory has beyond its mode.
    pub(super) async fn raw_extended(&self, path: &ZonePath, has_acl: bool) -> Result<pb::RawExtended, FsError> {
        let acl = if has_acl {
            self.acl(path).await?.entries
        } else {
            Vec::new()
        };
        let xattrs = self.xattrs(path, &[]).await?.into_iter();
        Ok(pb::RawExtended {
            acl: acl.iter().map(Into::into).collect(),
            xattrs: xattrs.map(|(name, value)| pb::Xattr { name, value }).collect(),
        })
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
