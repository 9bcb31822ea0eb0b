//! Faults of one of two tokens, as callers of the service meet them: requests go over mutual TLS through policy, keys and audit log to
//! the tokens, from callers that repeat nothing. None fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use strongroom_kms::fleet::Health;
use strongroom_proto::ZoneId;
use tokio::task::JoinSet;

use crate::{
    failover::becomes,
    pair::{LABELS, Pair},
    support::{Kms, Site},
};

/// How long requests go on after each fault.
const LOAD: Duration = Duration::from_secs(3);

/// What requests came to.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    requests: AtomicUsize,
    longest_ms: AtomicUsize,
}

impl Tally {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, asked: Instant) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let took = usize::try_from(asked.elapsed().as_millis()).unwrap_or(usize::MAX);
        self.longest_ms.fetch_max(took, Ordering::Relaxed);
    }
}

/// Mints and unwraps by calls that are made once.
async fn ask_once(kms: &Kms<'_>, tally: &Arc<Tally>, callers: &mut JoinSet<()>) {
    let (mut metadata, mut alice) = (kms.as_user("service/metadata"), kms.as_user("user/alice"));
    let tally = Arc::clone(tally);
    callers.spawn(async move {
        let zone = ZoneId::generate();
        while tally.goes_on() {
            let asked = Instant::now();
            let edeks = metadata.mint("payroll", zone, 5).await.expect("no request fails");
            tally.note(asked);
            let asked = Instant::now();
            let deks = alice.unwrap(edeks).await.expect("no request fails");
            tally.note(asked);
            assert!(deks.iter().all(|dek| dek.as_ref().is_ok_and(|dek| dek.len() == 32)));
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_one_of_two_tokens_is_killed_or_hangs() {
    let (pair, site) = (Pair::new(), Site::new());
    let fleet = Arc::new(pair.start().await);
    let kms = site.start(&fleet).await;
    kms.as_user("user/keyadmin").create("payroll").await.expect("in both");
    let (tally, mut callers) = (Arc::new(Tally::default()), JoinSet::new());
    for _ in 0..4 {
        ask_once(&kms, &tally, &mut callers).await;
    }
    for (label, signal) in [(LABELS[0], "KILL"), (LABELS[1], "KILL"), (LABELS[0], "STOP")] {
        let before = tally.requests.load(Ordering::Relaxed);
        pair.signal(label, signal);
        tokio::time::sleep(LOAD).await;
        assert!(
            tally.requests.load(Ordering::Relaxed) > before,
            "nobody is served after {signal}"
        );
        if signal == "STOP" {
            becomes(&fleet, label, |health| {
                matches!(health, Health::Away(_) | Health::Checking)
            })
            .await;
        }
        becomes(&fleet, label, |health| *health == Health::Serving).await;
    }
    tally.stop.store(true, Ordering::Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller.expect("no request failed");
    }
    let requests = tally.requests.load(Ordering::Relaxed);
    let longest_ms = tally.longest_ms.load(Ordering::Relaxed);
    assert!(longest_ms < 5_000, "one of {requests} took {longest_ms} ms");
    kms.stop().await;
    let records = site.audit();
    let uses = records
        .iter()
        .filter(|record| ["mint", "unwrap"].contains(&record.entry.action.as_str()));
    assert!(uses.count() >= requests, "each request has its record");
    site.verify();
}
