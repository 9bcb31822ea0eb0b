//! Where the blocks of an opened file are, fetched page by page and again when it goes stale.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use strongroom_proto::{
    BlockId, ExtentId, FileId, NodeId,
    limits::BLOCKS_PER_CALL_MAX,
    metadata::v1 as pb,
    transport::{Repeat, retry},
};

use crate::{FsError, metadata::Metadata, nodes::Node};

const PAGE_BLOCKS: u32 = BLOCKS_PER_CALL_MAX as u32;
/// Pages kept: 64 GiB of a file in blocks of 4 MiB.
const PAGES_MAX: usize = 16;

/// The placement of up to 1024 blocks.
pub(crate) struct Page {
    /// Counts up as pages are fetched.
    pub(crate) generation: u64,
    pub(crate) capability: Bytes,
    blocks: Vec<Placed>,
    nodes: HashMap<NodeId, Node>,
}

/// A block, its ciphertext's length and CRC-32C, and who has it.
struct Placed {
    nodes: Vec<NodeId>,
    length: u32,
    crc32c: u32,
}

impl Page {
    /// Whether the file still has a block.
    pub(crate) fn has(&self, index: u32) -> bool {
        ((index % PAGE_BLOCKS) as usize) < self.blocks.len()
    }

    /// Who is to have a block, and where they are as far as is known.
    pub(crate) fn holders(&self, index: u32) -> impl Iterator<Item = (&NodeId, Option<&Node>)> {
        let block = self.blocks.get((index % PAGE_BLOCKS) as usize);
        let nodes = block.into_iter().flat_map(|block| &block.nodes);
        nodes.map(|id| (id, self.nodes.get(id)))
    }

    /// Ciphertext bytes of a block and their CRC-32C, as its writer said.
    pub(crate) fn sum(&self, index: u32) -> (u32, u32) {
        let block = self.blocks.get((index % PAGE_BLOCKS) as usize);
        block.map_or((0, 0), |block| (block.length, block.crc32c))
    }
}

/// The blocks of one opened file.
pub(crate) struct BlockMap {
    metadata: Metadata,
    file: FileId,
    pages: Mutex<Pages>,
    /// One fetch at a time: readers of neighbouring blocks want the same page.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Pages {
    fetched: u64,
    pages: HashMap<(ExtentId, u32), Arc<Page>>,
}

impl BlockMap {
    pub(crate) fn new(metadata: Metadata, file: FileId) -> Self {
        Self {
            metadata,
            file,
            pages: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        }
    }

    /// Takes the blocks that came with the answer to the opening, if they are a whole page.
    pub(crate) fn seed(&self, extent: ExtentId, blocks: u32, wire: pb::ListBlocksResponse) -> Result<(), FsError> {
        if wire.blocks.len() == blocks.min(PAGE_BLOCKS) as usize {
            self.keep((extent, 0), vec![wire])?;
        }
        Ok(())
    }

    /// The page that holds a block, fetched anew if it is not newer than `stale`. `blocks` is how many the extent has.
    pub(crate) async fn page(&self, block: BlockId, blocks: u32, stale: Option<u64>) -> Result<Arc<Page>, FsError> {
        let key = (block.extent, block.index / PAGE_BLOCKS);
        if let Some(page) = self.known(key, stale) {
            return Ok(page);
        }
        let _alone = self.fetching.lock().await;
        if let Some(page) = self.known(key, stale) {
            return Ok(page);
        }
        let answers = self.fetch(key, blocks).await?;
        self.keep(key, answers)
    }

    fn known(&self, key: (ExtentId, u32), stale: Option<u64>) -> Option<Arc<Page>> {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let page = pages.pages.get(&key)?;
        stale
            .is_none_or(|stale| page.generation > stale)
            .then(|| Arc::clone(page))
    }

    /// A whole page, in as many answers as the service likes to give.
    async fn fetch(&self, key: (ExtentId, u32), blocks: u32) -> Result<Vec<pb::ListBlocksResponse>, FsError> {
        let end = blocks.min((key.1 + 1).saturating_mul(PAGE_BLOCKS));
        let mut next = key.1 * PAGE_BLOCKS;
        let mut answers = Vec::new();
        while next < end {
            let request = pb::ListBlocksRequest {
                file_id: self.file.into(),
                extent_id: key.0.into(),
                first_index: next,
            };
            let mut answer = retry(Repeat::Harmless, || self.metadata.list_blocks(request.clone())).await?;
            if answer.blocks.is_empty() {
                // The rest was cut off since the file was opened.
                answers.push(answer);
                break;
            }
            answer.blocks.truncate((end - next) as usize);
            next += answer.blocks.len() as u32;
            answers.push(answer);
        }
        Ok(answers)
    }

    fn keep(&self, key: (ExtentId, u32), answers: Vec<pb::ListBlocksResponse>) -> Result<Arc<Page>, FsError> {
        let mut page = parse(answers)?;
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.fetched += 1;
        page.generation = pages.fetched;
        if pages.pages.len() >= PAGES_MAX {
            let oldest = pages.pages.iter().min_by_key(|(_, page)| page.generation);
            if let Some(oldest) = oldest.map(|(&key, _)| key) {
                pages.pages.remove(&oldest);
            }
        }
        let page = Arc::new(page);
        pages.pages.insert(key, Arc::clone(&page));
        Ok(page)
    }
}

fn parse(answers: Vec<pb::ListBlocksResponse>) -> Result<Page, FsError> {
    let mut page = Page {
        generation: 0,
        capability: Bytes::new(),
        blocks: Vec::new(),
        nodes: HashMap::new(),
    };
    for answer in answers {
        if !answer.capability.is_empty() {
            page.capability = answer.capability;
        }
        for block in answer.blocks {
            let holders = block.nodes.iter().map(|id| id.parse()).collect::<Result<_, _>>();
            page.blocks.push(Placed {
                nodes: holders.map_err(FsError::metadata_answer)?,
                length: block.length,
                crc32c: block.crc32c,
            });
        }
        for target in answer.nodes {
            let node = Node::try_from(target).map_err(FsError::metadata_answer)?;
            page.nodes.insert(node.id.clone(), node);
        }
    }
    Ok(page)
}
