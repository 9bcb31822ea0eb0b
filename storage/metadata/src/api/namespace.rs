use strongroom_kv::Store;
use strongroom_proto::{
    limits::{NAME_BYTES_MAX, PAGE_ENTRIES_MAX},
    metadata::v1::{self as pb, namespace_server::Namespace},
};
use tonic::{Request, Response, Status};

use super::{Api, field, given, mode, new_mode, optional_id, page_limit, parse};
use crate::{
    error::MetadataError,
    namespace::{
        acl, attributes,
        attributes::Attributes,
        directories,
        directories::After,
        remove::{How, remove},
        rename::rename,
        xattrs,
    },
    quota::set::{self as quota, Limit},
    zones::source::EdekSource,
};

/// A change of a limit, of at least `least`.
fn limit(wanted: Option<u64>, clear: bool, least: u64) -> Result<Limit, MetadataError> {
    match (wanted, clear) {
        (None, false) => Ok(Limit::Keep),
        (None, true) => Ok(Limit::Clear),
        (Some(limit), false) if limit >= least && i64::try_from(limit).is_ok() => Ok(Limit::Set(limit)),
        _ => Err(field(
            "quota",
            "at least 1 name and at most 2^63 - 1, or none to clear it",
        )),
    }
}

#[tonic::async_trait]
impl<S: Store, E: EdekSource> Namespace for Api<S, E> {
    async fn make_directory(&self, request: Request<pb::MakeDirectoryRequest>) -> Result<Response<pb::Stat>, Status> {
        let who = self.caller(&request, "make directories")?;
        let asked = request.into_inner();
        let call = self.call("make_directory", &who.name, &asked.request_id, &asked)?;
        let (path, mode) = (parse(&asked.path)?, new_mode(asked.mode, asked.umask)?);
        let stat = directories::make(&self.core.store, &call, &path, mode, asked.parents, &who).await?;
        Ok(Response::new(stat))
    }

    async fn get_stat(&self, request: Request<pb::GetStatRequest>) -> Result<Response<pb::Stat>, Status> {
        let who = self.caller(&request, "look at paths")?;
        let path = parse(&request.get_ref().path)?;
        Ok(Response::new(directories::look(&self.core.store, &who, &path).await?))
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        let who = self.caller(&request, "list directories")?;
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
        let page = directories::list(&self.core.store, &who, &path, &after, limit).await?;
        Ok(Response::new(page))
    }

    async fn rename(&self, request: Request<pb::RenameRequest>) -> Result<Response<pb::Stat>, Status> {
        let who = self.caller(&request, "rename")?;
        let asked = request.into_inner();
        let call = self.call("rename", &who.name, &asked.request_id, &asked)?;
        let (from, to) = (parse(&asked.from)?, parse(&asked.to)?);
        let stat = rename(&self.core.store, &who, &call, &from, &to, asked.overwrite).await?;
        Ok(Response::new(stat))
    }

    async fn remove(&self, request: Request<pb::RemoveRequest>) -> Result<Response<pb::RemoveResponse>, Status> {
        let who = self.caller(&request, "remove")?;
        let asked = request.into_inner();
        let call = self.call("remove", &who.name, &asked.request_id, &asked)?;
        let path = parse(&asked.path)?;
        let how = How {
            recursive: asked.recursive,
            to_trash: asked.to_trash && self.core.settings.trash_ms > 0,
        };
        let done = remove(&self.core.store, &self.core.walkers, &who, &call, &path, how).await?;
        if !done.job_id.is_empty() {
            self.core.work.notify_one();
        }
        Ok(Response::new(done))
    }

    async fn set_attributes(&self, request: Request<pb::SetAttributesRequest>) -> Result<Response<pb::Stat>, Status> {
        let who = self.caller(&request, "set attributes")?;
        let asked = request.into_inner();
        let call = self.call("set_attributes", &who.name, &asked.request_id, &asked)?;
        let path = parse(&asked.path)?;
        let wanted = Attributes {
            mode: asked.mode.map(mode).transpose()?,
            mtime_ms: asked.mtime_ms,
            owner: given(&asked.owner)?,
            group: given(&asked.group)?,
        };
        let stat = attributes::set(&self.core.store, &who, &call, &path, &wanted).await?;
        Ok(Response::new(stat))
    }

    async fn set_quota(&self, request: Request<pb::SetQuotaRequest>) -> Result<Response<pb::Quotas>, Status> {
        let who = self.superuser(&request, "set quotas")?;
        let asked = request.into_inner();
        let call = self.call("set_quota", &who.name, &asked.request_id, &asked)?;
        let path = parse(&asked.path)?;
        let change = quota::Change {
            names: limit(asked.names_max, asked.clear_names, 1)?,
            bytes: limit(asked.bytes_max, asked.clear_bytes, 0)?,
        };
        let quotas = quota::set(&self.core.store, &self.core.walkers, &who, &call, &path, change).await?;
        tracing::info!(by = %who.name, %path, ?change, "quota set");
        Ok(Response::new(quotas))
    }

    async fn get_quotas(&self, request: Request<pb::GetQuotasRequest>) -> Result<Response<pb::Quotas>, Status> {
        let who = self.caller(&request, "look at quotas")?;
        let path = parse(&request.get_ref().path)?;
        Ok(Response::new(quota::look(&self.core.store, &who, &path).await?))
    }

    async fn set_xattr(&self, request: Request<pb::SetXattrRequest>) -> Result<Response<pb::Stat>, Status> {
        let who = self.caller(&request, "set attributes")?;
        let asked = request.into_inner();
        let call = self.call("set_xattr", &who.name, &asked.request_id, &asked)?;
        let (path, change) = (parse(&asked.path)?, xattrs::Change::parse(asked.name, asked.value)?);
        Ok(Response::new(
            xattrs::set(&self.core.store, &who, &call, &path, &change).await?,
        ))
    }

    async fn get_xattrs(&self, request: Request<pb::GetXattrsRequest>) -> Result<Response<pb::Xattrs>, Status> {
        let who = self.caller(&request, "look at attributes")?;
        let asked = request.into_inner();
        let path = parse(&asked.path)?;
        asked.names.iter().try_for_each(|name| xattrs::check_name(name))?;
        let xattrs = xattrs::look(&self.core.store, &who, &path, &asked.names).await?;
        Ok(Response::new(xattrs))
    }

    async fn get_acl(&self, request: Request<pb::GetAclRequest>) -> Result<Response<pb::Acl>, Status> {
        let who = self.caller(&request, "look at ACLs")?;
        let path = parse(&request.get_ref().path)?;
        Ok(Response::new(acl::look(&self.core.store, &who, &path).await?))
    }

    async fn set_acl(&self, request: Request<pb::SetAclRequest>) -> Result<Response<pb::Acl>, Status> {
        let who = self.caller(&request, "change ACLs")?;
        let asked = request.into_inner();
        let call = self.call("set_acl", &who.name, &asked.request_id, &asked)?;
        let (path, change) = (parse(&asked.path)?, acl::Change::parse(asked.change(), &asked.entries)?);
        Ok(Response::new(
            acl::change(&self.core.store, &who, &call, &path, &change).await?,
        ))
    }
}
