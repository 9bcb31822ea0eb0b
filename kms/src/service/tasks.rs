//! What runs beside the calls for as long as the service does.

use std::sync::Arc;

use tokio::task::{JoinHandle, JoinSet};

use crate::{
    api::Desk,
    audit::{AuditConfig, Checkpointer},
    hsm::Hsm,
    keeper,
};

/// The tasks of a running service.
pub(super) struct Tasks {
    /// Ended one after the other.
    followers: Vec<JoinHandle<()>>,
    /// End with this value, however that goes: a service that does not answer must not keep a lease.
    leased: JoinSet<()>,
    checkpointer: Checkpointer,
}

impl Tasks {
    pub(super) fn start<H: Hsm>(desk: &Arc<Desk<H>>, hsm: Arc<H>, audit: &AuditConfig) -> Self {
        let follow_token = {
            let desk = Arc::clone(desk);
            async move { desk.keys.follow_token().await }
        };
        let record_alarms = {
            let desk = Arc::clone(desk);
            async move { desk.record_alarms().await }
        };
        let mut leased = JoinSet::new();
        leased.spawn({
            let desk = Arc::clone(desk);
            async move { desk.keys.follow_store().await }
        });
        Self {
            followers: vec![
                tokio::spawn(follow_token),
                tokio::spawn(record_alarms),
                tokio::spawn(Arc::clone(&desk.policy).follow(desk.audit.clone())),
                tokio::spawn(keeper::keep(Arc::clone(desk))),
            ],
            leased,
            checkpointer: Checkpointer::start(desk.audit.clone(), hsm, audit),
        }
    }

    /// Ends all of them, gives the lease up and has the last audit records signed.
    pub(super) async fn finish<H: Hsm>(mut self, desk: &Desk<H>) {
        for task in self.followers {
            task.abort();
            // It was told to end.
            _ = task.await;
        }
        keeper::store_uses(desk).await;
        self.leased.shutdown().await;
        desk.keys.leave().await;
        self.checkpointer.finish().await;
    }
}
