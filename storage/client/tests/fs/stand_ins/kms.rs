use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use strongroom_proto::{
    EdekSuite, Failure, Reason,
    kms::v1::{
        Edek, ItemFailure, UnwrapRequest, UnwrapResponse, UnwrapResult, UnwrapSealedRequest, UnwrapSealedResponse,
        unwrap_result::Result as Outcome, unwrap_server::Unwrap,
    },
};
use tonic::{Request, Response, Status};

use super::Shared;

/// "Wraps" a DEK: its bytes inverted and 8 bytes that check them.
pub(crate) fn wrap(dek: &[u8]) -> Bytes {
    let mut wrapped: Vec<u8> = dek.iter().map(|byte| !byte).collect();
    wrapped.extend_from_slice(&digest(&SHA256, dek).as_ref()[..8]);
    wrapped.into()
}

/// "Wraps" a DEK in the shape of Hadoop's EDEKs: an IV that follows from it, and its bytes inverted.
pub(crate) fn wrap_hadoop(dek: &[u8]) -> Bytes {
    let mut wrapped = digest(&SHA256, dek).as_ref()[..16].to_vec();
    wrapped.extend(dek.iter().map(|byte| !byte));
    wrapped.into()
}

fn open(edek: &Edek) -> Option<Vec<u8>> {
    let inverted = |bytes: &[u8]| bytes.iter().map(|byte| !byte).collect::<Vec<_>>();
    if edek.suite == EdekSuite::Hadoop.as_str() {
        return Some(inverted(&edek.wrapped[16..]));
    }
    let dek = inverted(&edek.wrapped[..32]);
    (digest(&SHA256, &dek).as_ref()[..8] == edek.wrapped[32..]).then_some(dek)
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
            let failure = ItemFailure {
                reason: Reason::EdekInvalid.as_str().to_owned(),
                message: "the EDEK does not open".to_owned(),
            };
            let outcome = open(edek).map_or(Outcome::Failure(failure), |dek| Outcome::Dek(dek.into()));
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
