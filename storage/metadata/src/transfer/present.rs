//! Presenting to the key service what a user signed.

use std::time::Duration;

use strongroom_kv::Store;
use strongroom_proto::{
    Failure, KeyVersion, Reason,
    kms::v1 as kms,
    transfer::{SignedTransfer, TransferRequest},
    transport::PeerIdentity,
};
use tokio::time::timeout;

use super::Route;
use crate::{
    authority::Caller,
    core::Core,
    error::MetadataError,
    schema::records,
    zones::source::{EdekSource, Transferred},
};

/// How long the key service may take: less than a client waits for the answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A request, as read and as signed.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    request: TransferRequest,
    signed: SignedTransfer,
}

impl TryFrom<Option<kms::TransferRequest>> for Signed {
    type Error = MetadataError;

    fn try_from(wire: Option<kms::TransferRequest>) -> Result<Self, MetadataError> {
        let unsigned = || rule("the request has to be signed by the caller");
        let wire = wire.ok_or_else(unsigned)?;
        let signature = wire.signature.ok_or_else(unsigned)?;
        Ok(Self {
            request: TransferRequest::decode(&wire.request)?,
            signed: SignedTransfer {
                request: wire.request,
                signature: signature.try_into()?,
            },
        })
    }
}

impl Signed {
    /// Refuses what the caller did not sign himself, for this way, and for so many EDEKs. Whether the signature is good is the token
    /// worker's question.
    pub(super) fn check(&self, who: &Caller, route: &Route, edeks: usize) -> Result<(), MetadataError> {
        let TransferRequest { signer, from, to, .. } = &self.request;
        if *signer != PeerIdentity::User(who.name.clone()) {
            return Err(rule("it has to be signed by who makes the call"));
        }
        if (from, to) != (&route.from, &route.to) {
            return Err(rule(
                "it is signed for other keys or zones than those of the move; begin again",
            ));
        }
        if self.request.edeks.len() != edeks {
            return Err(rule("it has to name one EDEK for each file"));
        }
        Ok(())
    }

    /// Whether the EDEK at a place of the request is this one.
    pub(super) fn names(&self, position: usize, edek: &records::Edek) -> bool {
        let named = self.request.edeks.get(position);
        named.is_some_and(|(version, wrapped)| *version == KeyVersion(edek.key_version) && *wrapped == edek.wrapped)
    }

    /// What the key service makes of it.
    pub(super) async fn present<S: Store, E: EdekSource>(
        &self,
        core: &Core<S, E>,
        route: &Route,
    ) -> Result<Transferred, MetadataError> {
        let answer = match timeout(CALL_TIMEOUT, core.source.transfer(&self.signed)).await {
            Ok(answer) => answer.map_err(|failure| explained(failure, route))?,
            Err(_) => {
                let message = format!("the key service did not answer for {} s", CALL_TIMEOUT.as_secs());
                return Err(Failure::new(Reason::DeadlineExceeded, message).into());
            }
        };
        if answer.results.len() == self.request.edeks.len() {
            return Ok(answer);
        }
        let message = "the key service answered for another number of EDEKs than it was asked";
        Err(Failure::new(Reason::Internal, message).into())
    }
}

/// A refusal with all that is needed: the key service names what was missing first.
fn explained(failure: Failure, route: &Route) -> Failure {
    if failure.reason != Reason::PermissionDenied {
        return failure;
    }
    let Failure { message, .. } = failure;
    let (from, to) = (&route.from.key, &route.to.key);
    Failure::new(
        Reason::PermissionDenied,
        format!(
            "{message}; moving files between these zones takes the right to unwrap with key {from} and to mint with key {to} (operation \
             transfer), which the key service's policy gives"
        ),
    )
}

/// An EDEK that came of a move.
pub(super) fn fresh(route: &Route, answer: &Transferred, wrapped: &bytes::Bytes) -> records::Edek {
    records::Edek {
        key_name: route.to.key.as_str().to_owned(),
        key_version: answer.version.0,
        zone_id: route.to.zone.into(),
        suite: answer.suite.as_str().to_owned(),
        wrapped: wrapped.clone(),
    }
}

fn rule(rule: &str) -> MetadataError {
    MetadataError::Field {
        field: "signed",
        rule: rule.to_owned(),
    }
}
