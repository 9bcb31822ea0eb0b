//! What one instance destroys while another one compares the tokens says nothing against a token.

use std::time::{Duration, Instant};

use strongroom_kms::{
    fleet::{Fleet, Health, RedundancyConfig},
    hsm::Hsm,
};
use strongroom_pkcs11_shim::{Fault, Function, Shim, When};

use crate::{
    fixture::fresh,
    pair::{LABELS, Pair, report},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// What each trial takes at least, so that there is time to destroy what it is about to use.
const TRIAL: Duration = Duration::from_secs(2);
const VERSIONS: u32 = 6;

/// Waits until a token is found to hold so many versions.
async fn holds(fleet: &Fleet, label: &str, versions: usize) {
    let began = Instant::now();
    while report(fleet, label).held != versions {
        assert!(began.elapsed() < PATIENCE, "{:?}", report(fleet, label));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_not_taken_out_for_versions_that_others_destroy_one_after_another() {
    let pair = Pair::new();
    let shim = Shim::in_front_of(&pair.configs()[1].module).expect("the module is written");
    let mut slow = pair.configs();
    slow[1].module = shim.module();
    let one = pair.start_with(&slow, Pair::settings()).await;
    let rarely = RedundancyConfig {
        check_interval_s: 3600,
        ..RedundancyConfig::default()
    };
    let two = Fleet::start(pair.worker(), &pair.configs(), rarely, &pair.path("state-2")).await;
    let two = two.expect("all is there");
    let mut made = Vec::new();
    for version in 0..VERSIONS {
        made.push(two.generate(&fresh("payroll", version)).await.expect("in both"));
    }
    holds(&one, LABELS[1], VERSIONS as usize).await;

    let last = made.split_off(made.len() - 1);
    shim.set(
        Function::DeriveKey,
        Fault::Delay {
            least: TRIAL,
            jitter: Duration::ZERO,
        },
        When::Always,
    );
    // All but one during the first trial, and that one during the next.
    for going in [made, last] {
        let (before, began) = (shim.fired(Function::DeriveKey), Instant::now());
        while shim.fired(Function::DeriveKey) == before {
            assert!(began.elapsed() < PATIENCE, "nothing is tried");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for gone in going {
            let destroyed = two.destroy(&gone.key, gone.version, gone.token_id).await;
            destroyed.expect("by another instance");
        }
    }
    holds(&one, LABELS[1], 0).await;
    shim.clear_all();
    assert_eq!(report(&one, LABELS[1]).health, Health::Serving);
    assert!(one.alarms().borrow().is_empty(), "{:?}", one.alarms().borrow());
    one.stop().await;
    two.stop().await;
}
