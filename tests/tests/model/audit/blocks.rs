//! Blocks: recorded without a gap, on enough nodes or in deficit, and none anywhere that nobody answers for.

use std::collections::{BTreeMap, BTreeSet};

use strongroom_proto::BlockId;

use super::{
    Broken, records,
    tables::{Block, Id, Tables},
};

/// Blocks of one chunk, and replicas that each is to have.
const CHUNK_BLOCKS: u32 = 256;
const REPLICAS: usize = 3;
const REPLICAS_MIN: usize = 2;
/// Stands for every block of an extent.
const EVERY_BLOCK: u32 = u32::MAX;

pub(super) fn check(tables: &Tables, broken: &mut Broken) {
    let recorded = recorded(tables);
    let purged = purged(tables);
    let mut owned = BTreeSet::new();
    for (file, body) in &tables.bodies {
        for extent in &body.extents {
            let id = Id::of(&extent.extent_id);
            broken.unless(owned.insert(id), || {
                format!("extent {id:?} of {file:?} is another's, too")
            });
            let shown = u32::try_from(extent.visible.div_ceil(u64::from(body.block_bytes))).expect("few");
            let stored = count(&recorded, id);
            let excess = (shown..stored).all(|index| purged.contains(&(id, index)));
            broken.unless(stored >= shown && excess, || {
                format!("of extent {id:?} of {file:?} {stored} blocks are recorded, {shown} show")
            });
        }
    }
    for (file, open) in &tables.open {
        for extent in &open.extents {
            let id = Id::of(&extent.extent_id);
            broken.unless(owned.insert(id), || {
                format!("extent {id:?} of {file:?} is another's, too")
            });
            broken.unless(count(&recorded, id) == extent.blocks, || {
                format!("{} blocks are recorded of {extent:?} of {file:?}", count(&recorded, id))
            });
        }
    }
    for (block, known) in &recorded {
        broken.unless(owned.contains(&block.0) || purged.contains(block), || {
            format!("block {block:?} is recorded and nobody's")
        });
        broken.unless(known.nodes.len() >= REPLICAS_MIN, || {
            format!("block {block:?} is on {:?} only", known.nodes)
        });
        // What a disk did not give back does not count.
        let counting = known.nodes.iter().filter(|node| !known.unread.contains(node));
        let is_short = counting.count() < REPLICAS && !purged.contains(block);
        broken.unless(!is_short || tables.deficits.contains(block), || {
            format!("block {block:?} has no deficit: {known:?}")
        });
        broken.unless(known.unread.iter().all(|node| known.nodes.contains(node)), || {
            format!("block {block:?} was not given back by nodes that it is not on: {known:?}")
        });
    }
    for block in &tables.deficits {
        broken.unless(recorded.contains_key(block), || {
            format!("the deficit {block:?} is of no block")
        });
    }
}

/// Every block that shows is where the record says, and what lies on a node is somebody's or will be deleted. Left out are copies
/// whose making the node reported to a service that had died: they are on no record.
pub(super) fn check_nodes(
    tables: &Tables,
    stored: &BTreeMap<BlockId, BTreeMap<&'static str, bool>>,
    broken: &mut Broken,
) {
    let recorded = recorded(tables);
    let stored: BTreeMap<Block, _> = stored
        .iter()
        .map(|(block, nodes)| ((Id::of(block.extent.as_bytes()), block.index), nodes))
        .collect();
    for (block, known) in &recorded {
        for node in &known.nodes {
            let is_garbage = tables.garbage.contains(&(node.clone(), *block));
            let is_there = stored.get(block).is_some_and(|nodes| nodes.contains_key(node.as_str()));
            broken.unless(is_there || is_garbage, || format!("block {block:?} is not on {node}"));
        }
    }
    let open = tables.open.values().flat_map(|open| &open.extents);
    let open: BTreeSet<_> = open.map(|extent| Id::of(&extent.extent_id)).collect();
    for (block, nodes) in stored {
        for (node, _) in nodes.iter().filter(|(_, is_copy)| !**is_copy) {
            let known = recorded
                .get(&block)
                .is_some_and(|known| known.nodes.iter().any(|known| known == node));
            let is_garbage = |index| tables.garbage.contains(&((*node).to_owned(), (block.0, index)));
            let is_doomed = is_garbage(block.1) || is_garbage(EVERY_BLOCK) || tables.buried.contains(&block.0);
            broken.unless(known || is_doomed || open.contains(&block.0), || {
                format!("block {block:?} is on {node} for ever")
            });
        }
    }
}

/// No block of a file that has a DEK was ever stored as it was written.
pub(super) fn check_encrypted(tables: &Tables, plain: &BTreeSet<BlockId>, broken: &mut Broken) {
    let plain: BTreeSet<_> = plain.iter().map(|block| Id::of(block.extent.as_bytes())).collect();
    for (file, body) in tables.bodies.iter().filter(|(_, body)| body.edek.is_some()) {
        for extent in &body.extents {
            let id = Id::of(&extent.extent_id);
            broken.unless(!plain.contains(&id), || {
                format!("file {file:?} has a DEK, and its extent {id:?} was stored without")
            });
        }
    }
}

/// All blocks. A chunk that is not full is the last of its extent.
fn recorded(tables: &Tables) -> BTreeMap<Block, &records::Block> {
    let mut recorded = BTreeMap::new();
    for ((extent, chunk), blocks) in &tables.chunks {
        for (index, block) in (chunk * CHUNK_BLOCKS..).zip(&blocks.blocks) {
            recorded.insert((*extent, index), block);
        }
    }
    recorded
}

fn count(recorded: &BTreeMap<Block, &records::Block>, extent: Id) -> u32 {
    let blocks = (0..).take_while(|index| recorded.contains_key(&(extent, *index)));
    u32::try_from(blocks.count()).expect("few")
}

fn purged(tables: &Tables) -> BTreeSet<Block> {
    let extents = tables.purges.values().flat_map(|purge| &purge.extents);
    let blocks = |extent: &records::PurgeExtent| {
        let id = Id::of(&extent.extent_id);
        (extent.first..extent.blocks)
            .map(move |index| (id, index))
            .collect::<Vec<_>>()
    };
    extents.flat_map(blocks).collect()
}
