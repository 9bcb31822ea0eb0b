use bytes::Bytes;
use strongroom_kv::Store;
use strongroom_proto::{
    ExtentId,
    metadata::v1::{self as pb, files_server::Files},
};
use tonic::{Request, Response, Status};

use super::{
    Api, file_id,
    jobs::{holder, job_id},
    new_mode, optional_id, parse,
};
use crate::{
    error::MetadataError,
    files::{
        blocks::{self, Report},
        commit::{Commit, commit},
        create::{Creation, create},
        lease::{abandon, dead_ms},
        read,
        reopen::{recover, reopen},
        rewrite::{Rewriting, begin},
    },
    schema::records,
    zones::source::EdekSource,
};

#[tonic::async_trait]
impl<S: Store, E: EdekSource> Files for Api<S, E> {
    async fn create_file(&self, request: Request<pb::CreateFileRequest>) -> Result<Response<pb::CreatedFile>, Status> {
        let who = self.caller(&request, "create files")?;
        let asked = request.into_inner();
        let creation = Creation {
            call: self.call("create_file", &who.name, &asked.request_id, &asked)?,
            path: parse(&asked.path)?,
            mode: new_mode(asked.mode, asked.umask)?,
            overwrite: asked.overwrite,
            who,
        };
        Ok(Response::new(create(&self.core, creation).await?))
    }

    async fn add_blocks(&self, request: Request<pb::AddBlocksRequest>) -> Result<Response<pb::WriteGrant>, Status> {
        let who = self.caller(&request, "add blocks")?;
        let asked = request.into_inner();
        let file = file_id(&asked.file_id)?;
        let extent = extent_id(&asked.extent_id)?;
        let report = Report::parse(&self.core, file, extent, asked.first_index, &asked.blocks).await?;
        Ok(Response::new(blocks::add(&self.core, file, &who, report).await?))
    }

    async fn commit_file(
        &self,
        request: Request<pb::CommitFileRequest>,
    ) -> Result<Response<pb::CommittedFile>, Status> {
        let who = self.caller(&request, "commit files")?;
        let asked = request.into_inner();
        let call = self.call("commit_file", &who.name, &asked.request_id, &asked)?;
        let (file, extent) = (file_id(&asked.file_id)?, extent_id(&asked.extent_id)?);
        let report = match asked.blocks.as_slice() {
            [] => None,
            blocks => Some(Report::parse(&self.core, file, extent, asked.first_index, blocks).await?),
        };
        let extents = asked.extents.into_iter().map(parse_extent);
        let lease_expires_ms = call.now_ms() + self.core.settings.lease_ms;
        let dead_ms = dead_ms(call.now_ms(), &self.core.settings);
        let finished = Commit {
            call,
            file,
            extent,
            who,
            generation: asked.generation,
            extents: extents.collect::<Result<_, _>>()?,
            report,
            manifest_mac: asked.manifest_mac,
            mtime_ms: asked.mtime_ms,
            lease_expires_ms: asked.go_on.then_some(lease_expires_ms),
            dead_ms,
        };
        Ok(Response::new(commit(&self.core, finished).await?))
    }

    async fn abandon_file(
        &self,
        request: Request<pb::AbandonFileRequest>,
    ) -> Result<Response<pb::AbandonFileResponse>, Status> {
        let who = self.caller(&request, "abandon files")?;
        let asked = request.into_inner();
        let (file, extent) = (file_id(&asked.file_id)?, extent_id(&asked.extent_id)?);
        let dead_ms = dead_ms(self.core.clock.now_ms(), &self.core.settings);
        abandon(&self.core.store, file, extent, &who.name, dead_ms).await?;
        Ok(Response::new(pb::AbandonFileResponse {}))
    }

    async fn reopen_file(&self, request: Request<pb::ReopenFileRequest>) -> Result<Response<pb::ReopenedFile>, Status> {
        let who = self.caller(&request, "append to files")?;
        let asked = request.into_inner();
        let call = self.call("reopen_file", &who.name, &asked.request_id, &asked)?;
        let path = parse(&asked.path)?;
        Ok(Response::new(reopen(&self.core, call, &path, &who).await?))
    }

    async fn recover_file(
        &self,
        request: Request<pb::RecoverFileRequest>,
    ) -> Result<Response<pb::RecoverFileResponse>, Status> {
        let who = self.caller(&request, "recover files")?;
        let asked = request.into_inner();
        let call = self.call("recover_file", &who.name, &asked.request_id, &asked)?;
        let path = parse(&asked.path)?;
        Ok(Response::new(recover(&self.core, call, &path, &who).await?))
    }

    async fn rewrite_file(
        &self,
        request: Request<pb::RewriteFileRequest>,
    ) -> Result<Response<pb::RewritingFile>, Status> {
        let who = self.caller(&request, "rewrite files")?;
        let asked = request.into_inner();
        let rewriting = Rewriting {
            call: self.call("rewrite_file", &who.name, &asked.request_id, &asked)?,
            path: parse(&asked.path)?,
            job: match asked.job_id.as_ref() {
                [] => None,
                id => Some((job_id(id)?, holder(&asked.holder)?)),
            },
            who,
        };
        Ok(Response::new(begin(&self.core, rewriting).await?))
    }

    async fn open_file(&self, request: Request<pb::OpenFileRequest>) -> Result<Response<pb::OpenedFile>, Status> {
        let who = self.caller(&request, "open files")?;
        let asked = request.get_ref();
        let which = match optional_id(&asked.file_id)? {
            Some(id) => read::Which::Id(id),
            None => read::Which::At(parse(&asked.path)?),
        };
        Ok(Response::new(read::open(&self.core, &which, &who).await?))
    }

    async fn list_blocks(
        &self,
        request: Request<pb::ListBlocksRequest>,
    ) -> Result<Response<pb::ListBlocksResponse>, Status> {
        let who = self.caller(&request, "list blocks")?;
        let asked = request.into_inner();
        let (file, extent) = (file_id(&asked.file_id)?, extent_id(&asked.extent_id)?);
        let page = read::list_blocks(&self.core, file, extent, asked.first_index, &who).await?;
        Ok(Response::new(page))
    }
}

fn extent_id(bytes: &[u8]) -> Result<ExtentId, MetadataError> {
    Ok(bytes.try_into()?)
}

fn parse_extent(wire: pb::Extent) -> Result<records::Extent, MetadataError> {
    Ok(records::Extent {
        extent_id: extent_id(&wire.extent_id)?.into(),
        salt: wire.salt,
        length: wire.length,
        blocks: wire.blocks,
        visible: wire.visible,
        under_dek: wire.under_dek,
        sealed_as: Bytes::new(),
    })
}
