//! Transfer through the whole service over a real token: who may have EDEKs moved, who may present that, and what the audit
//! log says of it.

#[path = "token/fixture.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod fixture;
mod support;
#[path = "token/vendor.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod vendor;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use fixture::{Fixture, LABEL};
use strongroom_kms::{
    audit::{Entry, Outcome},
    token::{SealedConfig, Token, TokenConfig},
};
use strongroom_proto::{
    Edek, Failure, KeyVersion, Reason, RequestId, ZoneId,
    kms::v1::{self as pb, CreateKeyRequest, rewrap_result},
    transfer::{Place, SignedTransfer, TransferRequest},
    transport::TlsIdentity,
};
use support::{Caller, Site, load};

const PATIENCE: Duration = Duration::from_secs(20);
const HERE: ZoneId = ZoneId::from_bytes([1; 16]);
const THERE: ZoneId = ZoneId::from_bytes([2; 16]);

/// Alice may take out and bring in, but not mint; reader may only take out, writer only bring in.
const POLICY: &str = r#"
    @id("admin") permit (principal == User::"keyadmin", action in [Action::"manage", Action::"view"], resource);
    @id("edeks") permit (principal == Service::"metadata", action in [Action::"mint", Action::"rewrap"], resource);
    @id("alice-opens") permit (principal == User::"alice", action == Action::"unwrap", resource);
    @id("alice-moves-in") permit (principal == User::"alice", action == Action::"mint", resource)
    when { context.operation == "transfer" };
    @id("reader") permit (principal == User::"reader", action == Action::"unwrap", resource);
    @id("writer") permit (principal == User::"writer", action == Action::"mint", resource);
    @id("mover-out") permit (principal == User::"mover", action == Action::"unwrap", resource == Key::"lake");
    @id("mover-in") permit (principal == User::"mover", action == Action::"mint", resource);
"#;

/// A running service's keys and callers.
struct Scene<'a> {
    site: &'a Site,
    metadata: Caller,
    alice: TlsIdentity,
}

fn place(key: &str, zone: ZoneId) -> Place {
    Place {
        key: key.parse().expect("a key name"),
        zone,
    }
}

impl Scene<'_> {
    async fn mint(&mut self, key: &str, count: u32) -> Vec<(KeyVersion, Bytes)> {
        let minted = self.metadata.mint(key, HERE, count).await.expect("minted");
        let item = |edek: pb::Edek| (KeyVersion(edek.key_version), edek.wrapped);
        minted.into_iter().map(item).collect()
    }

    fn user(&self, name: &str) -> TlsIdentity {
        load(&self.site.pki.issue(name, &format!("user/{name}")))
    }

    /// What the last call left in the audit log: action, key, version, zone, count, how it ended.
    fn said(&self) -> Vec<(Entry, String)> {
        let records: Vec<Entry> = self.site.audit().into_iter().map(|record| record.entry).collect();
        let last = records.last().and_then(|entry| entry.request.clone());
        let entries = records.into_iter().filter(|entry| entry.request == last);
        entries.map(|entry| (entry.clone(), summary(&entry))).collect()
    }
}

fn summary(entry: &Entry) -> String {
    let version = entry
        .version
        .map_or_else(|| "-".to_owned(), |version| version.to_string());
    format!(
        "{} {}@{version} x{} {}",
        entry.action,
        entry.key.as_deref().unwrap_or("-"),
        entry.count.unwrap_or_default(),
        entry.outcome.as_str()
    )
}

fn sign(tls: &TlsIdentity, from: &Place, to: &Place, edeks: &[(KeyVersion, Bytes)]) -> SignedTransfer {
    let signer = tls.identity().clone();
    let request = TransferRequest::new(signer, from.clone(), to.clone(), edeks.to_vec(), SystemTime::now());
    request.sign(tls).expect("signs")
}

async fn present(caller: &mut Caller, signed: SignedTransfer) -> Result<pb::TransferResponse, Failure> {
    let request = pb::TransferRequest {
        request: signed.request,
        signature: Some(signed.signature.into()),
    };
    Ok(caller.mint.transfer(request).await?.into_inner())
}

/// Signs anew until the worker, which has just been started, takes it.
async fn moved(
    caller: &mut Caller,
    tls: &TlsIdentity,
    from: &Place,
    to: &Place,
    edeks: &[(KeyVersion, Bytes)],
) -> pb::TransferResponse {
    let started = Instant::now();
    loop {
        match present(caller, sign(tls, from, to, edeks)).await {
            Ok(answer) => return answer,
            Err(failure) => assert_eq!(failure.reason, Reason::SignedTooEarly, "{failure}"),
        }
        assert!(started.elapsed() < PATIENCE, "never taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

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

async fn create(admin: &mut Caller, name: &str, suite: &str, sealed_required: bool) {
    let request = CreateKeyRequest {
        name: name.to_owned(),
        suite: suite.to_owned(),
        sealed_required,
        request_id: RequestId::generate().into(),
        ..CreateKeyRequest::default()
    };
    admin.admin.create_key(request).await.expect("made");
}

fn edeks(answer: &pb::TransferResponse, to: &Place) -> Vec<pb::Edek> {
    let edek = |result: &pb::RewrapResult| match result.result.clone().expect("a result") {
        rewrap_result::Result::Wrapped(wrapped) => Edek {
            key: to.key.clone(),
            version: KeyVersion(answer.key_version),
            zone: to.zone,
            suite: answer.suite.parse().expect("a suite"),
            wrapped,
        }
        .into(),
        rewrap_result::Result::Failure(failure) => panic!("{failure:?}"),
    };
    answer.results.iter().map(edek).collect()
}

#[tokio::test]
async fn a_user_with_rights_on_both_keys_has_edeks_moved_and_both_sides_are_recorded() {
    let (site, fixture) = (Site::with_policy(POLICY), Fixture::new());
    let token = token(&site, &fixture).await;
    let kms = site.start(&token).await;
    let mut admin = kms.as_user("user/keyadmin");
    for (name, suite) in [("payroll", "kw"), ("archive", "kw"), ("vault", "gcm")] {
        create(&mut admin, name, suite, false).await;
    }
    let mut scene = Scene {
        site: &site,
        metadata: kms.as_user("service/metadata"),
        alice: load(&site.pki.issue("alice", "user/alice")),
    };
    let mut items = scene.mint("payroll", 3).await;
    admin.roll("payroll").await.expect("rolled");
    items.extend(scene.mint("payroll", 2).await);
    admin.roll("archive").await.expect("rolled");
    let from = place("payroll", HERE);
    let before = items.iter().map(|(version, wrapped)| {
        let edek = Edek {
            key: from.key.clone(),
            version: *version,
            zone: HERE,
            suite: strongroom_proto::EdekSuite::Kw,
            wrapped: wrapped.clone(),
        };
        edek.into()
    });
    let mut reader = kms.as_user("user/reader");
    let deks = reader.unwrap(before.collect()).await.expect("called");
    assert!(deks.iter().all(Result::is_ok));

    for (to, suite, version, held_in) in [("archive", "kw", 1, "token"), ("vault", "gcm", 0, "worker")] {
        let to = place(to, THERE);
        let answer = moved(&mut scene.metadata, &scene.alice, &from, &to, &items).await;
        assert_eq!(
            (answer.key_version, answer.suite.as_str(), answer.held_in.as_str()),
            (version, suite, held_in)
        );
        let after = reader.unwrap(edeks(&answer, &to)).await.expect("called");
        assert_eq!(after, deks, "the same DEKs");

        let records = site.audit().into_iter().map(|record| record.entry);
        let records: Vec<_> = records.filter(|entry| entry.action.starts_with("transfer")).collect();
        let last = records.last().and_then(|entry| entry.request.clone());
        let last: Vec<_> = records.into_iter().filter(|entry| entry.request == last).collect();
        let said: Vec<_> = last.iter().map(summary).collect();
        assert_eq!(
            said,
            [
                "transfer-out payroll@0 x3 allowed".to_owned(),
                "transfer-out payroll@1 x2 allowed".to_owned(),
                format!("transfer-in {}@{version} x5 allowed", to.key),
            ]
        );
        for entry in &last {
            assert_eq!(entry.who, "service metadata", "who presented it");
            assert_eq!(entry.signed_by.as_deref(), Some("user alice"));
            assert_eq!(entry.verified_by.as_deref(), Some(LABEL));
            let into = entry.action == "transfer-in";
            assert_eq!(entry.moved.as_deref(), into.then_some(held_in));
            let own = if into { "alice-moves-in" } else { "alice-opens" };
            assert_eq!(entry.policies, [own, "edeks"], "the presenter's and the signer's");
            let zone = if into { THERE } else { HERE };
            assert_eq!(entry.zone, Some(zone.to_string()));
        }
    }

    // Her own request she may present herself, and a single bad EDEK fails alone.
    let mut bytes = items[1].1.to_vec();
    bytes[3] ^= 1;
    items[1].1 = bytes.into();
    let to = place("archive", THERE);
    let answer = moved(&mut kms.as_user("user/alice"), &scene.alice, &from, &to, &items).await;
    let failed: Vec<_> = answer
        .results
        .iter()
        .map(|result| matches!(result.result, Some(rewrap_result::Result::Failure(_))))
        .collect();
    assert_eq!(failed, [false, true, false, false, false]);
    let said: Vec<_> = scene.said().into_iter().map(|(_, summary)| summary).collect();
    assert_eq!(
        said,
        [
            "transfer-out payroll@0 x2 allowed",
            "transfer-out payroll@0 x1 failed",
            "transfer-out payroll@1 x2 allowed",
            "transfer-in archive@1 x4 allowed",
        ]
    );
    kms.stop().await;
    token.stop().await;
}

#[tokio::test]
async fn one_right_is_not_enough_and_whoever_presents_it_needs_one_too() {
    let (site, fixture) = (Site::with_policy(POLICY), Fixture::new());
    let token = token(&site, &fixture).await;
    let kms = site.start(&token).await;
    let mut admin = kms.as_user("user/keyadmin");
    for name in ["payroll", "archive"] {
        create(&mut admin, name, "kw", false).await;
    }
    create(&mut admin, "strict", "kw", true).await;
    let mut scene = Scene {
        site: &site,
        metadata: kms.as_user("service/metadata"),
        alice: load(&site.pki.issue("alice", "user/alice")),
    };
    let items = scene.mint("payroll", 2).await;
    let (from, to) = (place("payroll", HERE), place("archive", THERE));
    moved(&mut scene.metadata, &scene.alice, &from, &to, &items).await;

    for (who, forbidden) in [
        ("reader", "mint with key archive"),
        ("writer", "unwrap with key payroll"),
        ("mallory", "unwrap with key payroll"),
    ] {
        let user = scene.user(who);
        let failure = present(&mut scene.metadata, sign(&user, &from, &to, &items))
            .await
            .expect_err("not permitted");
        assert_eq!(failure.reason, Reason::PermissionDenied);
        let expected = format!("user {who} may not {forbidden}");
        assert!(failure.message.starts_with(&expected), "{failure}");
        let said = scene.said();
        assert_eq!(said.len(), 2, "both sides");
        for (entry, summary) in said {
            assert_eq!(entry.outcome, Outcome::Denied, "{summary}");
            assert_eq!(entry.signed_by, Some(format!("user {who}")));
            assert_eq!(entry.verified_by, None, "the token was not asked");
        }
    }
    // A name does not help whoever has not its key: policy permits alice, the worker asks who signed.
    let forged = {
        let signer = scene.alice.identity().clone();
        let request = TransferRequest::new(signer, from.clone(), to.clone(), items.clone(), SystemTime::now());
        request.sign(&scene.user("mallory")).expect("signs")
    };
    let failure = present(&mut scene.metadata, forged).await.expect_err("not hers");
    assert_eq!(failure.reason, Reason::PermissionDenied);
    assert!(
        failure
            .message
            .contains("user mallory signed it, and it names user alice"),
        "{failure}"
    );
    // Nor does her signature help whoever may not make EDEKs there.
    for who in ["user/mallory", "user/reader", "service/block/node-1"] {
        let signed = sign(&scene.alice, &from, &to, &items);
        let failure = present(&mut kms.as_user(who), signed)
            .await
            .expect_err("not his to present");
        assert_eq!(failure.reason, Reason::PermissionDenied);
        assert!(
            failure.message.contains("may not re-wrap with key payroll"),
            "{failure}"
        );
    }
    let once = sign(&scene.alice, &from, &to, &items);
    present(&mut scene.metadata, once.clone())
        .await
        .expect("the first time");
    let failure = present(&mut scene.metadata, once).await.expect_err("each once");
    assert!(failure.message.contains("answered before"), "{failure}");
    let unsigned = pb::TransferRequest {
        request: sign(&scene.alice, &from, &to, &items).request,
        signature: None,
    };
    let failure: Failure = scene
        .metadata
        .mint
        .transfer(unsigned)
        .await
        .expect_err("unsigned")
        .into();
    assert_eq!(failure.reason, Reason::InvalidArgument, "{failure}");
    let last = site.audit().pop().expect("a record").entry;
    assert_eq!((last.action.as_str(), last.outcome), ("Mint/Transfer", Outcome::Failed));

    // Keys that demand sealed delivery stay among themselves; a key that is disabled gives and takes nothing.
    let strict = scene.mint("strict", 1).await;
    let signed = sign(&scene.alice, &place("strict", HERE), &to, &strict);
    let failure = present(&mut scene.metadata, signed)
        .await
        .expect_err("would be given out in the clear");
    assert_eq!(failure.reason, Reason::SealedRequired, "{failure}");
    let (inside, elsewhere) = (place("strict", HERE), place("strict", THERE));
    moved(&mut scene.metadata, &scene.alice, &inside, &elsewhere, &strict).await;
    moved(
        &mut scene.metadata,
        &scene.alice,
        &from,
        &place("strict", THERE),
        &items,
    )
    .await;
    admin.set_disabled("archive", true).await.expect("disabled");
    let failure = present(&mut scene.metadata, sign(&scene.alice, &from, &to, &items))
        .await
        .expect_err("takes nothing");
    assert_eq!(failure.reason, Reason::KeyDisabled, "{failure}");
    kms.stop().await;
    token.stop().await;
}

/// Whoever knows a DEK of suite `hadoop` learns from what another key makes of it how that key opens the same IV.
#[tokio::test]
async fn between_hadoop_keys_it_takes_the_right_to_open_on_both_sides() {
    let (site, fixture) = (Site::with_policy(POLICY), Fixture::new());
    let token = token(&site, &fixture).await;
    let kms = site.start(&token).await;
    let mut admin = kms.as_user("user/keyadmin");
    for (name, suite) in [("lake", "hadoop"), ("pond", "hadoop"), ("archive", "kw")] {
        create(&mut admin, name, suite, false).await;
    }
    let mut scene = Scene {
        site: &site,
        metadata: kms.as_user("service/metadata"),
        alice: load(&site.pki.issue("alice", "user/alice")),
    };
    let items = scene.mint("lake", 1).await;
    let (from, mover) = (place("lake", HERE), scene.user("mover"));
    moved(&mut scene.metadata, &mover, &from, &place("archive", THERE), &items).await;
    let failure = present(&mut scene.metadata, sign(&mover, &from, &place("pond", THERE), &items))
        .await
        .expect_err("would tell the key stream");
    assert_eq!(failure.reason, Reason::PermissionDenied);
    assert!(
        failure.message.starts_with("user mover may not unwrap with key pond"),
        "{failure}"
    );
    moved(&mut scene.metadata, &scene.alice, &from, &place("pond", THERE), &items).await;
    kms.stop().await;
    token.stop().await;
}

/// A zone on record blocks a deletion until it is proved or approved, so nobody may have one recorded who has no EDEKs for it.
#[tokio::test]
async fn a_transfer_that_moves_nothing_notes_no_zone() {
    let (site, fixture) = (Site::with_policy(POLICY), Fixture::new());
    let token = token(&site, &fixture).await;
    let kms = site.start(&token).await;
    let mut admin = kms.as_user("user/keyadmin");
    for name in ["payroll", "archive"] {
        create(&mut admin, name, "kw", false).await;
    }
    let mut scene = Scene {
        site: &site,
        metadata: kms.as_user("service/metadata"),
        alice: load(&site.pki.issue("alice", "user/alice")),
    };
    let items = scene.mint("payroll", 1).await;
    let (from, to) = (place("payroll", HERE), place("archive", THERE));
    // The worker takes requests by now.
    let elsewhere = place("payroll", THERE);
    moved(&mut scene.metadata, &scene.alice, &from, &elsewhere, &items).await;

    let forged = {
        let signer = scene.alice.identity().clone();
        let request = TransferRequest::new(signer, from.clone(), to.clone(), items.clone(), SystemTime::now());
        request.sign(&scene.user("mallory")).expect("signs")
    };
    let not_permitted = sign(&scene.user("reader"), &from, &to, &items);
    for signed in [forged, not_permitted] {
        let failure = present(&mut scene.metadata, signed).await.expect_err("refused");
        assert_eq!(failure.reason, Reason::PermissionDenied, "{failure}");
    }
    let mut bytes = items[0].1.to_vec();
    bytes[3] ^= 1;
    let bad = [(items[0].0, Bytes::from(bytes))];
    let answer = present(&mut scene.metadata, sign(&scene.alice, &from, &to, &bad)).await;
    let results = answer.expect("answered").results;
    assert!(matches!(results[0].result, Some(rewrap_result::Result::Failure(_))));
    admin.roll("archive").await.expect("rolled");
    admin
        .delete("archive", Some(0), Vec::new())
        .await
        .expect("no zone needs it");

    moved(&mut scene.metadata, &scene.alice, &from, &to, &items).await;
    admin.roll("archive").await.expect("rolled");
    let failure = admin
        .delete("archive", Some(1), Vec::new())
        .await
        .expect_err("a zone may");
    assert_eq!(failure.reason, Reason::DeletionBlocked);
    assert!(failure.message.contains(&THERE.to_string()), "{failure}");
    kms.stop().await;
    token.stop().await;
}
