use std::collections::HashSet;

use futures::{TryStreamExt, stream};
use strongroom_kv::Store;
use strongroom_proto::{
    BlockId, Incarnation, NodeId,
    limits::REPLICAS_PER_COMMAND_MAX,
    metadata::v1::{self as pb, cluster_server::Cluster},
    transport::{PeerIdentity, Remote, peer},
};
use tonic::{Request, Response, Status};

use super::Api;
use crate::{
    cluster::{commands::Work, nodes::Report, replicas, strays},
    error::MetadataError,
    schema::{counted, keys::Counted},
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
        Ok(Response::new(pb::ClusterStatus {
            nodes: self.core.cluster.nodes.status(self.core.clock.now_ms()),
            blocks_in_deficit: counted::total(view, Counted::Deficits).await?,
            blocks_to_delete: counted::total(view, Counted::Garbage).await?,
            files_open: counted::total(view, Counted::OpenFiles).await?,
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
        let (mut won, mut deleted) = (Vec::new(), Vec::new());
        for result in results {
            check_size(&result)?;
            if !result.failure.is_empty() {
                tracing::warn!(%node, failure = result.failure, "a block node could not do what it was told");
                cluster.commands().failed(node, result.command_id, cluster.now_ms());
                continue;
            }
            let asked = cluster.commands().asked(node, result.command_id).cloned();
            match asked {
                Some(Work::Replicate { block, to }) => won.push((block, to)),
                Some(Work::Delete { block }) => deleted.push(block),
                Some(Work::Check { replicas }) => self.missing(node, &replicas, result.missing).await?,
                Some(Work::Tell { .. }) => self.told(node, result.page.unwrap_or_default()).await?,
                None => {}
            }
            // Not before it was recorded what is missing: until then the node counts as not asked.
            cluster.commands().done(node, result.command_id);
        }
        if !deleted.is_empty()
            && let Some(fence) = self.core.duty.fence()
        {
            replicas::deleted(store, node, deleted, fence).await?;
        }
        let gone = &cluster.gone();
        stream::iter(won.into_iter().map(Ok))
            .try_for_each_concurrent(WRITES_AT_ONCE, |(block, to)| async move {
                replicas::won(store, block, &to, cluster.replicas(), gone).await
            })
            .await
    }

    /// What a node was asked for and has not.
    async fn missing(
        &self,
        node: &NodeId,
        asked: &[pb::Replica],
        missing: Vec<strongroom_proto::block::v1::BlockId>,
    ) -> Result<(), MetadataError> {
        let asked: HashSet<BlockId> = asked
            .iter()
            .filter_map(|replica| BlockId::try_from(replica.block_id.clone()).ok())
            .collect();
        let missing = missing.into_iter().map(|block| BlockId::try_from(Some(block)));
        let mut missing = missing.collect::<Result<Vec<_>, _>>()?;
        missing.retain(|block| asked.contains(block));
        if missing.is_empty() {
            return Ok(());
        }
        tracing::warn!(%node, blocks = missing.len(), "blocks are not on a node that should have them; they are copied anew");
        replicas::lost_all(&self.core.store, &missing, node).await
    }

    /// A page of what a node has.
    async fn told(&self, node: &NodeId, page: pb::ReplicaPage) -> Result<(), MetadataError> {
        let cluster = &self.core.cluster;
        strays::compare(&self.core.store, cluster, node, page.replicas).await?;
        cluster.commands().surveyed(node, page.next);
        Ok(())
    }

    async fn lose(&self, node: &NodeId, bad: Vec<strongroom_proto::block::v1::BlockId>) -> Result<(), MetadataError> {
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

fn check_size(result: &pb::CommandResult) -> Result<(), MetadataError> {
    let told = result.page.as_ref().map_or(0, |page| page.replicas.len());
    if result.missing.len().max(told) <= REPLICAS_PER_COMMAND_MAX {
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
