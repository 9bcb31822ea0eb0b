//! Key versions: made in the token with the right attributes, listed, and the same after a restart.

use strongroom_kms::token::{Token, TokenKeyVersion};
use strongroom_proto::{KeyVersion, Reason};

use crate::fixture::{Fixture, LABEL, fresh, name, zone};

async fn generate(token: &Token, key: &str, version: u32) -> TokenKeyVersion {
    let made = token.generate(&fresh(key, version)).await;
    made.expect("a fresh version")
}

#[tokio::test]
async fn versions_are_listed_with_stable_check_values_across_restarts() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    assert_eq!(token.list_versions().await.expect("listed"), []);
    let mut made = Vec::new();
    for (key, version) in [("alpha", 0), ("alpha", 1), ("beta", 0), ("beta.eu", u32::MAX)] {
        made.push(generate(&token, key, version).await);
    }
    assert_eq!(token.list_versions().await.expect("listed"), made);
    let mut values: Vec<_> = made.iter().map(|version| version.kcv.to_string()).collect();
    values.sort();
    values.dedup();
    assert_eq!(values.len(), made.len(), "every version has its own key");

    token.stop().await;
    let token = fixture.start().await;
    assert_eq!(token.list_versions().await.expect("listed"), made);
    fixture.signal_worker("KILL");
    assert_eq!(token.list_versions().await.expect("listed"), made);
}

#[tokio::test]
async fn an_existing_version_is_found_by_its_id_and_not_made_again() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    let new = fresh("payroll", 3);
    let made = token.generate(&new).await.expect("a fresh version");
    assert_eq!(made.token_id, new.id, "the object has the id that was asked for");
    let again = token.generate(&new).await.expect("the first attempt's object");
    assert_eq!(again, made);
    let failure = token
        .generate(&fresh("payroll", 3))
        .await
        .expect_err("another's, by its id");
    assert_eq!(failure.reason, Reason::AlreadyExists);
    assert_eq!(failure.message, "the token holds version 3 of key payroll already");
    assert_eq!(token.list_versions().await.expect("listed"), [made]);
}

#[tokio::test]
async fn the_profile_names_token_library_and_suites() {
    let fixture = Fixture::new();
    let profile = fixture.start().await.profile().await.expect("inspected");
    assert_eq!(profile.label, LABEL);
    assert_eq!(profile.model, crate::vendor::chosen().model());
    assert_ne!(profile.library, "");
    for mechanism in ["CKM_AES_KEY_GEN", "CKM_AES_CBC_ENCRYPT_DATA", "CKM_AES_KEY_WRAP"] {
        assert!(
            profile.mechanisms.iter().any(|found| found == mechanism),
            "{:?}",
            profile.mechanisms
        );
    }
}

#[tokio::test]
async fn a_zone_key_derives_and_does_nothing_else() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    generate(&token, "payroll", 0).await;
    token
        .mint(&name("payroll"), KeyVersion(0), &zone(1), 3)
        .await
        .expect("minted");
    // Another process sees the one token object: DEKs and wrapping keys live in the worker's session only.
    let expected = "strongroom:1:kw:payroll@0 ValueLen(32) Token(true) Private(true) Sensitive(true) \
                    AlwaysSensitive(true) Extractable(false) NeverExtractable(true) Local(true) Modifiable(false) \
                    Encrypt(false) Decrypt(false) Sign(false) Verify(false) Wrap(false) Unwrap(false) Derive(true) \
                    AllowedMechanisms(CKM_AES_CBC_ENCRYPT_DATA) WrapWithTrusted(false)\n";
    assert_eq!(fixture.probe("dump", &[]), expected);
}

#[tokio::test]
async fn of_two_objects_of_one_version_neither_is_used_and_both_are_named() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    let made = generate(&token, "payroll", 0).await;
    let sound = generate(&token, "sound", 0).await;
    let planted = "000102030405060708090a0b0c0d0e0f";
    fixture.probe("plant", &["strongroom:1:kw:payroll@0", planted, "no"]);
    assert_eq!(
        token.list_versions().await.expect("listed"),
        [sound],
        "the others are not in doubt"
    );
    let failure = token
        .mint(&made.key, made.version, &zone(1), 1)
        .await
        .expect_err("which one is it?");
    assert_eq!(failure.reason, Reason::KeyVersionUnusable);
    for part in ["strongroom:1:kw:payroll@0", planted, &made.token_id.to_string()] {
        assert!(failure.message.contains(part), "{failure}");
    }
    let sound = &token.list_versions().await.expect("listed")[0];
    assert!(
        token.mint(&sound.key, sound.version, &zone(1), 1).await.is_ok(),
        "other keys work on"
    );
}

/// The worker remembers what it used, however often it looks.
#[tokio::test]
async fn a_version_that_was_exchanged_stays_refused() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    let made = generate(&token, "payroll", 0).await;
    let planted = "000102030405060708090a0b0c0d0e0f";
    fixture.probe("replace", &["strongroom:1:kw:payroll@0", planted, "no"]);
    for look in 0..3 {
        assert_eq!(token.list_versions().await.expect("listed"), [], "look {look}");
        let minted = token.mint(&made.key, made.version, &zone(1), 1).await;
        let failure = minted.expect_err("another key");
        assert_eq!(failure.reason, Reason::KeyVersionUnusable, "look {look}");
        for part in [planted, &made.token_id.to_string()] {
            assert!(failure.message.contains(part), "look {look}: {failure}");
        }
    }
    // It is the same with a third one beside it, and when that is gone again.
    fixture.probe(
        "plant",
        &["strongroom:1:kw:payroll@0", &planted.replace('0', "1"), "no"],
    );
    assert_eq!(token.list_versions().await.expect("listed"), []);
    fixture.probe("replace", &["strongroom:1:kw:payroll@0", planted, "no"]);
    assert_eq!(token.list_versions().await.expect("listed"), []);
}

#[tokio::test]
async fn foreign_and_unfit_objects_are_left_out() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    let id = "000102030405060708090a0b0c0d0e0f";
    for (label, id, modifiable) in [
        ("someone else's", id, "no"),
        ("strongroom:1:kw:payroll", id, "no"),
        ("strongroom:1:kw:payroll@00", id, "no"),
        ("strongroom:1:kw:payroll@1", "00", "no"),
        ("strongroom:1:kw:payroll@2", id, "yes"),
    ] {
        fixture.probe("plant", &[label, id, modifiable]);
    }
    assert_eq!(token.list_versions().await.expect("listed"), []);
    let failure = token.generate(&fresh("payroll", 2)).await.expect_err("there, if unfit");
    assert_eq!(failure.reason, Reason::AlreadyExists);
}

#[tokio::test]
async fn a_version_that_another_process_made_is_found_at_once() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    for version in 0..4_u8 {
        let label = format!("strongroom:1:kw:payroll@{version}");
        fixture.probe("plant", &[&label, &hex::encode([version; 16]), "no"]);
        let minted = token
            .mint(&name("payroll"), KeyVersion(version.into()), &zone(1), 1)
            .await;
        minted.expect("the worker looks for a version that it does not know");
    }
}
