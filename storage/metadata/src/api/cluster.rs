use std::collections::{BTreeMap, HashSet};

use futures::{TryStreamExt, stream};
use strongroom_kv::Store;
use strongroom_proto::{
    BlockId, Incarnation, NodeId,
    block::v1 as block,
    limits::REPLICAS_PER_COMMAND_MAX,
    metadata::v1::{self as pb, cluster_server::Cluster},
    transport::{PeerIdentity, Remote, peer},
};
use tonic::{Request, Response, Status};

use super::Api;
use crate::{
    cluster::{
        commands::{Expected, Work},
        inventory,
        nodes::Report,
        replicas, strays,
        surveys::Told,
    },
    error::MetadataError,
    schema::{NODES_MAX, access, counted, keys, keys::Counted, records},
    zones::source::EdekSource,
};

/// Bad blocks or results in one heartbeat.
const REPORTS_MAX: usize = 1000;
/// Transactions of one heartbeat under way at once, so that they share the store's durable writes.
const WRITES_AT_ONCE: usize = 16;

#[tonic::async_trait]
impl<S: Store, E: EdekSource> Cluster for Api<S, E> {
    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        let node = reporter(&request)?;
        let asked = request.into_inner();
        if asked.bad_blocks.len() > REPORTS_MAX || asked.results.len() > REPORTS_MAX {
            let rule = format!("at most {REPORTS_MAX} bad blocks and as many results");
            let field = "heartbeat";
            return Err(MetadataError::Field { field, rule }.into());
        }
        self.register(&node, &asked).await?;
        self.settle(&node, asked.results).await?;
        self.lose(&node, asked.bad_blocks).await?;
        Ok(Response::new(pb::HeartbeatResponse {
            capability_keys: self.core.cluster.public_keys(),
            commands: self.commands(&node),
        }))
    }

    async fn get_cluster_status(
        &self,
        request: Request<pb::GetClusterStatusRequest>,
    ) -> Result<Response<pb::ClusterStatus>, Status> {
        self.caller(&request, "look at the cluster")?;
        let view = &mut self.core.store.snapshot().await.map_err(MetadataError::from)?;
        let mut nodes = self.core.cluster.nodes.status(self.core.clock.now_ms());
        let gone = self.core.cluster.gone();
        for (key, value) in access::page(view, &keys::nodes(), NODES_MAX).await? {
            // What is on nodes that are gone is nobody's concern until they come back.
            let node = keys::node_of(&key).filter(|node| !gone.contains(node));
            let node = node.map(|node| node.to_string());
            let status = nodes.iter_mut().find(|status| Some(&status.node_id) == node.as_ref());
            if let (Some(status), Ok(record)) = (status, access::decode::<records::Node>(value, "node")) {
                (status.strays, status.unreadable) = (record.strays_kept, record.unreadable);
                status.untold = record.untold;
            }
        }
        Ok(Response::new(pb::ClusterStatus {
            nodes,
            blocks_in_deficit: counted::total(view, Counted::Deficits).await?,
            blocks_to_delete: counted::total(view, Counted::Garbage).await?,
            files_open: counted::total(view, Counted::OpenFiles).await?,
            deleting_strays: inventory::has_a_word(view).await?,
        }))
    }
}

impl<S: Store, E: EdekSource> Api<S, E> {
    /// What to tell a node that just reported; nothing, unless it gets that while this instance has the duties.
    fn commands(&self, node: &NodeId) -> Vec<pb::Command> {
        match self.core.duty.fence_to_order() {
            Some(_) => self.core.cluster.take_commands(node),
            None => Vec::new(),
        }
    }

    async fn register(&self, node: &NodeId, asked: &pb::HeartbeatRequest) -> Result<(), MetadataError> {
        let address: Remote = asked.address.parse()?;
        let address = address.to_string();
        let cluster = &self.core.cluster;
        let told = Some(asked.incarnation.as_ref()).filter(|id| !id.is_empty());
        let incarnation = told.map(Incarnation::try_from).transpose()?;
        let is_known = cluster.nodes.incarnation(node) == incarnation;
        if cluster.address(node).as_ref() != Some(&address) || !is_known {
            let (store, now_ms) = (&self.core.store, self.core.clock.now_ms());
            if replicas::node_seen(store, node, &address, incarnation, now_ms).await? {
                tracing::warn!(%node, "a block node has another data directory; what it lost is copied to it or to others");
            } else {
                tracing::info!(%node, address, "block node registered");
            }
        }
        let report = Report {
            address,
            capacity_bytes: asked.capacity_bytes,
            free_bytes: asked.free_bytes,
            blocks: asked.blocks,
            incarnation,
        };
        cluster.nodes.seen(node.clone(), report, self.core.clock.now_ms());
        Ok(())
    }

    async fn settle(&self, node: &NodeId, results: Vec<pb::CommandResult>) -> Result<(), MetadataError> {
        let (store, cluster) = (&self.core.store, &self.core.cluster);
        let (mut sent, mut confirmed, mut deleted) = (BTreeMap::new(), Vec::new(), Vec::new());
        for result in results {
            check_size(&result)?;
            let id = result.command_id;
            if !result.failure.is_empty() {
                tracing::warn!(%node, failure = result.failure, "a block node could not do what it was told");
                cluster.commands().failed(node, id, cluster.now_ms());
                continue;
            }
            let asked = cluster.commands().asked(node, id).cloned();
            match asked {
                Some(Work::Replicate { block, to }) => {
                    sent.entry(to).or_insert_with(Vec::new).push((id, block));
                    continue;
                }
                Some(Work::Confirm { blocks }) => {
                    let lacking = result.missing.into_iter().chain(result.unreadable).collect();
                    confirmed.push((id, blocks, lacking));
                    continue;
                }
                Some(Work::Delete { block }) => deleted.push(block),
                Some(Work::Check { replicas, doubted }) => self.checked(node, &replicas, doubted, result).await?,
                Some(Work::Tell { from }) => {
                    self.told(node, &from, result).await?;
                    continue;
                }
                None => continue,
            }
            // Not before it was recorded what is missing: until then the node counts as not asked.
            cluster.commands().done(node, id);
        }
        // Who sent a block has no say in whether it came: the other node is asked.
        for (to, blocks) in sent {
            cluster.commands().sent(node, &to, blocks);
        }
        if !deleted.is_empty()
            && let Some(fence) = self.core.duty.fence()
        {
            replicas::deleted(store, node, deleted, fence).await?;
        }
        for (id, blocks, missing) in confirmed {
            self.confirmed(node, id, &blocks, missing).await?;
        }
        Ok(())
    }

    /// What a node says that it has of what it was asked for, so that it is recorded.
    async fn confirmed(
        &self,
        node: &NodeId,
        command: u64,
        asked: &[Expected],
        missing: Vec<block::BlockId>,
    ) -> Result<(), MetadataError> {
        let (store, cluster) = (&self.core.store, &self.core.cluster);
        let missing = missing.into_iter().map(|block| BlockId::try_from(Some(block)));
        let missing = missing.collect::<Result<HashSet<_>, _>>()?;
        let is_waited_for = |block: &&Expected| cluster.commands().is_confirming(node, block.id);
        let there = asked.iter().filter(|block| !missing.contains(&block.id));
        let there: Vec<BlockId> = there.filter(is_waited_for).map(|block| block.id).collect();
        let standing = &cluster.standing();
        stream::iter(there.into_iter().map(Ok))
            .try_for_each_concurrent(WRITES_AT_ONCE, |block| async move {
                replicas::won(store, block, node, cluster.replicas(), standing).await
            })
            .await?;
        if missing.is_empty() {
            cluster.commands().done(node, command);
        } else {
            tracing::warn!(%node, blocks = missing.len(), "blocks that are said to be on a node are not; they are sent again");
            cluster.commands().failed(node, command, cluster.now_ms());
        }
        Ok(())
    }

    /// What a node was asked for and has not, or cannot read. Of what is `doubted` it could not read any when it was asked last.
    async fn checked(
        &self,
        node: &NodeId,
        asked: &[pb::Replica],
        doubted: bool,
        result: pb::CommandResult,
    ) -> Result<(), MetadataError> {
        let (store, cluster) = (&self.core.store, &self.core.cluster);
        let (wanted, standing) = (cluster.replicas(), cluster.standing());
        let mut rest: HashSet<BlockId> = asked
            .iter()
            .filter_map(|replica| BlockId::try_from(replica.block_id.clone()).ok())
            .collect();
        let missing = take_of(&mut rest, result.missing)?;
        let unreadable = take_of(&mut rest, result.unreadable)?;
        if !unreadable.is_empty() {
            tracing::error!(%node, files = unreadable.len(), "a block node cannot read what it was asked for; look at its disk and its log");
            replicas::doubt_all(store, &unreadable, node, wanted, &standing).await?;
        }
        if !missing.is_empty() {
            tracing::warn!(%node, blocks = missing.len(), "blocks are not on a node that should have them; they are copied anew");
            replicas::lost_all(store, &missing, node).await?;
        }
        if doubted {
            let readable: Vec<BlockId> = rest.into_iter().collect();
            replicas::trust_all(store, &readable, node, wanted, &standing).await?;
        }
        Ok(())
    }

    /// A page of what a node has, `from` there on.
    async fn told(
        &self,
        node: &NodeId,
        from: &pb::TellReplicas,
        result: pb::CommandResult,
    ) -> Result<(), MetadataError> {
        let (store, cluster) = (&self.core.store, &self.core.cluster);
        let Some(fence) = self.core.duty.fence() else {
            return Ok(());
        };
        let page = result.page.unwrap_or_default();
        let blocks = page.replicas.len() as u64;
        let delete_max = cluster.commands().surveys.may_delete(node, from);
        let compared = strays::compare(store, cluster, node, page.replicas, delete_max, fence).await?;
        let told = Told {
            blocks,
            strays: compared.strays,
            unreadable: result.unreadable.len() as u64,
        };
        let id = result.command_id;
        cluster.commands().told(node, id, told, compared.deleted, page.next);
        Ok(())
    }

    async fn lose(&self, node: &NodeId, bad: Vec<block::BlockId>) -> Result<(), MetadataError> {
        for block in bad {
            let block = BlockId::try_from(Some(block))?;
            if replicas::lost(&self.core.store, block, node).await? {
                tracing::warn!(%node, %block, "a replica is bad and will be made anew");
            } else {
                tracing::error!(%node, %block, "the last replica of a block is bad");
            }
        }
        Ok(())
    }
}

/// Takes those of `blocks` that are in `rest` out of it.
fn take_of(rest: &mut HashSet<BlockId>, blocks: Vec<block::BlockId>) -> Result<Vec<BlockId>, MetadataError> {
    let blocks = blocks.into_iter().map(|block| BlockId::try_from(Some(block)));
    let mut blocks = blocks.collect::<Result<Vec<_>, _>>()?;
    blocks.retain(|block| rest.remove(block));
    Ok(blocks)
}

fn check_size(result: &pb::CommandResult) -> Result<(), MetadataError> {
    let told = result.page.as_ref().map_or(0, |page| page.replicas.len());
    if result.missing.len().max(told).max(result.unreadable.len()) <= REPLICAS_PER_COMMAND_MAX {
        return Ok(());
    }
    Err(MetadataError::Field {
        field: "result",
        rule: format!("at most {REPLICAS_PER_COMMAND_MAX} blocks"),
    })
}

/// The node that reports: it must be the one that its certificate names.
fn reporter(request: &Request<pb::HeartbeatRequest>) -> Result<NodeId, MetadataError> {
    let (identity, _) = peer(request)?;
    let node: NodeId = request.get_ref().node_id.parse()?;
    if identity == PeerIdentity::Block(node.clone()) {
        return Ok(node);
    }
    Err(MetadataError::Denied {
        who: identity.short(),
        what: "report for that block node",
        remedy: "a block node reports for itself, under the id in its certificate",
    })
}
