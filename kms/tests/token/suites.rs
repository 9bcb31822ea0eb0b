//! What holds for EDEKs of every suite, and what each suite promises and does not.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use strongroom_kms::token::{IvSource, NewVersion, Token, WireDek};
use strongroom_proto::{Edek, EdekSuite, KeyVersion, Reason, ZoneId};

use crate::fixture::{Fixture, fresh, name, zone};

const V0: KeyVersion = KeyVersion(0);
const V1: KeyVersion = KeyVersion(1);

/// A kind of key, and how long its EDEKs and DEKs are.
struct Kind {
    suite: EdekSuite,
    key_bits: u32,
    wrapped_bytes: usize,
    dek_bytes: usize,
}

const fn kind(suite: EdekSuite, key_bits: u32, wrapped_bytes: usize, dek_bytes: usize) -> Kind {
    Kind {
        suite,
        key_bits,
        wrapped_bytes,
        dek_bytes,
    }
}

const KINDS: [Kind; 5] = [
    kind(EdekSuite::Kw, 256, 48, 32),
    kind(EdekSuite::Gcm, 256, 68, 32),
    kind(EdekSuite::Hadoop, 128, 32, 16),
    kind(EdekSuite::Hadoop, 192, 40, 24),
    kind(EdekSuite::Hadoop, 256, 48, 32),
];

async fn make(token: &Token, key: &str, version: KeyVersion, suite: EdekSuite, key_bits: u32) {
    let new = NewVersion {
        suite,
        key_bits,
        ..fresh(key, version.0)
    };
    token.generate(&new).await.expect("a fresh version");
}

fn edek(key: &str, version: KeyVersion, zone: ZoneId, suite: EdekSuite, wrapped: &Bytes) -> Edek {
    Edek {
        key: name(key),
        version,
        zone,
        suite,
        wrapped: wrapped.clone(),
    }
}

async fn open(token: &Token, edeks: &[Edek]) -> Vec<Result<Bytes, Reason>> {
    let results = token.unwrap(edeks).await.expect("the call succeeds");
    let plain = |result: Result<WireDek, _>| result.map(WireDek::into_wire);
    results
        .into_iter()
        .map(|result| plain(result).map_err(|failure: strongroom_proto::Failure| failure.reason))
        .collect()
}

#[tokio::test]
async fn deks_survive_mint_rewrap_and_unwrap_in_every_suite() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    for (number, kind) in KINDS.iter().enumerate() {
        let key = format!("key-{number}");
        for version in [V0, V1] {
            make(&token, &key, version, kind.suite, kind.key_bits).await;
        }
        let minted = token.mint(&name(&key), V0, &zone(1), 300).await.expect("minted");
        assert!(minted.iter().all(|wrapped| wrapped.len() == kind.wrapped_bytes));
        let all = |version, edeks: &[Bytes]| -> Vec<Edek> {
            let one = |wrapped| edek(&key, version, zone(1), kind.suite, wrapped);
            edeks.iter().map(one).collect()
        };
        let plain = open(&token, &all(V0, &minted)).await;
        let mut distinct: Vec<_> = plain.iter().map(|dek| dek.clone().expect("opens")).collect();
        assert!(distinct.iter().all(|dek| dek.len() == kind.dek_bytes));
        distinct.sort();
        distinct.dedup();
        assert_eq!((distinct.len(), minted.len()), (300, 300), "every DEK is its own");

        let items = minted.iter().map(|wrapped| (V0, wrapped.clone())).collect();
        let again = token.rewrap(&name(&key), V1, &zone(1), items).await.expect("called");
        let again: Vec<Bytes> = again.into_iter().map(|wrapped| wrapped.expect("re-wrapped")).collect();
        assert_eq!(
            open(&token, &all(V1, &again)).await,
            plain,
            "{}: the same DEKs",
            kind.suite
        );
        assert!(minted.iter().zip(&again).all(|(old, new)| old != new));
        let kept_iv = minted.iter().zip(&again).all(|(old, new)| old[..16] == new[..16]);
        assert_eq!(kept_iv, kind.suite == EdekSuite::Hadoop, "only Hadoop keeps the IV");
    }
    let versions = token.list_versions().await.expect("listed");
    token.stop().await;
    let token = fixture.start().await;
    assert_eq!(
        token.list_versions().await.expect("listed"),
        versions,
        "check values are stable"
    );
    assert_eq!(fixture.starts().len(), 2, "no worker was lost");
}

/// Turns one bit over.
fn flip(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    flipped
}

#[tokio::test]
async fn any_bit_flipped_in_an_edek_or_its_context_is_refused_by_kw_and_gcm() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    for suite in [EdekSuite::Kw, EdekSuite::Gcm] {
        let seed = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_nanos() as u64;
        let zone_id = ZoneId::from_bytes(std::array::from_fn(|at| (seed >> (at % 8 * 8)) as u8 ^ at as u8));
        // Names and versions that differ in one bit, so that a flip in them leads to keys that exist.
        let names = [format!("{suite}-a"), format!("{suite}-c"), format!("{suite}-q")];
        for key in &names {
            for version in [0, 1, 4] {
                make(&token, key, KeyVersion(version), suite, 256).await;
            }
        }
        let minted = token.mint(&name(&names[0]), V0, &zone_id, 1).await.expect("minted");
        let wrapped = &minted[0];
        let good = edek(&names[0], V0, zone_id, suite, wrapped);
        let mut bad: Vec<Edek> = (0..wrapped.len() * 8)
            .map(|bit| edek(&names[0], V0, zone_id, suite, &flip(wrapped, bit).into()))
            .collect();
        bad.extend((0..128).map(|bit| {
            let zone = ZoneId::try_from(flip(zone_id.as_bytes(), bit).as_slice()).expect("16 bytes");
            edek(&names[0], V0, zone, suite, wrapped)
        }));
        bad.extend([1, 4].map(|version| edek(&names[0], KeyVersion(version), zone_id, suite, wrapped)));
        bad.extend(names[1..].iter().map(|key| edek(key, V0, zone_id, suite, wrapped)));
        bad.extend((1..wrapped.len()).map(|length| edek(&names[0], V0, zone_id, suite, &wrapped.slice(..length))));
        for (result, edek) in open(&token, &bad).await.into_iter().zip(&bad) {
            assert_eq!(
                result,
                Err(Reason::EdekInvalid),
                "seed {seed}: {edek:?} {}",
                hex::encode(&edek.wrapped)
            );
        }
        let items = bad[..wrapped.len() * 8]
            .iter()
            .map(|edek| (V0, edek.wrapped.clone()))
            .collect();
        let again = token
            .rewrap(&name(&names[0]), V1, &zone_id, items)
            .await
            .expect("called");
        assert!(
            again
                .iter()
                .all(|result| matches!(result, Err(failure) if failure.reason == Reason::EdekInvalid))
        );
        assert!(open(&token, &[good]).await[0].is_ok(), "seed {seed}");
    }
    assert_eq!(fixture.starts().len(), 1, "bad EDEKs cost no worker");
}

#[tokio::test]
async fn hadoop_notices_no_flipped_bit_and_binds_no_zone() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    let suite = EdekSuite::Hadoop;
    make(&token, "hdfs", V0, suite, 256).await;
    let minted = token.mint(&name("hdfs"), V0, &zone(1), 1).await.expect("minted");
    let wrapped = &minted[0];
    let twice = [1, 2].map(|number| edek("hdfs", V0, zone(number), suite, wrapped));
    let opened = open(&token, &twice).await;
    assert_eq!(opened[0], opened[1], "the zone is not bound");
    let dek = opened[0].clone().expect("opens");
    // None of its bits is detected. Behind the IV, a bit of the EDEK is that bit of the DEK; one of the IV changes all of it.
    let flipped: Vec<_> = (0..48 * 8)
        .map(|bit| edek("hdfs", V0, zone(1), suite, &flip(wrapped, bit).into()))
        .collect();
    for (bit, changed) in open(&token, &flipped).await.into_iter().enumerate() {
        let changed = changed.expect("opens");
        match bit.checked_sub(128) {
            Some(bit) => assert_eq!(changed.as_ref(), flip(&dek, bit), "bit {bit}"),
            None => {
                let differing: u32 = dek.iter().zip(&changed).map(|(a, b)| (a ^ b).count_ones()).sum();
                // Of 256 random bits fewer than 64 differ once in 10^15 times.
                assert!(differing >= 64, "bit {bit} of the IV changes {differing} bits");
            }
        }
    }
    // Name and version are not in it; it opens to what another key makes of it.
    make(&token, "hdfs", V1, suite, 256).await;
    make(&token, "other", V0, suite, 256).await;
    let elsewhere = [
        edek("hdfs", V1, zone(1), suite, wrapped),
        edek("other", V0, zone(1), suite, wrapped),
    ];
    for other in open(&token, &elsewhere).await {
        assert_ne!(other.expect("opens"), dek);
    }
    let short = edek("hdfs", V0, zone(1), suite, &wrapped.slice(..47));
    assert_eq!(
        open(&token, &[short]).await,
        [Err(Reason::EdekInvalid)],
        "but its length is looked at"
    );
}

#[tokio::test]
async fn the_profile_says_what_was_seen_to_work() {
    let fixture = Fixture::new();
    let profile = fixture.start().await.profile().await.expect("inspected");
    assert!(profile.tried);
    assert_eq!(profile.suites, EdekSuite::ALL);
    assert_eq!(profile.default_suite(), Some(EdekSuite::Kw));
    assert_eq!(profile.gcm_iv, Some(IvSource::Caller));
    assert_eq!(profile.oaep_hashes, crate::vendor::chosen().oaep_hashes());
}

#[tokio::test]
async fn keys_do_what_their_suite_needs_and_nothing_else() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    for (suite, mechanism) in [(EdekSuite::Gcm, "CKM_AES_GCM"), (EdekSuite::Hadoop, "CKM_AES_CTR")] {
        make(&token, suite.as_str(), V0, suite, 256).await;
        let expected = format!(
            "strongroom:1:{suite}:{suite}@0 ValueLen(32) Token(true) Private(true) Sensitive(true) \
             AlwaysSensitive(true) Extractable(false) NeverExtractable(true) Local(true) Modifiable(false) \
             Encrypt(true) Decrypt(true) Sign(true) Verify(false) Wrap(false) Unwrap(false) Derive(false) \
             AllowedMechanisms({mechanism} CKM_AES_CMAC) WrapWithTrusted(false)"
        );
        let dump = fixture.probe("dump", &[]);
        assert!(dump.lines().any(|line| line == expected), "{dump}");
    }
}

#[tokio::test]
async fn a_size_that_a_suite_does_not_know_is_refused() {
    let fixture = Fixture::new();
    let token = fixture.start().await;
    for (suite, key_bits) in [(EdekSuite::Kw, 128), (EdekSuite::Gcm, 192), (EdekSuite::Hadoop, 512)] {
        let new = NewVersion {
            suite,
            key_bits,
            ..fresh("odd", 0)
        };
        let failure = token.generate(&new).await.expect_err("no such size");
        assert_eq!(failure.reason, Reason::InvalidArgument, "{failure}");
    }
    assert_eq!(token.list_versions().await.expect("listed"), []);
}
