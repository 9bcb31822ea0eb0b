//! The gRPC faces. Every call goes the same way: fields are parsed into typed values, policy decides, the
//! keys do it, the audit log has it on disk, and only then it is answered. A call that uses a key runs to its end,
//! record included, also when its caller goes away or its deadline passes meanwhile: no use of a key is unrecorded.
//! What cannot be parsed is refused before anything is decided; [`calls`] records that too.

mod admin;
mod audit;
pub(crate) mod calls;
mod health;
mod mint;
pub(crate) mod places;
mod refusals;
mod sealed;
mod tokens;
mod transfer;
mod unwrap;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use strongroom_proto::{
    FILE_DESCRIPTOR_SET, Failure, KeyName, Reason,
    kms::v1::{
        audit_server::AuditServer, key_admin_server::KeyAdminServer, mint_server::MintServer,
        token_admin_server::TokenAdminServer, unwrap_server::UnwrapServer,
    },
    limits::{EDEKS_PER_CALL_MAX, MESSAGE_BYTES_MAX},
    transport,
};
use tonic::{Request, service::Routes};
use tracing::Instrument as _;

use self::places::{Place, Places};
use crate::{
    audit::{AuditLog, CallTag, Caller, Entry},
    clock::Clock,
    hsm::Hsm,
    keys::{CheckedProof, Keys, ProofChecker},
    ops::Metrics,
    policy::{Action, Context, Decision, KeyFacts, Policy, Principal},
};

/// Proofs in one call.
const PROOFS_MAX: usize = 32;

/// What every face works with.
pub(crate) struct Desk<H> {
    pub(crate) keys: Keys<H>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) audit: AuditLog,
    pub(crate) proofs: ProofChecker,
    pub(crate) clock: Clock,
    /// Where this instance listens, and its process, for people.
    pub(crate) instance: String,
    pub(crate) metrics: Arc<Metrics>,
    /// Calls under way.
    pub(crate) places: Places,
}

/// All services of the key service: its faces, health and reflection. Health follows the token until the
/// routes are gone.
pub(crate) fn routes<H: Hsm>(desk: &Arc<Desk<H>>) -> Result<Routes, tonic_reflection::server::Error> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let admin = KeyAdminServer::new(admin::AdminFace(Arc::clone(desk)));
    let audit = AuditServer::new(audit::AuditFace(Arc::clone(desk)));
    let mint = MintServer::new(mint::MintFace(Arc::clone(desk)));
    let tokens = TokenAdminServer::new(tokens::TokenFace(Arc::clone(desk)));
    let unwrap = UnwrapServer::new(unwrap::UnwrapFace(Arc::clone(desk)));
    Ok(Routes::new(health::service(desk.keys.ready()))
        .add_service(bounded!(admin))
        .add_service(bounded!(audit))
        .add_service(bounded!(mint))
        .add_service(bounded!(tokens))
        .add_service(bounded!(unwrap))
        .add_service(reflection))
}

/// A generated server with the message bounds of the contract.
macro_rules! bounded {
    ($server:expr) => {
        $server
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    };
}
use bounded;

impl<H: Hsm> Desk<H> {
    /// What the policies say of `caller` doing `action` with `key`, and the refusal if they say no.
    fn decide(
        &self,
        caller: &Caller,
        action: Action,
        key: &KeyName,
        context: &Context<'_>,
    ) -> (Decision, Result<(), Failure>) {
        self.decide_on(caller, action, &self.keys.facts(key), context)
    }

    /// As [`Self::decide`], for a key that need not exist yet.
    fn decide_on(
        &self,
        caller: &Caller,
        action: Action,
        facts: &KeyFacts,
        context: &Context<'_>,
    ) -> (Decision, Result<(), Failure>) {
        self.decide_about(&caller.principal(), action, facts, context)
    }

    /// As [`Self::decide_on`], for somebody who need not be the caller.
    fn decide_about(
        &self,
        principal: &Principal<'_>,
        action: Action,
        facts: &KeyFacts,
        context: &Context<'_>,
    ) -> (Decision, Result<(), Failure>) {
        let decision = self.policy.decide(principal, action, facts, context);
        let verdict = if decision.allowed {
            Ok(())
        } else {
            let sentence = decision.refusal(principal.identity, action, &facts.name);
            Err(Failure::new(Reason::PermissionDenied, sentence))
        };
        (decision, verdict)
    }

    /// Lets a call on one key go on, with the policies noted in `entry`, or records its refusal.
    async fn authorize(
        &self,
        caller: &Caller,
        action: Action,
        facts: &KeyFacts,
        context: &Context<'_>,
        entry: Entry,
    ) -> Result<Entry, Failure> {
        let (decision, verdict) = self.decide_on(caller, action, facts, context);
        let entry = entry.key(&facts.name).decided(&decision);
        match verdict {
            Ok(()) => Ok(entry),
            Err(failure) => {
                self.record(vec![entry.denied(&failure)]).await?;
                Err(failure)
            }
        }
    }

    /// Returns when `entries` are on disk, and counts what they say.
    pub(crate) async fn record(&self, entries: Vec<Entry>) -> Result<(), Failure> {
        self.metrics.recorded(&entries);
        let started = Instant::now();
        let written = self.audit.record(entries).await;
        self.metrics.audited(started.elapsed(), written.is_ok());
        written
    }

    /// What the metadata service proves, checked.
    fn check_proofs(&self, proofs: &[Bytes]) -> Result<Vec<CheckedProof>, Failure> {
        if proofs.len() > PROOFS_MAX {
            return Err(Failure::new(
                Reason::InvalidArgument,
                format!(
                    "a call takes {PROOFS_MAX} proofs, not {}; make several calls",
                    proofs.len()
                ),
            ));
        }
        let now_ms = self.clock.now_ms();
        proofs.iter().map(|proof| self.proofs.check(proof, now_ms)).collect()
    }

    /// Hands `outcome` on once `entry` says on disk how the call ended.
    async fn recorded<T>(&self, entry: Entry, outcome: Result<T, Failure>) -> Result<T, Failure> {
        let entry = match &outcome {
            Ok(_) => entry,
            Err(failure) => entry.failed(failure),
        };
        self.record(vec![entry]).await?;
        outcome
    }
}

/// Runs a call to its end, whether or not its caller waits for it. It keeps its place until then.
async fn to_its_end<T: Send + 'static>(
    place: Place,
    call: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    let run = async move {
        let outcome = call.await;
        drop(place);
        outcome
    };
    tokio::spawn(run.in_current_span()).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a call was cut off");
        Err(Failure::new(
            Reason::Internal,
            "the call was cut off; a create or roll may be repeated with the same request id to learn how it ended",
        ))
    })
}

/// Who sent a request: whom a bearer token named, which only the port for tokens looks at, or the certificate's holder.
fn caller<T>(request: &Request<T>) -> Result<Caller, Failure> {
    if let Some(caller) = request.extensions().get::<Caller>() {
        return Ok(caller.clone());
    }
    let (identity, address) = transport::peer(request)?;
    let call = request.extensions().get::<CallTag>().cloned();
    let call = call.unwrap_or_else(CallTag::drawn);
    Ok(Caller::certified(identity, address).with_call(call))
}

/// A number of EDEKs that one call may be about.
fn edek_count(count: usize) -> Result<usize, Failure> {
    if (1..=EDEKS_PER_CALL_MAX).contains(&count) {
        Ok(count)
    } else {
        Err(Failure::new(
            Reason::InvalidArgument,
            format!("a call is about 1 to {EDEKS_PER_CALL_MAX} EDEKs, not {count}"),
        ))
    }
}
