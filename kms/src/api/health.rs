//! Health: the service as a whole and each face serve while the token is up and compared with the store.

use strongroom_proto::kms::v1::{
    key_admin_server::SERVICE_NAME as KEY_ADMIN, mint_server::SERVICE_NAME as MINT,
    unwrap_server::SERVICE_NAME as UNWRAP,
};
use tokio::sync::watch;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::{HealthReporter, health_reporter},
};

/// The health service. A task keeps it up to date while whoever decides `ready` lives.
pub(super) fn service(ready: watch::Receiver<bool>) -> HealthServer<impl Health> {
    let (reporter, service) = health_reporter();
    tokio::spawn(follow(reporter, ready));
    service
}

async fn follow(reporter: HealthReporter, mut ready: watch::Receiver<bool>) {
    loop {
        let status = if *ready.borrow_and_update() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        // The empty name is the service as a whole.
        for name in ["", KEY_ADMIN, MINT, UNWRAP] {
            reporter.set_service_status(name, status).await;
        }
        if ready.changed().await.is_err() {
            return;
        }
    }
}
