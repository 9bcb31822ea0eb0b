use strongroom_kv::Store;
use strongroom_proto::{
    ZonePath,
    limits::{NAME_BYTES_MAX, PAGE_ENTRIES_MAX},
    metadata::v1::{self as pb, namespace_server::Namespace},
};
use tonic::{Request, Response, Status};

use super::{Api, file_id, mode, page_limit, user};
use crate::{
    error::MetadataError,
    files::{
        blocks::{self, Report},
        commit::{Commit, commit},
        create::{Creation, create},
        lease::abandon,
        read,
    },
    namespace::{directories, remove::remove, rename::rename},
    schema::records,
    zones::source::EdekSource,
};

#[tonic::async_trait]
impl<S: Store, E: EdekSource> Namespace for Api<S, E> {
    async fn make_directory(&self, request: Request<pb::MakeDirectoryRequest>) -> Result<Response<pb::Stat>, Status> {
        let owner = user(&request, "make directories")?;
        let asked = request.into_inner();
        let call = self.call("make_directory", &owner, &asked.request_id, &asked)?;
        let (path, mode) = (parse(&asked.path)?, mode(asked.mode)?);
        let stat = directories::make(&self.core.store, &call, &path, mode, asked.parents, &owner).await?;
        Ok(Response::new(stat))
    }

    async fn get_stat(&self, request: Request<pb::GetStatRequest>) -> Result<Response<pb::Stat>, Status> {
        user(&request, "look at paths")?;
        let path = parse(&request.get_ref().path)?;
        Ok(Response::new(directories::look(&self.core.store, &path).await?))
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        user(&request, "list directories")?;
        let asked = request.into_inner();
        let path = parse(&asked.path)?;
        if asked.after.len() > NAME_BYTES_MAX {
            return Err(field("after", "a name has at most 255 bytes").into());
        }
        let limit = page_limit(asked.limit, PAGE_ENTRIES_MAX, PAGE_ENTRIES_MAX);
        let page = directories::list(&self.core.store, &path, &asked.after, limit).await?;
        Ok(Response::new(page))
    }

    async fn rename(&self, request: Request<pb::RenameRequest>) -> Result<Response<pb::Stat>, Status> {
        let user = user(&request, "rename")?;
        let asked = request.into_inner();
        let call = self.call("rename", &user, &asked.request_id, &asked)?;
        let (from, to) = (parse(&asked.from)?, parse(&asked.to)?);
        let stat = rename(&self.core.store, &call, &from, &to, asked.overwrite).await?;
        Ok(Response::new(stat))
    }

    async fn remove(&self, request: Request<pb::RemoveRequest>) -> Result<Response<pb::RemoveResponse>, Status> {
        let user = user(&request, "remove")?;
        let asked = request.into_inner();
        let call = self.call("remove", &user, &asked.request_id, &asked)?;
        let done = remove(&self.core.store, &call, &parse(&asked.path)?, asked.recursive).await?;
        Ok(Response::new(done))
    }

    async fn set_attributes(&self, request: Request<pb::SetAttributesRequest>) -> Result<Response<pb::Stat>, Status> {
        let user = user(&request, "set attributes")?;
        let asked = request.into_inner();
        let call = self.call("set_attributes", &user, &asked.request_id, &asked)?;
        let (path, mode) = (parse(&asked.path)?, asked.mode.map(mode).transpose()?);
        let stat = directories::set_attributes(&self.core.store, &call, &path, mode, asked.mtime_ms).await?;
        Ok(Response::new(stat))
    }

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

fn parse(path: &[u8]) -> Result<ZonePath, MetadataError> {
    Ok(ZonePath::parse(path)?)
}

fn extent_id(bytes: &[u8]) -> Result<strongroom_proto::ExtentId, MetadataError> {
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

fn field(field: &'static str, rule: &str) -> MetadataError {
    MetadataError::Field {
        field,
        rule: rule.to_owned(),
    }
}
