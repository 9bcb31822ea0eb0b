//! What every call gets, whichever face it is for: an id that its client sent or that is drawn here, in the answer and in log
//! lines too; and a record if it fails before anything was recorded of it, for example because it cannot be parsed.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

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

use crate::audit::{AuditLog, CallTag, Entry};

/// Refused calls that are recorded one by one: so many at once, and so many a second after that. Whoever floods the service
/// with calls that are none does not fill its disk.
const BURST: f64 = 200.0;
const PER_SECOND: f64 = 20.0;

/// `routes`, with every call tagged.
pub(crate) fn tagged(routes: Routes, audit: AuditLog) -> Routes {
    let desk = Arc::new(Refusals {
        audit,
        allowance: Mutex::new(Allowance::full(Instant::now())),
    });
    let router = routes.into_axum_router();
    router.layer(from_fn_with_state(desk, tag)).into()
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
    {
        refusals.record(&call, &origin, &failure).await;
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

/// Records calls that were refused before they came to anything.
struct Refusals {
    audit: AuditLog,
    allowance: Mutex<Allowance>,
}

impl Refusals {
    async fn record(&self, call: &CallTag, origin: &Origin, failure: &Failure) {
        let Some(action) = origin.action() else {
            return;
        };
        let allowed = {
            let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
            allowance.take(Instant::now())
        };
        let Some(left_out) = allowed else {
            return;
        };
        let mut entries = Vec::new();
        if left_out > 0 {
            entries.push(flood(left_out));
        }
        entries.push(entry(call, action, origin, failure));
        // The call is refused anyway; that the log cannot be written is said where it is.
        _ = self.audit.record(entries).await;
    }
}

fn entry(call: &CallTag, action: &str, origin: &Origin, failure: &Failure) -> Entry {
    let who = origin.who.as_deref().or(call.who()).unwrap_or("unknown");
    let action: String = action.chars().take(100).collect();
    Entry {
        from: origin.from,
        request: Some(call.id().to_owned()),
        ..Entry::of_service(who, &action).failed(failure)
    }
}

/// Says how many refused calls have no record of their own.
fn flood(left_out: usize) -> Entry {
    let failure = Failure::new(
        Reason::Overloaded,
        "so many calls were refused before they came to anything that they were not recorded one by one",
    );
    Entry::of_service("service kms", "refused-calls")
        .failed(&failure)
        .count(left_out)
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

/// A bucket of records that refills by itself.
struct Allowance {
    left: f64,
    at: Instant,
    left_out: usize,
}

impl Allowance {
    const fn full(now: Instant) -> Self {
        Self {
            left: BURST,
            at: now,
            left_out: 0,
        }
    }

    /// Takes one record's allowance, and says how many had none since the last that had. `None` if there is none.
    fn take(&mut self, now: Instant) -> Option<usize> {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + since * PER_SECOND).min(BURST);
        if self.left < 1.0 {
            self.left_out += 1;
            return None;
        }
        self.left -= 1.0;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_counted_and_the_count_is_told_once_it_is_over() {
        let start = Instant::now();
        let mut allowance = Allowance::full(start);
        let taken = (0..1000).filter(|_| allowance.take(start).is_some()).count();
        assert_eq!(taken, 200);
        assert_eq!(allowance.take(start + Duration::from_secs(1)), Some(800));
        assert_eq!(allowance.take(start + Duration::from_secs(1)), Some(0));
        let later = start + Duration::from_secs(3600);
        let taken = (0..1000).filter(|_| allowance.take(later).is_some()).count();
        assert_eq!(taken, 200, "it does not gather more than a burst");
    }

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
