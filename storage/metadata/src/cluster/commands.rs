//! Commands on their way to block nodes: a bounded queue per node, sent again when unanswered, given up after a
//! few times so that the repair loop can plan anew. In memory only; what they serve is in the store, and where surveys of disks
//! are, which begin anew after a restart.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use strongroom_proto::{
    BlockId, NodeId,
    metadata::v1::{Replica, TellReplicas},
};

use super::surveys::{Surveys, Told};
use crate::schema::keys::EVERY_BLOCK;

/// Commands under way for one node, but for questions.
pub(crate) const PER_NODE_MAX: usize = 500;
/// Questions that a node may be asked beside: much to delete must not keep anybody from asking.
const QUESTIONS_PER_NODE_MAX: usize = 200;
/// Commands in one heartbeat's answer.
const PER_HEARTBEAT_MAX: usize = 200;
/// Times a command is sent before it is given up.
const SENDS_MAX: u32 = 3;

/// What a node is told to do with a block.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Work {
    /// Send it to another node.
    Replicate {
        /// The block.
        block: Expected,
        /// The node that lacks it.
        to: NodeId,
    },
    /// Say whether blocks are there that are not recorded: because somebody sent them, or because they were seen.
    Confirm {
        /// At most [`REPLICAS_PER_COMMAND_MAX`](strongroom_proto::limits::REPLICAS_PER_COMMAND_MAX).
        blocks: Vec<Expected>,
    },
    /// Delete it.
    Delete {
        /// The block, or every block of the extent.
        block: BlockId,
    },
    /// Look whether blocks are there.
    Check {
        /// At most [`REPLICAS_PER_COMMAND_MAX`](strongroom_proto::limits::REPLICAS_PER_COMMAND_MAX).
        replicas: Vec<Replica>,
        /// Whether the node's disk did not give them back when it was asked last.
        doubted: bool,
    },
    /// Tell what is there.
    Tell {
        /// Where to go on.
        from: TellReplicas,
    },
}

/// A block as it is recorded, wherever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) id: BlockId,
    /// Ciphertext bytes, and their CRC32C.
    pub(crate) length: u32,
    pub(crate) crc32c: u32,
}

impl From<Expected> for Replica {
    fn from(block: Expected) -> Self {
        Self {
            block_id: Some(block.id.into()),
            length: block.length,
            crc32c: block.crc32c,
            ..Self::default()
        }
    }
}

impl Work {
    const fn is_question(&self) -> bool {
        matches!(self, Self::Confirm { .. } | Self::Check { .. } | Self::Tell { .. })
    }
}

#[derive(Debug)]
struct Command {
    node: NodeId,
    work: Work,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Queued,
    Sent {
        at_ms: u64,
        times: u32,
    },
    /// Failed. Its block rests a while, so that a failure does not repeat at once.
    Resting {
        since_ms: u64,
    },
}

/// All commands under way.
#[derive(Debug)]
pub(crate) struct Commands {
    timeout_ms: u64,
    next_id: u64,
    commands: BTreeMap<u64, Command>,
    replicating: HashSet<BlockId>,
    /// Nodes that are asked whether they have a block, so that it is recorded.
    confirming: BTreeMap<BlockId, BTreeSet<NodeId>>,
    deleting: HashSet<(NodeId, BlockId)>,
    per_node: HashMap<NodeId, usize>,
    /// Checks under way, and nodes that left one unanswered.
    checks: usize,
    unanswered: BTreeSet<NodeId>,
    /// Who is asked for a page of what he has, and with which command.
    telling: HashMap<NodeId, u64>,
    pub(crate) surveys: Surveys,
}

impl Commands {
    /// `first_id` must not repeat ids of an earlier run of the service: nodes may know commands by them.
    pub(crate) fn new(timeout_ms: u64, first_id: u64) -> Self {
        Self {
            timeout_ms,
            next_id: first_id,
            commands: BTreeMap::new(),
            replicating: HashSet::new(),
            confirming: BTreeMap::new(),
            deleting: HashSet::new(),
            per_node: HashMap::new(),
            checks: 0,
            unanswered: BTreeSet::new(),
            telling: HashMap::new(),
            surveys: Surveys::default(),
        }
    }

    /// Whether somebody is already told to replicate `block`, or asked whether it has come.
    pub(crate) fn is_replicating(&self, block: BlockId) -> bool {
        self.replicating.contains(&block) || self.confirming.contains_key(&block)
    }

    /// How many more commands `node` may be given.
    pub(crate) fn room(&self, node: &NodeId) -> usize {
        self.room_below(node, PER_NODE_MAX)
    }

    /// How many more questions `node` may be asked.
    pub(crate) fn room_for_questions(&self, node: &NodeId) -> usize {
        self.room_below(node, PER_NODE_MAX + QUESTIONS_PER_NODE_MAX)
    }

    fn room_below(&self, node: &NodeId, most: usize) -> usize {
        most.saturating_sub(self.per_node.get(node).copied().unwrap_or_default())
    }

    /// Queues work for a node, unless it is under way or the node has enough to do.
    pub(crate) fn plan(&mut self, node: &NodeId, work: Work) {
        let room = match work.is_question() {
            true => self.room_for_questions(node),
            false => self.room(node),
        };
        if room == 0 {
            return;
        }
        let is_new = match &work {
            Work::Replicate { block, .. } => self.replicating.insert(block.id),
            Work::Confirm { blocks } => {
                for block in blocks {
                    self.confirming.entry(block.id).or_default().insert(node.clone());
                }
                true
            }
            Work::Delete { block } => self.deleting.insert((node.clone(), *block)),
            Work::Check { .. } => {
                self.checks += 1;
                true
            }
            Work::Tell { .. } => {
                let is_new = !self.telling.contains_key(node);
                if is_new {
                    self.telling.insert(node.clone(), self.next_id);
                }
                is_new
            }
        };
        if !is_new {
            return;
        }
        let command = Command {
            node: node.clone(),
            work,
            state: State::Queued,
        };
        self.commands.insert(self.next_id, command);
        self.next_id += 1;
        *self.per_node.entry(node.clone()).or_default() += 1;
    }

    /// What to tell `node` now: what is new, and what it left unanswered.
    pub(crate) fn take(&mut self, node: &NodeId, now_ms: u64) -> Vec<(u64, Work)> {
        let timeout_ms = self.timeout_ms;
        // Differences count both ways here: a clock that was set back must not stop all repair.
        let due = self.commands.iter_mut().filter_map(|(id, command)| {
            if &command.node != node {
                return None;
            }
            let times = match command.state {
                State::Queued => 0,
                State::Sent { at_ms, times } if now_ms.abs_diff(at_ms) >= timeout_ms => times,
                _ => return None,
            };
            let (at_ms, times) = (now_ms, times + 1);
            command.state = State::Sent { at_ms, times };
            Some((*id, command.work.clone()))
        });
        due.take(PER_HEARTBEAT_MAX).collect()
    }

    /// What `node` was told to do.
    pub(crate) fn asked(&self, node: &NodeId, id: u64) -> Option<&Work> {
        let command = self.commands.get(&id).filter(|command| &command.node == node)?;
        Some(&command.work)
    }

    /// Takes work that `node` reports as done off the list.
    pub(crate) fn done(&mut self, node: &NodeId, id: u64) -> Option<Work> {
        self.asked(node, id)?;
        self.remove(id).map(|(_, work)| work)
    }

    /// A page of what `node` has was dealt with. It counts if the command that asked for it stands still.
    pub(crate) fn told(&mut self, node: &NodeId, id: u64, page: Told, deleted: u64, next: Option<TellReplicas>) {
        if let Some(Work::Tell { from }) = self.done(node, id) {
            self.surveys.surveyed(node, &from, page, deleted, next);
        }
    }

    /// Asks `node` whether it has blocks, unless they are about to be deleted there or it is asked already.
    pub(crate) fn confirm(&mut self, node: &NodeId, mut blocks: Vec<Expected>) {
        blocks.retain(|block| !self.is_deleting(node, block.id) && !self.is_confirming(node, block.id));
        if !blocks.is_empty() {
            self.plan(node, Work::Confirm { blocks });
        }
    }

    /// Takes replications that `source` reports as done off the list, and asks `to` whether it has what was sent.
    pub(crate) fn sent(&mut self, source: &NodeId, to: &NodeId, sent: Vec<(u64, Expected)>) {
        self.confirm(to, sent.iter().map(|(_, block)| *block).collect());
        for (id, _) in sent {
            self.done(source, id);
        }
    }

    /// Whether `node` is asked for a block, and has not deleted it since.
    pub(crate) fn is_confirming(&self, node: &NodeId, block: BlockId) -> bool {
        self.confirming.get(&block).is_some_and(|nodes| nodes.contains(node))
    }

    fn is_deleting(&self, node: &NodeId, block: BlockId) -> bool {
        let every = BlockId {
            index: EVERY_BLOCK,
            ..block
        };
        [block, every]
            .into_iter()
            .any(|block| self.deleting.contains(&(node.clone(), block)))
    }

    /// Nobody waits any more for a node's word that it has a block. An answer that is on its way is too old: the node has deleted it.
    fn forget_confirming(&mut self, node: &NodeId, block: BlockId) {
        if block.index == EVERY_BLOCK {
            let of_extent = self.confirming.keys().filter(|other| other.extent == block.extent);
            let of_extent: Vec<BlockId> = of_extent.copied().collect();
            return of_extent
                .into_iter()
                .for_each(|block| self.forget_confirming(node, block));
        }
        if let Some(nodes) = self.confirming.get_mut(&block) {
            nodes.remove(node);
            if nodes.is_empty() {
                self.confirming.remove(&block);
            }
        }
    }

    /// Lets work that `node` reports as failed rest a while.
    pub(crate) fn failed(&mut self, node: &NodeId, id: u64, now_ms: u64) {
        if let Some(command) = self.commands.get_mut(&id)
            && &command.node == node
            && !matches!(command.state, State::Resting { .. })
        {
            command.state = State::Resting { since_ms: now_ms };
            if let Work::Tell { .. } = command.work {
                self.surveys.failed(node);
            }
        }
    }

    /// Forgets what rested long enough and what was sent too often.
    pub(crate) fn sweep(&mut self, now_ms: u64) {
        let over = |command: &Command| match command.state {
            State::Queued => false,
            State::Sent { at_ms, times } => times >= SENDS_MAX && now_ms.abs_diff(at_ms) >= self.timeout_ms,
            State::Resting { since_ms } => now_ms.abs_diff(since_ms) >= self.timeout_ms,
        };
        let over: Vec<u64> = self
            .commands
            .iter()
            .filter(|(_, c)| over(c))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.forget(id);
        }
    }

    /// Forgets all that `node` was to do; it is gone.
    pub(crate) fn forget_node(&mut self, node: &NodeId) {
        let of_node: Vec<u64> = self
            .commands
            .iter()
            .filter(|(_, c)| &c.node == node)
            .map(|(id, _)| *id)
            .collect();
        for id in of_node {
            self.forget(id);
        }
    }

    /// Forgets everything: another instance has the duties.
    pub(crate) fn clear(&mut self) {
        self.commands.clear();
        self.replicating.clear();
        self.confirming.clear();
        self.deleting.clear();
        self.per_node.clear();
        self.checks = 0;
        self.unanswered.clear();
        self.telling.clear();
        self.surveys = Surveys::default();
    }

    /// Whether a check is under way.
    pub(crate) const fn is_checking(&self) -> bool {
        self.checks > 0
    }

    /// Nodes that left a check unanswered since this was asked last.
    pub(crate) fn take_unanswered(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.unanswered)
    }

    /// Asks those of the nodes that have something to tell for their next page, and none for a page of a survey that is over.
    pub(crate) fn plan_surveys(&mut self, known: &BTreeSet<NodeId>, heard: &BTreeSet<NodeId>) {
        let pages = self.surveys.next_pages(known, heard);
        let asked = self.telling.iter().map(|(node, id)| (node, *id, self.commands.get(id)));
        let is_over = asked.filter(|(node, _, command)| {
            command.is_none_or(|command| match &command.work {
                Work::Tell { from } => !self.surveys.is_asking(node, from),
                _ => true,
            })
        });
        let over: Vec<u64> = is_over.map(|(_, id, _)| id).collect();
        for id in over {
            self.remove(id);
        }
        for (node, from) in pages {
            self.plan(&node, Work::Tell { from });
        }
    }

    /// Nodes that have something to do.
    pub(crate) fn busy_nodes(&self) -> Vec<NodeId> {
        self.per_node.keys().cloned().collect()
    }

    /// Gives a command up.
    fn forget(&mut self, id: u64) {
        // Of what rests it was said already that it failed.
        let was_sent = (self.commands.get(&id)).is_some_and(|command| matches!(command.state, State::Sent { .. }));
        match self.remove(id) {
            Some((node, Work::Check { .. })) => _ = self.unanswered.insert(node),
            Some((node, Work::Tell { .. })) if was_sent => self.surveys.failed(&node),
            _ => {}
        }
    }

    fn remove(&mut self, id: u64) -> Option<(NodeId, Work)> {
        let Command { node, work, .. } = self.commands.remove(&id)?;
        match &work {
            Work::Replicate { block, .. } => _ = self.replicating.remove(&block.id),
            Work::Confirm { blocks } => {
                for block in blocks {
                    self.forget_confirming(&node, block.id);
                }
            }
            Work::Delete { block } => {
                self.deleting.remove(&(node.clone(), *block));
                self.forget_confirming(&node, *block);
            }
            Work::Check { .. } => self.checks -= 1,
            Work::Tell { .. } => _ = self.telling.remove(&node),
        }
        if let Some(count) = self.per_node.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                self.per_node.remove(&node);
            }
        }
        Some((node, work))
    }
}

#[cfg(test)]
mod tests {
    use strongroom_proto::ExtentId;

    use super::*;
    use crate::cluster::surveys::Bounds;

    fn block(index: u32) -> BlockId {
        BlockId {
            extent: ExtentId::from_bytes([1; 16]),
            index,
        }
    }

    fn expected(index: u32) -> Expected {
        Expected {
            id: block(index),
            length: 1,
            crc32c: 2,
        }
    }

    fn node(id: &str) -> NodeId {
        id.parse().expect("valid")
    }

    #[test]
    fn a_command_is_sent_again_until_answered_and_at_most_three_times() {
        let (mut commands, a) = (Commands::new(10, 7), node("a"));
        let work = Work::Delete { block: block(0) };
        commands.plan(&a, work.clone());
        commands.plan(&a, work.clone());
        assert_eq!(commands.take(&a, 0), [(7, work.clone())]);
        assert_eq!(commands.take(&a, 9), []);
        assert_eq!(commands.take(&a, 10), [(7, work.clone())]);
        assert_eq!(commands.take(&a, 20), [(7, work.clone())]);
        commands.sweep(29);
        assert_eq!(commands.done(&node("b"), 7), None);
        commands.sweep(30);
        assert_eq!(commands.done(&a, 7), None);
        commands.plan(&a, work.clone());
        assert_eq!(commands.take(&a, 30), [(8, work.clone())]);
        assert_eq!(commands.done(&a, 8), Some(work));
        assert!(commands.busy_nodes().is_empty());
    }

    #[test]
    fn a_failed_command_rests_before_it_is_planned_again() {
        let (mut commands, a, b) = (Commands::new(10, 0), node("a"), node("b"));
        let work = |to: &NodeId| Work::Replicate {
            block: expected(0),
            to: to.clone(),
        };
        commands.plan(&a, work(&b));
        assert_eq!(commands.take(&a, 0).len(), 1);
        commands.failed(&a, 0, 5);
        commands.sweep(14);
        assert!(commands.is_replicating(block(0)));
        commands.sweep(15);
        assert!(!commands.is_replicating(block(0)));
    }

    #[test]
    fn a_clock_that_is_set_back_stops_nothing() {
        let (mut commands, a) = (Commands::new(10, 0), node("a"));
        commands.plan(&a, Work::Delete { block: block(0) });
        assert_eq!(commands.take(&a, 1_000_000).len(), 1);
        assert_eq!(commands.take(&a, 500).len(), 1, "sent again");
        commands.failed(&a, 0, 1_000_000);
        commands.sweep(500);
        assert!(commands.busy_nodes().is_empty());
    }

    /// Much to delete keeps nobody from asking, and what is deleted while it is asked for does not count as there.
    #[test]
    fn what_was_sent_is_asked_for_and_not_believed_once_it_is_deleted() {
        let (mut commands, a, b) = (Commands::new(10, 0), node("a"), node("b"));
        for index in 100..1000 {
            commands.plan(&b, Work::Delete { block: block(index) });
        }
        let to = b.clone();
        commands.plan(&a, Work::Replicate { block: expected(0), to });
        commands.sent(&a, &b, vec![(PER_NODE_MAX as u64, expected(0))]);
        assert!(commands.is_replicating(block(0)) && commands.is_confirming(&b, block(0)));
        assert_eq!(commands.room(&a), PER_NODE_MAX, "the source has nothing left to do");
        commands.confirm(&b, vec![expected(100)]);
        assert!(!commands.is_confirming(&b, block(100)), "it is about to go");
        for id in 0..2 {
            commands.done(&b, id).expect("a delete");
        }
        let asked = commands.asked(&b, PER_NODE_MAX as u64 + 1).cloned();
        let blocks = vec![expected(0)];
        assert_eq!(asked, Some(Work::Confirm { blocks }));
        let every = Work::Delete {
            block: BlockId {
                index: EVERY_BLOCK,
                ..block(0)
            },
        };
        commands.plan(&b, every);
        commands
            .done(&b, PER_NODE_MAX as u64 + 2)
            .expect("the extent is deleted");
        assert!(!commands.is_confirming(&b, block(0)) && !commands.is_replicating(block(0)));
    }

    /// A survey that is over leaves no question behind: its answer would count for the next one.
    #[test]
    fn a_late_answer_counts_for_no_other_survey() {
        let (mut commands, both) = (Commands::new(10, 0), BTreeSet::from([node("a"), node("b")]));
        let (a, b, page) = (node("a"), node("b"), |fan| TellReplicas { fan, after: None });
        let told = Told {
            blocks: 1,
            ..Told::default()
        };
        let from = |commands: &mut Commands, node: &NodeId| {
            let asked = commands.take(node, 0).into_iter().map(|(id, work)| match work {
                Work::Tell { from } => (id, from),
                other => panic!("{other:?}"),
            });
            asked.collect::<Vec<_>>()
        };
        commands.surveys.begin(false);
        commands.plan_surveys(&both, &both);
        assert_eq!(from(&mut commands, &a), [(0, page(0))]);
        commands.told(&a, 0, told, 0, Some(page(200)));
        commands.plan_surveys(&both, &both);
        assert_eq!(from(&mut commands, &a), [(2, page(200))]);
        // Others begin anew while that is on its way.
        commands.surveys.begin(true);
        commands.plan_surveys(&both, &both);
        assert_eq!(commands.asked(&a, 2), None);
        commands.told(&a, 2, told, 0, None);
        assert_eq!(from(&mut commands, &a), [(3, page(0))], "asked for all of it");
        commands.told(&a, 3, told, 0, None);
        commands.told(&a, 3, told, 0, None);
        let [(first, _)] = from(&mut commands, &b)[..] else {
            panic!("one question")
        };
        commands.told(&b, first, told, 0, None);
        let bounds = Bounds { blocks: 0, percent: 0 };
        let decision = commands.surveys.decide(bounds, &both).expect("all have told");
        assert_eq!(decision.of_nodes[&a], Some(told));
        assert!(commands.busy_nodes().is_empty());
    }

    #[test]
    fn queues_are_bounded() {
        let (mut commands, a) = (Commands::new(10, 0), node("a"));
        for index in 0..1000 {
            commands.plan(&a, Work::Delete { block: block(index) });
        }
        assert_eq!(commands.room(&a), 0);
        assert_eq!(commands.take(&a, 0).len(), PER_HEARTBEAT_MAX);
        commands.forget_node(&a);
        assert_eq!(commands.room(&a), PER_NODE_MAX);
    }
}
