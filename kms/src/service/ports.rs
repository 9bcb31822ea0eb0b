//! The ports of a running service: for callers with certificates, for those with bearer tokens, and for monitoring.

use std::{net::SocketAddr, sync::Arc};

use strongroom_proto::transport::{self, TlsIdentity};
use tokio::{net::TcpListener, sync::oneshot};
use tonic::service::Routes;

use super::RunError;
use crate::{
    MetricsConfig,
    api::calls::tagged,
    audit::AuditLog,
    bearer::{Bearer, authenticated},
    ops::{Metrics, Vitals, observed, page},
};

/// All ports of one service, open.
pub(super) struct Ports {
    /// For callers with certificates, and what they may call.
    pub(super) listener: TcpListener,
    pub(super) routes: Routes,
    pub(super) bearer: BearerPort,
    pub(super) monitoring: Monitoring,
}

impl Ports {
    /// Serves until `stop` and until calls in flight have ended; readiness is told until the last of them has.
    pub(super) async fn serve(self, tls: &TlsIdentity, stop: impl Future<Output = ()> + Send) {
        let (ended, end) = oneshot::channel::<()>();
        let (stopped, stopping) = oneshot::channel::<()>();
        let stop = async {
            stop.await;
            drop(stopped);
        };
        let calls = async {
            let calls = transport::serve(self.listener, tls, self.routes, stop);
            tokio::join!(Box::pin(calls), Box::pin(self.bearer.serve(tls, stopping)));
            drop(ended);
        };
        tokio::join!(calls, self.monitoring.serve(tls, end));
    }
}

/// The port for callers with bearer tokens, if there is one.
pub(super) struct BearerPort(Option<(TcpListener, Routes, Arc<Bearer>)>);

impl BearerPort {
    pub(super) async fn open(
        bearer: Option<(SocketAddr, Arc<Bearer>)>,
        routes: &Routes,
        audit: &AuditLog,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, RunError> {
        let Some((address, bearer)) = bearer else {
            return Ok(Self(None));
        };
        let listener = transport::bind(address).await?;
        tracing::info!(%address, "serving callers with bearer tokens");
        let routes = tagged(authenticated(routes.clone(), &bearer), audit.clone());
        let routes = observed(routes, metrics);
        Ok(Self(Some((listener, routes, bearer))))
    }

    /// Serves until `stop`.
    async fn serve(self, tls: &TlsIdentity, stop: oneshot::Receiver<()>) {
        let Some((listener, routes, bearer)) = self.0 else {
            return;
        };
        let follower = tokio::spawn(bearer.follow());
        let stop = async { _ = stop.await };
        transport::serve_without_certificates(listener, tls, routes, stop).await;
        follower.abort();
    }
}

/// The port that monitoring looks at, if there is one.
pub(super) struct Monitoring(Option<(TcpListener, Routes)>);

impl Monitoring {
    pub(super) async fn open(config: Option<MetricsConfig>, vitals: Vitals) -> Result<Self, RunError> {
        let Some(config) = config else {
            return Ok(Self(None));
        };
        let listener = transport::bind(config.listen).await?;
        tracing::info!(address = %config.listen, "monitoring");
        Ok(Self(Some((listener, page(vitals, config.readers)))))
    }

    /// Serves until `end`.
    async fn serve(self, tls: &TlsIdentity, end: oneshot::Receiver<()>) {
        let Some((listener, routes)) = self.0 else {
            return;
        };
        let end = async { _ = end.await };
        transport::serve(listener, tls, routes, end).await;
    }
}
