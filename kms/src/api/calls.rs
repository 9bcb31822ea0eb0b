//! What every call gets, whichever face it is for: an id that its client sent or that is drawn here, in the answer and in log
//! lines too; and a record if it fails before anything was recorded of it, for example because it cannot be parsed.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use http::{HeaderMap, HeaderValue};
use strongroom_proto::{
    Failure, REASON_HEADER, REQUEST_ID_HEADER, Reason,
    transport::{address, peer_in},
};
use tonic::service::Routes;
use tracing::Instrument as _;

use super::refusals::{Refusals, Source};
use crate::audit::{AuditLog, CallTag, Entry};

/// `routes`, with every call tagged.
pub(crate) fn tagged(routes: Routes, audit: AuditLog) -> Routes {
    let router = routes.into_axum_router();
    router.layer(from_fn_with_state(Refusals::new(audit), tag)).into()
}

async fn tag(State(refusals): State<Arc<Refusals>>, mut request: Request, next: Next) -> Response {
    let call = CallTag::of(text(request.headers(), REQUEST_ID_HEADER));
    let origin = Origin {
        path: request.uri().path().to_owned(),
        who: peer_in(request.extensions()).map(|who| who.short()),
        from: address(request.extensions()),
    };
    request.extensions_mut().insert(call.clone());
    let span = tracing::info_span!("call", request = call.id());
    let mut response = next.run(request).instrument(span).await;
    if !call.is_recorded()
        && let Some(failure) = refusal(response.headers())
        && let Some(action) = origin.action()
    {
        let who = origin.who.as_deref().or(call.who());
        let entry = || entry(&call, action, who, &origin, &failure);
        refusals.record(Source::of(who, origin.from), entry).await;
    }
    if let Ok(id) = HeaderValue::from_str(call.id()) {
        response.headers_mut().insert(REQUEST_ID_HEADER, id);
    }
    response
}

/// Where a call came from and where it went.
struct Origin {
    path: String,
    /// By the certificate.
    who: Option<String>,
    from: Option<SocketAddr>,
}

impl Origin {
    /// The method of one of the key service's own faces: `Mint/Rewrap` of `/strongroom.kms.v1.Mint/Rewrap`.
    fn action(&self) -> Option<&str> {
        self.path.strip_prefix("/strongroom.kms.v1.")
    }
}

fn entry(call: &CallTag, action: &str, who: Option<&str>, origin: &Origin, failure: &Failure) -> Entry {
    let action: String = action.chars().take(100).collect();
    Entry {
        from: origin.from,
        request: Some(call.id().to_owned()),
        ..Entry::of_service(who.unwrap_or("unknown"), &action).failed(failure)
    }
}

/// How a call failed that has no answer: gRPC says so in the headers then.
fn refusal(headers: &HeaderMap) -> Option<Failure> {
    let status = text(headers, "grpc-status").filter(|status| *status != "0")?;
    let reason = text(headers, REASON_HEADER).and_then(|word| word.parse().ok());
    let message = text(headers, "grpc-message").unwrap_or("the call cannot be read");
    // What gRPC itself refuses (no such method, no such message) is not one of our words.
    let message = format!("{message} (gRPC status {status})");
    Some(Failure::new(reason.unwrap_or(Reason::InvalidArgument), message))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failed_calls_are_refusals() {
        let mut headers = HeaderMap::new();
        assert_eq!(refusal(&headers), None);
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        assert_eq!(refusal(&headers), None);
        headers.insert("grpc-status", HeaderValue::from_static("13"));
        headers.insert("grpc-message", HeaderValue::from_static("no"));
        let failure = refusal(&headers).expect("failed");
        assert_eq!(
            (failure.reason, failure.message.as_str()),
            (Reason::InvalidArgument, "no (gRPC status 13)")
        );
        headers.insert(REASON_HEADER, HeaderValue::from_static("overloaded"));
        assert_eq!(
            refusal(&headers).map(|failure| failure.reason),
            Some(Reason::Overloaded)
        );
    }
}
