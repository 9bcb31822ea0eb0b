//! What monitoring asks for: `/metrics`, `/ready` and `/live`, over the same mutual TLS as everything else.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use strongroom_proto::transport::{self, PeerIdentity, UserName};
use tonic::service::Routes;

use super::{Vitals, readiness::Readiness};

/// OpenMetrics 1.0, section "Protocol negotiation".
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

struct Page {
    vitals: Vitals,
    readers: Vec<UserName>,
}

/// The routes. Only `readers` may see the measurements.
pub(crate) fn page(vitals: Vitals, readers: Vec<UserName>) -> Routes {
    let page = Arc::new(Page { vitals, readers });
    Router::new()
        .route("/metrics", get(metrics))
        .route("/ready", get(ready))
        .route("/live", get(|| async { "live\n" }))
        .with_state(page)
        .into()
}

async fn metrics(State(page): State<Arc<Page>>, request: Request) -> Response {
    match identity(request) {
        Some(who @ PeerIdentity::User(_)) if page.may_read(&who) => {
            ([(CONTENT_TYPE, OPENMETRICS)], page.vitals.metrics.render()).into_response()
        }
        who => {
            let who = who.map_or_else(|| "nobody".to_owned(), |who| who.short());
            let why =
                format!("{who} may not read the measurements; add it to `readers` in [metrics] of the key service\n");
            (StatusCode::FORBIDDEN, why).into_response()
        }
    }
}

async fn ready(State(page): State<Arc<Page>>) -> Response {
    let readiness = page.vitals.readiness();
    let status = match readiness {
        Readiness::Ready => StatusCode::OK,
        Readiness::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        Readiness::TokenDown(_) | Readiness::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{readiness}\n")).into_response()
}

impl Page {
    fn may_read(&self, who: &PeerIdentity) -> bool {
        matches!(who, PeerIdentity::User(name) if self.readers.contains(name))
    }
}

/// Who asks, by the connection's certificate.
fn identity(request: Request) -> Option<PeerIdentity> {
    let (parts, _) = request.into_parts();
    let request = tonic::Request::from_parts(tonic::metadata::MetadataMap::new(), parts.extensions, ());
    transport::peer(&request).ok().map(|(identity, _)| identity)
}
