//! How soon a single token serves again whose only worker was killed, where it holds many keys and takes its time over each call:
//! the whole service over SoftHSM2, by way of a module that is slow.

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

use fixture::Fixture;
use strongroom_kms::token::{Token, TokenConfig};
use strongroom_pkcs11_shim::{Fault, Function, Shim, When};
use strongroom_proto::{Reason, ZoneId, kms::v1 as pb};
use support::{Kms, Site};
use tokio::task::JoinSet;

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(300);
/// Keys with a version each.
const KEYS: usize = 300;
/// More on every call that works with keys: what a network HSM takes.
const LATENCY: Duration = Duration::from_millis(1);
/// Callers that come at once, each for a key of its own.
const CALLERS: usize = 64;

/// A slow token behind a worker that can be killed.
struct Slow {
    fixture: Fixture,
    shim: Shim,
    token: Arc<Token>,
}

impl Slow {
    /// It takes no longer than others yet.
    async fn start() -> Self {
        let fixture = Fixture::new();
        let shim = Shim::in_front_of(&fixture.config().module).expect("the module is written");
        let config = TokenConfig {
            module: shim.module(),
            ..fixture.config()
        };
        let token = Arc::new(fixture.try_start(config).await.expect("all is there"));
        Self { fixture, shim, token }
    }

    fn slow_down(&self) {
        let latency = Fault::Delay {
            least: LATENCY,
            jitter: Duration::ZERO,
        };
        for function in Function::KEY_USE {
            self.shim.set(function, latency, When::Always);
        }
    }
}

/// The name of the key with that number.
fn key(n: usize) -> String {
    format!("key-{n:04}")
}

/// Makes all keys, and an EDEK of each that a caller will come for.
async fn fill(kms: &Kms<'_>, zone: ZoneId) -> Vec<pb::Edek> {
    let (mut admin, mut metadata) = (kms.as_user("user/keyadmin"), kms.as_user("service/metadata"));
    for n in 0..KEYS {
        admin.create(&key(n)).await.expect("generated in the token");
    }
    let mut edeks = Vec::new();
    for n in 0..CALLERS {
        // From all over the token.
        let minted = metadata.mint(&key(n * KEYS / CALLERS), zone, 1).await;
        edeks.extend(minted.expect("minted"));
    }
    edeks
}

#[allow(clippy::print_stdout, reason = "the figures are what the run is for")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_worker_of_a_slow_token_with_many_keys_serves_many_callers_before_they_were_listed() {
    let (site, slow, zone) = (Site::new(), Slow::start().await, ZoneId::generate());
    let kms = site.start(&slow.token).await;
    let edeks = fill(&kms, zone).await;
    let mut metadata = kms.as_user("service/metadata");
    let mut callers = Vec::new();
    for _ in &edeks {
        let mut alice = kms.as_user("user/alice");
        alice.unwrap(edeks[..1].to_vec()).await.expect("connected");
        callers.push(alice);
    }
    slow.slow_down();
    slow.fixture.signal_worker("KILL");
    let killed = Instant::now();
    let mut calls = JoinSet::new();
    for (mut alice, edek) in callers.into_iter().zip(edeks) {
        calls.spawn(async move {
            let mut repeats = 0_usize;
            // A machine that is busy takes longer than a call waits; a client asks again then.
            let opened = loop {
                match alice.unwrap(vec![edek.clone()]).await {
                    Ok(opened) => break opened,
                    Err(failure) => {
                        assert_eq!(failure.reason, Reason::TokenUnavailable, "{failure}");
                        assert!(killed.elapsed() < PATIENCE, "{failure}");
                        repeats += 1;
                    }
                }
            };
            opened
                .into_iter()
                .for_each(|opened| drop(opened.expect("seen in the token")));
            (killed.elapsed(), repeats)
        });
    }
    let (mut answered, repeats): (Vec<_>, Vec<_>) = calls.join_all().await.into_iter().unzip();
    answered.sort();
    let repeats: usize = repeats.into_iter().sum();
    metadata.mint(&key(1), zone, 5).await.expect("minted");
    let minted = killed.elapsed();
    let mut admin = kms.as_user("user/keyadmin");
    let failure = admin
        .roll(&key(0))
        .await
        .expect_err("changes wait until all is compared");
    assert_eq!(failure.reason, Reason::TokenUnavailable, "{failure}");
    while let Err(failure) = admin.roll(&key(0)).await {
        assert!(killed.elapsed() < PATIENCE, "{failure}");
    }
    let compared = killed.elapsed();
    let (first, last) = (answered[0], answered[CALLERS - 1]);
    let figures = format!(
        "{KEYS} keys, {LATENCY:?} a call: of {CALLERS} callers the first was answered after {first:.1?}, the last after \
         {last:.1?}, {repeats} asked again, another mint after {minted:.1?}, all compared after {compared:.1?}"
    );
    println!("{figures}");
    assert!(last.max(minted) < compared, "{figures}");
    kms.stop().await;
    slow.token.stop().await;
}
