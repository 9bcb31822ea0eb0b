//! Measures every call from the outside: its method, how it was answered and how long it took; and opens a span for it,
//! below the caller's if the caller sent one (W3C Trace Context).

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use http::HeaderMap;
use opentelemetry::propagation::Extractor;
use strongroom_proto::REASON_HEADER;
use tonic::service::Routes;
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::Metrics;

/// What gRPC says of a method that does not exist, and of a caller without a usable bearer token, whom nobody has asked yet
/// whether his method does.
const BEFORE_ANY_METHOD: [&str; 2] = ["12", "16"];

/// `routes`, with every call measured.
pub(crate) fn observed(routes: Routes, metrics: &Arc<Metrics>) -> Routes {
    let router = routes.into_axum_router();
    router.layer(from_fn_with_state(Arc::clone(metrics), observe)).into()
}

async fn observe(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let call = call_of(request.uri().path()).to_owned();
    let span = tracing::info_span!(target: "strongroom::trace", "call", otel.name = call, otel.kind = "server", outcome = tracing::field::Empty);
    let parent = opentelemetry::global::get_text_map_propagator(|from| from.extract(&Headers(request.headers())));
    // Without an exporter there is nobody who would want the parent.
    _ = span.set_parent(parent);
    let started = Instant::now();
    let under_way = metrics.enter();
    let response = next.run(request).instrument(span.clone()).await;
    drop(under_way);
    let outcome = outcome_of(response.headers());
    span.record("outcome", outcome);
    // Names that callers make up are not counted one by one.
    let call = if is_unknown(response.headers()) {
        "unknown"
    } else {
        &call
    };
    metrics.called(call, outcome, started.elapsed());
    response
}

/// `Mint/Mint` of `/strongroom.kms.v1.Mint/Mint`.
fn call_of(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.strip_prefix("strongroom.kms.v1.").unwrap_or(path)
}

/// A failed call has no body: its status is in the headers.
fn outcome_of(headers: &HeaderMap) -> &str {
    let word = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match word("grpc-status") {
        None | Some("0") => "ok",
        Some(_) => word(REASON_HEADER).unwrap_or("refused"),
    }
}

fn is_unknown(headers: &HeaderMap) -> bool {
    let status = headers.get("grpc-status");
    status.is_some_and(|status| BEFORE_ANY_METHOD.iter().any(|before| status == before))
}

/// Lets OpenTelemetry read `traceparent`.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_outcomes_are_read_off_the_answer() {
        assert_eq!(call_of("/strongroom.kms.v1.Mint/Rewrap"), "Mint/Rewrap");
        assert_eq!(call_of("/grpc.health.v1.Health/Check"), "grpc.health.v1.Health/Check");
        for (status, reason, outcome) in [
            (None, None, "ok"),
            (Some("0"), None, "ok"),
            (Some("7"), Some("permission-denied"), "permission-denied"),
            (Some("4"), None, "refused"),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [("grpc-status", status), (REASON_HEADER, reason)] {
                if let Some(value) = value {
                    headers.insert(name, value.parse().expect("a header"));
                }
            }
            assert_eq!(outcome_of(&headers), outcome);
        }
    }

    #[test]
    fn names_that_strangers_make_up_are_not_counted() {
        for (status, unknown) in [("0", false), ("7", false), ("12", true), ("16", true)] {
            let headers =
                HeaderMap::from_iter([("grpc-status".parse().expect("a name"), status.parse().expect("a value"))]);
            assert_eq!(is_unknown(&headers), unknown, "{status}");
        }
    }
}
