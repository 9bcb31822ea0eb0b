//! The whole service over a real token: SoftHSM2, worked by the token worker, reached over mutual TLS.

#[path = "token/fixture.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod fixture;
mod support;
#[path = "token/vendor.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod vendor;

use std::sync::Arc;

use fixture::{Fixture, write_secret};
use strongroom_proto::{
    Reason, RequestId, ZoneId,
    kms::v1::{CreateKeyRequest, KeyVersionState as State},
};
use support::Site;

#[tokio::test]
async fn keys_and_edeks_live_through_a_roll_a_killed_worker_and_a_lost_store() {
    let (site, fixture) = (Site::new(), Fixture::new());
    let token = Arc::new(fixture.start().await);
    let kms = site.start(&token).await;
    let (mut admin, mut metadata, mut alice) = (
        kms.as_user("user/keyadmin"),
        kms.as_user("service/metadata"),
        kms.as_user("user/alice"),
    );
    let created = admin.create("payroll").await.expect("generated in the token");
    let zone = ZoneId::generate();
    let edeks = metadata.mint("payroll", zone, 100).await.expect("minted");
    let deks = alice.unwrap(edeks.clone()).await.expect("called");
    assert!(deks.iter().all(|dek| dek.as_ref().is_ok_and(|dek| dek.len() == 32)));

    fixture.signal_worker("KILL");
    let again = alice
        .unwrap(edeks.clone())
        .await
        .expect("a killed worker costs time, not an error");
    assert_eq!(again, deks);

    let mut flipped = edeks[0].clone();
    let mut bytes = flipped.wrapped.to_vec();
    bytes[7] ^= 1;
    flipped.wrapped = bytes.into();
    let mut moved = edeks[1].clone();
    moved.zone_id = ZoneId::generate().into();
    let results = alice
        .unwrap(vec![flipped, edeks[2].clone(), moved])
        .await
        .expect("called");
    let reasons: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().err().map(|f| f.reason))
        .collect();
    assert_eq!(reasons, [Some(Reason::EdekInvalid), None, Some(Reason::EdekInvalid)]);

    let rolled = admin.roll("payroll").await.expect("a new version in the token");
    assert_eq!(rolled.current_version, Some(1));
    assert_eq!(rolled.versions[0].kcv, created.versions[0].kcv);
    assert_ne!(rolled.versions[1].kcv, created.versions[0].kcv);
    assert_eq!(metadata.rewrap(&edeks).await.expect("re-wrapped").key_version, 1);
    kms.stop().await;

    site.remove_store();
    let kms = site.start(&token).await;
    let key = kms.as_user("user/keyadmin").describe("payroll").await.expect("rebuilt");
    assert_eq!(key.current_version, None);
    assert!(key.versions.iter().all(|version| version.state() == State::DecryptOnly));
    assert_eq!(kms.as_user("user/alice").unwrap(edeks).await.expect("called"), deks);
    let refused = kms
        .as_user("service/metadata")
        .mint("payroll", zone, 1)
        .await
        .expect_err("not confirmed");
    assert_eq!(refused.reason, Reason::KeyVersionUnusable);
    kms.as_user("user/keyadmin")
        .confirm("payroll")
        .await
        .expect("confirmed");
    kms.as_user("service/metadata")
        .mint("payroll", zone, 1)
        .await
        .expect("it mints again");
    kms.stop().await;
    token.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_version_is_said_with_its_token_and_where_it_comes_from() {
    let (site, fixture) = (Site::new(), Fixture::new());
    let token = Arc::new(fixture.start().await);
    let kms = site.start(&token).await;
    let mut admin = kms.as_user("user/keyadmin");
    admin.create("payroll").await.expect("created");
    for _ in 0..3 {
        admin.roll("payroll").await.expect("rolled");
    }
    let before = admin.describe("payroll").await.expect("known");
    for version in &before.versions {
        assert_eq!((version.detail.as_str(), version.origin.as_str()), ("", "generated"));
    }
    kms.stop().await;
    token.stop().await;
    let id = "000102030405060708090a0b0c0d0e0f";
    let label = |version: u32| format!("strongroom:1:kw:payroll@{version}");
    fixture.probe("plant", &[&label(0), id, "no"]);
    let own = hex::encode(&before.versions[1].token_id);
    fixture.probe("replace", &[&label(1), &own, "yes"]);
    fixture.probe("replace", &[&label(2), id, "no"]);

    let token = Arc::new(fixture.start().await);
    let kms = site.start(&token).await;
    let key = kms.as_user("user/keyadmin").describe("payroll").await.expect("known");
    let expected: [(State, &[&str]); 4] = [
        (State::Missing, &["token \"strongroom test\"", "two objects", id]),
        (
            State::Missing,
            &["token \"strongroom test\"", "attribute", "Modifiable"],
        ),
        (State::Missing, &["another key in its place", id, "check value"]),
        (State::Active, &[]),
    ];
    for (version, (state, words)) in key.versions.iter().zip(expected) {
        assert_eq!(version.state(), state, "{version:?}");
        assert_eq!(version.detail.is_empty(), words.is_empty(), "{version:?}");
        for word in words {
            assert!(
                version.detail.to_lowercase().contains(&word.to_lowercase()),
                "{word}: {version:?}"
            );
        }
    }
    kms.stop().await;
    token.stop().await;
}

/// Hadoop's DEKs are as long as the key that wraps them, and a roll keeps that length.
#[tokio::test]
async fn a_hadoop_key_of_128_bits_makes_deks_of_128_bits_before_and_after_a_roll() {
    let (site, fixture) = (Site::new(), Fixture::new());
    let token = Arc::new(fixture.start().await);
    let kms = site.start(&token).await;
    let (mut admin, mut metadata, mut alice) = (
        kms.as_user("user/keyadmin"),
        kms.as_user("service/metadata"),
        kms.as_user("user/alice"),
    );
    let request = |suite: &str, key_bits| CreateKeyRequest {
        name: "payroll".to_owned(),
        request_id: RequestId::generate().into(),
        suite: suite.to_owned(),
        key_bits,
        ..CreateKeyRequest::default()
    };
    for (suite, bits) in [("hadoop", 127), ("kw", 128), ("", 192)] {
        let refused = admin.admin.create_key(request(suite, bits)).await;
        let failure: strongroom_proto::Failure = refused.expect_err("no such size").into();
        assert_eq!(failure.reason, Reason::InvalidArgument, "{suite} {bits}");
    }
    let created = admin.admin.create_key(request("hadoop", 128)).await;
    assert_eq!(created.expect("generated").into_inner().suite, "hadoop");
    let zone = ZoneId::generate();
    let edeks = metadata.mint("payroll", zone, 10).await.expect("minted");
    let deks = alice.unwrap(edeks.clone()).await.expect("called");
    assert!(deks.iter().all(|dek| dek.as_ref().is_ok_and(|dek| dek.len() == 16)));

    assert_eq!(admin.roll("payroll").await.expect("rolled").current_version, Some(1));
    let again = metadata.rewrap(&edeks).await.expect("re-wrapped");
    assert_eq!((again.key_version, again.results.len()), (1, 10));
    kms.stop().await;
    let kms = site.start(&token).await;
    let edeks = kms
        .as_user("service/metadata")
        .mint("payroll", zone, 1)
        .await
        .expect("minted");
    assert_eq!(edeks[0].key_version, 1);
    let deks = kms.as_user("user/alice").unwrap(edeks).await.expect("called");
    assert_eq!(deks[0].as_ref().expect("opens").len(), 16);
    kms.stop().await;
    token.stop().await;
}

#[tokio::test]
async fn a_wrong_pin_leaves_the_service_up_and_is_said_in_answers() {
    let (site, fixture) = (Site::new(), Fixture::new());
    write_secret(&fixture.path("pin"), "0000-wrong");
    let token = Arc::new(fixture.try_start(fixture.config()).await.expect("starts all the same"));
    let kms = site.start_unready(&token).await;
    let failure = kms
        .as_user("user/keyadmin")
        .create("payroll")
        .await
        .expect_err("no PIN");
    assert_eq!(failure.reason, Reason::PinRejected);
    assert!(failure.message.contains("correct the PIN file"), "{failure}");
    assert!(!kms.healthy("").await);
    assert_eq!(fixture.starts().len(), 1, "the PIN is tried once");

    write_secret(&fixture.path("pin"), fixture::PIN);
    kms.wait_health(true).await;
    kms.as_user("user/keyadmin")
        .create("payroll")
        .await
        .expect("the PIN is right");
    kms.stop().await;
    token.stop().await;
}
