//! One zone key in two implementations of PKCS#11 that share no code: SoftHSM2, which can send clones, and kryoptic, which can
//! only receive them (`docs/adr/0018-kryoptic-is-the-second-token.md`). `ci/test tokens` builds kryoptic and runs this; without
//! it these tests fail.

#[path = "../token/fixture.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod fixture;
#[path = "../fleet/pair.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod pair;
#[path = "../token/vendor.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod vendor;

use std::time::{Duration, Instant};

use bytes::Bytes;
use strongroom_kms::{
    fleet::{Fleet, Health},
    hsm::Hsm,
    token::{NewVersion, TokenKeyVersion, WireDek, trust::KeysReadable},
};
use strongroom_proto::{Edek, EdekSuite, Reason};

use crate::{
    fixture::{fresh, zone},
    pair::{LABELS, Pair, report},
    vendor::{Kryoptic, SoftHsm2},
};

/// The one that comes first in the configuration cannot send clones, which is for the fleet to find out.
const RECEIVER: &str = LABELS[0];
const SENDER: &str = LABELS[1];

/// Both, introduced to each other.
fn linked() -> Pair {
    let pair = Pair::unlinked([&Kryoptic, &SoftHsm2]);
    for check_only in [false, true] {
        let failure = pair.link(check_only).expect_err("its user can make trusted keys");
        assert_eq!(failure.reason, Reason::TokenRefused);
        let flag = format!("--keys-readable-with-pin {RECEIVER:?}");
        for part in [RECEIVER, "CKA_TRUSTED", flag.as_str()] {
            assert!(failure.message.contains(part), "{failure} lacks {part:?}");
        }
    }
    let linked = pair.link_accepting(&[RECEIVER], false);
    let linked = linked.expect("one of them can be told whom to trust");
    let readable: Vec<_> = linked.iter().map(|token| token.keys_readable_with_pin).collect();
    assert_eq!(readable, [Some(KeysReadable::UserTrusts), None], "{linked:?}");
    let facts: Vec<_> = linked
        .iter()
        .map(|token| (token.receives_only, token.lacks.len()))
        .collect();
    assert_eq!(facts, [(true, 1), (false, 0)], "{linked:?}");
    let checked = pair.link_accepting(&[RECEIVER], true);
    let checked = checked.expect("one can send to all others");
    assert!(!checked[1].lacks.contains(&RECEIVER.to_owned()), "{checked:?}");
    pair
}

/// A version of each suite, one of them of a size of its own.
fn versions() -> [NewVersion; 4] {
    let of = |key: &str, suite, key_bits| NewVersion {
        suite,
        key_bits,
        ..fresh(key, 0)
    };
    [
        of("payroll", EdekSuite::Kw, 256),
        of("mail", EdekSuite::Gcm, 256),
        of("lake", EdekSuite::Hadoop, 256),
        of("pond", EdekSuite::Hadoop, 128),
    ]
}

/// One of the tokens as the only one.
async fn alone(pair: &Pair, label: &str) -> Fleet {
    let configs = pair.configs();
    let config = configs.into_iter().filter(|config| config.label == label);
    let fleet = pair.start_with(&config.collect::<Vec<_>>(), Pair::settings()).await;
    assert_eq!(report(&fleet, label).health, Health::Serving, "{label}");
    fleet
}

async fn becomes(fleet: &Fleet, label: &str, wanted: impl Fn(&Health) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !wanted(&report(fleet, label).health) {
        assert!(
            Instant::now() < deadline,
            "{label} stays {:?}",
            report(fleet, label).health
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn mint(fleet: &Fleet, new: &NewVersion, count: usize) -> Vec<Bytes> {
    fleet
        .mint(&new.key, new.version, &zone(1), count)
        .await
        .unwrap_or_else(|failure| panic!("key {}: {failure}", new.key))
}

async fn open(fleet: &Fleet, new: &NewVersion, wrapped: &[Bytes]) -> Vec<Vec<u8>> {
    let edek = |wrapped: &Bytes| Edek {
        key: new.key.clone(),
        version: new.version,
        zone: zone(1),
        suite: new.suite,
        wrapped: wrapped.clone(),
    };
    let edeks: Vec<_> = wrapped.iter().map(edek).collect();
    let opened = fleet.unwrap(&edeks).await.expect("called").into_iter();
    opened
        .map(|dek| dek.map(WireDek::into_wire).expect("it opens").to_vec())
        .collect()
}

async fn rewrap(fleet: &Fleet, new: &NewVersion, wrapped: &[Bytes]) -> Vec<Bytes> {
    let items = wrapped.iter().map(|wrapped| (new.version, wrapped.clone())).collect();
    let again = fleet
        .rewrap(&new.key, new.version, &zone(1), items)
        .await
        .expect("called");
    again.into_iter().map(|wrapped| wrapped.expect("re-wrapped")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_either_mints_or_wraps_again_the_other_opens() {
    let pair = linked();
    let fleet = pair.start().await;
    let versions = versions();
    let mut made = Vec::new();
    for new in &versions {
        let version = fleet
            .generate(new)
            .await
            .expect("made in one and cloned into the other");
        assert_eq!(fleet.generate(new).await.expect("found again"), version);
        made.push(version.kcv);
    }
    assert_eq!([RECEIVER, SENDER].map(|label| report(&fleet, label).held), [4, 4]);
    fleet.stop().await;

    let (receiver, sender) = (alone(&pair, RECEIVER).await, alone(&pair, SENDER).await);
    for fleet in [&receiver, &sender] {
        let held = fleet.list_versions().await.expect("listed");
        let value = |new: &NewVersion| held.iter().find(|held| held.token_id == new.id).map(|held| held.kcv);
        let held: Vec<_> = versions.iter().filter_map(value).collect();
        assert_eq!(held, made, "the same check values in both");
    }
    for (one, other) in [(&receiver, &sender), (&sender, &receiver)] {
        for new in &versions {
            let minted = mint(one, new, 20).await;
            let deks = open(one, new, &minted).await;
            assert!(
                deks.iter().all(|dek| dek.len() * 8 == new.key_bits as usize),
                "{}",
                new.key
            );
            assert_eq!(open(other, new, &minted).await, deks, "key {}", new.key);
            let again = rewrap(other, new, &minted).await;
            assert_eq!(open(one, new, &again).await, deks, "key {}, wrapped again", new.key);
        }
    }
    receiver.stop().await;
    sender.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_that_cannot_send_serves_alone_and_an_emptied_one_is_filled_again() {
    let pair = linked();
    let fleet = pair.start().await;
    let versions = versions();
    let mut minted = Vec::new();
    for new in &versions {
        let made = fleet.generate(new).await.expect("in both");
        fleet.expect(&made.key, &[(made.version, made.kcv)]);
        let edeks = mint(&fleet, new, 5).await;
        minted.push((open(&fleet, new, &edeks).await, edeks));
    }

    pair.remove(SENDER);
    becomes(&fleet, SENDER, |health| matches!(health, Health::Away(_))).await;
    for (new, (deks, edeks)) in versions.iter().zip(&minted) {
        assert_eq!(open(&fleet, new, edeks).await, *deks, "key {}", new.key);
        let more = mint(&fleet, new, 5).await;
        open(&fleet, new, &rewrap(&fleet, new, &more).await).await;
    }
    let failure = fleet.generate(&fresh("payroll", 1)).await.expect_err("not in both");
    assert_eq!(failure.reason, Reason::TokenUnavailable);
    assert!(failure.message.contains(SENDER), "{failure}");
    pair.return_token(SENDER);
    becomes(&fleet, SENDER, |health| *health == Health::Serving).await;

    // Another device takes the place of the receiver.
    pair.remove(RECEIVER);
    becomes(&fleet, RECEIVER, |health| matches!(health, Health::Away(_))).await;
    pair.make_token(RECEIVER);
    becomes(&fleet, RECEIVER, |health| *health == Health::Serving).await;
    assert_eq!(report(&fleet, RECEIVER).lacking, 4);
    let linked = pair.link_accepting(&[RECEIVER], false);
    linked.expect("the sender is told of its key");
    let done = fleet.resync(RECEIVER, None).await.expect("called");
    assert_eq!((done.cloned.len(), done.left.len()), (4, 0), "{done:?}");
    fleet.stop().await;

    let receiver = alone(&pair, RECEIVER).await;
    for (new, (deks, edeks)) in versions.iter().zip(&minted) {
        assert_eq!(open(&receiver, new, edeks).await, *deks, "key {}", new.key);
        assert_eq!(mint(&receiver, new, 1).await.len(), 1);
    }
    receiver.stop().await;
}

/// What kryoptic lets the user do against the standard, by which the security officer alone says what is trusted
/// (`docs/threat-model.md`), and copies with another use that is within what the PIN's holder can do anyway.
const LET: [&str; 9] = [
    "opened clone copied public",
    "EZ key copied public",
    "EZ key copied modifiable",
    "EZ key copied encrypting",
    "EZ key wrapped under own trusted AES key",
    "own AES key made trusted",
    "EZ key wrapped under own trusted RSA key",
    "own RSA key made trusted",
    "own RSA key copied trusted",
];

/// As `kms/tests/fleet/theft.rs` for the tokens that can send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_clone_on_its_way_can_be_had_where_it_arrives_with_the_users_pin() {
    let pair = linked();
    let fleet = pair.start().await;
    fleet.generate(&fresh("payroll", 0)).await.expect("in both");
    fleet.stop().await;
    let clone = pair.thief("intercept", SENDER, true, &[]);
    let attempts = pair.thief("steal", RECEIVER, true, &[clone.trim()]);
    let done: Vec<_> = attempts
        .lines()
        .filter_map(|line| line.strip_suffix(": done"))
        .collect();
    assert_eq!(done, LET, "all:\n{attempts}");
    assert!(attempts.lines().count() > 40, "{attempts}");
    let seen = pair.thief("peep", RECEIVER, false, &[]);
    assert!(!seen.contains("objects seen: done"), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_none_can_send_clones_no_version_is_made_and_it_is_said_why() {
    let pair = Pair::unlinked([&Kryoptic, &Kryoptic]);
    let failure = pair.link_accepting(&LABELS, false);
    let failure = failure.expect_err("none can be told whom to trust");
    assert_eq!(failure.reason, Reason::TokenRefused);
    assert!(failure.message.contains("CKA_TRUSTED"), "{failure}");
    let fleet = pair.start().await;
    let outcomes: [Result<TokenKeyVersion, _>; 2] = [
        fleet.generate(&fresh("payroll", 0)).await,
        fleet.generate(&fresh("payroll", 1)).await,
    ];
    for outcome in outcomes {
        let failure = outcome.expect_err("it would be in one token only");
        assert_eq!(failure.reason, Reason::TokenRefused);
        for part in ["key payroll is not made", LABELS[0], LABELS[1], "strongroom token link"] {
            assert!(failure.message.contains(part), "{failure} lacks {part:?}");
        }
    }
    assert_eq!(fleet.list_versions().await.expect("listed"), [], "nothing half made");
    let failure = fleet.import_key(false).await.expect_err("nor is a key brought in");
    assert_eq!(failure.reason, Reason::TokenRefused);
    fleet.stop().await;
}
