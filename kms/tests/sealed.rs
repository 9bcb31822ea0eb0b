//! Sealed delivery through the whole service over a real token: what policy demands, what is left out of an answer, and
//! what the audit log says of it.

#[path = "token/fixture.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod fixture;
#[path = "support/sealed_user.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of what they share"
)]
mod sealed_user;
mod support;
#[path = "token/vendor.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod vendor;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fixture::{Fixture, LABEL};
use sealed_user::{SealedUser, Signed};
use strongroom_kms::{
    audit::{Entry, Outcome},
    token::{SealedConfig, Token, TokenConfig},
};
use strongroom_proto::{
    Edek, Failure, Reason, RequestId, ZoneId,
    kms::v1::{self as pb, CreateKeyRequest},
    sealed::HeldIn,
};
use support::{Caller, Site, load};

const PATIENCE: Duration = Duration::from_secs(20);
const OPEN: ZoneId = ZoneId::from_bytes([1; 16]);
const CLOSED: ZoneId = ZoneId::from_bytes([2; 16]);

/// Alice reads sealed only, and zone 02… not at all.
const POLICY: &str = r#"
    @id("admin") permit (principal == User::"keyadmin", action in [Action::"manage", Action::"view"], resource);
    @id("edeks") permit (principal == Service::"metadata", action in [Action::"mint", Action::"rewrap"], resource);
    @id("alice") permit (principal == User::"alice", action == Action::"unwrap", resource);
    @id("sealed-only") forbid (principal, action == Action::"unwrap", resource) unless { context.sealed };
    @id("closed-zone") forbid (principal, action == Action::"unwrap", resource)
    when { context has zone && context.zone == "02020202020202020202020202020202" };
"#;

/// A token whose worker seals, for the users of `site`.
async fn token(site: &Site, fixture: &Fixture) -> Arc<Token> {
    let own = site.pki.issue("token-worker", "service/token-worker");
    let config = TokenConfig {
        sealed: Some(SealedConfig {
            certificate: own.certificate,
            key: own.key,
            only: Vec::new(),
            client_ca: own.ca,
        }),
        ..fixture.config()
    };
    Arc::new(fixture.try_start(config).await.expect("module and PIN file are there"))
}

async fn create(admin: &mut Caller, name: &str, suite: &str) {
    let request = CreateKeyRequest {
        name: name.to_owned(),
        suite: suite.to_owned(),
        request_id: RequestId::generate().into(),
        ..CreateKeyRequest::default()
    };
    admin.admin.create_key(request).await.expect("made");
}

async fn mint(metadata: &mut Caller, key: &str, zone: ZoneId) -> Edek {
    let minted = metadata.mint(key, zone, 1).await.expect("minted").remove(0);
    minted.try_into().expect("an EDEK")
}

async fn call(caller: &mut Caller, signed: &Signed) -> Result<pb::UnwrapSealedResponse, Failure> {
    let request = pb::UnwrapSealedRequest {
        request: signed.encoded.clone(),
        signature: Some(signed.signature.clone().into()),
    };
    Ok(caller.unwrap.unwrap_sealed(request).await?.into_inner())
}

/// Signs anew until the worker, which has just been started, takes it.
async fn deliver(caller: &mut Caller, user: &SealedUser, edeks: &[Edek]) -> (Signed, pb::UnwrapSealedResponse) {
    let started = Instant::now();
    loop {
        let signed = user.sign(user.request(edeks));
        match call(caller, &signed).await {
            Ok(answer) => return (signed, answer),
            Err(failure) => assert_eq!(failure.reason, Reason::SignedTooEarly, "{failure}"),
        }
        assert!(started.elapsed() < PATIENCE, "never taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a record says: key, count, where it was sealed, who verified it, how it ended.
type Said<'a> = (&'a str, usize, Option<&'a str>, Option<&'a str>, Outcome);

/// What the records of one call say.
fn said(entries: &[Entry]) -> Vec<Said<'_>> {
    for entry in entries {
        let call = (entry.who.as_str(), entry.action.as_str());
        assert_eq!(call, ("user alice", "unwrap"), "{entry:?}");
    }
    let mut said: Vec<_> = entries
        .iter()
        .map(|entry| {
            (
                entry.key.as_deref().expect("a key"),
                entry.count.expect("a count"),
                entry.sealed.as_deref(),
                entry.verified_by.as_deref(),
                entry.outcome,
            )
        })
        .collect();
    said.sort_by_key(|record| (record.0, record.4.as_str()));
    said
}

fn last_call(site: &Site) -> Vec<Entry> {
    let records: Vec<Entry> = site.audit().into_iter().map(|record| record.entry).collect();
    let last = records.last().and_then(|entry| entry.request.clone());
    records.into_iter().filter(|entry| entry.request == last).collect()
}

#[tokio::test]
async fn what_policy_demands_is_delivered_sealed_less_what_is_left_out_and_recorded() {
    let (site, fixture) = (Site::with_policy(POLICY), Fixture::new());
    let token = token(&site, &fixture).await;
    let kms = site.start(&token).await;
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    for (name, suite) in [("payroll", "kw"), ("fast", "gcm"), ("lake", "hadoop"), ("off", "kw")] {
        create(&mut admin, name, suite).await;
    }
    let edeks = [
        mint(&mut metadata, "payroll", OPEN).await,
        mint(&mut metadata, "payroll", CLOSED).await,
        mint(&mut metadata, "fast", OPEN).await,
        mint(&mut metadata, "off", OPEN).await,
        mint(&mut metadata, "lake", OPEN).await,
        mint(&mut metadata, "payroll", OPEN).await,
    ];
    admin.set_disabled("off", true).await.expect("disabled");
    let mut alice = kms.as_user("user/alice");
    let user = SealedUser::new(load(&site.pki.issue("alice", "user/alice")));

    // In the clear policy refuses, and says what would be permitted. What is refused either way is not promised.
    let plain = edeks.iter().map(|edek| edek.clone().into()).collect();
    let reasons: Vec<_> = alice
        .unwrap(plain)
        .await
        .expect("called")
        .into_iter()
        .map(|result| result.expect_err("not in the clear").reason)
        .collect();
    let (sealed, denied) = (Reason::SealedRequired, Reason::PermissionDenied);
    assert_eq!(reasons, [sealed, denied, sealed, sealed, sealed, sealed]);

    let (signed, answer) = deliver(&mut alice, &user, &edeks).await;
    let left_out: Vec<_> = answer
        .refusals
        .iter()
        .map(|refusal| {
            let failure = refusal.failure.as_ref().expect("a failure");
            (refusal.index, failure.reason.as_str())
        })
        .collect();
    assert_eq!(left_out, [(1, "permission-denied"), (3, "key-disabled")]);
    let signature = answer.signature.expect("signed").try_into().expect("a signature");
    let opened: Vec<_> = user
        .open(&signed, &answer.answer, &signature)
        .into_iter()
        .map(|result| result.map(|(place, _)| place).map_err(|failure| failure.reason))
        .collect();
    let (inside, worker) = (Ok(HeldIn::Token), Ok(HeldIn::Worker));
    assert_eq!(opened, [inside, Err(denied), worker, Err(denied), worker, inside]);

    let by = Some(LABEL);
    let entries = last_call(&site);
    assert_eq!(
        said(&entries),
        [
            ("fast", 1, Some("worker"), by, Outcome::Allowed),
            ("lake", 1, Some("worker"), by, Outcome::Allowed),
            ("off", 1, None, by, Outcome::Failed),
            ("payroll", 2, Some("token"), by, Outcome::Allowed),
            ("payroll", 1, None, by, Outcome::Denied),
        ]
    );
    let denied = entries.iter().find(|entry| entry.outcome == Outcome::Denied);
    assert_eq!(denied.expect("one").policies, ["closed-zone"]);
    let allowed = entries.iter().find(|entry| entry.outcome == Outcome::Allowed);
    assert_eq!(allowed.expect("some").policies, ["alice"]);
    kms.stop().await;
    token.stop().await;
}

#[tokio::test]
async fn the_token_worker_is_not_asked_when_nothing_is_left_and_refusals_of_its_own_are_recorded() {
    let (site, fixture) = (Site::with_policy(POLICY), Fixture::new());
    let token = token(&site, &fixture).await;
    let kms = site.start(&token).await;
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    for name in ["payroll", "off"] {
        create(&mut admin, name, "kw").await;
    }
    let closed = mint(&mut metadata, "payroll", CLOSED).await;
    let off = mint(&mut metadata, "off", OPEN).await;
    let good = mint(&mut metadata, "payroll", OPEN).await;
    admin.set_disabled("off", true).await.expect("disabled");
    let mut alice = kms.as_user("user/alice");
    let user = SealedUser::new(load(&site.pki.issue("alice", "user/alice")));

    let (_, answer) = deliver(&mut alice, &user, &[closed.clone(), off]).await;
    assert!(answer.answer.is_empty() && answer.signature.is_none());
    assert_eq!(answer.refusals.len(), 2);
    let records = last_call(&site);
    let nobody: Vec<_> = said(&records).iter().map(|record| record.3).collect();
    assert_eq!(nobody, [None, None], "nobody verified it");
    let signed = user.sign(user.request(&[closed]));
    let failure = call(&mut alice, &signed).await.expect_err("about one key, and refused");
    assert_eq!(failure.reason, Reason::PermissionDenied, "{failure}");

    let (signed, _) = deliver(&mut alice, &user, std::slice::from_ref(&good)).await;
    let failure = call(&mut alice, &signed).await.expect_err("answered before");
    assert_eq!(failure.reason, Reason::PermissionDenied, "{failure}");
    let replayed = last_call(&site).remove(0);
    assert_eq!((replayed.outcome, replayed.sealed), (Outcome::Denied, None));
    assert!(replayed.message.expect("why").contains("answered before"));

    // Everybody sends his own, also the service that carries everything else.
    let signed = user.sign(user.request(&[good]));
    for who in ["user/bob", "service/metadata"] {
        let failure = call(&mut kms.as_user(who), &signed).await.expect_err("another's");
        assert_eq!(failure.reason, Reason::PermissionDenied);
        assert!(failure.message.contains("everybody sends his own"), "{failure}");
    }
    kms.stop().await;
    token.stop().await;
}
