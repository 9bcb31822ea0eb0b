//! Nodes that stay away: their blocks become deficits, so that the repair loop copies them to other nodes. Once those surely have all
//! replicas that are wanted, the nodes that stay away give up theirs. As a rule that is when the last copy is made; of blocks on nodes
//! that cannot be trusted then it is looked again here, without a deficit: nothing is to be copied, and what waits for a copy is not to
//! wait for doubts to end.
//!
//! No list says which blocks a node has, because every commit would have to write it. The rare case that a node is
//! gone pays instead, with a pass over all block lists.

use std::collections::BTreeSet;

use strongroom_kv::{Store, Txn};
use strongroom_proto::{BlockId, NodeId};
use tokio::task::yield_now;

use super::{
    Cluster,
    replicas::{counting, settled, trusted},
};
use crate::{
    error::MetadataError,
    schema::{
        access,
        access::{told, transact},
        counted,
        keys::{self, KeyRange},
        records,
    },
};

/// Chunks read at once.
const CHUNKS_PER_PAGE: usize = 32;
/// Blocks from which on those found are marked. With a page more they still fit one transaction.
const BLOCKS_PER_WRITE: usize = 1000;
/// Pages read, at most, before it is seen whether other nodes are gone.
const PAGES_PER_LOOK: usize = 16;

/// The last pass: for which nodes, how many replicas it wanted, and when.
#[derive(Debug, Default)]
pub(crate) struct Passes {
    last: Option<(BTreeSet<NodeId>, usize, u64)>,
}

impl Passes {
    /// Goes over all block lists if nodes are gone. Blocks with fewer replicas than the nodes that are left could hold are
    /// marked, also if those are fewer than a block should have: a block with one copy is not to wait for a third node. That
    /// is repeated now and then: a writer may record blocks late that it stored on a node before it went, and nodes that were
    /// doubted may be trusted again.
    pub(crate) async fn run(&mut self, store: &impl Store, cluster: &Cluster) -> Result<(), MetadataError> {
        let (gone, now_ms) = (cluster.gone(), cluster.now_ms());
        let others = cluster.nodes.known() - gone.len();
        if gone.is_empty() || others == 0 {
            self.last = None;
            return Ok(());
        }
        let wanted = cluster.replicas().min(others);
        let recent = |at_ms: u64| now_ms.abs_diff(at_ms) < cluster.gone_ms();
        if self
            .last
            .as_ref()
            .is_some_and(|(of, before, at_ms)| *of == gone && *before == wanted && recent(*at_ms))
        {
            return Ok(());
        }
        let blocks = mark_all(store, &gone, wanted).await?;
        tracing::warn!(?gone, blocks, "block nodes are gone; their blocks are copied to others");
        if let Err(error) = give_up(store, cluster, &gone).await {
            tracing::warn!(%error, "not all is given up that others have; it is looked again in the next pass");
        }
        self.last = Some((gone, wanted, now_ms));
        Ok(())
    }
}

/// Marks every block that has too few replicas without those on `gone` nodes. Says how many there are.
async fn mark_all(store: &impl Store, gone: &BTreeSet<NodeId>, wanted: usize) -> Result<usize, MetadataError> {
    let (mut lists, mut total) = (Lists::all(), 0);
    while let Some(short) = lists.next(store, |block| counting(block, gone) < wanted).await? {
        total += short.len();
        if !short.is_empty() {
            transact!(store, [short], |txn| mark(txn, &short)).await?;
        }
    }
    Ok(total)
}

/// Has `gone` nodes give up their replicas of blocks that surely have all on others. Ends early when other nodes are gone: blocks that lack
/// replicas are not to wait for this.
async fn give_up(store: &impl Store, cluster: &Cluster, gone: &BTreeSet<NodeId>) -> Result<(), MetadataError> {
    let replicas = cluster.replicas();
    let trusted = trusted(&mut store.snapshot().await?, &cluster.standing().heard).await?;
    let mut lists = Lists::all();
    while let Some(replaced) = lists
        .next(store, |block| is_replaced(block, gone, &trusted, replicas))
        .await?
    {
        if cluster.gone() != *gone {
            break;
        }
        // It is looked once more at each of them, and at how the nodes stand now.
        settled(store, &replaced, replicas, &cluster.standing()).await?;
    }
    Ok(())
}

/// The blocks of all lists, in their order.
struct Lists {
    /// What was not read yet.
    rest: Option<KeyRange>,
}

impl Lists {
    fn all() -> Self {
        Self {
            rest: Some(keys::chunks()),
        }
    }

    /// The next of them that are `picked`, as many as one transaction writes or none for a while; `None` when all were looked at.
    async fn next(
        &mut self,
        store: &impl Store,
        picked: impl Fn(&records::Block) -> bool,
    ) -> Result<Option<Vec<BlockId>>, MetadataError> {
        let mut blocks = Vec::new();
        if self.rest.is_none() {
            return Ok(None);
        }
        for _ in 0..PAGES_PER_LOOK {
            if blocks.len() >= BLOCKS_PER_WRITE {
                break;
            }
            let Some(range) = self.rest.take() else { break };
            let found = access::page(&mut store.snapshot().await?, &range, CHUNKS_PER_PAGE).await?;
            for (key, value) in &found {
                let chunk = access::decode::<records::BlockChunk>(value.clone(), "block list");
                let (Some(first), Some(chunk)) = (keys::chunk_start(key), told(chunk, &hex::encode(key))?) else {
                    continue;
                };
                let numbered = chunk.blocks.iter().zip(first.index..);
                let picked = numbered.filter(|(block, _)| picked(block));
                blocks.extend(picked.map(|(_, index)| BlockId { index, ..first }));
            }
            let is_last = found.len() < CHUNKS_PER_PAGE;
            self.rest = found.last().filter(|_| !is_last).map(|(last, _)| range.after(last));
            yield_now().await;
        }
        Ok(Some(blocks))
    }
}

/// Whether a block is recorded on `gone` nodes and has `replicas` on trusted ones.
fn is_replaced(block: &records::Block, gone: &BTreeSet<NodeId>, trusted: &BTreeSet<NodeId>, replicas: usize) -> bool {
    let is_of = |nodes: &BTreeSet<NodeId>, name: &String| nodes.iter().any(|node| node.as_str() == name);
    let sure = block
        .nodes
        .iter()
        .filter(|name| is_of(trusted, name) && !block.unread.contains(name));
    block.nodes.iter().any(|name| is_of(gone, name)) && sure.count() >= replicas
}

/// A block that was removed meanwhile is found out by the repair loop, which drops its deficit.
async fn mark(txn: &mut impl Txn, blocks: &[BlockId]) -> Result<(), MetadataError> {
    counted::mark_deficits(txn, blocks, true).await
}
