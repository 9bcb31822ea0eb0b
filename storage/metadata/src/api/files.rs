use strongroom_kv::Store;
use strongroom_proto::{
    ExtentId,
    metadata::v1::{self as pb, files_server::Files},
};
use tonic::{Request, Response, Status};

use super::{Api, field, file_id, mode, parse, user};
use crate::{
    error::MetadataError,
    files::{
        blocks::{self, Report},
        commit::{Commit, commit},
        create::{Creation, create},
        lease::abandon,
        read,
    },
    schema::records,
    zones::source::EdekSource,
};

#[tonic::async_trait]
impl<S: Store, E: EdekSource> Files for Api<S, E> {
    async fn create_file(&self, request: Request<pb::CreateFileRequest>) -> Result<Response<pb::CreatedFile>, Status> {
        let owner = user(&request, "create files")?;
        let asked = request.into_inner();
        let creation = Creation {
            call: self.call("create_file", &owner, &asked.request_id, &asked)?,
            path: parse(&asked.path)?,
            mode: mode(asked.mode)?,
            overwrite: asked.overwrite,
            owner,
        };
        Ok(Response::new(create(&self.core, creation).await?))
    }

    async fn add_blocks(&self, request: Request<pb::AddBlocksRequest>) -> Result<Response<pb::WriteGrant>, Status> {
        let owner = user(&request, "add blocks")?;
        let asked = request.into_inner();
        let file = file_id(&asked.file_id)?;
        let extent = extent_id(&asked.extent_id)?;
        let report = Report::parse(&self.core, file, extent, asked.first_index, &asked.blocks).await?;
        Ok(Response::new(blocks::add(&self.core, file, &owner, report).await?))
    }

    async fn commit_file(&self, request: Request<pb::CommitFileRequest>) -> Result<Response<pb::Stat>, Status> {
        let user = user(&request, "commit files")?;
        let asked = request.into_inner();
        let call = self.call("commit_file", &user, &asked.request_id, &asked)?;
        let file = file_id(&asked.file_id)?;
        let extents = asked.extents.into_iter().map(extent).collect::<Result<Vec<_>, _>>()?;
        let report = match extents.last() {
            _ if asked.blocks.is_empty() => None,
            Some(last) => {
                let id = extent_id(&last.extent_id)?;
                Some(Report::parse(&self.core, file, id, asked.first_index, &asked.blocks).await?)
            }
            None => return Err(field("blocks", "none without an extent").into()),
        };
        let finished = Commit {
            call,
            file,
            user,
            extents,
            report,
            manifest_mac: asked.manifest_mac,
            mtime_ms: asked.mtime_ms,
        };
        Ok(Response::new(commit(&self.core.store, finished).await?))
    }

    async fn abandon_file(
        &self,
        request: Request<pb::AbandonFileRequest>,
    ) -> Result<Response<pb::AbandonFileResponse>, Status> {
        let owner = user(&request, "abandon files")?;
        abandon(&self.core.store, file_id(&request.get_ref().file_id)?, &owner).await?;
        Ok(Response::new(pb::AbandonFileResponse {}))
    }

    async fn open_file(&self, request: Request<pb::OpenFileRequest>) -> Result<Response<pb::OpenedFile>, Status> {
        let user = user(&request, "open files")?;
        let path = parse(&request.get_ref().path)?;
        Ok(Response::new(read::open(&self.core, &path, &user).await?))
    }

    async fn list_blocks(
        &self,
        request: Request<pb::ListBlocksRequest>,
    ) -> Result<Response<pb::ListBlocksResponse>, Status> {
        let user = user(&request, "list blocks")?;
        let asked = request.into_inner();
        let (file, extent) = (file_id(&asked.file_id)?, extent_id(&asked.extent_id)?);
        let page = read::list_blocks(&self.core, file, extent, asked.first_index, &user).await?;
        Ok(Response::new(page))
    }
}

fn extent_id(bytes: &[u8]) -> Result<ExtentId, MetadataError> {
    Ok(bytes.try_into()?)
}

fn extent(wire: pb::Extent) -> Result<records::Extent, MetadataError> {
    Ok(records::Extent {
        extent_id: extent_id(&wire.extent_id)?.into(),
        salt: wire.salt,
        length: wire.length,
        blocks: wire.blocks,
    })
}
