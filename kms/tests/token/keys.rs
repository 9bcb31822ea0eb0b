//! Key versions: made in the token with the right attributes, listed, and the same after a restart.

use strongroom_kms::token::{Token, TokenKeyVersion};
use strongroom_proto::{EdekSuite, KeyName, KeyVersion, Reason};

use crate::fixture::{Fixture, LABEL, name};

async fn generate(token: &Token, key: &KeyName, version: u32) -> TokenKeyVersion {
    let made = token.generate(key, KeyVersion(version), EdekSuite::Kw).await;
    made.expect("a fresh version")
}

#[tokio::test]
async fn versions_are_listed_with_stable_check_values_across_restarts() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    assert_eq!(token.list_versions().await.expect("listed"), []);
    let mut made = Vec::new();
    for (key, version) in [("alpha", 0), ("alpha", 1), ("beta", 0), ("beta.eu", u32::MAX)] {
        made.push(generate(&token, &name(key), version).await);
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
async fn an_existing_version_is_not_made_again() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    let key = name("payroll");
    let made = generate(&token, &key, 3).await;
    let failure = token
        .generate(&key, KeyVersion(3), EdekSuite::Kw)
        .await
        .expect_err("exists");
    assert_eq!(failure.reason, Reason::AlreadyExists);
    assert_eq!(failure.message, "the token holds version 3 of key payroll already");
    assert_eq!(token.list_versions().await.expect("listed"), [made]);
}

#[tokio::test]
async fn the_profile_names_token_library_and_suites() {
    let fixture = Fixture::new();
    let profile = fixture.start().await.profile().await.expect("inspected");
    assert_eq!(profile.label, LABEL);
    assert_eq!(profile.model, "SoftHSM v2");
    assert!(profile.library.contains("2."), "{}", profile.library);
    for mechanism in ["CKM_AES_KEY_GEN", "CKM_AES_CBC_ENCRYPT_DATA", "CKM_AES_KEY_WRAP"] {
        assert!(
            profile.mechanisms.iter().any(|found| found == mechanism),
            "{:?}",
            profile.mechanisms
        );
    }
    assert_eq!(profile.suites, [EdekSuite::Kw]);
}
