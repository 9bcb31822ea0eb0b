//! Keys that are brought in come to be in every token, as generated ones do.

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use bytes::Bytes;
use strongroom_kms::{
    fleet::{Fleet, Health, RedundancyConfig},
    hsm::Hsm,
    token::{ImportKey, NewVersion, OaepHash, Origin, Token, TokenObjectId, WireDek},
};
use strongroom_proto::{Edek, EdekSuite, KeyVersion, Reason, ZoneId};

use crate::{
    failover::becomes,
    fixture::{fresh, name, zone},
    pair::{LABELS, Pair, report},
};

const VECTORS: &str = include_str!("../token/vectors/vectors.txt");

fn wrap(to: &ImportKey, key: &[u8]) -> Bytes {
    let algorithm = match to.hash {
        OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
    };
    let public = PublicEncryptingKey::from_der(&to.spki).expect("an RSA public key");
    let oaep = OaepPublicEncryptingKey::new(public).expect("for OAEP");
    let mut wrapped = vec![0; oaep.ciphertext_size()];
    oaep.encrypt(algorithm, key, &mut wrapped, None).expect("short enough");
    wrapped.into()
}

/// A version with an EDEK of it and the DEK in that, computed without Strongroom.
struct Known {
    new: NewVersion,
    key: Vec<u8>,
    edek: Edek,
    dek: Vec<u8>,
    kcv: String,
}

/// All of them, as versions of keys of their own.
fn known() -> Vec<Known> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [suite, key, key_name, version, zone, edek, dek, kcv] = fields.try_into().expect("eight fields");
        let bytes = |hex: &str| hex::decode(hex).expect("hex");
        let (key, suite): (_, EdekSuite) = (bytes(key), suite.parse().expect("a suite"));
        let new = NewVersion {
            key: name(key_name),
            version: KeyVersion(version.parse().expect("a number")),
            suite,
            key_bits: u32::try_from(key.len() * 8).expect("small"),
            id: TokenObjectId::generate(),
        };
        let edek = Edek {
            key: new.key.clone(),
            version: new.version,
            zone: ZoneId::try_from(bytes(zone).as_slice()).expect("16 bytes"),
            suite,
            wrapped: bytes(edek).into(),
        };
        let (dek, kcv) = (bytes(dek), kcv.to_owned());
        Known {
            new,
            key,
            edek,
            dek,
            kcv,
        }
    };
    VECTORS.lines().map(parse).collect()
}

/// One of the tokens as the only one.
async fn alone(pair: &Pair, label: &str) -> Fleet {
    let configs = pair.configs();
    let config = configs.into_iter().filter(|config| config.label == label);
    pair.start_with(&config.collect::<Vec<_>>(), Pair::settings()).await
}

#[tokio::test]
async fn a_key_of_every_suite_and_size_comes_into_both_tokens() {
    let pair = Pair::new();
    // One version comes after the other under the same name and number, which a comparison in between would take for a change.
    let rarely = RedundancyConfig {
        check_interval_s: 3600,
        ..Pair::settings()
    };
    let fleet = pair.start_with(&pair.configs(), rarely).await;
    let import = fleet.import_key(false).await.expect("an import key");
    let mut sizes = Vec::new();
    for known in known() {
        let new = &known.new;
        let wrapped = wrap(&import, &known.key);
        let made = fleet
            .import(new, import.id, wrapped.clone())
            .await
            .expect("imported and cloned");
        assert_eq!((made.origin, made.kcv.to_string()), (Origin::Imported, known.kcv));
        assert_eq!(
            fleet.import(new, import.id, wrapped).await,
            Ok(made.clone()),
            "found again"
        );
        for label in LABELS {
            let token = alone(&pair, label).await;
            let held = token.list_versions().await.expect("listed");
            assert_eq!(
                held.iter().map(|held| held.kcv).collect::<Vec<_>>(),
                [made.kcv],
                "{label}"
            );
            let opened = token.unwrap(std::slice::from_ref(&known.edek)).await.expect("called");
            let opened: Vec<_> = opened.into_iter().map(|dek| dek.map(WireDek::into_wire)).collect();
            assert_eq!(opened[0].as_ref().expect("it opens").as_ref(), known.dek, "{label}");
            token.mint(&new.key, new.version, &zone(1), 3).await.expect("it mints");
            token.stop().await;
        }
        sizes.push((new.suite, new.key_bits));
        fleet.destroy(&new.key, new.version, new.id).await.expect("makes room");
        assert_eq!(LABELS.map(|label| report(&fleet, label).held), [0, 0]);
    }
    for size in [(EdekSuite::Kw, 256), (EdekSuite::Hadoop, 128), (EdekSuite::Hadoop, 256)] {
        assert!(sizes.contains(&size), "{size:?} is not among {sizes:?}");
    }
    fleet.stop().await;
}

#[tokio::test]
async fn a_key_generated_with_another_size_is_cloned_and_mints_in_both() {
    let pair = Pair::new();
    let fleet = pair.start().await;
    for key_bits in [128, 192, 256] {
        let new = NewVersion {
            suite: EdekSuite::Hadoop,
            key_bits,
            ..fresh(&format!("lake-{key_bits}"), 0)
        };
        fleet.generate(&new).await.expect("in both");
        for label in LABELS {
            let token = alone(&pair, label).await;
            let minted = token.mint(&new.key, new.version, &zone(1), 2).await.expect("minted");
            let edek = |wrapped| Edek {
                key: new.key.clone(),
                version: new.version,
                zone: zone(1),
                suite: new.suite,
                wrapped,
            };
            let edeks: Vec<_> = minted.into_iter().map(edek).collect();
            for dek in fleet.unwrap(&edeks).await.expect("called") {
                let dek = dek.map(WireDek::into_wire).expect("it opens");
                assert_eq!(dek.len() * 8, key_bits as usize, "{label}");
            }
            token.stop().await;
        }
    }
    fleet.stop().await;
}

#[tokio::test]
async fn what_came_into_one_token_only_is_finished_by_a_repeat() {
    let pair = Pair::new();
    let config = pair.configs().swap_remove(0);
    let token = Token::start(pair.worker(), config, pair.path("state/alone"))
        .await
        .expect("started");
    let import = token.import_key(false).await.expect("an import key");
    let new = NewVersion {
        suite: EdekSuite::Hadoop,
        key_bits: 128,
        ..fresh("lake", 3)
    };
    let made = token
        .import_clonable(&new, import.id, wrap(&import, &[7; 16]))
        .await
        .expect("in one");
    token.stop().await;

    let fleet = pair.start().await;
    assert_eq!(LABELS.map(|label| report(&fleet, label).held), [1, 0]);
    // Without the material, which a service that crashed has not any more.
    let again = fleet.generate(&new).await.expect("cloned into the other one");
    assert_eq!(again.kcv, made.kcv);
    assert_eq!(LABELS.map(|label| report(&fleet, label).held), [1, 1]);
    fleet.stop().await;
}

#[tokio::test]
async fn with_a_token_down_nothing_is_brought_in() {
    let pair = Pair::new();
    let fleet = pair.start().await;
    let import = fleet.import_key(false).await.expect("an import key");
    pair.remove(LABELS[1]);
    becomes(&fleet, LABELS[1], |health| matches!(health, Health::Away(_))).await;
    let new = fresh("payroll", 0);
    let wrapped = wrap(&import, &[7; 32]);
    let failure = fleet
        .import(&new, import.id, wrapped.clone())
        .await
        .expect_err("in one only");
    assert_eq!(failure.reason, Reason::TokenUnavailable);
    assert!(failure.message.contains(LABELS[1]), "{failure}");
    pair.return_token(LABELS[1]);
    becomes(&fleet, LABELS[1], |health| *health == Health::Serving).await;
    fleet.import(&new, import.id, wrapped).await.expect("in both");
    fleet.stop().await;
}
