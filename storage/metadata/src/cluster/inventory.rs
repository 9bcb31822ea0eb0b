//! Comparing the block nodes' disks with what is recorded (ADR 40): a pass over all block lists asks each node whether it has what is
//! recorded of it, and a survey has each node tell what it has. What is missing gets deficits here; what is too much is dealt with in
//! [`super::strays`] as the pages come.
//!
//! A pass begins now and then. When a node has come back with another data directory, one begins that asks such nodes alone. How far it is
//! stands in the store.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{BlockId, Incarnation, NodeId, limits::REPLICAS_PER_COMMAND_MAX, metadata::v1::Replica};

use super::{
    Cluster,
    commands::{Expected, Work},
    surveys::{Decision, Kept, Told},
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
/// From the end of a pass to the next one for nodes that could not be asked in it; twice as long each time, up to 21 minutes.
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
    /// What nodes told, and is yet to be recorded.
    counted: Vec<Counted>,
    /// A superuser's word is being carried out, and is yet to be recorded as done.
    has_the_word: bool,
}

#[derive(Debug, Clone)]
struct Pass {
    record: records::Inventory,
    /// Only these are asked; none for all.
    of: Option<BTreeSet<NodeId>>,
    /// Nodes that did not answer for all that is recorded of them. They are asked for no more.
    skipped: BTreeSet<NodeId>,
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// The rest of a pass that a restart broke off.
    Rest,
    /// A pass over all nodes, and a survey.
    All,
    /// A pass for those that came with another data directory.
    Marked,
}

/// What was counted on a node: nothing if it did not tell all. Why what nothing needs is kept, if it is.
#[derive(Debug, Clone)]
struct Counted {
    node: NodeId,
    told: Option<Told>,
    kept: Option<Kept>,
}

/// What is recorded of each node in a part of the block lists: apart what its disk did not give back when it was asked last.
#[derive(Debug, Default)]
struct Slice {
    of_nodes: BTreeMap<(NodeId, bool), Vec<Replica>>,
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
        let heard = cluster.standing().heard;
        self.survey(store, cluster, &heard, term).await?;
        if cluster.commands().is_checking() {
            return Ok(());
        }
        if self.pass.is_none() {
            self.begin(store, cluster, &heard, term).await?;
        }
        let Some(pass) = &mut self.pass else { return Ok(()) };
        pass.skipped.extend(cluster.commands().take_unanswered());
        let slice = slice(store, &pass.record.after).await?;
        if let Some(last) = slice.last.clone() {
            // A slice counts once the one behind it is sent: after a restart it is sent again.
            if save(store, &pass.record).await? {
                pass.send(cluster, slice, &heard);
                pass.record.after = last;
            } else {
                self.pass = None;
            }
            return Ok(());
        }
        pass.record.ended_ms = cluster.now_ms();
        if finish(store, pass).await? {
            tracing::info!(of = ?pass.of, skipped = ?pass.skipped, "the block nodes were asked for all that is recorded of them");
        }
        self.pass = None;
        Ok(())
    }

    /// Asks for the next pages of surveys, and records what was counted once all have told.
    async fn survey(
        &mut self,
        store: &impl Store,
        cluster: &Cluster,
        heard: &BTreeSet<NodeId>,
        term: u64,
    ) -> Result<(), MetadataError> {
        let known = cluster.nodes.not_gone(cluster.now_ms());
        let decision = {
            let mut commands = cluster.commands();
            commands.plan_surveys(&known, heard);
            commands.surveys.decide(cluster.stray_bounds(), heard)
        };
        if let Some(decision) = decision {
            tell(&decision);
            let kept = decision.kept;
            let counted = decision.of_nodes.into_iter();
            self.counted = counted.map(|(node, told)| Counted { node, told, kept }).collect();
        }
        // What cannot be recorded now is recorded in the next round.
        while let Some(counted) = self.counted.last() {
            note_counted(store, counted).await?;
            self.counted.pop();
        }
        if self.has_the_word && !cluster.commands().surveys.is_unbounded() {
            end_word(store, term).await?;
            self.has_the_word = false;
            if let Some(pass) = &mut self.pass {
                pass.record.delete_strays_in_term = 0;
            }
        }
        Ok(())
    }

    /// Begins a pass if one is due, or goes on with one that was begun before a restart.
    async fn begin(
        &mut self,
        store: &impl Store,
        cluster: &Cluster,
        heard: &BTreeSet<NodeId>,
        term: u64,
    ) -> Result<(), MetadataError> {
        let now_ms = cluster.now_ms();
        if now_ms.abs_diff(self.looked_ms) < LOOK_EVERY_MS {
            return Ok(());
        }
        self.looked_ms = now_ms;
        let mut view = store.snapshot().await?;
        let nodes = access::page(&mut view, &keys::nodes(), NODES_MAX).await?;
        let unchecked = unchecked(&nodes);
        let last = recorded(&mut view).await?;
        drop(view);
        let Some(mut last) = last else {
            // A new namespace: the first pass is due when it has some age.
            let new = records::Inventory {
                begun_ms: now_ms,
                ended_ms: now_ms,
                ..records::Inventory::default()
            };
            return save(store, &new).await.map(|_| ());
        };
        if last.has_void_word(term) {
            tracing::warn!(
                "a superuser had blocks deleted that nothing needs before this instance took the duties over: this ended then, \
                 and is to be asked for again with strongroom fsck --repair --delete-strays"
            );
            end_word(store, term).await?;
            last.delete_strays_in_term = 0;
        }
        let asking: BTreeSet<NodeId> = unchecked.keys().filter(|node| heard.contains(node)).cloned().collect();
        let period_ms = cluster.inventory_ms();
        let Some(due) = self.due(&last, &asking, period_ms, now_ms) else {
            return Ok(());
        };
        self.repeats = if asking == self.asking { self.repeats + 1 } else { 0 };
        self.asking.clone_from(&asking);
        let unbounded = last.has_the_word(term);
        self.has_the_word |= unbounded;
        let record = match due {
            Due::Rest => last,
            Due::All => last.next(&unchecked, now_ms),
            Due::Marked => last.next_of_marked(&unchecked),
        };
        cluster.commands().take_unanswered();
        if due != Due::Marked && (period_ms > 0 || unbounded) {
            remember(cluster, &nodes);
            cluster.commands().surveys.begin(unbounded);
        }
        self.pass = Some(Pass {
            record,
            of: (due == Due::Marked).then_some(asking),
            skipped: BTreeSet::new(),
        });
        Ok(())
    }

    /// What there is to do behind the `last` pass, if nodes are `asking` for one.
    fn due(&self, last: &records::Inventory, asking: &BTreeSet<NodeId>, period_ms: u64, now_ms: u64) -> Option<Due> {
        let is_broken_off = last.ended_ms == 0 && !last.of_marked;
        if is_broken_off {
            return Some(if asking.is_empty() { Due::Rest } else { Due::All });
        }
        let is_time = period_ms > 0 && now_ms.abs_diff(last.begun_ms) >= period_ms;
        if is_time || last.is_asked_for() {
            return Some(Due::All);
        }
        let has_paused = now_ms.abs_diff(last.ended_ms) >= self.pause_ms(asking);
        (!asking.is_empty() && has_paused).then_some(Due::Marked)
    }

    /// How long after the end of one pass the next begins for nodes that ask for it.
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
    const fn has_the_word(&self, term: u64) -> bool {
        self.is_asked_for() && self.delete_strays_in_term == term
    }

    /// Whether he said so in another one, and it was not carried out to its end.
    const fn has_void_word(&self, term: u64) -> bool {
        self.delete_strays_in_term > 0 && self.delete_strays_in_term != term
    }

    /// The number of a pass behind this one. It is above all marks of nodes, which may come from another store.
    fn next_number(&self, unchecked: &BTreeMap<NodeId, u64>) -> u64 {
        let newest = unchecked.values().copied().max().unwrap_or_default().max(self.pass);
        newest.saturating_add(1)
    }

    /// A pass behind this one that asks marked nodes alone, and puts the next one that asks all not off.
    fn next_of_marked(&self, unchecked: &BTreeMap<NodeId, u64>) -> Self {
        Self {
            begun_ms: self.begun_ms,
            pass: self.next_number(unchecked),
            delete_strays_in_term: self.delete_strays_in_term,
            of_marked: true,
            ..Self::default()
        }
    }

    /// A pass behind this one that asks all.
    fn next(&self, unchecked: &BTreeMap<NodeId, u64>, now_ms: u64) -> Self {
        Self {
            begun_ms: now_ms,
            pass: self.next_number(unchecked),
            delete_strays_in_term: self.delete_strays_in_term,
            ..Self::default()
        }
    }
}

impl Pass {
    fn is_of(&self, node: &NodeId) -> bool {
        self.of.as_ref().is_none_or(|of| of.contains(node))
    }

    fn send(&mut self, cluster: &Cluster, slice: Slice, heard: &BTreeSet<NodeId>) {
        let mut commands = cluster.commands();
        for ((node, doubted), replicas) in slice.of_nodes {
            if !self.is_of(&node) || self.skipped.contains(&node) {
                continue;
            }
            let room = commands.room_for_questions(&node) * REPLICAS_PER_COMMAND_MAX;
            if !heard.contains(&node) || room < replicas.len() {
                self.skipped.insert(node);
                continue;
            }
            for some in replicas.chunks(REPLICAS_PER_COMMAND_MAX) {
                let replicas = some.to_vec();
                commands.plan(&node, Work::Check { replicas, doubted });
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
                let asked = (node.parse()?, block.unread.contains(node));
                self.of_nodes.entry(asked).or_default().push(replica.clone());
            }
        }
        Ok(chunk.blocks.len())
    }
}

/// All nodes have to tell what they have, also those that reported to another instance only.
fn remember(cluster: &Cluster, nodes: &[(Bytes, Bytes)]) {
    for (key, value) in nodes {
        let record: Option<records::Node> = access::decode(value.clone(), "node").ok();
        if let (Some(node), Some(record)) = (keys::node_of(key), record) {
            let incarnation = Incarnation::try_from(record.incarnation.as_ref()).ok();
            cluster
                .nodes
                .remember(node, record.address, incarnation, cluster.now_ms());
        }
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

/// Whether a superuser's word is to be carried out, or is being.
pub(crate) async fn has_a_word(reader: &mut impl Reader) -> Result<bool, MetadataError> {
    Ok(recorded(reader)
        .await?
        .is_some_and(|record| record.delete_strays_in_term > 0))
}

/// A superuser's word has ended, unless it was given in this term and is yet to be carried out.
async fn end_word(store: &impl Store, term: u64) -> Result<(), MetadataError> {
    transact!(store, [], |txn| end_word_in(txn, term)).await
}

async fn end_word_in(txn: &mut impl Txn, term: u64) -> Result<(), MetadataError> {
    if let Some(mut last) = recorded(txn).await?
        && !last.has_the_word(term)
    {
        last.delete_strays_in_term = 0;
        access::put(txn, &keys::inventory(), &last);
    }
    Ok(())
}

/// Records that a pass is over, and that it looked after all nodes but those skipped and those that came with another data directory
/// since it began. Says whether nobody asked for another one meanwhile.
async fn finish(store: &impl Store, pass: &Pass) -> Result<bool, MetadataError> {
    transact!(store, [pass], |txn| finish_in(txn, &pass)).await
}

async fn finish_in(txn: &mut impl Txn, pass: &Pass) -> Result<bool, MetadataError> {
    if !save_in(txn, &pass.record).await? {
        return Ok(false);
    }
    for (node, after_pass) in unchecked(&access::page(txn, &keys::nodes(), NODES_MAX).await?) {
        let known: Option<records::Node> = access::record(txn, &keys::node(&node), "node").await?;
        if let Some(mut known) = known
            && after_pass < pass.record.pass
            && pass.is_of(&node)
            && !pass.skipped.contains(&node)
        {
            (known.unchecked_since_ms, known.unchecked_after_pass) = (0, 0);
            access::put(txn, &keys::node(&node), &known);
        }
    }
    Ok(true)
}

/// Says what people are to look at.
fn tell(decision: &Decision) {
    for (node, told) in &decision.of_nodes {
        let Some(told) = told else {
            tracing::error!(%node, "a block node did not tell all that it has: until all nodes do, what nothing needs is deleted on none");
            continue;
        };
        if told.unreadable > 0 {
            tracing::error!(%node, files = told.unreadable, "files cannot be read on a block node; look at its disk and its log");
        }
        match decision.kept {
            Some(Kept::TooMuch) if told.strays > 0 => {
                tracing::error!(%node, strays = told.strays, blocks = told.blocks, "nothing needs these blocks, and there or on another \
                     node they are too many to be deleted: nothing is, on any node; if the namespace is not an old copy: \
                     strongroom fsck --repair --delete-strays");
            }
            Some(Kept::Untold) if told.strays > 0 => {
                tracing::warn!(%node, strays = told.strays, blocks = told.blocks, "nothing needs these blocks; they wait until all nodes tell");
            }
            _ => {}
        }
    }
    if decision.is_unbounded && decision.kept.is_some() {
        tracing::error!(
            "nothing was deleted at a superuser's word, which has ended: not all nodes told what they have; when they do, or are gone, \
             it is to be asked for again with strongroom fsck --repair --delete-strays"
        );
    }
}

async fn note_counted(store: &impl Store, counted: &Counted) -> Result<(), MetadataError> {
    transact!(store, [counted], |txn| note_counted_in(txn, &counted)).await
}

async fn note_counted_in(txn: &mut impl Txn, counted: &Counted) -> Result<(), MetadataError> {
    let key = keys::node(&counted.node);
    let known = access::record::<records::Node>(txn, &key, "node").await;
    let Some(known) = told(known, counted.node.as_str())?.flatten() else {
        return Ok(());
    };
    let mut next = known.clone();
    next.untold = counted.told.is_none();
    // Of one that did not tell, what it told before stands.
    if let Some(told) = counted.told {
        next.unreadable = told.unreadable;
        next.strays_kept = if counted.kept.is_some() { told.strays } else { 0 };
        next.strays_wait = counted.kept == Some(Kept::Untold) && told.strays > 0;
    }
    if next != known {
        access::put(txn, &key, &next);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use strongroom_kv::EmbeddedStore;
    use strongroom_proto::Clock;

    use super::*;
    use crate::{cluster::key::load_or_make, config::Settings, duty::Duty};

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
        assert!(
            asked().await.has_void_word(next)
                && has_a_word(&mut store.snapshot().await.expect("a view"))
                    .await
                    .expect("readable")
        );
        end_word(&store, next).await.expect("ended");
        assert!(!asked().await.has_void_word(next) && asked().await.is_asked_for());
        let without = asked().await.next(&BTreeMap::new(), 1);
        assert!(
            save(&store, &without).await.expect("saved"),
            "the pass begins all the same"
        );
        ask_for(&store, true).await.expect("asked again");
        end_word(&store, next).await.expect("the one before has ended");
        assert!(asked().await.has_the_word(next));
    }

    fn nodes<const N: usize>(names: [&str; N]) -> BTreeSet<NodeId> {
        names.map(|node| node.parse::<NodeId>().expect("valid")).into()
    }

    #[test]
    fn passes_for_marked_nodes_put_no_other_off_and_pause_from_their_end() {
        let (mut inventory, none, a) = (Inventory::default(), nodes([]), nodes(["a"]));
        let hour_ms = 3_600_000;
        let mut last = records::Inventory {
            begun_ms: hour_ms,
            ended_ms: 2 * hour_ms,
            pass: 7,
            ..records::Inventory::default()
        };
        assert_eq!(inventory.due(&last, &none, hour_ms, 2 * hour_ms - 1), None);
        assert_eq!(inventory.due(&last, &none, hour_ms, 2 * hour_ms), Some(Due::All));
        assert_eq!(inventory.due(&last, &none, 0, 9 * hour_ms), None);
        assert_eq!(inventory.due(&last, &a, 0, 2 * hour_ms + PAUSE_MS - 1), None);
        assert_eq!(inventory.due(&last, &a, 0, 2 * hour_ms + PAUSE_MS), Some(Due::Marked));
        (inventory.asking, inventory.repeats) = (a.clone(), 3);
        assert_eq!(inventory.due(&last, &a, 0, 2 * hour_ms + 8 * PAUSE_MS - 1), None);
        let marked = last.next_of_marked(&BTreeMap::from([(a.first().expect("one").clone(), 9)]));
        assert_eq!((marked.begun_ms, marked.ended_ms, marked.pass), (hour_ms, 0, 10));
        assert_eq!(
            inventory.due(&marked, &none, 0, 9 * hour_ms),
            None,
            "broken off, and nobody asks"
        );
        assert_eq!(inventory.due(&marked, &a, 0, 9 * hour_ms), Some(Due::Marked));
        assert_eq!(inventory.due(&marked, &a, hour_ms, 9 * hour_ms), Some(Due::All));
        last.ended_ms = 0;
        assert_eq!(inventory.due(&last, &none, 0, hour_ms), Some(Due::Rest));
        assert_eq!(inventory.due(&last, &a, 0, hour_ms), Some(Due::All));
    }

    /// One that hangs costs a pass the time of a question, not that time for each slice of the block lists.
    #[test]
    fn who_left_a_question_unanswered_is_asked_for_no_more_in_a_pass() {
        let dir = tempfile::tempdir().expect("a directory");
        let signer = load_or_make(dir.path()).expect("a key");
        let cluster = Cluster::new(Clock::system(), Settings::default(), signer);
        let slice = || Slice {
            of_nodes: ["a", "b", "c", "d"]
                .map(|node| {
                    (
                        (node.parse::<NodeId>().expect("valid"), false),
                        vec![Replica::default()],
                    )
                })
                .into(),
            last: None,
        };
        let mut pass = Pass {
            record: records::Inventory::default(),
            of: Some(nodes(["a", "b", "c"])),
            skipped: nodes(["a"]),
        };
        pass.send(&cluster, slice(), &nodes(["a", "b", "d"]));
        let busy = BTreeSet::from_iter(cluster.commands().busy_nodes());
        assert_eq!(busy, nodes(["b"]));
        assert_eq!(pass.skipped, nodes(["a", "c"]), "it is silent");
        cluster.commands().clear();
        pass.send(&cluster, slice(), &nodes(["a", "c", "d"]));
        assert!(cluster.commands().busy_nodes().is_empty());
    }
}
