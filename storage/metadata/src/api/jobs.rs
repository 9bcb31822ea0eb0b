use strongroom_kv::Store;
use strongroom_proto::{
    JobId,
    metadata::v1::{self as pb, jobs_server::Jobs},
};
use tonic::{Request, Response, Status};

use super::{Api, field, page_limit, parse};
use crate::{
    error::MetadataError,
    jobs::{
        control::{self, Action},
        rewriting::{self, Holder, Start, Told},
    },
    schema::records::RewritingKind,
    zones::source::EdekSource,
};

/// Jobs in a page, unless the caller asks for fewer.
const JOBS_MAX: usize = 1000;

#[tonic::async_trait]
impl<S: Store, E: EdekSource> Jobs for Api<S, E> {
    async fn list_jobs(&self, request: Request<pb::ListJobsRequest>) -> Result<Response<pb::ListJobsResponse>, Status> {
        let by = self.caller(&request, "list jobs")?.name;
        let asked = request.into_inner();
        let after = match asked.after.as_ref() {
            [] => None,
            id => Some(job_id(id)?),
        };
        let of = (!self.core.is_superuser(&by)).then_some(&by);
        let limit = page_limit(asked.limit, JOBS_MAX, JOBS_MAX);
        let listed = control::list(&self.core, of, after, limit, asked.unfinished).await?;
        Ok(Response::new(listed))
    }

    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Result<Response<pb::Job>, Status> {
        let by = self.caller(&request, "look at jobs")?.name;
        let id = job_id(&request.get_ref().job_id)?;
        Ok(Response::new(control::get(&self.core, &by, id).await?))
    }

    async fn control_job(&self, request: Request<pb::ControlJobRequest>) -> Result<Response<pb::Job>, Status> {
        let by = self.caller(&request, "change jobs")?.name;
        let asked = request.into_inner();
        let action = match asked.action() {
            pb::JobAction::Pause => Action::Pause,
            pb::JobAction::Resume => Action::Resume(asked.throttle),
            pb::JobAction::Cancel => Action::Cancel,
            pb::JobAction::Unspecified => return Err(field("action", "one of PAUSE, RESUME and CANCEL").into()),
        };
        let job = control::control(&self.core, &by, job_id(&asked.job_id)?, action).await?;
        Ok(Response::new(job))
    }

    async fn start_rewriting(&self, request: Request<pb::StartRewritingRequest>) -> Result<Response<pb::Job>, Status> {
        let who = self.caller(&request, "rewrite files")?;
        let asked = request.into_inner();
        let kind = match asked.kind() {
            pb::RewritingKind::Compaction => RewritingKind::Compaction,
            pb::RewritingKind::Rekeying => RewritingKind::Rekeying,
            pb::RewritingKind::Adoption => RewritingKind::Adoption,
            pb::RewritingKind::Unspecified => {
                return Err(field("kind", "one of COMPACTION, REKEYING and ADOPTION").into());
            }
        };
        let start = Start {
            who,
            path: parse(&asked.path)?,
            kind,
            holder: holder(&asked.holder)?,
            throttle: asked.throttle,
            whole_zone: asked.whole_zone,
        };
        Ok(Response::new(rewriting::start(&self.core, start).await?))
    }

    async fn hold_rewriting(&self, request: Request<pb::HoldRewritingRequest>) -> Result<Response<pb::Job>, Status> {
        let who = self.caller(&request, "rewrite files")?;
        let asked = request.into_inner();
        let told = Told {
            failures: asked.failures,
            skipped: asked.skipped,
            over: asked.over,
        };
        let (id, holder) = (job_id(&asked.job_id)?, holder(&asked.holder)?);
        let job = rewriting::hold(&self.core, &who, id, holder, told).await?;
        Ok(Response::new(job))
    }
}

pub(super) fn holder(bytes: &[u8]) -> Result<Holder, MetadataError> {
    bytes.try_into().map_err(|_| field("holder", "16 bytes"))
}

pub(super) fn job_id(bytes: &[u8]) -> Result<JobId, MetadataError> {
    Ok(bytes.try_into()?)
}
