//! A token that answers wrongly is taken out, whatever the other one does meanwhile.

use std::time::{Duration, Instant};

use strongroom_kms::{
    fleet::{Health, RedundancyConfig},
    hsm::Hsm,
};
use strongroom_pkcs11_shim::{Ckr, Fault, Function, Shim, When};

use crate::{
    fixture::fresh,
    pair::{LABELS, Pair, report},
};

/// A worker that hangs is given up, and started anew, after ten seconds.
const HANGS: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_makes_no_edeks_is_taken_out_while_the_other_one_hangs() {
    let pair = Pair::new();
    let shim = Shim::in_front_of(&pair.configs()[0].module).expect("the module is written");
    let mut configs = pair.configs();
    configs[0].module = shim.module();
    // They are compared when the test asks for it.
    let settings = RedundancyConfig {
        check_interval_s: 3600,
        ..RedundancyConfig::default()
    };
    let fleet = pair.start_with(&configs, settings).await;
    fleet.generate(&fresh("payroll", 0)).await.expect("in both");

    shim.set(Function::WrapKey, Fault::Error(Ckr::KEY_NOT_WRAPPABLE), When::Always);
    pair.signal(LABELS[1], "STOP");
    let stopped = Instant::now();
    while report(&fleet, LABELS[0]).health == Health::Serving {
        assert!(stopped.elapsed() < HANGS, "it serves on");
        // Compares it first, for two seconds.
        _ = fleet.resync(LABELS[0], None).await;
    }
    assert!(shim.fired(Function::WrapKey) > 0);
    let health = report(&fleet, LABELS[0]).health;
    assert!(matches!(health, Health::Out(_)), "{health:?}");
    assert_eq!(
        report(&fleet, LABELS[1]).health,
        Health::Serving,
        "it hangs, and is not known to"
    );
    let alarms = fleet.alarms().borrow().clone();
    assert!(
        alarms.iter().any(|alarm| format!("{alarm:?}").contains("is taken out")),
        "{alarms:?}"
    );
    pair.signal(LABELS[1], "CONT");
    shim.clear_all();
    fleet.stop().await;
}
