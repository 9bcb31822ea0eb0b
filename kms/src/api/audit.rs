//! `Audit`: what auditors need of the running service. The log itself is read where it is kept.
//!
//! Policies are asked about the log as a whole as if it were the key [`WHOLE_LOG`].

use std::sync::Arc;

use strongroom_proto::{
    Failure, KeyName,
    kms::v1::{
        Answering, AuditKey, GetAuditKeysRequest, GetAuditKeysResponse, RotateAuditRequest, RotateAuditResponse,
        audit_server::Audit,
    },
};
use tonic::{Request, Response, Status, async_trait};

use super::{Desk, caller, to_its_end};
use crate::{
    audit::{Caller, Entry},
    hsm::Hsm,
    policy::{Action, Context},
};

/// What policies take the log for.
const WHOLE_LOG: &str = "audit-log";

pub(super) struct AuditFace<H>(pub(super) Arc<Desk<H>>);

#[async_trait]
impl<H: Hsm> Audit for AuditFace<H> {
    async fn get_audit_keys(
        &self,
        request: Request<GetAuditKeysRequest>,
    ) -> Result<Response<GetAuditKeysResponse>, Status> {
        let caller = caller(&request)?;
        let _place = self.0.places.take(&caller.identity)?;
        let entry = self.0.authorize_log(&caller, "audit-keys").await?;
        let keys = self.0.keys.audit_keys().await;
        let keys = self.0.recorded(entry, keys).await?;
        let wire = keys.into_iter().map(|key| AuditKey {
            token: key.token,
            public_key: key.public_key,
        });
        Ok(Response::new(GetAuditKeysResponse {
            keys: wire.collect(),
            answering: Some(self.0.answering()),
        }))
    }

    async fn rotate_audit(
        &self,
        request: Request<RotateAuditRequest>,
    ) -> Result<Response<RotateAuditResponse>, Status> {
        let caller = caller(&request)?;
        let desk = Arc::clone(&self.0);
        let segment = to_its_end(self.0.places.take(&caller.identity)?, async move {
            let entry = desk.authorize_log(&caller, "audit-rotate").await?;
            let segment = desk.audit.rotate().await;
            desk.recorded(entry, segment).await
        })
        .await?;
        Ok(Response::new(RotateAuditResponse {
            segment,
            answering: Some(self.0.answering()),
        }))
    }
}

impl<H: Hsm> Desk<H> {
    fn answering(&self) -> Answering {
        Answering {
            id: self.audit.id().as_bytes().to_vec().into(),
            address: self.instance.clone(),
        }
    }

    async fn authorize_log(&self, caller: &Caller, operation: &str) -> Result<Entry, Failure> {
        let log: KeyName = WHOLE_LOG.parse()?;
        let (entry, context) = (Entry::new(caller, operation), Context::of(operation));
        self.authorize(caller, Action::Audit, &self.keys.facts(&log), &context, entry)
            .await
    }
}
