//! Moving EDEKs to another key or zone, at a user's signed request.

use std::time::SystemTime;

use bytes::Bytes;
use strongroom_proto::{
    EdekSuite, Failure, KeyVersion,
    kms::v1 as pb,
    sealed::HeldIn,
    transfer::{Place, SignedTransfer, TransferRequest},
    transport::{Repeat, TlsIdentity, identified, retry_for},
};
use tonic::Status;

use crate::{MintClient, PATIENCE, rewrapped, same_count};

/// The outcome of moving a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transferred {
    /// The version of the other key that every success is wrapped under.
    pub version: KeyVersion,
    /// That key's suite.
    pub suite: EdekSuite,
    /// One for each EDEK asked for, in order.
    pub results: Vec<Result<Bytes, Failure>>,
    /// Where the DEKs were on the way: `Token` if none left it. Nothing if none was moved.
    pub held_in: Option<HeldIn>,
}

impl MintClient {
    /// Presents what a user signed. Not repeated once it was sent, as each request is carried out once: on
    /// [`strongroom_proto::Reason::SignedTooEarly`] and other failures that pass, the user signs anew.
    ///
    /// # Errors
    /// What the key service says of the whole call, or why it cannot be reached. A single EDEK's failure is in its
    /// result.
    pub async fn present(&self, signed: &SignedTransfer) -> Result<Transferred, Failure> {
        let asked = TransferRequest::decode(&signed.request)?.edeks.len();
        let answer = retry_for(PATIENCE, Repeat::Unsent, || {
            let (mut grpc, request) = (self.grpc.clone(), to_wire(signed.clone()));
            async move { grpc.transfer(identified(request)).await }
        })
        .await?;
        transferred(answer, asked)
    }

    /// Moves 1 to 200 EDEKs in the name of the caller, who signs with the key of his certificate `tls`, anew for each
    /// attempt.
    ///
    /// # Errors
    /// As [`Self::present`].
    pub async fn transfer(
        &self,
        tls: &TlsIdentity,
        from: &Place,
        to: &Place,
        edeks: &[(KeyVersion, Bytes)],
    ) -> Result<Transferred, Failure> {
        let answer = retry_for(PATIENCE, Repeat::Harmless, || {
            let (mut grpc, signer) = (self.grpc.clone(), tls.identity().clone());
            let request = TransferRequest::new(signer, from.clone(), to.clone(), edeks.to_vec(), SystemTime::now());
            let signed = request.sign(tls);
            async move { grpc.transfer(identified(to_wire(signed.map_err(Status::from)?))).await }
        })
        .await?;
        transferred(answer, edeks.len())
    }
}

fn to_wire(signed: SignedTransfer) -> pb::TransferRequest {
    pb::TransferRequest {
        request: signed.request,
        signature: Some(signed.signature.into()),
    }
}

fn transferred(answer: pb::TransferResponse, asked: usize) -> Result<Transferred, Failure> {
    same_count(answer.results.len(), asked)?;
    Ok(Transferred {
        version: KeyVersion(answer.key_version),
        suite: answer.suite.parse()?,
        results: answer.results.into_iter().map(rewrapped).collect(),
        held_in: match answer.held_in.as_str() {
            "" => None,
            word => Some(word.parse()?),
        },
    })
}
