//! The repair loop: finds blocks with too few replicas and blocks to delete, and plans commands for both.

use strongroom_kv::Store;
use strongroom_proto::{BlockId, NodeId};

use super::{
    Cluster,
    commands::{Expected, PER_NODE_MAX, Work},
    nodes::Standing,
    replicas::{self, counting, settled},
};
use crate::{
    error::MetadataError,
    schema::{access, keys},
};

/// Deficits looked at in one round.
const DEFICITS_PER_ROUND: usize = 500;

/// Where the last round stopped among the deficits.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    after: Option<Vec<u8>>,
}

impl Rounds {
    /// One bounded round over deficits and garbage.
    pub(crate) async fn run(&mut self, store: &impl Store, cluster: &Cluster) -> Result<(), MetadataError> {
        forget_dead(cluster);
        // Whatever keeps one from its work must not keep the other.
        let replicas = self.plan_replicas(store, cluster).await;
        plan_deletes(store, cluster).await?;
        replicas
    }

    async fn plan_replicas(&mut self, store: &impl Store, cluster: &Cluster) -> Result<(), MetadataError> {
        let mut range = keys::deficits();
        if let Some(after) = self.after.take() {
            range = range.after(&after);
        }
        let found = access::page(&mut store.snapshot().await?, &range, DEFICITS_PER_ROUND).await?;
        if found.len() == DEFICITS_PER_ROUND {
            self.after = found.last().map(|(key, _)| key.to_vec());
        }
        let standing = cluster.standing();
        let mut whole = Vec::new();
        for (key, _) in &found {
            let block = keys::deficit_of(key).ok_or(MetadataError::Corrupt { what: "deficit" })?;
            if !cluster.commands().is_replicating(block) && plan_replica(store, cluster, block, &standing).await? {
                whole.push(block);
            }
        }
        settled(store, &whole, cluster.replicas(), &standing).await
    }
}

/// Commands for nodes that are gone are dropped, so that others can be told to do the same.
fn forget_dead(cluster: &Cluster) {
    let now_ms = cluster.now_ms();
    let mut commands = cluster.commands();
    commands.sweep(now_ms);
    for node in commands.busy_nodes() {
        if !cluster.nodes.is_alive(&node, now_ms) {
            commands.forget_node(&node);
        }
    }
}

/// Has a replica made of a block that lacks one. Says whether it lacks none.
async fn plan_replica(
    store: &impl Store,
    cluster: &Cluster,
    block: BlockId,
    standing: &Standing,
) -> Result<bool, MetadataError> {
    let mut view = store.snapshot().await?;
    let Some(chunk) = replicas::readable(&mut view, block).await? else {
        return Ok(false);
    };
    let known = chunk.blocks.get(access::chunk_position(block.index));
    let Some(known) = known.filter(|known| counting(known, &standing.gone) < cluster.replicas()) else {
        return Ok(true);
    };
    let alive = |node: &NodeId| standing.heard.contains(node);
    // In another order each time: a holder that cannot reach the others must not be the only one asked.
    let holders = cluster.to_ask(known);
    let Some(source) = holders.iter().filter_map(|name| name.parse().ok()).find(alive) else {
        return Ok(false);
    };
    for (to, _) in cluster.healthy() {
        let holds = holders.iter().any(|name| name == to.as_str());
        // A copy that is to be deleted there has to go first.
        if !holds && !replicas::is_doomed(&mut view, &to, block).await? {
            let block = Expected {
                id: block,
                length: known.length,
                crc32c: known.crc32c,
            };
            cluster.commands().plan(&source, Work::Replicate { block, to });
            break;
        }
    }
    Ok(false)
}

async fn plan_deletes(store: &impl Store, cluster: &Cluster) -> Result<(), MetadataError> {
    for node in cluster.nodes.alive_nodes(cluster.now_ms()) {
        if cluster.commands().room(&node) == 0 {
            continue;
        }
        let found = access::page(&mut store.snapshot().await?, &keys::garbage_of(&node), PER_NODE_MAX).await?;
        for (key, _) in &found {
            let block = keys::garbage_block(key).ok_or(MetadataError::Corrupt {
                what: "block to delete",
            })?;
            cluster.commands().plan(&node, Work::Delete { block });
        }
    }
    Ok(())
}
