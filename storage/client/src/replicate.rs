//! Makes one block durable on enough nodes.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use strongroom_proto::{Failure, NodeId, Reason, ZonePath, block::v1 as pb, transport::Pauses};

use crate::{
    FsError, NodeTrouble,
    lease::{Grant, Lease},
    nodes::{Node, Nodes, SealedBlock},
};

/// Stores a block on at least `min_replicas` nodes and says on which. Every attempt sends the same bytes; a node
/// that has them says so. `first` chooses the target to begin with, so that blocks spread over the nodes.
pub(crate) async fn replicate(
    nodes: &Nodes,
    lease: &Lease,
    path: &ZonePath,
    block: &SealedBlock,
    first: usize,
) -> Result<BTreeSet<NodeId>, FsError> {
    let mut state = Replication::default();
    let mut pauses = Pauses::new();
    loop {
        let grant = lease.grant();
        state.round(nodes, &grant, block, first).await;
        if state.stored.len() >= grant.min_replicas {
            return Ok(state.stored);
        }
        if !state.may_pass() || !pauses.pause().await {
            return Err(state.into_error(path, block, grant.min_replicas));
        }
        // Takes the targets that are healthy by now, and a capability that is not out of date.
        if let Err(error) = lease.renew().await {
            if error.reason() == Reason::LeaseLost {
                return Err(error);
            }
            tracing::debug!(%error, "storing the block with the old grant");
        }
    }
}

#[derive(Default)]
struct Replication {
    stored: BTreeSet<NodeId>,
    troubles: BTreeMap<NodeId, Failure>,
}

impl Replication {
    /// Goes once through the targets that lack the block, until enough have it.
    async fn round(&mut self, nodes: &Nodes, grant: &Grant, block: &SealedBlock, first: usize) {
        let mut heads = nodes.healthy_first(rotated(&grant.targets, first));
        heads.retain(|node| !self.stored.contains(&node.id));
        while !heads.is_empty() && self.stored.len() < grant.min_replicas {
            let head = heads.remove(0);
            let forward = self.chain(nodes, grant, &heads);
            match nodes.put(head, &forward, grant.capability.clone(), block).await {
                Ok(answer) => self.take(nodes, grant, block, head, &forward, &answer).await,
                Err(failure) => _ = self.troubles.insert(head.id.clone(), failure),
            }
            heads.retain(|node| !self.stored.contains(&node.id));
        }
    }

    /// The nodes after the head. Those that did not answer lately are left out if the others are enough: each would
    /// hold the block up for seconds, while a replica that is missing is made later.
    fn chain<'n>(&self, nodes: &Nodes, grant: &Grant, heads: &[&'n Node]) -> Vec<&'n Node> {
        let wanted = (grant.replicas - self.stored.len() - 1).min(heads.len());
        let least = (grant.min_replicas - self.stored.len() - 1).min(wanted);
        let (answering, silent): (Vec<_>, Vec<_>) = heads[..wanted].iter().partition(|node| !nodes.is_silent(&node.id));
        if answering.len() >= least {
            return answering;
        }
        answering.into_iter().chain(silent).collect()
    }

    /// Counts only nodes that were asked for, and of those that the head names only those that say so themselves: one that lies, or
    /// errs, is not to answer for the others.
    async fn take(
        &mut self,
        nodes: &Nodes,
        grant: &Grant,
        block: &SealedBlock,
        head: &Node,
        forward: &[&Node],
        answer: &pb::PutBlockResponse,
    ) {
        let named = |node: &&&Node| answer.stored.iter().any(|id| id == node.id.as_str());
        let confirmed = forward.iter().filter(named).map(async |node| {
            let said = nodes.confirm(node, grant.capability.clone(), block).await;
            (node.id.clone(), said)
        });
        let mut said: BTreeMap<NodeId, Result<(), Failure>> = join_all(confirmed).await.into_iter().collect();
        if named(&&head) {
            said.insert(head.id.clone(), Ok(()));
        }
        for node in std::iter::once(&head).chain(forward) {
            if let Some(said) = said.remove(&node.id) {
                match said {
                    Ok(()) => {
                        self.stored.insert(node.id.clone());
                        self.troubles.remove(&node.id);
                    }
                    Err(failure) => _ = self.troubles.insert(node.id.clone(), failure),
                }
            } else {
                let said = answer.failed.iter().find(|failed| failed.node_id == node.id.as_str());
                let message = said.map_or("did not store the block", |failed| failed.message.as_str());
                let reason = said.and_then(|failed| failed.reason.parse().ok());
                let failure = Failure::new(reason.unwrap_or(Reason::Unavailable), message);
                nodes.rest_after(&node.id, &failure);
                self.troubles.insert(node.id.clone(), failure);
            }
        }
    }

    /// Whether time or a fresh grant may help.
    fn may_pass(&self) -> bool {
        self.troubles.is_empty()
            || self
                .troubles
                .values()
                .any(|failure| failure.is_transient() || failure.reason == Reason::CapabilityRefused)
    }

    fn into_error(self, path: &ZonePath, block: &SealedBlock, wanted: usize) -> FsError {
        let trouble = |(node, failure)| NodeTrouble { node, failure };
        FsError::TooFewNodes {
            path: path.clone(),
            block: block.id,
            stored: self.stored.len(),
            wanted,
            troubles: self.troubles.into_iter().map(trouble).collect(),
        }
    }
}

fn rotated(targets: &[Node], first: usize) -> Vec<&Node> {
    let (before, after) = targets.split_at(first.checked_rem(targets.len()).unwrap_or(0));
    after.iter().chain(before).collect()
}
