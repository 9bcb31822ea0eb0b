//! What is on a node's disk against what is recorded, for whoever looks at the disk.

use std::collections::BTreeSet;

use strongroom_kv::{Reader, Store};
use strongroom_proto::{BlockId, NodeId, metadata::v1 as pb};

use crate::{
    cluster::strays::open_extents,
    error::MetadataError,
    schema::{access, keys},
};

/// Which of the blocks on a node's disk nothing accounts for.
pub(crate) async fn account_for(
    store: &impl Store,
    node: &NodeId,
    blocks: Vec<pb::PlacedBlock>,
) -> Result<pb::AccountForResponse, MetadataError> {
    let mut view = store.snapshot().await?;
    let (mut answer, mut unrecorded) = (pb::AccountForResponse::default(), Vec::new());
    for block in blocks {
        let id = BlockId::try_from(block.block_id.clone())?;
        let chunk = access::chunk(&mut view, id).await?;
        match chunk.blocks.get(access::chunk_position(id.index)) {
            Some(known) if (known.length, known.crc32c) == (block.length, block.crc32c) => {}
            Some(_) if is_doomed(&mut view, node, id).await? => {}
            Some(_) => answer.different.push(id.into()),
            None if is_doomed(&mut view, node, id).await? => {}
            None => unrecorded.push(id),
        }
    }
    let open = match unrecorded.is_empty() {
        true => BTreeSet::new(),
        false => open_extents(&mut view).await?,
    };
    let unknown = unrecorded.into_iter().filter(|id| !open.contains(&id.extent));
    answer.unknown = unknown.map(Into::into).collect();
    Ok(answer)
}

/// Whether the node is to delete a block, by itself or with all of its extent.
async fn is_doomed(reader: &mut impl Reader, node: &NodeId, id: BlockId) -> Result<bool, MetadataError> {
    let all = BlockId {
        index: keys::EVERY_BLOCK,
        ..id
    };
    let by_itself = reader.get(&keys::garbage(node, id)).await?;
    Ok(by_itself.is_some() || reader.get(&keys::garbage(node, all)).await?.is_some())
}
