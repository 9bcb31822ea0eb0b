//! Comparing the block nodes' disks with what is recorded (ADR 40): a pass over all block lists asks each node whether it has what is
//! recorded of it, and a survey has each node tell what it has. What is missing gets deficits here; what is too much is dealt with in
//! [`super::strays`] as the pages come.
//!
//! A pass begins now and then, and when a node has come back with another data directory. How far it is stands in the store.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use strongroom_kv::{Store, Txn};
use strongroom_proto::{BlockId, NodeId, limits::REPLICAS_PER_COMMAND_MAX, metadata::v1::Replica};

use super::{Cluster, commands::Work};
use crate::{
    error::MetadataError,
    schema::{NODES_MAX, access, access::transact, keys, records},
};

/// Chunks read at once; chunks and blocks after which what was read is sent to the nodes.
const CHUNKS_PER_PAGE: usize = 256;
const CHUNKS_PER_SLICE: usize = 2048;
const BLOCKS_PER_SLICE: usize = 4096;
/// How often it is looked whether one is due.
const LOOK_EVERY_MS: u64 = 1_000;
/// Between passes for nodes that could not be asked in the one before.
const PAUSE_MS: u64 = 5_000;

/// The pass under way, and when it was looked whether one is due.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pass: Option<Pass>,
    looked_ms: u64,
}

#[derive(Debug)]
struct Pass {
    record: records::Inventory,
    /// Nodes that did not answer for all that is recorded of them.
    skipped: BTreeSet<NodeId>,
}

/// What is recorded of each node in a part of the block lists.
#[derive(Debug, Default)]
struct Slice {
    of_nodes: BTreeMap<NodeId, Vec<Replica>>,
    /// The last chunk; none if there was none.
    last: Option<Bytes>,
}

impl Inventory {
    /// One bounded round: asks for the next pages of surveys, and once the nodes have answered for one slice of the block lists sends
    /// them the next.
    pub(crate) async fn round(&mut self, store: &impl Store, cluster: &Cluster) -> Result<(), MetadataError> {
        let alive = cluster.nodes.alive_nodes(cluster.now_ms());
        cluster.commands().plan_surveys(&alive);
        if cluster.commands().is_checking() {
            return Ok(());
        }
        if self.pass.is_none() {
            self.begin(store, cluster, &alive).await?;
        }
        let Some(pass) = &mut self.pass else { return Ok(()) };
        pass.skipped.extend(cluster.commands().take_unanswered());
        let slice = slice(store, &pass.record.after).await?;
        if let Some(last) = slice.last.clone() {
            // A slice counts once the one behind it is sent: after a restart it is sent again.
            save(store, &pass.record).await?;
            pass.send(cluster, slice, &alive);
            pass.record.after = last;
            return Ok(());
        }
        pass.record.ended_ms = cluster.now_ms();
        finish(store, &pass.record, &pass.skipped).await?;
        tracing::info!(skipped = ?pass.skipped, "the block nodes were asked for all that is recorded of them");
        self.pass = None;
        Ok(())
    }

    /// Begins a pass if one is due, or goes on with one that was begun before a restart.
    async fn begin(&mut self, store: &impl Store, cluster: &Cluster, alive: &[NodeId]) -> Result<(), MetadataError> {
        let now_ms = cluster.now_ms();
        if now_ms.abs_diff(self.looked_ms) < LOOK_EVERY_MS {
            return Ok(());
        }
        self.looked_ms = now_ms;
        let mut view = store.snapshot().await?;
        let unchecked = unchecked(&access::page(&mut view, &keys::nodes(), NODES_MAX).await?)?;
        let is_asked_for = unchecked.iter().any(|node| alive.contains(node));
        let last: Option<records::Inventory> = access::record(&mut view, &keys::inventory(), "inventory").await?;
        drop(view);
        let Some(last) = last else {
            // A new namespace: the first pass is due when it has some age.
            let new = records::Inventory {
                begun_ms: now_ms,
                ended_ms: now_ms,
                ..records::Inventory::default()
            };
            return save(store, &new).await;
        };
        let (period_ms, since_ms) = (cluster.inventory_ms(), now_ms.abs_diff(last.begun_ms));
        let goes_on = last.ended_ms == 0 && !is_asked_for;
        let is_due = period_ms > 0 && since_ms >= period_ms || is_asked_for && since_ms >= PAUSE_MS;
        if !goes_on && !is_due {
            return Ok(());
        }
        let fresh = records::Inventory {
            begun_ms: now_ms,
            ..records::Inventory::default()
        };
        self.pass = Some(Pass {
            record: if goes_on { last } else { fresh },
            skipped: BTreeSet::new(),
        });
        cluster.commands().take_unanswered();
        if period_ms > 0 {
            alive.iter().for_each(|node| cluster.commands().survey(node.clone()));
        }
        Ok(())
    }
}

impl Pass {
    fn send(&mut self, cluster: &Cluster, slice: Slice, alive: &[NodeId]) {
        let mut commands = cluster.commands();
        for (node, replicas) in slice.of_nodes {
            let room = commands.room(&node) * REPLICAS_PER_COMMAND_MAX;
            if !alive.contains(&node) || room < replicas.len() {
                self.skipped.insert(node);
                continue;
            }
            for some in replicas.chunks(REPLICAS_PER_COMMAND_MAX) {
                let replicas = some.to_vec();
                commands.plan(&node, Work::Check { replicas });
            }
        }
    }
}

/// Reads the block lists behind a chunk.
async fn slice(store: &impl Store, after: &[u8]) -> Result<Slice, MetadataError> {
    let (mut slice, mut chunks, mut blocks) = (Slice::default(), 0, 0);
    let mut view = store.snapshot().await?;
    while chunks < CHUNKS_PER_SLICE && blocks < BLOCKS_PER_SLICE {
        let after = slice.last.as_deref().unwrap_or(after);
        let range = if after.is_empty() {
            keys::chunks()
        } else {
            keys::chunks().after(after)
        };
        let found = access::page(&mut view, &range, CHUNKS_PER_PAGE).await?;
        let Some((last, _)) = found.last() else { break };
        slice.last = Some(last.clone());
        chunks += found.len();
        for (key, value) in found {
            blocks += slice.add(&key, value)?;
        }
    }
    Ok(slice)
}

impl Slice {
    /// Enters the blocks of a chunk. Says how many there are.
    fn add(&mut self, key: &[u8], value: Bytes) -> Result<usize, MetadataError> {
        let first = keys::chunk_start(key).ok_or(MetadataError::Corrupt { what: "block list" })?;
        let chunk: records::BlockChunk = access::decode(value, "block list")?;
        for (block, index) in chunk.blocks.iter().zip(first.index..) {
            let replica = Replica {
                block_id: Some(BlockId { index, ..first }.into()),
                length: block.length,
                crc32c: block.crc32c,
                ..Replica::default()
            };
            for node in &block.nodes {
                self.of_nodes.entry(node.parse()?).or_default().push(replica.clone());
            }
        }
        Ok(chunk.blocks.len())
    }
}

/// Nodes with another data directory than their replicas were recorded in.
fn unchecked(nodes: &[(Bytes, Bytes)]) -> Result<Vec<NodeId>, MetadataError> {
    let mut unchecked = Vec::new();
    for (key, value) in nodes {
        let record: records::Node = access::decode(value.clone(), "node")?;
        if record.unchecked_since_ms > 0 {
            unchecked.push(keys::node_of(key).ok_or(MetadataError::Corrupt { what: "node" })?);
        }
    }
    Ok(unchecked)
}

async fn save(store: &impl Store, record: &records::Inventory) -> Result<(), MetadataError> {
    transact!(store, [record], |txn| save_in(txn, &record)).await
}

async fn save_in(txn: &mut impl Txn, record: &records::Inventory) -> Result<(), MetadataError> {
    access::put(txn, &keys::inventory(), record);
    Ok(())
}

/// Records that a pass is over, and that it looked after all nodes but those skipped and those that came with another data directory
/// since it began.
async fn finish(
    store: &impl Store,
    record: &records::Inventory,
    skipped: &BTreeSet<NodeId>,
) -> Result<(), MetadataError> {
    transact!(store, [record, skipped], |txn| finish_in(txn, &record, &skipped)).await
}

async fn finish_in(
    txn: &mut impl Txn,
    record: &records::Inventory,
    skipped: &BTreeSet<NodeId>,
) -> Result<(), MetadataError> {
    access::put(txn, &keys::inventory(), record);
    for node in unchecked(&access::page(txn, &keys::nodes(), NODES_MAX).await?)? {
        let known: Option<records::Node> = access::record(txn, &keys::node(&node), "node").await?;
        if let Some(mut known) = known
            && known.unchecked_since_ms < record.begun_ms
            && !skipped.contains(&node)
        {
            known.unchecked_since_ms = 0;
            access::put(txn, &keys::node(&node), &known);
        }
    }
    Ok(())
}
