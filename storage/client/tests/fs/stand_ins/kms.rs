use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use strongroom_proto::{
    Failure, Reason,
    kms::v1::{
        ItemFailure, UnwrapRequest, UnwrapResponse, UnwrapResult, UnwrapSealedRequest, UnwrapSealedResponse,
        unwrap_result::Result as Outcome, unwrap_server::Unwrap,
    },
};
use tonic::{Request, Response, Status};

use super::Shared;

/// "Wraps" a DEK: its bytes inverted and 8 bytes that check them.
pub(crate) fn wrap(dek: &[u8; 32]) -> Bytes {
    let mut wrapped: Vec<u8> = dek.iter().map(|byte| !byte).collect();
    wrapped.extend_from_slice(&digest(&SHA256, dek).as_ref()[..8]);
    wrapped.into()
}

pub(crate) struct Kms {
    /// Calls to refuse as if the token were gone.
    pub(crate) failing_calls: Shared<u32>,
}

#[tonic::async_trait]
impl Unwrap for Kms {
    async fn unwrap(&self, request: Request<UnwrapRequest>) -> Result<Response<UnwrapResponse>, Status> {
        let mut failing = self.failing_calls.lock();
        if *failing > 0 {
            *failing -= 1;
            return Err(Failure::new(Reason::TokenUnavailable, "the token is gone").into());
        }
        let edeks = request.into_inner().edeks;
        let results = edeks.iter().map(|edek| {
            let dek: Vec<u8> = edek.wrapped[..32].iter().map(|byte| !byte).collect();
            let good = digest(&SHA256, &dek).as_ref()[..8] == edek.wrapped[32..];
            let failure = ItemFailure {
                reason: Reason::EdekInvalid.as_str().to_owned(),
                message: "the EDEK does not open".to_owned(),
            };
            let outcome = if good {
                Outcome::Dek(dek.into())
            } else {
                Outcome::Failure(failure)
            };
            UnwrapResult { result: Some(outcome) }
        });
        Ok(Response::new(UnwrapResponse {
            results: results.collect(),
        }))
    }

    async fn unwrap_sealed(&self, _: Request<UnwrapSealedRequest>) -> Result<Response<UnwrapSealedResponse>, Status> {
        Err(Failure::new(Reason::TokenRefused, "the stand-in seals nothing").into())
    }
}
