//! Keys that come from elsewhere, through the whole service: on a stand-in for what a crash leaves, and on SoftHSM2 with
//! EDEKs that were computed without Strongroom.

#[path = "token/fixture.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod fixture;
mod support;
#[path = "token/vendor.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod vendor;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use bytes::Bytes;
use fixture::Fixture;
use strongroom_kms::token::{Kcv, Origin, TokenKeyVersion, TokenObjectId, TokenState};
use strongroom_proto::{
    EdekSuite, KeyVersion, Reason, RequestId, ZoneId,
    kms::v1::{self as pb, KeyVersionState as State},
};
use support::{CutAt, MemoryHsm, Site};

const VECTORS: &str = include_str!("token/vectors/vectors.txt");

/// The import of key lake, its versions being wrapped already.
fn request(import_key: Bytes, suite: &str, key_bits: u32, wrapped: Vec<Bytes>, id: RequestId) -> pb::ImportKeyRequest {
    pb::ImportKeyRequest {
        key: Some(pb::CreateKeyRequest {
            name: "lake".to_owned(),
            suite: suite.to_owned(),
            key_bits,
            request_id: id.into(),
            ..pb::CreateKeyRequest::default()
        }),
        import_key,
        wrapped,
    }
}

/// Three keys as the stand-in takes them: it wraps nothing.
fn material() -> Vec<Bytes> {
    (1..=3).map(|byte| Bytes::from(vec![byte; 32])).collect()
}

fn states(key: &pb::Key) -> Vec<State> {
    key.versions.iter().map(pb::KeyVersion::state).collect()
}

fn wrap(to: &pb::GetImportKeyResponse, key: &[u8]) -> Bytes {
    let algorithm = match to.hash.as_str() {
        "sha256" => &OAEP_SHA256_MGF1SHA256,
        _ => &OAEP_SHA1_MGF1SHA1,
    };
    let public = PublicEncryptingKey::from_der(&to.spki).expect("an RSA public key");
    let public = OaepPublicEncryptingKey::new(public).expect("for OAEP");
    let mut wrapped = vec![0; public.ciphertext_size()];
    public
        .encrypt(algorithm, key, &mut wrapped, None)
        .expect("short enough");
    wrapped.into()
}

#[tokio::test]
async fn all_versions_come_in_or_none_wherever_it_is_cut_off() {
    for (version, done) in [(0, false), (0, true), (1, false), (1, true), (2, false), (2, true)] {
        for restart in [false, true] {
            let case = format!("version {version}, done {done}, restart {restart}");
            let (site, hsm) = (Site::new(), MemoryHsm::new());
            let mut kms = site.start(&hsm).await;
            let mut admin = kms.as_user("user/keyadmin");
            let target = admin.import_key("lake").await.expect("an import key");
            let asked = request(target.id, "kw", 256, material(), RequestId::generate());
            hsm.cut_import(CutAt { version, done });
            let failure = admin.import_as(asked.clone()).await.expect_err("cut off");
            assert_eq!(failure.reason, Reason::TokenUnavailable, "{case}");
            if restart {
                kms.stop().await;
                kms = site.start(&hsm).await;
                let known = kms.as_user("user/keyadmin").describe("lake").await.is_ok();
                let complete = (version, done) == (2, true);
                assert_eq!(known, complete, "{case}: finished or gone");
                assert_eq!(hsm.holds("lake", 0), complete, "{case}");
            }
            let mut admin = kms.as_user("user/keyadmin");
            let key = admin.import_as(asked.clone()).await.expect("the repeat");
            let expected = [State::DecryptOnly, State::DecryptOnly, State::Active];
            assert_eq!(
                (states(&key), key.current_version),
                (expected.to_vec(), Some(2)),
                "{case}"
            );
            assert_eq!(key.versions[1].kcv.as_ref(), [2; 3], "{case}: in order");
            assert_eq!(admin.import_as(asked).await.expect("answered again"), key, "{case}");
            let minted = kms
                .as_user("service/metadata")
                .mint("lake", ZoneId::generate(), 1)
                .await;
            assert_eq!(minted.expect("it mints")[0].key_version, 2, "{case}");
            kms.stop().await;
        }
    }
}

/// What a listing found gets old while it goes on.
#[tokio::test]
async fn what_is_undone_during_a_listing_is_not_taken_for_somebody_elses() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    let target = admin.import_key("lake").await.expect("an import key");
    let asked = request(target.id.clone(), "kw", 256, material(), RequestId::generate());
    hsm.cut_import(CutAt {
        version: 1,
        done: false,
    });
    admin.import_as(asked).await.expect_err("cut off");
    // It cannot be undone before the listing either.
    hsm.cut_destroy(CutAt {
        version: 0,
        done: false,
    });
    let listing = hsm.hold_lists();
    hsm.wait_list(|| hsm.set_state(TokenState::Ready)).await;
    assert!(hsm.holds("lake", 0) && !hsm.cuts_destroy(), "the listing has found it");
    let others = (11..=13).map(|byte| Bytes::from(vec![byte; 32])).collect();
    let again = request(target.id, "kw", 256, others, RequestId::generate());
    let made = admin.import_as(again).await.expect("undone, and brought in anew");
    let compared = admin.create("marker").await.expect("created");
    hsm.lose(&compared.name, 0);
    drop(listing);

    // The next listing comes after that one.
    let started = Instant::now();
    hsm.wait_list(|| hsm.set_state(TokenState::Ready)).await;
    while admin.describe("marker").await.expect("there").versions[0].state() != State::Missing {
        assert!(started.elapsed() < Duration::from_secs(10), "compared again");
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = admin.describe("lake").await.expect("there");
        assert_eq!(now, made, "while it is compared");
    }
    assert_eq!(admin.describe("lake").await.expect("there"), made);
    kms.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_one_version_leaves_none() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    let target = admin.import_key("lake").await.expect("an import key");
    let mut wrapped = material();
    wrapped[2] = Bytes::from_static(&[3; 16]);
    let asked = request(target.id.clone(), "kw", 256, wrapped, RequestId::generate());
    let failure = admin.import_as(asked).await.expect_err("the last is too short");
    assert_eq!(failure.reason, Reason::InvalidArgument);
    assert!(failure.message.starts_with("version 2 of key lake: "), "{failure}");
    assert!(
        (0..3).all(|version| !hsm.holds("lake", version)),
        "what came in is gone"
    );

    // Somebody else's object in the place of a version is neither taken for it nor destroyed.
    let foreign = TokenKeyVersion {
        key: "lake".parse().expect("a key name"),
        version: KeyVersion(1),
        suite: EdekSuite::Kw,
        kcv: Kcv::from_bytes([9; 3]),
        token_id: TokenObjectId::generate(),
        origin: Origin::Generated,
    };
    hsm.put(foreign);
    let asked = request(target.id.clone(), "kw", 256, material(), RequestId::generate());
    let failure = admin.import_as(asked).await.expect_err("its place is taken");
    assert_eq!(failure.reason, Reason::KeyVersionUnusable);
    assert!(!hsm.holds("lake", 0) && hsm.holds("lake", 1) && !hsm.holds("lake", 2));
    hsm.lose("lake", 1);

    for (asked, words) in [
        (
            request(target.id.clone(), "", 256, material(), RequestId::generate()),
            "suite",
        ),
        (
            request(target.id.clone(), "kw", 0, material(), RequestId::generate()),
            "size",
        ),
        (
            request(target.id.clone(), "kw", 256, Vec::new(), RequestId::generate()),
            "1 to 1000 versions",
        ),
        (
            request(Bytes::new(), "kw", 256, material(), RequestId::generate()),
            "16 bytes",
        ),
    ] {
        let failure = admin.import_as(asked).await.expect_err(words);
        assert_eq!(failure.reason, Reason::InvalidArgument);
        assert!(failure.message.contains(words), "{failure}");
    }
    let asked = request(target.id, "kw", 256, material(), RequestId::generate());
    let mut guest = kms.as_user("user/alice");
    for refused in [
        guest.import_key("lake").await.map(drop),
        guest.import_as(asked).await.map(drop),
    ] {
        assert_eq!(refused.expect_err("may not").reason, Reason::PermissionDenied);
    }
    kms.stop().await;
    let actions = site.audit().into_iter().map(|record| record.entry.action);
    // Three calls with two records each, and two that were denied.
    assert_eq!(actions.filter(|action| action == "import").count(), 8);
}

#[tokio::test]
async fn an_import_that_fails_half_way_leaves_nothing_behind_once_the_token_is_back() {
    // The token goes away while it is asked to undo version 1, before it has or after.
    for undoing in [None, Some(false), Some(true)] {
        let (site, hsm) = (Site::new(), MemoryHsm::new());
        let kms = site.start(&hsm).await;
        let mut admin = kms.as_user("user/keyadmin");
        let target = admin.import_key("lake").await.expect("an import key");
        let mut wrapped = material();
        wrapped[2] = Bytes::from_static(&[3; 16]);
        let asked = request(target.id, "kw", 256, wrapped, RequestId::generate());
        if let Some(done) = undoing {
            hsm.cut_destroy(CutAt { version: 1, done });
        }
        let failure = admin.import_as(asked).await.expect_err("the last is too short");
        let reason = undoing.map_or(Reason::InvalidArgument, |_| Reason::TokenUnavailable);
        assert_eq!(failure.reason, reason, "{undoing:?}: {failure}");
        assert_eq!(hsm.holds("lake", 1), undoing == Some(false), "{undoing:?}");
        kms.stop().await;

        let kms = site.start(&hsm).await;
        let mut admin = kms.as_user("user/keyadmin");
        let unknown = admin.describe("lake").await.expect_err("nobody made it");
        assert_eq!(unknown.reason, Reason::KeyNotFound, "{undoing:?}");
        assert_eq!(admin.list("", 10).await.expect("listed").keys, [], "{undoing:?}");
        assert!((0..3).all(|version| !hsm.holds("lake", version)), "{undoing:?}");
        let made = admin.create("lake").await.expect("its name is free");
        assert_eq!((made.versions.len(), made.unconfirmed), (1, false), "{undoing:?}");
        kms.stop().await;
    }
}

#[tokio::test]
async fn an_imported_gcm_key_only_opens_until_it_is_rolled() {
    let (site, hsm) = (Site::new(), MemoryHsm::new());
    let kms = site.start(&hsm).await;
    let mut admin = kms.as_user("user/keyadmin");
    let target = admin.import_key("lake").await.expect("an import key");
    let asked = request(target.id, "gcm", 256, material(), RequestId::generate());
    let key = admin.import_as(asked).await.expect("imported");
    assert_eq!((states(&key), key.current_version), (vec![State::DecryptOnly; 3], None));
    let mut metadata = kms.as_user("service/metadata");
    let refused = metadata
        .mint("lake", ZoneId::generate(), 1)
        .await
        .expect_err("its uses are not known");
    assert!(refused.message.contains("strongroom key roll lake"), "{refused}");
    assert_eq!(admin.roll("lake").await.expect("rolled").current_version, Some(3));
    metadata.mint("lake", ZoneId::generate(), 1).await.expect("it mints");
    kms.stop().await;
}

#[tokio::test]
async fn an_imported_hadoop_key_opens_what_hadoop_made() {
    let (site, fixture) = (Site::new(), Fixture::new());
    let token = Arc::new(fixture.start().await);
    let kms = site.start(&token).await;
    let mut admin = kms.as_user("user/keyadmin");
    let target = admin.import_key("lake").await.expect("an import key");
    let lines = VECTORS.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let hadoop: Vec<_> = lines
        .filter(|fields| fields[0] == "hadoop" && fields[1].len() == 32)
        .collect();
    let bytes = |hex: &str| hex::decode(hex).expect("hex");
    let key = bytes(hadoop[0][1]);
    let wrapped = |last: &[u8]| vec![wrap(&target, &key), wrap(&target, last)];

    let blob = Bytes::from(vec![7; 384]);
    let asked = |wrapped| request(target.id.clone(), "hadoop", 128, wrapped, RequestId::generate());
    let failure = admin
        .import_as(asked(vec![wrap(&target, &key), blob]))
        .await
        .expect_err("not wrapped to the import key");
    assert_eq!(failure.reason, Reason::InvalidArgument);
    assert_eq!(
        token.list_versions().await.expect("listed"),
        [],
        "the first went out again"
    );
    // The size of what is wrapped is the client's to say: SoftHSM2 does not tell it of a key that it unwrapped.
    let made = admin.import_as(asked(wrapped(&[1; 16]))).await.expect("imported");
    assert_eq!(states(&made), [State::DecryptOnly, State::Active]);
    for fields in hadoop.iter().filter(|fields| bytes(fields[1]) == key) {
        let edek = pb::Edek {
            key_name: "lake".to_owned(),
            key_version: 0,
            zone_id: ZoneId::generate().into(),
            suite: "hadoop".to_owned(),
            wrapped: bytes(fields[5]).into(),
        };
        let opened = kms
            .as_user("user/alice")
            .unwrap(vec![edek])
            .await
            .expect("called")
            .remove(0);
        assert_eq!(opened.expect("opens"), bytes(fields[6]));
    }
    let zone = ZoneId::generate();
    let minted = kms
        .as_user("service/metadata")
        .mint("lake", zone, 3)
        .await
        .expect("the last mints");
    assert_eq!(minted[0].key_version, 1);
    let opened = kms.as_user("user/alice").unwrap(minted).await.expect("called");
    assert!(opened.iter().all(|dek| dek.as_ref().is_ok_and(|dek| dek.len() == 16)));
    kms.stop().await;
    token.stop().await;
}
