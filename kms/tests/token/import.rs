//! Keys that are brought in, and versions that are destroyed. Imported keys are known ones, so that EDEKs of every suite are
//! held against answers that were computed without Strongroom (`vectors/make.py`).

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use bytes::Bytes;
use strongroom_kms::token::{ImportKey, NewVersion, OaepHash, Origin, Token, TokenObjectId, WireDek};
use strongroom_proto::{Edek, EdekSuite, KeyVersion, Reason, ZoneId};

use crate::fixture::{Fixture, LABEL, fresh, name, zone};

const VECTORS: &str = include_str!("vectors/vectors.txt");

pub(crate) fn wrap(to: &ImportKey, key: &[u8]) -> Bytes {
    let algorithm = match to.hash {
        OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
    };
    let public = PublicEncryptingKey::from_der(&to.spki).expect("an RSA public key");
    assert_eq!(public.key_size_bits(), 3072);
    let oaep = OaepPublicEncryptingKey::new(public).expect("for OAEP");
    let mut wrapped = vec![0; oaep.ciphertext_size()];
    oaep.encrypt(algorithm, key, &mut wrapped, None).expect("short enough");
    wrapped.into()
}

async fn import_key(token: &Token, renew: bool) -> ImportKey {
    token.import_key(renew).await.expect("an import key")
}

#[tokio::test]
async fn every_suite_opens_what_was_computed_without_it() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    let import = import_key(&token, false).await;
    for (number, line) in VECTORS.lines().enumerate() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [suite, key, key_name, version, zone, edek, dek, kcv] = fields.try_into().expect("eight fields");
        let bytes = |hex: &str| hex::decode(hex).expect("hex");
        let key = bytes(key);
        let new = NewVersion {
            key: name(key_name),
            version: KeyVersion(version.parse().expect("a number")),
            suite: suite.parse().expect("a suite"),
            key_bits: u32::try_from(key.len() * 8).expect("small"),
            id: TokenObjectId::generate(),
        };
        let made = token
            .import(&new, import.id, wrap(&import, &key))
            .await
            .expect("imported");
        assert_eq!((made.origin, made.token_id), (Origin::Imported, new.id));
        assert_eq!(made.kcv.to_string(), kcv, "line {number}");
        let edek = Edek {
            key: new.key.clone(),
            version: new.version,
            zone: ZoneId::try_from(bytes(zone).as_slice()).expect("16 bytes"),
            suite: new.suite,
            wrapped: bytes(edek).into(),
        };
        let opened = token
            .unwrap(&[edek])
            .await
            .expect("called")
            .remove(0)
            .map(WireDek::into_wire);
        assert_eq!(opened.expect("opens").as_ref(), bytes(dek), "line {number}");
        token
            .destroy(&new.key, new.version, new.id)
            .await
            .expect("makes room for the next");
    }
    assert_eq!(token.list_versions().await.expect("listed"), []);
}

#[tokio::test]
async fn an_import_is_proven_repeated_and_refused_when_it_is_not_what_was_said() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    let import = import_key(&token, false).await;
    assert_eq!(import_key(&token, false).await, import, "it stays");
    let new = fresh("payroll", 0);
    let wrapped = wrap(&import, &[7; 32]);
    let made = token.import(&new, import.id, wrapped.clone()).await.expect("imported");
    assert_eq!(
        token.import(&new, import.id, wrapped.clone()).await,
        Ok(made.clone()),
        "a repeat finds it"
    );
    assert_eq!(token.list_versions().await.expect("listed"), [made]);

    let reason = |outcome: Result<_, strongroom_proto::Failure>| outcome.expect_err("refused").reason;
    let other = fresh("payroll", 0);
    assert_eq!(
        reason(token.import(&other, import.id, wrapped).await),
        Reason::AlreadyExists
    );
    let next = fresh("payroll", 1);
    for (wrapped, why) in [
        (Bytes::from_static(&[9; 384]), "not wrapped to it"),
        (Bytes::new(), "nothing"),
    ] {
        assert_eq!(
            reason(token.import(&next, import.id, wrapped).await),
            Reason::InvalidArgument,
            "{why}"
        );
    }

    // Only the token can tell the size of what it opened, and SoftHSM2 does not.
    let short = fresh("short", 0);
    match token.import(&short, import.id, wrap(&import, &[7; 16])).await {
        Ok(_) => {
            let gone = token.destroy(&short.key, short.version, short.id).await;
            assert_eq!(gone.expect("destroyed").label, LABEL);
        }
        Err(failure) => assert_eq!(failure.reason, Reason::InvalidArgument),
    }

    // SoftHSM2 takes it for one as long as it is only moved about; others see at once that it is none.
    let odd = reason(token.import(&next, import.id, wrap(&import, &[7; 31])).await);
    assert!(
        [Reason::TokenRefused, Reason::InvalidArgument].contains(&odd),
        "no AES key: {odd}"
    );

    let renewed = import_key(&token, true).await;
    assert_ne!(renewed, import);
    let late = token.import(&next, import.id, wrap(&import, &[7; 32])).await;
    assert_eq!(reason(late), Reason::InvalidArgument, "the one before is gone");
    token.stop().await;
    let token = fixture.start().await;
    assert_eq!(import_key(&token, false).await, renewed, "it outlives workers");
    token
        .import(&next, renewed.id, wrap(&renewed, &[8; 32]))
        .await
        .expect("imported");
    assert_eq!(token.list_versions().await.expect("listed").len(), 2);
}

/// Whoever has the PIN, and a key on its way into the token.
#[tokio::test]
async fn what_is_wrapped_to_the_import_key_cannot_be_unwrapped_readable() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    let import = import_key(&token, false).await;
    let wrapped = wrap(&import, &[7; 32]);
    assert_eq!(fixture.probe("steal", &[&hex::encode(&wrapped)]).trim(), "0");
    let made = token.import(&fresh("payroll", 0), import.id, wrapped).await;
    assert_eq!(made.expect("the right way works").origin, Origin::Imported);
}

#[tokio::test]
async fn a_version_is_destroyed_by_name_and_id_and_its_edeks_never_open_again() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    for suite in EdekSuite::ALL {
        let new = NewVersion {
            suite,
            ..fresh(suite.as_str(), 0)
        };
        let next = fresh(suite.as_str(), 1);
        token.generate(&new).await.expect("made");
        token.generate(&NewVersion { suite, ..next }).await.expect("made");
        let wrapped = token
            .mint(&new.key, new.version, &zone(1), 1)
            .await
            .expect("minted")
            .remove(0);

        let failure = token.destroy(&new.key, new.version, TokenObjectId::generate()).await;
        assert_eq!(failure.expect_err("another object").reason, Reason::KeyVersionUnusable);
        token.destroy(&new.key, new.version, new.id).await.expect("destroyed");
        token
            .destroy(&new.key, new.version, new.id)
            .await
            .expect("a repeat finds it gone");

        let edek = Edek {
            key: new.key.clone(),
            version: new.version,
            zone: zone(1),
            suite,
            wrapped,
        };
        let opened = token.unwrap(&[edek]).await.expect("called").remove(0);
        assert_eq!(opened.expect_err("gone").reason, Reason::KeyVersionUnusable);
        let minted = token.mint(&new.key, KeyVersion(1), &zone(1), 1).await;
        minted.expect("the others are not touched");
    }
    assert_eq!(token.list_versions().await.expect("listed").len(), 3);
}
