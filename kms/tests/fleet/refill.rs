//! Filling up a token that takes its time.

use std::time::{Duration, Instant};

use strongroom_kms::{
    fleet::{Fleet, Health},
    hsm::Hsm,
};
use strongroom_pkcs11_shim::{Fault, Function, Shim, When};

use crate::{
    failover::becomes,
    fixture::{fresh, name},
    pair::{LABELS, Pair, report},
};

/// What an unwrap takes in the token that is filled up, of which a version costs one at least.
const LATENCY: Duration = Duration::from_millis(500);
/// Callers of the key service give up after 15 s.
const CALL_MAX: Duration = Duration::from_secs(12);

/// Two tokens, of which the second is an empty replacement that takes its time over clones.
async fn replaced(versions: u32) -> (Pair, Shim, Fleet) {
    let pair = Pair::new();
    let fleet = pair.start().await;
    let mut made = Vec::new();
    for version in 0..versions {
        let generated = fleet.generate(&fresh("payroll", version)).await.expect("in both");
        made.push((generated.version, generated.kcv));
    }
    fleet.stop().await;
    pair.make_token(LABELS[1]);
    pair.link(false).expect("introduced");
    let mut configs = pair.configs();
    let shim = Shim::in_front_of(&configs[1].module).expect("the module is written");
    configs[1].module = shim.module();
    let fleet = pair.start_with(&configs, Pair::settings()).await;
    for label in LABELS {
        becomes(&fleet, label, |health| *health == Health::Serving).await;
    }
    fleet.expect(&name("payroll"), &made);
    let latency = Fault::Delay {
        least: LATENCY,
        jitter: Duration::ZERO,
    };
    shim.set(Function::UnwrapKey, latency, When::Always);
    (pair, shim, fleet)
}

#[tokio::test]
async fn a_token_is_filled_up_in_calls_that_end_while_their_caller_waits() {
    let (_pair, shim, fleet) = replaced(6).await;
    let (mut calls, mut after, mut cloned) = (0, None, Vec::new());
    loop {
        let called = Instant::now();
        let done = fleet.resync(LABELS[1], after).await.expect("called");
        assert!(called.elapsed() < CALL_MAX, "call {calls} took {:?}", called.elapsed());
        assert!(done.left.is_empty(), "{done:?}");
        calls += 1;
        cloned.extend(done.cloned.iter().map(|(_, version)| version.0));
        after = done.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(cloned, [0, 1, 2, 3, 4, 5]);
    assert!(calls > 1, "too quick to show anything");
    let seen = report(&fleet, LABELS[1]);
    assert_eq!((seen.held, seen.lacking), (6, 0), "{seen:?}");
    shim.clear_all();
    fleet.stop().await;
}

/// Another instance begins to destroy a version while this one clones it.
#[tokio::test]
async fn a_version_that_is_destroyed_while_it_is_cloned_does_not_come_back() {
    let (pair, shim, fleet) = replaced(1).await;
    let before = shim.fired(Function::UnwrapKey);
    let filling = tokio::spawn({
        let fleet = fleet.clone();
        async move { fleet.resync(LABELS[1], None).await }
    });
    let began = Instant::now();
    while shim.fired(Function::UnwrapKey) == before {
        assert!(began.elapsed() < Duration::from_secs(20), "nothing is cloned");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fleet.expect(&name("payroll"), &[]);
    let done = filling.await.expect("no panic").expect("called");
    assert!(done.cloned.is_empty() && done.left.is_empty(), "{done:?}");
    shim.clear_all();
    fleet.stop().await;
    let dump = pair.probe(LABELS[1], "dump", &[]);
    assert!(!dump.contains("payroll"), "{dump}");
}
