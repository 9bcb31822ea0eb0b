use strongroom_kv::Store;
use strongroom_proto::{
    limits::{NAME_BYTES_MAX, PAGE_ENTRIES_MAX},
    metadata::v1::{self as pb, namespace_server::Namespace},
};
use tonic::{Request, Response, Status};

use super::{Api, field, mode, optional_id, page_limit, parse, user};
use crate::{
    namespace::{directories, directories::After, remove::remove, rename::rename},
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
        let after = After {
            name: asked.after,
            directory: optional_id(&asked.directory_id)?,
        };
        let page = directories::list(&self.core.store, &path, &after, limit).await?;
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
        let path = parse(&asked.path)?;
        let done = remove(&self.core.store, &call, &path, asked.recursive, &user).await?;
        if !done.job_id.is_empty() {
            self.core.work.notify_one();
        }
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
}
