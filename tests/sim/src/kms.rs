//! The one stand-in: a key service without a token. It mints, re-wraps and unwraps over the same gRPC and TLS as the real
//! one, under a key that exists because somebody names it, and protects nothing. An EDEK says under which version it was wrapped,
//! so that one whose record says another does not open.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use strongroom_proto::{
    Failure, Reason,
    kms::v1::{
        ItemFailure, MintRequest, MintResponse, RewrapRequest, RewrapResponse, RewrapResult, TransferRequest,
        TransferResponse, UnwrapRequest, UnwrapResponse, UnwrapResult, UnwrapSealedRequest, UnwrapSealedResponse,
        mint_server::{Mint, MintServer},
        rewrap_result, unwrap_result,
        unwrap_server::{Unwrap, UnwrapServer},
    },
};
use tonic::{Request, Response, Status, service::Routes};

use crate::machine::random;

/// Bytes of an EDEK of suite `gcm`: the first 32 are the DEK itself, the last 4 the version that wraps it.
const WRAPPED_BYTES: usize = 68;
const VERSION_AT: usize = WRAPPED_BYTES - 4;

/// The key's newest version. Clones are handles of the same key, which outlives the process that serves it.
#[derive(Clone, Default)]
pub(crate) struct Key(Arc<AtomicU32>);

impl Key {
    pub(crate) fn roll(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn version(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// An EDEK of the DEK in `of` under the newest version.
    fn wrap(&self, of: &[u8]) -> Bytes {
        [&of[..VERSION_AT], &self.version().to_be_bytes()].concat().into()
    }
}

/// What the stand-in serves.
pub(crate) fn routes(key: &Key) -> Routes {
    Routes::new(MintServer::new(StandIn(key.clone()))).add_service(UnwrapServer::new(StandIn(key.clone())))
}

struct StandIn(Key);

#[tonic::async_trait]
impl Mint for StandIn {
    async fn mint(&self, request: Request<MintRequest>) -> Result<Response<MintResponse>, Status> {
        let asked = request.into_inner();
        Ok(Response::new(MintResponse {
            key_version: self.0.version(),
            suite: "gcm".to_owned(),
            wrapped: (0..asked.count).map(|_| self.0.wrap(&fresh())).collect(),
            key_name: asked.key_name,
        }))
    }

    async fn rewrap(&self, request: Request<RewrapRequest>) -> Result<Response<RewrapResponse>, Status> {
        let again = |edek: strongroom_proto::kms::v1::WrappedDek| {
            let result = if is_wrapped(&edek.wrapped, edek.key_version) {
                rewrap_result::Result::Wrapped(self.0.wrap(&edek.wrapped))
            } else {
                rewrap_result::Result::Failure(invalid())
            };
            RewrapResult { result: Some(result) }
        };
        Ok(Response::new(RewrapResponse {
            key_version: self.0.version(),
            results: request.into_inner().edeks.into_iter().map(again).collect(),
        }))
    }

    async fn transfer(&self, _: Request<TransferRequest>) -> Result<Response<TransferResponse>, Status> {
        Err(refused())
    }
}

#[tonic::async_trait]
impl Unwrap for StandIn {
    async fn unwrap(&self, request: Request<UnwrapRequest>) -> Result<Response<UnwrapResponse>, Status> {
        let edeks = request.into_inner().edeks.into_iter();
        let results = edeks.map(|edek| unwrapped(&edek.wrapped, edek.key_version));
        Ok(Response::new(UnwrapResponse {
            results: results.collect(),
        }))
    }

    async fn unwrap_sealed(&self, _: Request<UnwrapSealedRequest>) -> Result<Response<UnwrapSealedResponse>, Status> {
        Err(refused())
    }
}

fn fresh() -> Vec<u8> {
    let words = (0..WRAPPED_BYTES.div_ceil(8)).flat_map(|_| random().to_le_bytes());
    words.take(WRAPPED_BYTES).collect()
}

fn is_wrapped(wrapped: &[u8], version: u32) -> bool {
    wrapped.len() == WRAPPED_BYTES && wrapped[VERSION_AT..] == version.to_be_bytes()
}

fn unwrapped(wrapped: &Bytes, version: u32) -> UnwrapResult {
    let result = if is_wrapped(wrapped, version) {
        unwrap_result::Result::Dek(wrapped.slice(..32))
    } else {
        unwrap_result::Result::Failure(invalid())
    };
    UnwrapResult { result: Some(result) }
}

fn invalid() -> ItemFailure {
    ItemFailure {
        reason: Reason::EdekInvalid.as_str().to_owned(),
        message: "it was not wrapped like that".to_owned(),
    }
}

fn refused() -> Status {
    Failure::new(Reason::TokenRefused, "the stand-in does not do that").into()
}
