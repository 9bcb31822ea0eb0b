//! What is on a node's disk against what is recorded, for whoever looks at the disk.

use strongroom_kv::Store;
use strongroom_proto::{BlockId, NodeId, metadata::v1 as pb};

use crate::{
    cluster::{
        replicas::{is_doomed, readable},
        strays::open_extents,
    },
    error::MetadataError,
    schema::access,
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
