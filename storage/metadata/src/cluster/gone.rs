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
        counted, keys, records,
    },
};

/// Chunks read at once.
const CHUNKS_PER_PAGE: usize = 32;
/// Blocks from which on those found are marked. With a page more they still fit one transaction.
const BLOCKS_PER_WRITE: usize = 1000;

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
        let blocks = go_over(store, cluster, &gone, wanted).await?;
        tracing::warn!(?gone, blocks, "block nodes are gone; their blocks are copied to others");
        self.last = Some((gone, wanted, now_ms));
        Ok(())
    }
}

/// Marks every block that has too few replicas without those on `gone` nodes, and has these give up theirs of blocks that surely have
/// all. Says how many are marked.
async fn go_over(
    store: &impl Store,
    cluster: &Cluster,
    gone: &BTreeSet<NodeId>,
    wanted: usize,
) -> Result<usize, MetadataError> {
    let mut range = keys::chunks();
    let (mut short, mut replaced, mut total) = (Vec::new(), Vec::new(), 0);
    let trusted = trusted(&mut store.snapshot().await?, &cluster.standing().heard).await?;
    loop {
        let found = access::page(&mut store.snapshot().await?, &range, CHUNKS_PER_PAGE).await?;
        for (key, value) in &found {
            let chunk = access::decode::<records::BlockChunk>(value.clone(), "block list");
            let (Some(first), Some(chunk)) = (keys::chunk_start(key), told(chunk, &hex::encode(key))?) else {
                continue;
            };
            for (block, index) in chunk.blocks.iter().zip(first.index..) {
                let id = BlockId { index, ..first };
                if counting(block, gone) < wanted {
                    short.push(id);
                } else if is_replaced(block, gone, &trusted, cluster.replicas()) {
                    replaced.push(id);
                }
            }
        }
        // It is looked once more at each of them, and at how the nodes stand now.
        settled(store, &replaced, cluster.replicas(), &cluster.standing()).await?;
        replaced.clear();
        let is_last = found.len() < CHUNKS_PER_PAGE;
        if short.len() >= BLOCKS_PER_WRITE || is_last {
            total += short.len();
            let marked = std::mem::take(&mut short);
            transact!(store, [marked], |txn| mark(txn, &marked)).await?;
        }
        match found.last() {
            Some((last, _)) if !is_last => range = range.after(last),
            _ => return Ok(total),
        }
        yield_now().await;
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
