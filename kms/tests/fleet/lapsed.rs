//! An instance that fills up a token and loses touch with the database meanwhile, so that others do not wait for it any more.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use strongroom_kms::fleet::{Fleet, Health};
use strongroom_pkcs11_shim::{Fault, Function, Shim, When};
use strongroom_proto::{
    Reason,
    kms::v1::{self as pb, KeyVersionState as State, token_admin_client::TokenAdminClient},
};

use crate::{
    cluster::Cluster,
    failover::becomes,
    pair::{LABELS, Pair},
    support::{Site, Way},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// What a clone takes: as much more than a lease, 5 s, as a destruction takes on a busy machine, and less than a call may, 10 s.
const CLONE: Duration = Duration::from_millis(8_600);
/// More than any version waits before it is destroyed.
const WAITING_TIME: Duration = Duration::from_secs(8 * 24 * 3600);

/// Waits until a token shows, or does not show, a version of payroll to whoever has its PIN.
async fn shows(pair: &Pair, version: u32, expected: bool) {
    let (began, object) = (Instant::now(), format!("payroll@{version}"));
    while pair.probe(LABELS[1], "dump", &[]).contains(&object) != expected {
        assert!(began.elapsed() < PATIENCE, "{object} is there: {}", !expected);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_destroyed_while_an_instance_without_a_lease_clones_it_does_not_stay() {
    let (cluster, pair) = (Cluster::start(), Pair::new());
    let url = cluster.fresh_url();
    let (way, cut) = Way::to(cluster.port(), &url).await;
    let (here, mut there) = (Site::shared(&cut), Site::shared(&url));
    there.clock = here.clock.clone();
    let shim = Shim::in_front_of(&pair.configs()[1].module).expect("the module is written");
    let mut slow = pair.configs();
    slow[1].module = shim.module();
    let start = async |configs, state| Fleet::start(pair.worker(), configs, Pair::settings(), &pair.path(state)).await;
    let one = Arc::new(start(&slow, "state-1").await.expect("all is there"));
    let two = Arc::new(start(&pair.configs(), "state-2").await.expect("all is there"));
    let (filling, destroying) = (here.start(&one).await, there.start(&two).await);
    let (mut alice, mut bob) = (filling.as_user("user/alice"), destroying.as_user("user/bob"));

    pair.back_up(LABELS[1]);
    alice.create("payroll").await.expect("in both tokens");
    alice.roll("payroll").await.expect("in both tokens");
    bob.delete("payroll", Some(0), Vec::new())
        .await
        .expect("no zone needs it");
    pair.restore(LABELS[1]);
    for fleet in [&one, &two] {
        becomes(fleet, LABELS[1], |health| *health == Health::Serving).await;
    }
    shows(&pair, 0, false).await;

    let slowly = Fault::Delay {
        least: CLONE,
        jitter: Duration::ZERO,
    };
    let (before, began) = (shim.fired(Function::UnwrapKey), Instant::now());
    shim.set(Function::UnwrapKey, slowly, When::Next(1));
    let mut tokens = TokenAdminClient::new(filling.channel("user/keyadmin"));
    let label = LABELS[1].to_owned();
    let resync = tokio::spawn(async move { tokens.resync_token(pb::ResyncTokenRequest { label, after: None }).await });
    while shim.fired(Function::UnwrapKey) == before {
        assert!(began.elapsed() < PATIENCE, "nothing is cloned");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    way.set_open(false);
    here.clock.advance(WAITING_TIME);
    let cloned = Instant::now();
    while bob.describe("payroll").await.expect("known").versions[0].state() != State::Destroyed {
        assert!(cloned.elapsed() < CLONE, "destroyed too late to show anything");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let failure = resync
        .await
        .expect("no panic")
        .expect_err("it has lost touch with the store");
    let failure = strongroom_proto::Failure::from(failure);
    assert_eq!(failure.reason, Reason::StoreFailed, "{failure}");
    shows(&pair, 0, true).await;
    way.set_open(true);
    shows(&pair, 0, false).await;
    filling.stop().await;
    destroying.stop().await;
    for fleet in [one, two] {
        fleet.stop().await;
    }
}
