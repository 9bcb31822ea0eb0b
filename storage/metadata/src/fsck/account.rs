//! What is on a node's disk against what is recorded, for whoever looks at the disk.

use std::collections::BTreeSet;

use strongroom_kv::{Reader, Store};
use strongroom_proto::{BlockId, ExtentId, NodeId, block::v1::BlockId as BlockIdWire, metadata::v1 as pb};

use crate::{
    cluster::{
        replicas::{is_doomed, readable},
        strays::open_extents,
    },
    error::MetadataError,
    schema::{access, keys, records},
};

/// Records of extents to delete that are read at once.
const PURGES_PER_PAGE: usize = 500;

/// Which of the blocks on a node's disk nothing accounts for; and if asked, which of them no file shows.
pub(crate) async fn account_for(
    store: &impl Store,
    node: &NodeId,
    blocks: Vec<pb::PlacedBlock>,
    unseen: bool,
) -> Result<pb::AccountForResponse, MetadataError> {
    let mut view = store.snapshot().await?;
    let (mut answer, mut unrecorded) = (pb::AccountForResponse::default(), Vec::new());
    if unseen {
        answer.unseen = unseen_of(&mut view, node, &blocks).await?;
    }
    for block in blocks {
        let id = BlockId::try_from(block.block_id.clone())?;
        let Some(chunk) = readable(&mut view, id).await? else {
            continue;
        };
        match chunk.blocks.get(access::chunk_position(id.index)) {
            Some(known) if (known.length, known.crc32c) == (block.length, block.crc32c) => {}
            Some(_) if is_doomed(&mut view, node, id).await? => {}
            Some(_) => answer.different.push(id.into()),
            None if is_doomed(&mut view, node, id).await? => {}
            None => unrecorded.push(id),
        }
    }
    if !unrecorded.is_empty() {
        // Which files are being written may be unreadable: then nobody can say.
        let open = open_extents(&mut view).await?;
        unrecorded.retain(|id| open.as_ref().is_some_and(|open| !open.contains(&id.extent)));
    }
    answer.unknown = unrecorded.into_iter().map(Into::into).collect();
    Ok(answer)
}

/// Those of the blocks that are of extents being written or deleted.
async fn unseen_of(
    view: &mut impl Reader,
    node: &NodeId,
    blocks: &[pb::PlacedBlock],
) -> Result<Vec<BlockIdWire>, MetadataError> {
    let asked = blocks.iter().map(|block| BlockId::try_from(block.block_id.clone()));
    let asked = asked.collect::<Result<Vec<_>, _>>()?;
    let extents: BTreeSet<_> = asked.iter().map(|id| id.extent).collect();
    // If which files are being written is not to be read, their blocks are told as any.
    let mut hidden = open_extents(view).await?.unwrap_or_default();
    let mut range = keys::purges();
    loop {
        let found = access::page(view, &range, PURGES_PER_PAGE).await?;
        for (_, value) in &found {
            let purge: records::Purge = access::decode(value.clone(), "extents to delete")?;
            let ids = purge
                .extents
                .iter()
                .map(|extent| ExtentId::try_from(extent.extent_id.as_ref()));
            for id in ids {
                // There may be many more to delete than are asked for.
                hidden.extend(extents.get(&id?).copied());
            }
        }
        match found.last() {
            Some((last, _)) if found.len() == PURGES_PER_PAGE => range = range.after(last),
            _ => break,
        }
    }
    let mut unseen = Vec::new();
    for id in asked {
        if hidden.contains(&id.extent) || is_doomed(view, node, id).await? {
            unseen.push(id.into());
        }
    }
    Ok(unseen)
}
