//! What other instances may do with a key while a version of it is begun, which may stay so for as long as a token is away. The
//! token is a stand-in; the database is real.

use std::time::{Duration, Instant};

use strongroom_kms::token::{TokenKeyVersion, TokenState};
use strongroom_proto::{Reason, ZoneId, kms::v1 as pb};

use crate::{
    cluster::Cluster,
    support::{Caller, Crash, Kms, MemoryHsm, Site},
};

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `kms` says of `k` what is looked for.
async fn until(what: &str, kms: &Kms<'_>, found: impl Fn(&pb::Key) -> bool) {
    let (started, mut user) = (Instant::now(), kms.as_user("user/alice"));
    loop {
        let key = user.describe("k").await.expect("known");
        if found(&key) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: {key:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Has a roll of `k` fail so that it stays begun, since a token that may hold the version is away. Answers that version.
async fn begin(hsm: &MemoryHsm, admin: &mut Caller, version: u32) -> TokenKeyVersion {
    hsm.crash_at_next(Crash::AfterGenerate);
    hsm.set_unseen(&["hsm-b"]);
    admin.roll("k").await.expect_err("the token went away");
    hsm.lose("k", version)
}

/// Brings the token back that was away.
fn come_back(hsm: &MemoryHsm, made: TokenKeyVersion) {
    hsm.put(made);
    hsm.set_unseen(&[]);
    hsm.set_state(TokenState::Ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_is_disabled_and_deleted_elsewhere_while_a_token_is_away_that_may_hold_a_begun_version() {
    let cluster = Cluster::start();
    let url_file = cluster.fresh_url();
    let (here, there) = (Site::shared(&url_file), Site::shared(&url_file));
    let hsm = MemoryHsm::new();
    let (one, two) = (here.start(&hsm).await, there.start(&hsm).await);
    let (mut alice, mut bob) = (one.as_user("user/alice"), two.as_user("user/bob"));
    let mut carol = two.as_user("user/carol");
    alice.create("k").await.expect("made");
    alice.roll("k").await.expect("rolled");
    let made = begin(&hsm, &mut alice, 2).await;

    for disabled in [true, false] {
        let key = bob.set_disabled("k", disabled).await.expect("no version is concerned");
        assert_eq!(key.disabled, disabled);
    }
    for target in [Some(0), None] {
        bob.delete("k", target, Vec::new()).await.expect("no zone needs it");
        carol.approve_delete("k", target).await.expect("approved");
        bob.cancel_delete("k", target).await.expect("taken back");
    }
    let failure = bob.roll("k").await.expect_err("the other one is making a version");
    assert_eq!(failure.reason, Reason::Overloaded, "{failure}");
    let key = bob.delete("k", None, Vec::new()).await.expect("no zone needs it");
    assert_eq!(key.current_version, None);

    come_back(&hsm, made);
    until("it is finished", &two, |key| key.versions.len() == 3).await;
    let key = bob.describe("k").await.expect("known");
    assert_eq!(key.current_version, None, "it is still to be deleted");
    let key = bob.cancel_delete("k", None).await.expect("taken back");
    assert_eq!(key.current_version, Some(2), "its newest version mints: {key:?}");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_version_comes_to_be_although_another_instance_changes_its_key_meanwhile() {
    let cluster = Cluster::start();
    let url_file = cluster.fresh_url();
    let (here, there) = (Site::shared(&url_file), Site::shared(&url_file));
    let hsm = MemoryHsm::new();
    let (one, two) = (here.start(&hsm).await, there.start(&hsm).await);
    let (mut alice, mut bob) = (one.as_user("user/alice"), two.as_user("user/bob"));
    alice.create("k").await.expect("made");
    let held = hsm.hold();
    let rolled = tokio::spawn(async move { alice.roll("k").await });
    tokio::time::timeout(PATIENCE, hsm.wait_held())
        .await
        .expect("it is being made");
    bob.set_disabled("k", true).await.expect("disabled");
    drop(held);
    let key = rolled.await.expect("no panic").expect("rolled");
    assert!(key.disabled && key.versions.len() == 2, "{key:?}");
    bob.set_disabled("k", false).await.expect("enabled");
    let minted = one.as_user("service/metadata").mint("k", ZoneId::generate(), 1).await;
    assert_eq!(minted.expect("minted")[0].key_version, 1);
    one.stop().await;
    two.stop().await;
}
