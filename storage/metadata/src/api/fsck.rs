use strongroom_kv::Store;
use strongroom_proto::{
    BlockId, NodeId,
    limits::REPLICAS_PER_COMMAND_MAX,
    metadata::v1::{self as pb, fsck_server::Fsck},
};
use tonic::{Request, Response, Status};

use super::{Api, field, file_id, optional_id};
use crate::{
    cluster::{inventory, replicas},
    error::MetadataError,
    fsck::{self, Question},
    zones::source::EdekSource,
};

/// EDEKs of a zone that are tried.
const SAMPLE_MAX: u32 = 100;
/// Bytes of a cursor: those of the longest key.
const CURSOR_BYTES_MAX: usize = 512;

#[tonic::async_trait]
impl<S: Store, E: EdekSource> Fsck for Api<S, E> {
    async fn check_page(
        &self,
        request: Request<pb::CheckPageRequest>,
    ) -> Result<Response<pb::CheckPageResponse>, Status> {
        let who = self.superuser(&request, "check the namespace")?;
        let asked = request.into_inner();
        if asked.after.len() > CURSOR_BYTES_MAX {
            return Err(field("after", "what the page before said").into());
        }
        let part = asked.part();
        let question = Question {
            who,
            after: asked.after.to_vec(),
            directory: optional_id(&asked.directory)?,
            repair: asked.repair,
            sample_edeks: asked.sample_edeks.min(SAMPLE_MAX) as usize,
        };
        Ok(Response::new(fsck::check(&self.core, part, &question).await?))
    }

    async fn list_replicas(
        &self,
        request: Request<pb::ListReplicasRequest>,
    ) -> Result<Response<pb::ReplicaList>, Status> {
        let who = self.superuser(&request, "check the namespace")?;
        let asked = request.into_inner();
        let (file, from) = (file_id(&asked.file_id)?, asked.from.unwrap_or_default());
        let list = fsck::list_replicas(&self.core, &who, file, from).await?;
        Ok(Response::new(list))
    }

    async fn report_lost(
        &self,
        request: Request<pb::ReportLostRequest>,
    ) -> Result<Response<pb::ReportLostResponse>, Status> {
        let who = self.superuser(&request, "report lost replicas")?;
        let asked = request.into_inner();
        if asked.blocks.len() > REPLICAS_PER_COMMAND_MAX {
            return Err(field("blocks", "at most 1000").into());
        }
        let node: NodeId = asked.node_id.parse().map_err(MetadataError::from)?;
        let blocks = asked.blocks.into_iter().map(|block| BlockId::try_from(Some(block)));
        let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
        replicas::lost_all(&self.core.store, &blocks, &node).await?;
        tracing::warn!(by = %who.name, %node, blocks = blocks.len(), "replicas are reported lost");
        Ok(Response::new(pb::ReportLostResponse {}))
    }

    async fn account_for(
        &self,
        request: Request<pb::AccountForRequest>,
    ) -> Result<Response<pb::AccountForResponse>, Status> {
        self.superuser(&request, "ask what a node's disk holds")?;
        let asked = request.into_inner();
        if asked.blocks.len() > REPLICAS_PER_COMMAND_MAX {
            return Err(field("blocks", "at most 1000").into());
        }
        let node: NodeId = asked.node_id.parse().map_err(MetadataError::from)?;
        let answer = fsck::account_for(&self.core.store, &node, asked.blocks, asked.unseen).await?;
        Ok(Response::new(answer))
    }

    async fn take_inventory(
        &self,
        request: Request<pb::TakeInventoryRequest>,
    ) -> Result<Response<pb::TakeInventoryResponse>, Status> {
        let who = self.superuser(&request, "have the disks compared with what is recorded")?;
        let delete_strays = request.get_ref().delete_strays;
        if delete_strays {
            tracing::warn!(by = %who.name, "blocks that nothing needs are to be deleted, however many they are");
        }
        inventory::ask_for(&self.core.store, delete_strays).await?;
        Ok(Response::new(pb::TakeInventoryResponse {}))
    }
}
