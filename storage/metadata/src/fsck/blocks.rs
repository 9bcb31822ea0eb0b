//! The blocks of files: whether their lists add up, and where their replicas should be, for the caller to ask the nodes.

use std::collections::BTreeSet;

use bytes::Bytes;
use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{
    BlockId, ExtentId, FileId,
    capability::Right,
    limits::{BLOCKS_PER_CALL_MAX, EXTENTS_PER_FILE_MAX},
    metadata::v1 as pb,
    transport::PeerIdentity,
};

use super::finding;
use crate::{
    authority::Caller,
    cluster::replicas::{counting, readable},
    core::Core,
    error::MetadataError,
    schema::{access, access::transact, counted, keys, records},
    zones::source::EdekSource,
};

/// A block of a file: the extent's position, and the block's in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cursor {
    pub(super) extent: usize,
    pub(super) block: u32,
}

/// The files of a page with the blocks of them that fit.
#[derive(Default)]
pub(super) struct Collected {
    files: Vec<pb::CheckedFile>,
    blocks: Vec<pb::PlacedBlock>,
    extents: BTreeSet<ExtentId>,
}

impl Collected {
    /// Adds a file, and says what is wrong with its lists of blocks as far as they fit here.
    pub(super) async fn add(
        &mut self,
        reader: &mut impl Reader,
        file: FileId,
        path: &Bytes,
        body: &records::Body,
        wanted: usize,
    ) -> Result<Vec<pb::Finding>, MetadataError> {
        let before = self.blocks.len();
        let (next, problems) = self.blocks_of(reader, body, Cursor::default(), wanted).await?;
        self.files.push(pb::CheckedFile {
            file_id: file.into(),
            path: path.clone(),
            length: body.size().length,
            blocks: u32::try_from(self.blocks.len() - before).unwrap_or(u32::MAX),
            next: next.map(wire),
            plain_extents: plain_extents(body),
        });
        let found = problems
            .into_iter()
            .map(|(kind, what)| finding(kind, path.clone(), what));
        Ok(found.collect())
    }

    /// Adds blocks of a file from `from` on, as long as there is room. Where to go on, and what is wrong.
    async fn blocks_of(
        &mut self,
        reader: &mut impl Reader,
        body: &records::Body,
        from: Cursor,
        wanted: usize,
    ) -> Result<(Option<Cursor>, Vec<(pb::FindingKind, String)>), MetadataError> {
        let mut problems = Problems::default();
        let mut at = from;
        while let Some(extent) = body.extents.get(at.extent) {
            let Ok(id) = extent.id() else {
                problems.add(
                    pb::FindingKind::BlockList,
                    "the id of an extent cannot be read".to_owned(),
                );
                at = Cursor {
                    extent: at.extent + 1,
                    block: 0,
                };
                continue;
            };
            let shown = body.shown_blocks(extent);
            if at.block >= shown {
                at = Cursor {
                    extent: at.extent + 1,
                    block: 0,
                };
                continue;
            }
            let is_new_extent = !self.extents.contains(&id);
            if self.blocks.len() >= BLOCKS_PER_CALL_MAX || is_new_extent && self.extents.len() >= EXTENTS_PER_FILE_MAX {
                return Ok((Some(at), problems.0));
            }
            self.extents.insert(id);
            let start = BlockId {
                extent: id,
                index: at.block,
            };
            let Ok(chunk) = access::chunk(reader, start).await else {
                problems.add(
                    pb::FindingKind::BlockList,
                    format!("the block list of extent {id} cannot be read"),
                );
                at = Cursor {
                    extent: at.extent + 1,
                    block: 0,
                };
                continue;
            };
            let here = chunk.blocks.get(access::chunk_position(at.block)..).unwrap_or_default();
            let here = &here[..here.len().min((shown - at.block) as usize)];
            if here.is_empty() {
                let what = format!(
                    "blocks of extent {id} from {} on are not recorded, {shown} show",
                    at.block
                );
                problems.add(pb::FindingKind::BlockList, what);
                at = Cursor {
                    extent: at.extent + 1,
                    block: 0,
                };
                continue;
            }
            for (block, index) in here.iter().zip(at.block..) {
                let block_id = BlockId { extent: id, index };
                problems.of_block(reader, block_id, block, wanted).await?;
                self.blocks.push(placed(block_id, block));
            }
            problems.of_lengths(
                id,
                here,
                at.block + u32::try_from(here.len()).unwrap_or(0) == extent.blocks,
            );
            at.block += u32::try_from(here.len()).unwrap_or(u32::MAX);
        }
        Ok((None, problems.0))
    }

    /// What the caller needs to ask the nodes.
    pub(super) async fn finish<S: Store, E: EdekSource>(
        self,
        core: &Core<S, E>,
        who: &Caller,
    ) -> Result<(Vec<pb::CheckedFile>, Option<pb::ReplicaList>), MetadataError> {
        if self.blocks.is_empty() {
            return Ok((self.files, None));
        }
        let names: BTreeSet<&String> = self.blocks.iter().flat_map(|block| &block.nodes).collect();
        let nodes = names.into_iter().filter_map(|name| core.cluster.target(name)).collect();
        let holder = PeerIdentity::User(who.name.clone());
        let extents = self.extents.into_iter().collect();
        let (capability, _) = core.cluster.capability(Right::Read, holder, extents);
        let list = pb::ReplicaList {
            blocks: self.blocks,
            nodes,
            capability,
            next: None,
        };
        Ok((self.files, Some(list)))
    }
}

/// What is wrong with a file's blocks: the first of each kind.
#[derive(Default)]
struct Problems(Vec<(pb::FindingKind, String)>);

impl Problems {
    fn add(&mut self, kind: pb::FindingKind, what: String) {
        if self.0.iter().all(|(known, _)| *known != kind) {
            self.0.push((kind, what));
        }
    }

    async fn of_block(
        &mut self,
        reader: &mut impl Reader,
        id: BlockId,
        block: &records::Block,
        wanted: usize,
    ) -> Result<(), MetadataError> {
        if block.nodes.is_empty() {
            self.add(pb::FindingKind::BlockList, format!("block {id} is recorded on no node"));
        }
        let counted = counting(block, &BTreeSet::new());
        if counted < wanted && reader.get(&keys::deficit(id)).await?.is_none() {
            let what = format!("block {id} has {counted} of {wanted} replicas and waits for none");
            self.add(pb::FindingKind::Deficit, what);
        }
        Ok(())
    }

    /// All blocks of an extent but its last have one length, whatever the suite.
    fn of_lengths(&mut self, extent: ExtentId, blocks: &[records::Block], with_last: bool) {
        let full = &blocks[..blocks.len() - usize::from(with_last)];
        if full.windows(2).any(|two| two[0].length != two[1].length) {
            self.add(
                pb::FindingKind::BlockList,
                format!("blocks of extent {extent} have unequal lengths"),
            );
        }
    }
}

fn plain_extents(body: &records::Body) -> Vec<Bytes> {
    if body.edek.is_some() {
        return Vec::new();
    }
    body.extents.iter().map(|extent| extent.extent_id.clone()).collect()
}

fn placed(id: BlockId, block: &records::Block) -> pb::PlacedBlock {
    pb::PlacedBlock {
        block_id: Some(id.into()),
        length: block.length,
        crc32c: block.crc32c,
        nodes: block.nodes.clone(),
    }
}

fn wire(cursor: Cursor) -> pb::ReplicaCursor {
    pb::ReplicaCursor {
        extent: u32::try_from(cursor.extent).unwrap_or(u32::MAX),
        block: cursor.block,
    }
}

/// Further blocks of a file; none if it went.
pub(crate) async fn list_replicas<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    file: FileId,
    from: pb::ReplicaCursor,
) -> Result<pb::ReplicaList, MetadataError> {
    let mut view = core.store.snapshot().await?;
    let Some(body) = access::body(&mut view, file).await? else {
        return Ok(pb::ReplicaList::default());
    };
    let from = Cursor {
        extent: from.extent as usize,
        block: from.block,
    };
    let (mut collected, wanted) = (Collected::default(), core.settings.replicas as usize);
    let (next, _) = collected.blocks_of(&mut view, &body, from, wanted).await?;
    drop(view);
    let (_, list) = collected.finish(core, who).await?;
    Ok(pb::ReplicaList {
        next: next.map(wire),
        ..list.unwrap_or_default()
    })
}

/// Has the blocks of a file that have too few replicas wait for more. Says whether one did not.
pub(super) async fn mark_deficits(store: &impl Store, file: FileId, wanted: usize) -> Result<bool, MetadataError> {
    let body = access::body(&mut store.snapshot().await?, file).await?;
    let mut marked = false;
    for extent in body.iter().flat_map(|body| &body.extents) {
        let (Ok(id), blocks) = (extent.id(), extent.blocks) else {
            continue;
        };
        for first in (0..blocks).step_by(keys::CHUNK_BLOCKS as usize) {
            let start = BlockId {
                extent: id,
                index: first,
            };
            marked |= transact!(store, [], |txn| mark_chunk(txn, start, wanted)).await?;
        }
    }
    Ok(marked)
}

async fn mark_chunk(txn: &mut impl Txn, start: BlockId, wanted: usize) -> Result<bool, MetadataError> {
    let Some(chunk) = readable(txn, start).await? else {
        return Ok(false);
    };
    let blocks = chunk.blocks.iter().zip(start.index..);
    let short = blocks.filter(|(block, _)| counting(block, &BTreeSet::new()) < wanted);
    let mut unmarked = Vec::new();
    for (_, index) in short {
        let id = BlockId { index, ..start };
        if txn.get(&keys::deficit(id)).await?.is_none() {
            unmarked.push(id);
        }
    }
    counted::mark_deficits(txn, &unmarked, true).await?;
    Ok(!unmarked.is_empty())
}
