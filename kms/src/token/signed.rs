//! What a token does at a user's signed request, which its worker verifies: sealed delivery and transfer. Neither is repeated
//! by itself when the worker is lost: the next one takes only what is signed after its start.

use std::{collections::BTreeSet, future::Future};

use bytes::Bytes;
use strongroom_proto::{Failure, KeyVersion, sealed::HeldIn, transfer::SignedTransfer};
use tonic::{Response, Status, transport::Channel};

use super::{
    SealedCall, SealedReply, Token,
    handle::Attempt,
    pb::{self, token_worker_client::TokenWorkerClient},
    sealed::signature,
    wire::{item_from_wire, item_to_wire, malformed},
};

/// A user's signed request to move EDEKs, on its way to the token worker.
#[derive(Debug, Clone)]
pub struct TransferCall {
    /// What the user signed.
    pub signed: SignedTransfer,
    /// The version of the other key to wrap under.
    pub to: KeyVersion,
    /// Places of EDEKs that the key service refuses; the signed request itself cannot be cut.
    pub left_out: BTreeSet<usize>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct TransferReply {
    /// One for each EDEK asked for, in order.
    pub results: Vec<Result<Bytes, Failure>>,
    /// Where the DEKs were on the way; nothing if none was moved.
    pub held_in: Option<HeldIn>,
}

impl Token {
    /// The DEKs of a request that its user signed, sealed to him.
    ///
    /// # Errors
    /// `permission-denied` and `signed-too-early` of the request; otherwise as [`Token::unwrap`].
    pub async fn unwrap_sealed(&self, call: SealedCall) -> Result<SealedReply, Failure> {
        let request = pb::UnwrapSealedRequest::from(call);
        let reply = self.once(|mut client| async move { client.unwrap_sealed(request).await });
        reply.await?.try_into()
    }

    /// EDEKs moved to another key or zone, at their user's signed request.
    ///
    /// # Errors
    /// `permission-denied` and `signed-too-early` of the request; otherwise as [`Token::rewrap`].
    pub async fn transfer(&self, call: TransferCall) -> Result<TransferReply, Failure> {
        let request = pb::TransferRequest::from(call);
        let reply = self.once(|mut client| async move { client.transfer(request).await });
        reply.await?.try_into()
    }

    async fn once<T, F>(&self, call: impl FnOnce(TokenWorkerClient<Channel>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let seat = self.seat(None);
        let link = self.link(seat).await?;
        match self.attempt(seat, &link, Box::pin(call(link.client()))).await {
            Attempt::Answered(outcome) => outcome,
            Attempt::Broken(failure) => Err(failure),
        }
    }
}

impl From<TransferCall> for pb::TransferRequest {
    fn from(call: TransferCall) -> Self {
        Self {
            request: call.signed.request,
            signature: Some(call.signed.signature.into()),
            to_version: call.to.0,
            left_out: call
                .left_out
                .into_iter()
                .filter_map(|at| u32::try_from(at).ok())
                .collect(),
        }
    }
}

impl TryFrom<pb::TransferRequest> for TransferCall {
    type Error = Failure;

    fn try_from(wire: pb::TransferRequest) -> Result<Self, Failure> {
        Ok(Self {
            signed: SignedTransfer {
                request: wire.request,
                signature: signature(wire.signature)?,
            },
            to: KeyVersion(wire.to_version),
            left_out: wire.left_out.into_iter().map(|at| at as usize).collect(),
        })
    }
}

impl From<TransferReply> for pb::TransferResponse {
    fn from(reply: TransferReply) -> Self {
        let wire = |result: Result<Bytes, Failure>| item_to_wire(result.map(|bytes| bytes.to_vec().into()));
        Self {
            results: reply.results.into_iter().map(wire).collect(),
            held_in: reply.held_in.map_or("", HeldIn::as_str).to_owned(),
        }
    }
}

impl TryFrom<pb::TransferResponse> for TransferReply {
    type Error = Failure;

    fn try_from(wire: pb::TransferResponse) -> Result<Self, Failure> {
        let edek = |item| item_from_wire(item).map(|mut value| Bytes::from(std::mem::take(&mut *value)));
        Ok(Self {
            results: wire.results.into_iter().map(edek).collect(),
            held_in: match wire.held_in.as_str() {
                "" => None,
                word => Some(word.parse().map_err(|_| malformed("a place of DEKs"))?),
            },
        })
    }
}
