//! Comparing the block nodes' disks with what is recorded (ADR 40): a pass over all block lists asks each node whether it has what is
//! recorded of it, and a survey has each node tell what it has. What is missing gets deficits here; what is too much is dealt with in
//! [`super::strays`] as the pages come.
//!
//! A pass begins now and then, and when a node has come back with another data directory. How far it is stands in the store.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{BlockId, NodeId, limits::REPLICAS_PER_COMMAND_MAX, metadata::v1::Replica};

use super::{
    Cluster,
    commands::{Expected, Work},
    surveys::Counted,
};
use crate::{
    error::MetadataError,
    schema::{
        NODES_MAX, access,
        access::{told, transact},
        keys, records,
    },
};

/// Chunks read at once; chunks and blocks after which what was read is sent to the nodes.
const CHUNKS_PER_PAGE: usize = 256;
const CHUNKS_PER_SLICE: usize = 2048;
const BLOCKS_PER_SLICE: usize = 4096;
/// How often it is looked whether one is due.
const LOOK_EVERY_MS: u64 = 1_000;
/// Between passes for nodes that could not be asked in the one before; twice as long each time, up to 21 minutes.
const PAUSE_MS: u64 = 5_000;
const DOUBLINGS_MAX: u32 = 8;

/// The pass under way, and when it was looked whether one is due.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pass: Option<Pass>,
    looked_ms: u64,
    /// Nodes that ask for a pass, and how many there were already for the same ones.
    asking: BTreeSet<NodeId>,
    repeats: u32,
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
    /// One bounded round in a `term` of the duties: asks for the next pages of surveys, and once the nodes have answered for one slice of
    /// the block lists sends them the next.
    pub(crate) async fn round(
        &mut self,
        store: &impl Store,
        cluster: &Cluster,
        term: u64,
    ) -> Result<(), MetadataError> {
        let alive = cluster.nodes.alive_nodes(cluster.now_ms());
        let counted = {
            let mut commands = cluster.commands();
            commands.plan_surveys(&alive);
            commands.surveys.decide(cluster.stray_bounds())
        };
        for counted in counted {
            note_counted(store, counted).await?;
        }
        if cluster.commands().is_checking() {
            return Ok(());
        }
        if self.pass.is_none() {
            self.begin(store, cluster, &alive, term).await?;
        }
        let Some(pass) = &mut self.pass else { return Ok(()) };
        pass.skipped.extend(cluster.commands().take_unanswered());
        let slice = slice(store, &pass.record.after).await?;
        if let Some(last) = slice.last.clone() {
            // A slice counts once the one behind it is sent: after a restart it is sent again.
            if save(store, &pass.record).await? {
                pass.send(cluster, slice, &alive);
                pass.record.after = last;
            } else {
                self.pass = None;
            }
            return Ok(());
        }
        pass.record.ended_ms = cluster.now_ms();
        if finish(store, &pass.record, &pass.skipped).await? {
            tracing::info!(skipped = ?pass.skipped, "the block nodes were asked for all that is recorded of them");
        }
        self.pass = None;
        Ok(())
    }

    /// Begins a pass if one is due, or goes on with one that was begun before a restart.
    async fn begin(
        &mut self,
        store: &impl Store,
        cluster: &Cluster,
        alive: &[NodeId],
        term: u64,
    ) -> Result<(), MetadataError> {
        let now_ms = cluster.now_ms();
        if now_ms.abs_diff(self.looked_ms) < LOOK_EVERY_MS {
            return Ok(());
        }
        self.looked_ms = now_ms;
        let mut view = store.snapshot().await?;
        let unchecked = unchecked(&access::page(&mut view, &keys::nodes(), NODES_MAX).await?);
        let last = recorded(&mut view).await?;
        drop(view);
        let Some(last) = last else {
            // A new namespace: the first pass is due when it has some age.
            let new = records::Inventory {
                begun_ms: now_ms,
                ended_ms: now_ms,
                ..records::Inventory::default()
            };
            return save(store, &new).await.map(|_| ());
        };
        let asking: BTreeSet<NodeId> = unchecked.keys().filter(|node| alive.contains(node)).cloned().collect();
        let pause_ms = self.pause_ms(&asking);
        let (period_ms, since_ms) = (cluster.inventory_ms(), now_ms.abs_diff(last.begun_ms));
        let goes_on = last.ended_ms == 0 && asking.is_empty();
        let is_due = period_ms > 0 && since_ms >= period_ms || !asking.is_empty() && since_ms >= pause_ms;
        if !goes_on && !is_due && !last.is_asked_for() {
            return Ok(());
        }
        self.repeats = if asking == self.asking { self.repeats + 1 } else { 0 };
        self.asking = asking;
        let unbounded = last.has_the_word(term);
        let record = if goes_on { last } else { last.next(&unchecked, now_ms) };
        cluster.commands().take_unanswered();
        if period_ms > 0 || unbounded {
            cluster.commands().surveys.begin(alive, unbounded);
        }
        self.pass = Some(Pass {
            record,
            skipped: BTreeSet::new(),
        });
        Ok(())
    }

    /// How long after the beginning of one pass the next begins for nodes that ask for it.
    fn pause_ms(&self, asking: &BTreeSet<NodeId>) -> u64 {
        let repeats = if *asking == self.asking { self.repeats } else { 0 };
        PAUSE_MS << repeats.min(DOUBLINGS_MAX)
    }
}

impl records::Inventory {
    /// Whether somebody asked for a pass since the last one began.
    pub(crate) const fn is_asked_for(&self) -> bool {
        self.begun_ms == 0 && self.ended_ms > 0
    }

    /// Whether a superuser asked for a pass, in this `term` of the duties, that deletes what nothing needs however much it is. No other
    /// term goes on with that: this may be a copy of the store as it was when he said so, and newer blocks are in none of its records.
    fn has_the_word(&self, term: u64) -> bool {
        let is_given = self.delete_strays_in_term > 0;
        let is_valid = is_given && self.is_asked_for() && self.delete_strays_in_term == term;
        if is_given && !is_valid && (self.is_asked_for() || self.ended_ms == 0) {
            tracing::warn!(
                "a superuser had blocks deleted that nothing needs before this instance took the duties over: this ended then, \
                 and is to be asked for again with strongroom fsck --repair --delete-strays"
            );
        }
        is_valid
    }

    /// The pass behind this one. Its number is above all marks of nodes, which may come from another store.
    fn next(&self, unchecked: &BTreeMap<NodeId, u64>, now_ms: u64) -> Self {
        let newest = unchecked.values().copied().max().unwrap_or_default().max(self.pass);
        Self {
            begun_ms: now_ms,
            pass: newest.saturating_add(1),
            delete_strays_in_term: if self.is_asked_for() {
                self.delete_strays_in_term
            } else {
                0
            },
            ..Self::default()
        }
    }
}

impl Pass {
    fn send(&mut self, cluster: &Cluster, slice: Slice, alive: &[NodeId]) {
        let mut commands = cluster.commands();
        for (node, replicas) in slice.of_nodes {
            let room = commands.room_for_questions(&node) * REPLICAS_PER_COMMAND_MAX;
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
            // What cannot be read is not asked for, and keeps nothing else from being asked for.
            blocks += told(slice.add(&key, value), &hex::encode(&key))?.unwrap_or_default();
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
            let replica = Replica::from(Expected {
                id: BlockId { index, ..first },
                length: block.length,
                crc32c: block.crc32c,
            });
            for node in &block.nodes {
                self.of_nodes.entry(node.parse()?).or_default().push(replica.clone());
            }
        }
        Ok(chunk.blocks.len())
    }
}

/// Nodes with another data directory than their replicas were recorded in, and which pass had begun when they came with it.
fn unchecked(nodes: &[(Bytes, Bytes)]) -> BTreeMap<NodeId, u64> {
    let marked = nodes.iter().filter_map(|(key, value)| {
        let record: records::Node = access::decode(value.clone(), "node").ok()?;
        (record.unchecked_since_ms > 0).then_some((keys::node_of(key)?, record.unchecked_after_pass))
    });
    marked.collect()
}

/// How far the last pass is. One that cannot be read begins anew.
async fn recorded(reader: &mut impl Reader) -> Result<Option<records::Inventory>, MetadataError> {
    let record = access::record(reader, &keys::inventory(), "inventory").await;
    Ok(told(record, "inventory")?.flatten())
}

/// Says whether the pass is to go on: not if somebody asked for another one.
async fn save(store: &impl Store, record: &records::Inventory) -> Result<bool, MetadataError> {
    transact!(store, [record], |txn| save_in(txn, &record)).await
}

async fn save_in(txn: &mut impl Txn, record: &records::Inventory) -> Result<bool, MetadataError> {
    let last = recorded(txn).await?.unwrap_or_default();
    // A pass that was begun since takes the place of the request for it.
    let has_same_word = last.delete_strays_in_term == record.delete_strays_in_term;
    if last.is_asked_for() && (record.pass <= last.pass || !has_same_word) {
        return Ok(false);
    }
    access::put(txn, &keys::inventory(), record);
    Ok(true)
}

/// Has a pass begin soon. `delete_strays`: what nothing needs is deleted in it, however much it is, if the instance begins it that has the
/// duties now.
pub(crate) async fn ask_for(store: &impl Store, delete_strays: bool) -> Result<(), MetadataError> {
    transact!(store, [], |txn| ask_for_in(txn, delete_strays)).await
}

async fn ask_for_in(txn: &mut impl Txn, delete_strays: bool) -> Result<(), MetadataError> {
    let last = recorded(txn).await?.unwrap_or_default();
    let delete_strays_in_term = if delete_strays {
        access::duty(txn).await?.unwrap_or_default().term
    } else if last.is_asked_for() {
        last.delete_strays_in_term
    } else {
        0
    };
    let asked = records::Inventory {
        ended_ms: 1,
        pass: last.pass,
        delete_strays_in_term,
        ..records::Inventory::default()
    };
    access::put(txn, &keys::inventory(), &asked);
    Ok(())
}

/// Records that a pass is over, and that it looked after all nodes but those skipped and those that came with another data directory
/// since it began. Says whether nobody asked for another one meanwhile.
async fn finish(
    store: &impl Store,
    record: &records::Inventory,
    skipped: &BTreeSet<NodeId>,
) -> Result<bool, MetadataError> {
    transact!(store, [record, skipped], |txn| finish_in(txn, &record, &skipped)).await
}

async fn finish_in(
    txn: &mut impl Txn,
    record: &records::Inventory,
    skipped: &BTreeSet<NodeId>,
) -> Result<bool, MetadataError> {
    if !save_in(txn, record).await? {
        return Ok(false);
    }
    for (node, after_pass) in unchecked(&access::page(txn, &keys::nodes(), NODES_MAX).await?) {
        let known: Option<records::Node> = access::record(txn, &keys::node(&node), "node").await?;
        if let Some(mut known) = known
            && after_pass < record.pass
            && !skipped.contains(&node)
        {
            (known.unchecked_since_ms, known.unchecked_after_pass) = (0, 0);
            access::put(txn, &keys::node(&node), &known);
        }
    }
    Ok(true)
}

/// Records what a survey counted that people are to look at.
async fn note_counted(store: &impl Store, counted: Counted) -> Result<(), MetadataError> {
    let Counted { node, told, is_kept } = &counted;
    if *is_kept {
        tracing::error!(%node, strays = told.strays, blocks = told.blocks, "nothing needs these blocks, and they are too many to be deleted: \
             nothing is, on any node; if the namespace is not an old copy: strongroom fsck --repair --delete-strays");
    }
    if told.unreadable > 0 {
        tracing::error!(%node, files = told.unreadable, "files cannot be read on a block node; look at its disk and its log");
    }
    transact!(store, [counted], |txn| note_counted_in(txn, &counted)).await
}

async fn note_counted_in(txn: &mut impl Txn, counted: &Counted) -> Result<(), MetadataError> {
    let key = keys::node(&counted.node);
    let known = access::record::<records::Node>(txn, &key, "node").await;
    let Some(mut known) = told(known, counted.node.as_str())?.flatten() else {
        return Ok(());
    };
    let strays_kept = if counted.is_kept { counted.told.strays } else { 0 };
    let unreadable = counted.told.unreadable;
    if (known.strays_kept, known.unreadable) != (strays_kept, unreadable) {
        (known.strays_kept, known.unreadable) = (strays_kept, unreadable);
        access::put(txn, &key, &known);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use strongroom_kv::EmbeddedStore;
    use strongroom_proto::Clock;

    use super::*;
    use crate::duty::Duty;

    /// A store that was put back to a time at which he had just said so comes to an instance that begins a term of its own.
    #[tokio::test]
    async fn a_superusers_word_holds_in_the_term_in_which_it_was_given() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = EmbeddedStore::open(&dir.path().join("store")).expect("a store");
        let (first, second) = (Duty::new(Clock::system()), Duty::new(Clock::system()));
        let asked = async || {
            let mut view = store.snapshot().await.expect("a view");
            recorded(&mut view).await.expect("readable").expect("asked for")
        };
        first.win(&store).await;
        let term = first.fence().expect("it has just won").term();
        ask_for(&store, false).await.expect("asked");
        assert!(!asked().await.has_the_word(term), "nobody said so");
        ask_for(&store, true).await.expect("asked");
        ask_for(&store, false).await.expect("asked by another one");
        assert!(asked().await.has_the_word(term));
        let under_way = asked().await.next(&BTreeMap::new(), 1);
        assert!(save(&store, &under_way).await.expect("saved"));
        assert!(!asked().await.has_the_word(term), "it is not resumed");

        ask_for(&store, true).await.expect("asked");
        second.win(&store).await;
        let next = second.fence().expect("it has just won").term();
        assert!(!asked().await.has_the_word(next), "another term");
        let without = asked().await.next(&BTreeMap::new(), 1);
        assert!(
            save(&store, &without).await.expect("saved"),
            "the pass begins all the same"
        );
        ask_for(&store, true).await.expect("asked again");
        assert!(asked().await.has_the_word(next));
    }
}
