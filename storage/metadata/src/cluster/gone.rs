//! Nodes that stay away: their blocks become deficits, so that the repair loop copies them to other nodes.
//!
//! No list says which blocks a node has, because every commit would have to write it. The rare case that a node is
//! gone pays instead, with a pass over all block lists.

use std::collections::BTreeSet;

use strongroom_kv::{Store, Txn};
use strongroom_proto::{BlockId, NodeId};
use tokio::task::yield_now;

use super::{Cluster, replicas::counting};
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
    /// is repeated now and then: a writer may record blocks late that it stored on a node before it went.
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
        self.last = Some((gone, wanted, now_ms));
        Ok(())
    }
}

/// Marks every block that has too few replicas without those on `gone` nodes. Says how many there are.
async fn mark_all(store: &impl Store, gone: &BTreeSet<NodeId>, wanted: usize) -> Result<usize, MetadataError> {
    let mut range = keys::chunks();
    let (mut short, mut total) = (Vec::new(), 0);
    loop {
        let found = access::page(&mut store.snapshot().await?, &range, CHUNKS_PER_PAGE).await?;
        for (key, value) in &found {
            let chunk = access::decode::<records::BlockChunk>(value.clone(), "block list");
            let (Some(first), Some(chunk)) = (keys::chunk_start(key), told(chunk, &hex::encode(key))?) else {
                continue;
            };
            let blocks = chunk.blocks.iter().zip(first.index..);
            short.extend(
                blocks
                    .filter(|(block, _)| counting(block, gone) < wanted)
                    .map(|(_, index)| BlockId { index, ..first }),
            );
        }
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

/// A block that was removed meanwhile is found out by the repair loop, which drops its deficit.
async fn mark(txn: &mut impl Txn, blocks: &[BlockId]) -> Result<(), MetadataError> {
    counted::mark_deficits(txn, blocks, true).await
}
