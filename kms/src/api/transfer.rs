//! `Transfer`: EDEKs are moved at a user's signed request, which he or a service presents. Policy is asked about the user,
//! who must be permitted to unwrap with the one key and to mint with the other, and about a service that presents it, which
//! must be permitted to re-wrap with both. Who signed, when and whether before is the token worker's own question.

use std::{collections::BTreeMap, sync::Arc};

use strongroom_proto::{
    EdekSuite, Failure, KeyVersion, Reason,
    kms::v1 as pb,
    sealed::HeldIn,
    transfer::{Place, SignedTransfer, TransferRequest},
};

use super::{Desk, mint::to_wire};
use crate::{
    audit::{Caller, Entry},
    hsm::Hsm,
    keys::Transferred,
    policy::{Action, Context, Decision, Principal},
};

/// A request, as read and as signed.
pub(super) struct Asked {
    request: TransferRequest,
    signed: SignedTransfer,
}

impl TryFrom<pb::TransferRequest> for Asked {
    type Error = Failure;

    fn try_from(wire: pb::TransferRequest) -> Result<Self, Failure> {
        let signature = wire
            .signature
            .ok_or_else(|| Failure::new(Reason::InvalidArgument, "the transfer request is not signed"))?;
        Ok(Self {
            request: TransferRequest::decode(&wire.request)?,
            signed: SignedTransfer {
                request: wire.request,
                signature: signature.try_into()?,
            },
        })
    }
}

/// What policy said of one of the two keys.
struct Right {
    decision: Decision,
    verdict: Result<(), Failure>,
}

impl Right {
    /// With what policy said of another principal. A refusal speaks for itself.
    fn and(self, other: Self) -> Self {
        if self.verdict.is_err() {
            return self;
        }
        if other.verdict.is_err() {
            return other;
        }
        let policies = self.decision.policies.iter().chain(other.decision.policies.iter());
        let mut policies: Vec<_> = policies.cloned().collect();
        policies.sort();
        policies.dedup();
        Self {
            decision: Decision {
                policies: Arc::from(policies),
                ..self.decision
            },
            verdict: Ok(()),
        }
    }
}

impl<H: Hsm> Desk<H> {
    /// Has a request carried out, and records both sides of it.
    pub(super) async fn transfer(&self, caller: &Caller, asked: Asked) -> Result<Transferred, Failure> {
        let Asked { request, signed } = asked;
        let lease = self.keys.wait_lease().await;
        let out = self.right(caller, &request, &request.from, Action::Unwrap);
        let into = self.right(caller, &request, &request.to, Action::Mint);
        let into = if self.tells_key_stream(&request) {
            into.and(self.right(caller, &request, &request.to, Action::Unwrap))
        } else {
            into
        };
        let outcome = match (&out.verdict, &into.verdict, lease) {
            (Err(failure), _, _) | (_, Err(failure), _) => Err(failure.clone()),
            (_, _, Err(failure)) => Err(failure),
            (Ok(()), Ok(()), Ok(())) => self.keys.transfer(&request, signed).await,
        };
        self.record(entries(caller, &request, [&out.decision, &into.decision], &outcome))
            .await?;
        outcome
    }

    /// Whether what comes of a transfer tells who knows its DEK how any EDEK of that IV opens under the key that it goes to:
    /// suite `hadoop` keeps the IV, which is the file's too, and takes any bytes for an EDEK. Only who may open them may see it.
    fn tells_key_stream(&self, request: &TransferRequest) -> bool {
        let hadoop = |place: &Place| self.keys.facts(&place.key).suite == Some(EdekSuite::Hadoop);
        hadoop(&request.from) && hadoop(&request.to)
    }

    /// Whether the signer may do `action` with the key of `place`, and who presents it may re-wrap there.
    fn right(&self, caller: &Caller, request: &TransferRequest, place: &Place, action: Action) -> Right {
        // A DEK that is moved is given to nobody.
        let context = Context::of("transfer").zone(place.zone).sealed(true);
        let facts = self.keys.facts(&place.key);
        let ask = |principal: &Principal<'_>, action| {
            let (decision, verdict) = self.decide_about(principal, action, &facts, &context);
            Right { decision, verdict }
        };
        if caller.identity == request.signer {
            return ask(&caller.principal(), action);
        }
        // Who may not present is told nothing of whom he names.
        ask(&caller.principal(), Action::Rewrap).and(ask(&Principal::certified(&request.signer), action))
    }
}

/// Records of both sides: what was taken from one place, by version and reason, and what came to the other.
fn entries(
    caller: &Caller,
    request: &TransferRequest,
    [out, into]: [&Decision; 2],
    outcome: &Result<Transferred, Failure>,
) -> Vec<Entry> {
    let verified_by = outcome.as_ref().ok().and_then(|done| done.verified_by.as_deref());
    let side = |action, place: &Place, decision, count| {
        Entry::new(caller, action)
            .key(&place.key)
            .edeks(&place.zone, count)
            .decided(decision)
            .signed_by(&request.signer)
            .verified_by(verified_by)
    };
    let taken = groups(request, outcome)
        .into_iter()
        .map(|((version, _), (failure, count))| {
            let entry = side("transfer-out", &request.from, out, count).version(Some(version));
            ended(entry, failure)
        });
    let mut entries: Vec<_> = taken.collect();
    let put = |count| side("transfer-in", &request.to, into, count);
    match outcome {
        Err(failure) => entries.push(ended(put(request.edeks.len()), Some(failure))),
        Ok(done) => {
            let count = done.results.iter().filter(|result| result.is_ok()).count();
            if count > 0 {
                entries.push(put(count).version(Some(done.version)).moved(done.held_in));
            }
        }
    }
    entries
}

/// EDEKs that one record speaks of: of the same version, with the same reason if they failed.
type Group<'a> = (KeyVersion, Option<&'a str>);

fn groups<'a>(
    request: &TransferRequest,
    outcome: &'a Result<Transferred, Failure>,
) -> BTreeMap<Group<'a>, (Option<&'a Failure>, usize)> {
    let mut groups = BTreeMap::new();
    for (at, (version, _)) in request.edeks.iter().enumerate() {
        let failure = match outcome {
            Ok(done) => done.results[at].as_ref().err(),
            Err(failure) => Some(failure),
        };
        let word = failure.map(|failure| failure.reason.as_str());
        groups.entry((*version, word)).or_insert((failure, 0)).1 += 1;
    }
    groups
}

fn ended(entry: Entry, failure: Option<&Failure>) -> Entry {
    match failure {
        None => entry,
        Some(failure) if failure.reason == Reason::PermissionDenied => entry.denied(failure),
        Some(failure) => entry.failed(failure),
    }
}

impl From<Transferred> for pb::TransferResponse {
    fn from(done: Transferred) -> Self {
        Self {
            key_version: done.version.0,
            suite: done.suite.as_str().to_owned(),
            results: done.results.into_iter().map(to_wire).collect(),
            held_in: done.held_in.map_or("", HeldIn::as_str).to_owned(),
        }
    }
}
