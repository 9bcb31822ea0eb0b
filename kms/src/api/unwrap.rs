//! `Unwrap`: DEKs for those who were granted them. One call may be about several keys and zones; policy is asked
//! once for each key and zone, and what it refuses fails alone. A call about one key that is refused is refused as a whole.

use std::{collections::BTreeMap, sync::Arc};

use strongroom_proto::{
    Edek, Failure, KeyName, KeyVersion, Reason, ZoneId,
    kms::v1::{
        ItemFailure, UnwrapRequest, UnwrapResponse, UnwrapResult, UnwrapSealedRequest, UnwrapSealedResponse,
        unwrap_result, unwrap_server::Unwrap,
    },
};
use tonic::{Request, Response, Status, async_trait};

use super::{Desk, caller, edek_count, sealed::Asked, to_its_end};
use crate::{
    audit::{Caller, Entry},
    batch::{merge, split},
    hsm::Hsm,
    policy::{Action, Context, Decision},
    token::WireDek,
};

pub(super) struct UnwrapFace<H>(pub(super) Arc<Desk<H>>);

#[async_trait]
impl<H: Hsm> Unwrap for UnwrapFace<H> {
    async fn unwrap(&self, request: Request<UnwrapRequest>) -> Result<Response<UnwrapResponse>, Status> {
        let caller = caller(&request)?;
        let wire = request.into_inner().edeks;
        edek_count(wire.len())?;
        let parsed: Vec<Result<Edek, Failure>> = wire.into_iter().map(|edek| Ok(Edek::try_from(edek)?)).collect();
        let desk = Arc::clone(&self.0);
        let results = to_its_end(self.0.places.take(&caller.identity)?, async move {
            desk.open(&caller, parsed).await
        })
        .await?;
        Ok(Response::new(UnwrapResponse {
            results: results.into_iter().map(to_wire).collect(),
        }))
    }

    async fn unwrap_sealed(
        &self,
        request: Request<UnwrapSealedRequest>,
    ) -> Result<Response<UnwrapSealedResponse>, Status> {
        let caller = caller(&request)?;
        let asked = Asked::parse(&caller, request.into_inner())?;
        let desk = Arc::clone(&self.0);
        let delivered = to_its_end(self.0.places.take(&caller.identity)?, async move {
            desk.deliver(&caller, asked).await
        })
        .await?;
        Ok(Response::new(delivered.into()))
    }
}

/// What policy said of each key and zone in a call.
pub(super) type Verdicts = BTreeMap<(KeyName, ZoneId), (Decision, Result<(), Failure>)>;

impl<H: Hsm> Desk<H> {
    /// One result for each item; those that could not be parsed keep their places.
    async fn open(
        &self,
        caller: &Caller,
        parsed: Vec<Result<Edek, Failure>>,
    ) -> Result<Vec<Result<WireDek, Failure>>, Failure> {
        self.keys.try_lease().await;
        let verdicts = self.verdicts(caller, &parsed);
        let about: Vec<Option<About>> = parsed.iter().map(|item| item.as_ref().ok().map(About::of)).collect();
        let checks: Vec<Result<(), Failure>> = parsed
            .iter()
            .map(|item| {
                item.as_ref()
                    .map_err(Clone::clone)
                    .and_then(|edek| check(edek, &verdicts))
            })
            .collect();
        let refused = all_refused(&checks, &verdicts);
        let (allowed, places) = split(parsed, checks);
        let outcome = match refused {
            Some(failure) => Err(failure),
            None => self
                .open_allowed(allowed)
                .await
                .and_then(|opened| merge(opened, places.clone())),
        };
        let entries = entries(caller, &about, &verdicts, &places, &outcome);
        self.record(entries).await?;
        outcome
    }

    fn verdicts(&self, caller: &Caller, parsed: &[Result<Edek, Failure>]) -> Verdicts {
        let mut verdicts = Verdicts::new();
        for edek in parsed.iter().flatten() {
            verdicts.entry(place(edek)).or_insert_with(|| {
                let context = Context::of("unwrap").zone(edek.zone);
                let (decision, verdict) = self.decide(caller, Action::Unwrap, &edek.key, &context);
                let verdict = self.unless_sealed(caller, edek, &decision, verdict);
                (decision, verdict)
            });
        }
        verdicts
    }

    /// Whether it takes sealed delivery: the key demands it, or the policies refuse everything else.
    fn unless_sealed(
        &self,
        caller: &Caller,
        edek: &Edek,
        decision: &Decision,
        verdict: Result<(), Failure>,
    ) -> Result<(), Failure> {
        let demanded = if decision.allowed {
            self.keys.facts(&edek.key).sealed_required
        } else {
            let sealed = Context::of("unwrap").zone(edek.zone).sealed(true);
            self.decide(caller, Action::Unwrap, &edek.key, &sealed).1.is_ok()
        };
        if demanded {
            Err(sealed_required(&edek.key))
        } else {
            verdict
        }
    }

    async fn open_allowed(
        &self,
        allowed: Vec<Result<Edek, Failure>>,
    ) -> Result<Vec<Result<WireDek, Failure>>, Failure> {
        let edeks: Vec<Edek> = allowed.into_iter().flatten().collect();
        if edeks.is_empty() {
            return Ok(Vec::new());
        }
        self.keys.unwrap(edeks).await
    }
}

fn sealed_required(key: &KeyName) -> Failure {
    Failure::new(
        Reason::SealedRequired,
        format!(
            "DEKs of key {key} are handed out by sealed delivery only, which is asked for with a signature of the caller's \
             certificate"
        ),
    )
}

pub(super) fn place(edek: &Edek) -> (KeyName, ZoneId) {
    (edek.key.clone(), edek.zone)
}

pub(super) fn check(edek: &Edek, verdicts: &Verdicts) -> Result<(), Failure> {
    verdicts[&place(edek)].1.clone()
}

/// The refusal of the whole call, if it is about one key and policy refuses that.
pub(super) fn all_refused(checks: &[Result<(), Failure>], verdicts: &Verdicts) -> Option<Failure> {
    let denied = |check: &Result<(), Failure>| matches!(check, Err(f) if f.reason == Reason::PermissionDenied);
    let mut keys = verdicts.keys().map(|(key, _)| key);
    let first = keys.next();
    if first.is_some() && keys.all(|key| Some(key) == first) && checks.iter().all(denied) {
        checks.first().and_then(|check| check.as_ref().err().cloned())
    } else {
        None
    }
}

/// What the audit log says of an item: everything but the wrapped bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct About {
    key: KeyName,
    version: KeyVersion,
    zone: ZoneId,
}

impl About {
    pub(super) fn of(edek: &Edek) -> Self {
        Self {
            key: edek.key.clone(),
            version: edek.version,
            zone: edek.zone,
        }
    }
}

/// Items that one record speaks of: of the same key version and zone, with the same reason if they failed.
type Group<'a> = (&'a Option<About>, Option<&'static str>);

/// One record for each group of items.
fn entries(
    caller: &Caller,
    about: &[Option<About>],
    verdicts: &Verdicts,
    places: &[Option<Failure>],
    outcome: &Result<Vec<Result<WireDek, Failure>>, Failure>,
) -> Vec<Entry> {
    let mut groups: BTreeMap<Group<'_>, (Option<&Failure>, usize)> = BTreeMap::new();
    for (at, about) in about.iter().enumerate() {
        // An item that policy refused says so itself, also when the whole call failed for another reason.
        let failure = places[at].as_ref().or(match outcome {
            Ok(results) => results[at].as_ref().err(),
            Err(failure) => Some(failure),
        });
        let word = failure.map(|failure| failure.reason.as_str());
        groups.entry((about, word)).or_insert((failure, 0)).1 += 1;
    }
    let entry = |((about, _), (failure, count))| entry(caller, about, verdicts, failure, count);
    groups.into_iter().map(entry).collect()
}

pub(super) fn entry(
    caller: &Caller,
    about: &Option<About>,
    verdicts: &Verdicts,
    failure: Option<&Failure>,
    count: usize,
) -> Entry {
    let mut entry = Entry::new(caller, "unwrap").count(count);
    if let Some(about) = about {
        entry = entry
            .key(&about.key)
            .version(Some(about.version))
            .edeks(&about.zone, count);
        entry = entry.decided(&verdicts[&(about.key.clone(), about.zone)].0);
    }
    match failure {
        None => entry,
        Some(failure) if failure.reason == Reason::PermissionDenied => entry.denied(failure),
        Some(failure) => entry.failed(failure),
    }
}

fn to_wire(result: Result<WireDek, Failure>) -> UnwrapResult {
    let result = match result {
        Ok(dek) => unwrap_result::Result::Dek(dek.into_wire()),
        Err(failure) => unwrap_result::Result::Failure(ItemFailure {
            reason: failure.reason.as_str().to_owned(),
            message: failure.message,
        }),
    };
    UnwrapResult { result: Some(result) }
}
