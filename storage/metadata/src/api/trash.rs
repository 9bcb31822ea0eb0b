use strongroom_kv::Store;
use strongroom_proto::metadata::v1::{self as pb, trash_server::Trash};
use tonic::{Request, Response, Status};

use super::{Api, parse};
use crate::{
    trash::{
        emptying::Rule,
        expunge::{Cursor, expunge},
        provision::provision,
        round::expire_after_ms,
    },
    zones::source::EdekSource,
};

#[tonic::async_trait]
impl<S: Store, E: EdekSource> Trash for Api<S, E> {
    async fn expunge(&self, request: Request<pb::ExpungeRequest>) -> Result<Response<pb::ExpungeResponse>, Status> {
        let who = self.caller(&request, "expunge their trash")?;
        let asked = request.into_inner();
        let call = self.call("expunge", &who.name, &asked.request_id, &asked)?;
        let from = Cursor::parse(&asked.from)?;
        let rule = Rule {
            now_ms: call.now_ms(),
            checkpoint_after_ms: 0,
            expire_after_ms: if asked.immediate {
                0
            } else {
                expire_after_ms(&self.core.settings)
            },
        };
        let (done, work) = expunge(&self.core.store, &self.core.walkers, &who, &call, &from, rule).await?;
        if work {
            self.core.work.notify_one();
        }
        Ok(Response::new(done))
    }

    async fn provision_trash(&self, request: Request<pb::ProvisionTrashRequest>) -> Result<Response<pb::Stat>, Status> {
        let who = self.superuser(&request, "provision the trash of a zone")?;
        let asked = request.into_inner();
        let call = self.call("provision_trash", &who.name, &asked.request_id, &asked)?;
        let path = parse(&asked.path)?;
        let stat = provision(&self.core.store, &who, &call, &path).await?;
        tracing::info!(by = %who.name, %path, "trash provisioned");
        Ok(Response::new(stat))
    }
}
