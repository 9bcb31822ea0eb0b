//! What comes into the token after another instance has given it up, or finished it: whoever began it was cut off meanwhile, and
//! its token slow. The token is a stand-in; the database is real.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use strongroom_proto::{Reason, RequestId, ZoneId, kms::v1 as pb};

use crate::{
    cluster::Cluster,
    support::{Caller, Kms, MemoryHsm, Site, Way},
};

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(40);

fn shared(url_file: &Path) -> Site {
    let mut site = Site::shared(url_file);
    site.config.instances.poll_ms = 10;
    site
}

macro_rules! until {
    ($what:expr, $found:expr) => {{
        let started = Instant::now();
        while !$found {
            assert!(started.elapsed() < PATIENCE, "{}", $what);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }};
}

/// Whether all instances hold their leases.
async fn all_leased(caller: &mut Caller) -> bool {
    let answer = caller.admin.list_instances(pb::ListInstancesRequest {}).await;
    let instances = answer.expect("permitted").into_inner().instances;
    instances.iter().all(|instance| instance.leased)
}

async fn mints(kms: &Kms<'_>, key: &str) -> u32 {
    let mut minter = kms.as_user("service/metadata");
    let minted = minter.mint(key, ZoneId::generate(), 1).await;
    minted.expect("it mints")[0].key_version
}

/// Has the token make a version so late that another instance has given it up, and end while the instance that began it is
/// still cut off, or when it is back.
async fn a_late_version_is_destroyed(back_before: bool) {
    let cluster = Cluster::start();
    let url_file = cluster.fresh_url();
    let (way, cut) = Way::to(cluster.port(), &url_file).await;
    let (here, there) = (shared(&cut), shared(&url_file));
    let hsm = MemoryHsm::new();
    let (one, two) = (here.start(&hsm).await, there.start(&hsm).await);
    let (mut alice, mut bob) = (one.as_user("user/alice"), two.as_user("user/bob"));
    alice.create("k").await.expect("made");

    let held = hsm.hold();
    let rolled = tokio::spawn(async move { alice.roll("k").await });
    tokio::time::timeout(PATIENCE, hsm.wait_held())
        .await
        .expect("it is being made");
    way.set_open(false);
    // To confirm what mints changes nothing, once nobody is making a version.
    until!("it is not given up", bob.confirm("k").await.is_ok());
    if back_before {
        way.set_open(true);
        until!("it is not back", all_leased(&mut bob).await);
    }
    drop(held);
    let failure = rolled.await.expect("no panic").expect_err("it was given up");
    if back_before {
        assert_eq!(failure.reason, Reason::Overloaded, "{failure}");
        assert!(failure.message.contains("has taken it over"), "{failure}");
    }
    way.set_open(true);
    until!("the version is left in the token", !hsm.holds("k", 1));
    until!("it is not back", all_leased(&mut bob).await);
    assert_eq!((mints(&one, "k").await, mints(&two, "k").await), (0, 0));
    let key = bob.roll("k").await.expect("nothing is in its place");
    assert_eq!((key.current_version, key.versions.len()), (Some(1), 2), "{key:?}");
    assert_eq!((mints(&one, "k").await, mints(&two, "k").await), (1, 1));
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_version_that_comes_after_it_was_given_up_is_destroyed_by_who_began_it() {
    a_late_version_is_destroyed(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_version_that_comes_while_who_began_it_is_cut_off_is_destroyed_when_it_is_back() {
    a_late_version_is_destroyed(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_version_is_not_given_up_while_the_token_may_still_be_at_it() {
    let cluster = Cluster::start();
    let url_file = cluster.fresh_url();
    let (way, cut) = Way::to(cluster.port(), &url_file).await;
    let (here, there) = (shared(&cut), shared(&url_file));
    let hsm = MemoryHsm::new();
    let (one, two) = (here.start(&hsm).await, there.start(&hsm).await);
    let (mut alice, mut bob) = (one.as_user("user/alice"), two.as_user("user/bob"));
    alice.create("k").await.expect("made");

    let held = hsm.hold();
    let rolled = tokio::spawn(async move { alice.roll("k").await });
    tokio::time::timeout(PATIENCE, hsm.wait_held())
        .await
        .expect("it is being made");
    way.set_open(false);
    until!("its lease does not lapse", !all_leased(&mut bob).await);
    // Time for the other one to look for what is left behind, which it does each second.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop(held);
    _ = rolled.await.expect("no panic");
    until!(
        "it is not finished",
        bob.describe("k").await.expect("known").current_version == Some(1)
    );
    assert_eq!(mints(&two, "k").await, 1);
    way.set_open(true);
    until!("it is not back", all_leased(&mut bob).await);
    assert_eq!(mints(&one, "k").await, 1);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_import_that_another_instance_has_finished_is_not_undone() {
    let cluster = Cluster::start();
    let url_file = cluster.fresh_url();
    let (way, cut) = Way::to(cluster.port(), &url_file).await;
    let (here, there) = (shared(&cut), shared(&url_file));
    let hsm = MemoryHsm::new();
    let (one, two) = (here.start(&hsm).await, there.start(&hsm).await);
    let (mut alice, mut bob) = (one.as_user("user/alice"), two.as_user("user/bob"));
    let request = pb::ImportKeyRequest {
        key: Some(pb::CreateKeyRequest {
            name: "lake".to_owned(),
            suite: "kw".to_owned(),
            key_bits: 256,
            request_id: RequestId::generate().into(),
            ..pb::CreateKeyRequest::default()
        }),
        import_key: alice.import_key("lake").await.expect("an import key").id,
        wrapped: vec![Bytes::from_static(&[1; 32])],
    };
    let refuse = hsm.refuse_next_import();
    let imported = tokio::spawn(async move { alice.import_as(request).await });
    until!("it is not brought in", hsm.holds("lake", 0));
    way.set_open(false);
    until!("it is not finished", bob.describe("lake").await.is_ok());
    way.set_open(true);
    until!("it is not back", all_leased(&mut bob).await);
    refuse.send(()).expect("the import goes on");
    let failure = imported.await.expect("no panic").expect_err("refused");
    assert_eq!(failure.reason, Reason::Overloaded, "{failure}");
    assert!(hsm.holds("lake", 0), "a live key is destroyed");
    assert_eq!((mints(&one, "lake").await, mints(&two, "lake").await), (0, 0));
    one.stop().await;
    two.stop().await;
}
