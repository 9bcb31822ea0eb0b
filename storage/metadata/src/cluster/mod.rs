//! The block nodes: who is there, what they may do, and what they are told to repair and delete.

pub(crate) mod commands;
pub(crate) mod gone;
pub(crate) mod inventory;
pub(crate) mod key;
pub(crate) mod nodes;
pub(crate) mod repair;
pub(crate) mod replicas;
pub(crate) mod strays;
pub(crate) mod surveys;

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use strongroom_proto::{
    ExtentId, NodeId,
    block::v1::Target,
    capability::{Capability, Right, Signer},
    metadata::v1 as pb,
    transport::PeerIdentity,
};

use self::{
    commands::{Commands, Work},
    nodes::{Nodes, Standing},
    surveys::Bounds,
};
use crate::{
    Clock,
    config::Settings,
    error::MetadataError,
    schema::{keys::EVERY_BLOCK, records},
};

/// The cluster of block nodes as this service sees it.
pub(crate) struct Cluster {
    clock: Clock,
    settings: Settings,
    signer: Signer,
    pub(crate) nodes: Nodes,
    commands: Mutex<Commands>,
}

impl Cluster {
    pub(crate) fn new(clock: Clock, settings: Settings, signer: Signer) -> Self {
        // The start time in the high bits: no run of the service repeats the ids of an earlier one.
        let first_id = clock.now_ms() << 20;
        Self {
            signer,
            nodes: Nodes::new(settings.node_silence_ms, settings.node_gone_ms),
            commands: Mutex::new(Commands::new(settings.command_timeout_ms, first_id)),
            clock,
            settings,
        }
    }

    /// Whether enough nodes are healthy to begin a file.
    ///
    /// # Errors
    /// [`MetadataError::TooFewNodes`] with the counts.
    pub(crate) fn check_enough(&self) -> Result<(), MetadataError> {
        let healthy = self.healthy().len();
        if healthy >= self.settings.min_replicas as usize {
            return Ok(());
        }
        Err(MetadataError::TooFewNodes {
            healthy,
            known: self.nodes.known(),
            needed: self.settings.min_replicas,
        })
    }

    /// A signed capability and when it expires.
    pub(crate) fn capability(&self, right: Right, holder: PeerIdentity, extents: Vec<ExtentId>) -> (Bytes, u64) {
        let expires_ms = self.clock.now_ms() + self.settings.capability_ms;
        let capability = Capability {
            right,
            expires_ms,
            holder,
            extents,
        };
        (self.signer.sign(&capability), expires_ms)
    }

    /// The keys that verify capabilities.
    pub(crate) fn public_keys(&self) -> Vec<Bytes> {
        vec![self.signer.public_key()]
    }

    /// Where a node is, if it ever reported.
    pub(crate) fn address(&self, node: &NodeId) -> Option<String> {
        self.nodes.address(node)
    }

    pub(crate) fn target(&self, node: &str) -> Option<Target> {
        let address = self.address(&node.parse().ok()?)?;
        Some(Target {
            node_id: node.to_owned(),
            address,
        })
    }

    /// A block's nodes in the order to ask them: those that answer, in random order, before those that do not; last those whose disks
    /// did not give it back, which may take as long to say so again.
    pub(crate) fn to_ask(&self, block: &records::Block) -> Vec<String> {
        let mut nodes = self.alive_first(&block.nodes);
        nodes.sort_by_key(|name| block.unread.contains(name));
        nodes
    }

    fn alive_first(&self, nodes: &[String]) -> Vec<String> {
        let now_ms = self.clock.now_ms();
        let alive = |node: &&String| node.parse().is_ok_and(|node| self.nodes.is_alive(&node, now_ms));
        let (mut first, later): (Vec<_>, Vec<_>) = nodes.iter().partition(alive);
        let start = (random() * first.len() as f64) as usize % first.len().max(1);
        first.rotate_left(start);
        first.extend(later);
        first.into_iter().cloned().collect()
    }

    /// Nodes whose replicas no longer count.
    pub(crate) fn gone(&self) -> BTreeSet<NodeId> {
        self.nodes.gone(self.clock.now_ms())
    }

    /// How all nodes stand.
    pub(crate) fn standing(&self) -> Standing {
        self.nodes.standing(self.clock.now_ms())
    }

    /// What to tell a node that just reported.
    pub(crate) fn take_commands(&self, node: &NodeId) -> Vec<pb::Command> {
        let taken = self.commands().take(node, self.clock.now_ms());
        let wired = taken.into_iter().filter_map(|(command_id, work)| {
            Some(pb::Command {
                command_id,
                command: Some(self.wire_work(node, work)?),
            })
        });
        wired.collect()
    }

    fn wire_work(&self, node: &NodeId, work: Work) -> Option<pb::command::Command> {
        Some(match work {
            Work::Delete { block } if block.index == EVERY_BLOCK => {
                pb::command::Command::DeleteExtent(block.extent.into())
            }
            Work::Delete { block } => pb::command::Command::Delete(block.into()),
            Work::Check { replicas, .. } => pb::command::Command::Check(pb::CheckReplicas { replicas }),
            Work::Confirm { blocks } => pb::command::Command::Check(pb::CheckReplicas {
                replicas: blocks.into_iter().map(Into::into).collect(),
            }),
            Work::Tell { from } => pb::command::Command::Tell(from),
            Work::Replicate { block, to } => {
                let holder = PeerIdentity::Block(node.clone());
                let (capability, _) = self.capability(Right::Write, holder, vec![block.id.extent]);
                pb::command::Command::Replicate(pb::Replicate {
                    block_id: Some(block.id.into()),
                    to: Some(self.target(to.as_str())?),
                    capability,
                })
            }
        })
    }

    /// Nodes that may take a block, best first.
    pub(crate) fn healthy(&self) -> Vec<(NodeId, Target)> {
        self.nodes.healthy(self.clock.now_ms(), random)
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// How long a node is silent before its replicas no longer count.
    pub(crate) const fn gone_ms(&self) -> u64 {
        self.settings.node_gone_ms
    }

    /// How often disks are compared with what is recorded; 0 for never.
    pub(crate) const fn inventory_ms(&self) -> u64 {
        self.settings.inventory_ms
    }

    /// How old a block is before it is deleted because nothing needs it.
    pub(crate) const fn stray_ms(&self) -> u64 {
        self.settings.stray_ms
    }

    /// How many blocks of a node may be deleted because nothing needs them.
    pub(crate) const fn stray_bounds(&self) -> Bounds {
        Bounds {
            blocks: self.settings.stray_blocks_max,
            percent: self.settings.stray_percent_max,
        }
    }

    pub(crate) const fn replicas(&self) -> usize {
        self.settings.replicas as usize
    }

    pub(crate) fn commands(&self) -> MutexGuard<'_, Commands> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A random number in (0, 1].
fn random() -> f64 {
    let bits = uuid::Uuid::new_v4().as_u64_pair().1 & ((1 << 53) - 1);
    (bits + 1) as f64 / (1_u64 << 53) as f64
}
