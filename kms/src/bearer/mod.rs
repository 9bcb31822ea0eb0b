//! A second port, for callers without a certificate: TLS proves the server, and a bearer token (a JWT of an OpenID
//! Connect issuer, RFC 7519 and RFC 6750) proves the caller. The port of certificates knows nothing of tokens.

mod config;
mod keys;
mod source;
mod token;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use http::{HeaderMap, header::AUTHORIZATION};
use strongroom_proto::{Failure, Reason, transport};
use tonic::{Status, service::Routes};

pub use config::{BearerConfig, BearerError};

use self::{keys::Issuer, token::Verifier};
use crate::audit::{CallTag, Caller};

/// Bytes of the longest token; HTTP/2 refuses headers of 16 KiB by itself.
const TOKEN_BYTES_MAX: usize = 12 << 10;

/// What tells who holds a token.
pub(crate) struct Bearer {
    verifier: Verifier,
    issuer: Issuer,
}

impl Bearer {
    /// Reads the issuer's keys where they are in a file; an URL is asked as soon as [`Self::follow`] runs.
    pub(crate) fn open(config: &BearerConfig) -> Result<Self, BearerError> {
        Ok(Self {
            verifier: Verifier::new(config),
            issuer: Issuer::open(config.source()?)?,
        })
    }

    /// Keeps the issuer's keys fresh until the task is aborted.
    pub(crate) async fn follow(self: Arc<Self>) {
        self.issuer.follow().await;
    }

    /// Who sent the headers.
    async fn caller(&self, headers: &HeaderMap, address: SocketAddr) -> Result<Caller, Failure> {
        let token = token_of(headers)?;
        let header = token::header(token)?;
        let key = match self.issuer.find(&header) {
            Some(key) => key,
            None => {
                self.issuer.refresh_for_stranger().await;
                self.issuer.find(&header).ok_or_else(token::stranger)?
            }
        };
        self.verifier.caller(token, header.alg, &key, address)
    }
}

/// `routes`, for callers with a token only.
pub(crate) fn authenticated(routes: Routes, bearer: &Arc<Bearer>) -> Routes {
    let router = routes.into_axum_router();
    router
        .layer(from_fn_with_state(Arc::clone(bearer), authenticate))
        .into()
}

async fn authenticate(State(bearer): State<Arc<Bearer>>, mut request: Request, next: Next) -> Response {
    let outcome = match transport::address(request.extensions()) {
        Some(address) => bearer.caller(request.headers(), address).await,
        None => Err(Failure::new(Reason::Internal, "the connection has no address")),
    };
    match outcome {
        Ok(caller) => {
            let call = request.extensions().get::<CallTag>().cloned();
            let call = call.unwrap_or_else(CallTag::drawn);
            call.is_of(&caller);
            transport::authenticated(request.extensions());
            request.extensions_mut().insert(caller.with_call(call));
            next.run(request).await
        }
        Err(failure) => {
            tracing::info!(%failure, "a caller without a usable bearer token was refused");
            Status::from(failure).into_http()
        }
    }
}

fn token_of(headers: &HeaderMap) -> Result<&str, Failure> {
    let value = headers.get(AUTHORIZATION).ok_or_else(|| {
        refused("this port wants a bearer token in the header authorization; with a certificate, use the key service's other port")
    })?;
    let text = value
        .to_str()
        .map_err(|_| refused("the header authorization is not text"))?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(refused("the header authorization is not: Bearer TOKEN"));
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(refused("the bearer token is over 12 KiB"));
    }
    Ok(token)
}

fn refused(message: impl Into<String>) -> Failure {
    Failure::new(Reason::Unauthenticated, message)
}
