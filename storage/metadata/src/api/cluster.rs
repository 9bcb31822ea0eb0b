use futures::{TryStreamExt, stream};
use strongroom_kv::Store;
use strongroom_proto::{
    BlockId, NodeId,
    metadata::v1::{self as pb, cluster_server::Cluster},
    transport::{PeerIdentity, Remote, peer},
};
use tonic::{Request, Response, Status};

use super::Api;
use crate::{
    cluster::{commands::Work, nodes::Report, replicas},
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
        if cluster.address(node).as_ref() != Some(&address) {
            replicas::node_address(&self.core.store, node, &address).await?;
            tracing::info!(%node, address, "block node registered");
        }
        let report = Report {
            address,
            capacity_bytes: asked.capacity_bytes,
            free_bytes: asked.free_bytes,
            blocks: asked.blocks,
        };
        cluster.nodes.seen(node.clone(), report, self.core.clock.now_ms());
        Ok(())
    }

    async fn settle(&self, node: &NodeId, results: Vec<pb::CommandResult>) -> Result<(), MetadataError> {
        let (store, cluster) = (&self.core.store, &self.core.cluster);
        let (mut won, mut deleted) = (Vec::new(), Vec::new());
        for result in results {
            if !result.failure.is_empty() {
                tracing::warn!(%node, failure = result.failure, "a block node could not do what it was told");
                cluster.commands().failed(node, result.command_id, cluster.now_ms());
                continue;
            }
            match cluster.commands().done(node, result.command_id) {
                Some(Work::Replicate { block, to }) => won.push((block, to)),
                Some(Work::Delete { block }) => deleted.push(block),
                None => {}
            }
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
