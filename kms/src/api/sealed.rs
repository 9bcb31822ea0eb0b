//! `UnwrapSealed`: a user's signed request is carried to the token worker, and its signed answer back, both as they are.
//! Policy is asked as for an ordinary unwrap, and what it refuses is left out. Who signed, when and whether before is the
//! token worker's own question; here it is only seen to that the caller is who signed.

use std::collections::BTreeMap;

use strongroom_proto::{
    Edek, Failure, Reason,
    kms::v1::{ItemFailure, SealedRefusal, UnwrapSealedRequest, UnwrapSealedResponse},
    sealed::{HeldIn, SealedAnswer, SealedRequest},
};

use super::{
    Desk,
    unwrap::{About, Verdicts, all_refused, check, entry, place},
};
use crate::{
    audit::{Caller, Entry},
    batch::{Places, merge},
    hsm::Hsm,
    policy::{Action, Context},
    token::{SealedCall, SealedReply, Verified},
};

/// A request, as read and as signed.
pub(super) struct Asked {
    request: SealedRequest,
    call: SealedCall,
}

/// The worker's answer, unless everything was left out, and what was left out.
pub(super) struct Delivered {
    reply: Option<Verified<SealedReply>>,
    refusals: Places,
}

/// Where each DEK was sealed, or why there is none.
type Results = Vec<Result<HeldIn, Failure>>;

impl Asked {
    /// Reads a call by `caller`.
    pub(super) fn parse(caller: &Caller, wire: UnwrapSealedRequest) -> Result<Self, Failure> {
        let request = SealedRequest::decode(&wire.request)?;
        if request.signer != caller.identity {
            let (who, signer) = (caller.identity.short(), request.signer.short());
            return Err(Failure::new(
                Reason::PermissionDenied,
                format!("{who} sends a sealed request of {signer}; everybody sends his own"),
            ));
        }
        let signature = wire
            .signature
            .ok_or_else(|| Failure::new(Reason::InvalidArgument, "the sealed request is not signed"))?;
        let call = SealedCall {
            request: wire.request,
            signature: signature.try_into()?,
            left_out: Default::default(),
        };
        Ok(Self { request, call })
    }
}

impl<H: Hsm> Desk<H> {
    /// Carries a request to the token worker, less what is refused, and records what came of it.
    pub(super) async fn deliver(&self, caller: &Caller, asked: Asked) -> Result<Delivered, Failure> {
        let edeks = &asked.request.edeks;
        self.keys.try_lease().await;
        let verdicts = self.sealed_verdicts(caller, edeks);
        let checks: Vec<_> = edeks.iter().map(|edek| check(edek, &verdicts)).collect();
        let outcome = match all_refused(&checks, &verdicts) {
            Some(failure) => Err(failure),
            None => self.carry(edeks, asked.call, &checks).await,
        };
        let results = outcome.as_ref().map(|(_, results)| results);
        let by = outcome.as_ref().ok().and_then(|(delivered, _)| delivered.verified_by());
        let entries = entries(caller, edeks, &verdicts, &checks, results);
        let entries = entries.into_iter().map(|entry| entry.verified_by(by)).collect();
        self.record(entries).await?;
        outcome.map(|(delivered, _)| delivered)
    }

    fn sealed_verdicts(&self, caller: &Caller, edeks: &[Edek]) -> Verdicts {
        let mut verdicts = Verdicts::new();
        for edek in edeks {
            verdicts.entry(place(edek)).or_insert_with(|| {
                let context = Context::of("unwrap").zone(edek.zone).sealed(true);
                self.decide(caller, Action::Unwrap, &edek.key, &context)
            });
        }
        verdicts
    }

    async fn carry(
        &self,
        edeks: &[Edek],
        call: SealedCall,
        checks: &[Result<(), Failure>],
    ) -> Result<(Delivered, Results), Failure> {
        let (reply, refusals) = self.keys.unwrap_sealed(edeks, call, checks).await?;
        let done = match &reply {
            Some(reply) => answered(&reply.done, &refusals)?,
            None => Vec::new(),
        };
        let results = merge(done, refusals.clone())?;
        Ok((Delivered { reply, refusals }, results))
    }
}

impl Delivered {
    /// The token whose worker verified the request; none if it was not asked.
    fn verified_by(&self) -> Option<&str> {
        self.reply.as_ref().map(|reply| reply.by.as_str())
    }
}

/// What the answer says of the EDEKs that were not left out.
fn answered(reply: &SealedReply, refusals: &Places) -> Result<Results, Failure> {
    let answer = SealedAnswer::decode(&reply.answer)?;
    let asked = |(_, refusal): &(_, &Option<Failure>)| refusal.is_none();
    let results = answer.results.into_iter().zip(refusals).filter(asked);
    Ok(results.map(|(result, _)| result.map(|dek| dek.sealed_in)).collect())
}

/// One record for each key version, zone, place of sealing and reason.
fn entries(
    caller: &Caller,
    edeks: &[Edek],
    verdicts: &Verdicts,
    checks: &[Result<(), Failure>],
    outcome: Result<&Results, &Failure>,
) -> Vec<Entry> {
    let mut groups: BTreeMap<_, (Option<HeldIn>, Option<&Failure>, usize)> = BTreeMap::new();
    for (at, edek) in edeks.iter().enumerate() {
        let result = match (&checks[at], outcome) {
            (Err(failure), _) | (_, Err(failure)) => Err(failure),
            (Ok(()), Ok(results)) => results[at].as_ref(),
        };
        let (sealed_in, failure) = (result.ok().copied(), result.err());
        let words = (
            sealed_in.map(HeldIn::as_str),
            failure.map(|failure| failure.reason.as_str()),
        );
        let group = groups
            .entry((About::of(edek), words))
            .or_insert((sealed_in, failure, 0));
        group.2 += 1;
    }
    groups
        .into_iter()
        .map(|((about, _), (sealed_in, failure, count))| {
            entry(caller, &Some(about), verdicts, failure, count).sealed(sealed_in)
        })
        .collect()
}

impl From<Delivered> for UnwrapSealedResponse {
    fn from(delivered: Delivered) -> Self {
        let (answer, signature) = match delivered.reply {
            Some(Verified { done, .. }) => (done.answer, Some(done.signature.into())),
            None => Default::default(),
        };
        let places = delivered.refusals.into_iter().zip(0..);
        Self {
            answer,
            signature,
            refusals: places
                .filter_map(|(refusal, index)| Some(to_wire(index, refusal?)))
                .collect(),
        }
    }
}

fn to_wire(index: u32, failure: Failure) -> SealedRefusal {
    let failure = ItemFailure {
        reason: failure.reason.as_str().to_owned(),
        message: failure.message,
    };
    SealedRefusal {
        index,
        failure: Some(failure),
    }
}
