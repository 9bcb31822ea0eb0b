//! The one stand-in: a key service without a token. It mints, re-wraps and unwraps over the same gRPC and TLS as the real
//! one, under keys that exist because somebody names them, and protects nothing.

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

/// Bytes of an EDEK of suite `gcm`; the first 32 are the DEK itself.
const WRAPPED_BYTES: usize = 68;

/// What the stand-in serves.
pub(crate) fn routes() -> Routes {
    Routes::new(MintServer::new(StandIn)).add_service(UnwrapServer::new(StandIn))
}

struct StandIn;

#[tonic::async_trait]
impl Mint for StandIn {
    async fn mint(&self, request: Request<MintRequest>) -> Result<Response<MintResponse>, Status> {
        let asked = request.into_inner();
        Ok(Response::new(MintResponse {
            key_version: 0,
            suite: "gcm".to_owned(),
            wrapped: (0..asked.count).map(|_| wrapped()).collect(),
            key_name: asked.key_name,
        }))
    }

    async fn rewrap(&self, request: Request<RewrapRequest>) -> Result<Response<RewrapResponse>, Status> {
        let again = |edek: strongroom_proto::kms::v1::WrappedDek| RewrapResult {
            result: Some(rewrap_result::Result::Wrapped(edek.wrapped)),
        };
        Ok(Response::new(RewrapResponse {
            key_version: 0,
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
        let results = request
            .into_inner()
            .edeks
            .into_iter()
            .map(|edek| unwrapped(&edek.wrapped));
        Ok(Response::new(UnwrapResponse {
            results: results.collect(),
        }))
    }

    async fn unwrap_sealed(&self, _: Request<UnwrapSealedRequest>) -> Result<Response<UnwrapSealedResponse>, Status> {
        Err(refused())
    }
}

fn wrapped() -> Bytes {
    let words = (0..WRAPPED_BYTES.div_ceil(8)).flat_map(|_| random().to_le_bytes());
    words.take(WRAPPED_BYTES).collect()
}

fn unwrapped(wrapped: &Bytes) -> UnwrapResult {
    let result = if wrapped.len() == WRAPPED_BYTES {
        unwrap_result::Result::Dek(wrapped.slice(..32))
    } else {
        unwrap_result::Result::Failure(ItemFailure {
            reason: Reason::EdekInvalid.as_str().to_owned(),
            message: "the stand-in did not mint it".to_owned(),
        })
    };
    UnwrapResult { result: Some(result) }
}

fn refused() -> Status {
    Failure::new(Reason::TokenRefused, "the stand-in does not do that").into()
}
