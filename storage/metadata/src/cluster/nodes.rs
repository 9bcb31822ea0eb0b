//! The block nodes as their heartbeats show them, and the choice of nodes for new blocks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use strongroom_proto::{Incarnation, NodeId, block::v1::Target, limits::BLOCK_BYTES_MAX, metadata::v1 as pb};

/// Free bytes below which a node gets no new blocks: two blocks, so that one in flight still fits.
const FREE_BYTES_MIN: u64 = 2 * BLOCK_BYTES_MAX as u64;

/// What a heartbeat says of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) address: String,
    pub(crate) capacity_bytes: u64,
    pub(crate) free_bytes: u64,
    pub(crate) blocks: u64,
    /// None as long as a node that is known from the store told none.
    pub(crate) incarnation: Option<Incarnation>,
}

#[derive(Debug, Clone)]
struct Node {
    report: Report,
    /// 0 for a node that is known from the store and has not reported to this instance since.
    last_seen_ms: u64,
    /// Silence of such a node counts from here.
    known_ms: u64,
}

/// How the nodes stand at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Silent for so long that their replicas no longer count.
    pub(crate) gone: BTreeSet<NodeId>,
    /// Those that report.
    pub(crate) heard: BTreeSet<NodeId>,
}

/// All nodes that ever reported.
pub(crate) struct Nodes {
    silence_ms: u64,
    gone_ms: u64,
    nodes: Mutex<BTreeMap<NodeId, Node>>,
}

impl Nodes {
    pub(crate) fn new(silence_ms: u64, gone_ms: u64) -> Self {
        Self {
            silence_ms,
            gone_ms,
            nodes: Mutex::default(),
        }
    }

    /// Enters a node known from the store: from before a restart, or because it reported to another instance.
    pub(crate) fn remember(&self, node: NodeId, address: String, incarnation: Option<Incarnation>, now_ms: u64) {
        let report = Report {
            address,
            capacity_bytes: 0,
            free_bytes: 0,
            blocks: 0,
            incarnation,
        };
        let known = Node {
            report,
            last_seen_ms: 0,
            known_ms: now_ms,
        };
        self.lock().entry(node).or_insert(known);
    }

    /// Enters a heartbeat.
    pub(crate) fn seen(&self, node: NodeId, report: Report, now_ms: u64) {
        let (last_seen_ms, known_ms) = (now_ms, now_ms);
        let seen = Node {
            report,
            last_seen_ms,
            known_ms,
        };
        self.lock().insert(node, seen);
    }

    pub(crate) fn address(&self, node: &NodeId) -> Option<String> {
        self.lock().get(node).map(|node| node.report.address.clone())
    }

    pub(crate) fn incarnation(&self, node: &NodeId) -> Option<Incarnation> {
        self.lock().get(node).and_then(|node| node.report.incarnation)
    }

    pub(crate) fn known(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn is_alive(&self, node: &NodeId, now_ms: u64) -> bool {
        self.lock().get(node).is_some_and(|node| self.alive(node, now_ms))
    }

    /// Nodes that answer.
    pub(crate) fn alive_nodes(&self, now_ms: u64) -> Vec<NodeId> {
        let nodes = self.lock();
        let alive = nodes.iter().filter(|(_, node)| self.alive(node, now_ms));
        alive.map(|(id, _)| id.clone()).collect()
    }

    /// Nodes that were silent for so long that their replicas no longer count. None while no node answers at all:
    /// then it is this service that is cut off, or whose clock jumped.
    pub(crate) fn gone(&self, now_ms: u64) -> BTreeSet<NodeId> {
        let nodes = self.lock();
        if !nodes.values().any(|node| self.alive(node, now_ms)) {
            return BTreeSet::new();
        }
        let silent_ms = |node: &Node| now_ms.saturating_sub(node.last_seen_ms.max(node.known_ms));
        let gone = nodes.iter().filter(|(_, node)| silent_ms(node) > self.gone_ms);
        gone.map(|(id, _)| id.clone()).collect()
    }

    /// Nodes whose replicas count.
    pub(crate) fn not_gone(&self, now_ms: u64) -> BTreeSet<NodeId> {
        let gone = self.gone(now_ms);
        let nodes = self.lock();
        nodes.keys().filter(|node| !gone.contains(*node)).cloned().collect()
    }

    /// How all stand now.
    pub(crate) fn standing(&self, now_ms: u64) -> Standing {
        Standing {
            gone: self.gone(now_ms),
            heard: self.alive_nodes(now_ms).into_iter().collect(),
        }
    }

    /// Nodes that may take a block, best first: a random order in which more free space makes an early place
    /// likelier (Efraimidis and Spirakis, 2006). `random` gives numbers in (0, 1].
    pub(crate) fn healthy(&self, now_ms: u64, mut random: impl FnMut() -> f64) -> Vec<(NodeId, Target)> {
        let nodes = self.lock();
        let mut drawn: Vec<(f64, (NodeId, Target))> = nodes
            .iter()
            .filter(|(_, node)| self.alive(node, now_ms) && node.report.free_bytes >= FREE_BYTES_MIN)
            .map(|(id, node)| {
                let weight_gib = node.report.free_bytes as f64 / (1_u64 << 30) as f64;
                (random().ln() / weight_gib, (id.clone(), target(id, node)))
            })
            .collect();
        drawn.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        drawn.into_iter().map(|(_, node)| node).collect()
    }

    /// What people see of all nodes.
    pub(crate) fn status(&self, now_ms: u64) -> Vec<pb::NodeStatus> {
        let nodes = self.lock();
        let status = nodes.iter().map(|(id, node)| pb::NodeStatus {
            node_id: id.to_string(),
            address: node.report.address.clone(),
            alive: self.alive(node, now_ms),
            capacity_bytes: node.report.capacity_bytes,
            free_bytes: node.report.free_bytes,
            blocks: node.report.blocks,
            last_seen_ms: node.last_seen_ms,
            ..pb::NodeStatus::default()
        });
        status.collect()
    }

    fn alive(&self, node: &Node, now_ms: u64) -> bool {
        // The difference counts both ways: after the clock was set back, a dead node must not stay alive until the
        // old time comes round again.
        node.last_seen_ms > 0 && now_ms.abs_diff(node.last_seen_ms) <= self.silence_ms
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn target(id: &NodeId, node: &Node) -> Target {
    Target {
        node_id: id.to_string(),
        address: node.report.address.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn nodes(free_gib: &[(&str, u64)]) -> Nodes {
        let nodes = Nodes::new(5000, 60_000);
        for (id, free) in free_gib {
            let report = Report {
                address: format!("{id}:1"),
                capacity_bytes: 100 * GIB,
                free_bytes: free * GIB,
                blocks: 0,
                incarnation: None,
            };
            nodes.seen(id.parse().expect("valid"), report, 1000);
        }
        nodes
    }

    fn report(nodes: &Nodes) -> Report {
        let nodes = nodes.lock();
        nodes.values().next().expect("there is one").report.clone()
    }

    #[test]
    fn silent_and_full_nodes_get_no_blocks() {
        let nodes = nodes(&[("a", 10), ("b", 0)]);
        nodes.remember("c".parse().expect("valid"), "c:1".to_owned(), None, 500);
        let healthy = |now| nodes.healthy(now, || 0.5).len();
        assert_eq!(healthy(6000), 1);
        assert_eq!(healthy(6001), 0);
        assert_eq!(nodes.alive_nodes(6000).len(), 2);
        assert_eq!(nodes.known(), 3);
    }

    #[test]
    fn a_clock_set_back_keeps_no_dead_node_alive() {
        let nodes = nodes(&[("a", 10)]);
        nodes.seen("b".parse().expect("valid"), report(&nodes), 1_000_000);
        let alive = nodes.alive_nodes(2000);
        assert_eq!(alive.iter().map(NodeId::as_str).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn a_node_is_gone_after_long_silence_unless_all_are_silent() {
        let nodes = nodes(&[("a", 10), ("b", 10)]);
        nodes.remember("c".parse().expect("valid"), "c:1".to_owned(), None, 500);
        assert!(nodes.gone(100_000).is_empty(), "nobody answers");
        let report = report(&nodes);
        let gone = |now_ms| {
            nodes.seen("a".parse().expect("valid"), report.clone(), now_ms);
            let gone = nodes.gone(now_ms);
            gone.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(gone(60_500), [""; 0]);
        assert_eq!(gone(60_501), ["c"]);
        assert_eq!(gone(61_001), ["b", "c"]);
    }

    #[test]
    fn more_free_space_comes_first_more_often() {
        let nodes = nodes(&[("small", 10), ("large", 90)]);
        // A fixed sequence that covers the interval evenly.
        let mut step = 0_u32;
        let mut random = || {
            step += 1;
            (f64::from(step) * 0.618_033_988_749).fract().max(1e-9)
        };
        let first = (0..1000)
            .filter(|_| nodes.healthy(1000, &mut random)[0].0.as_str() == "large")
            .count();
        assert!((800..1000).contains(&first), "{first} of 1000");
    }
}
