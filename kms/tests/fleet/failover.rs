//! One of two tokens fails, under load: no caller notices.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use strongroom_kms::{
    fleet::{Fleet, Health},
    hsm::Hsm,
};
use strongroom_proto::{Edek, EdekSuite, KeyVersion, Reason};
use tokio::task::JoinSet;

use crate::{
    fixture::{fresh, name, zone},
    pair::{LABELS, Pair, report},
};

/// What the mint client waits for at most before it reports a failure.
const CLIENT_PATIENCE: Duration = Duration::from_secs(3);

fn edek(wrapped: bytes::Bytes, byte: u8) -> Edek {
    Edek {
        key: name("payroll"),
        version: KeyVersion(0),
        zone: zone(byte),
        suite: EdekSuite::Kw,
        wrapped,
    }
}

/// Callers that mint, re-wrap and unwrap all the time, and count what they got.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    callers: JoinSet<Duration>,
}

impl Load {
    pub(crate) fn start(fleet: &Fleet) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut callers = JoinSet::new();
        for caller in 0..4_u8 {
            let (fleet, stop, rounds) = (fleet.clone(), Arc::clone(&stop), Arc::clone(&rounds));
            callers.spawn(async move {
                let mut slowest = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let since = Instant::now();
                    round(&fleet, caller).await;
                    slowest = slowest.max(since.elapsed());
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
                slowest
            });
        }
        Self { stop, rounds, callers }
    }

    /// Waits until so many more rounds were made.
    pub(crate) async fn goes_on(&self, rounds: usize) {
        let (start, deadline) = (
            self.rounds.load(Ordering::Relaxed),
            Instant::now() + Duration::from_secs(30),
        );
        while self.rounds.load(Ordering::Relaxed) < start + rounds {
            assert!(Instant::now() < deadline, "the callers stand still");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends it; every caller got all it asked for, or this panics. The slowest round of three calls.
    pub(crate) async fn end(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let mut slowest = Duration::ZERO;
        while let Some(ended) = self.callers.join_next().await {
            slowest = slowest.max(ended.expect("no call failed"));
        }
        slowest
    }
}

async fn round(fleet: &Fleet, caller: u8) {
    let (key, version, zone) = (name("payroll"), KeyVersion(0), zone(caller));
    let minted = fleet.mint(&key, version, &zone, 10).await.expect("minted");
    let items: Vec<_> = minted.iter().map(|wrapped| (version, wrapped.clone())).collect();
    let again = fleet.rewrap(&key, version, &zone, items).await.expect("called");
    let before: Vec<_> = minted.into_iter().map(|wrapped| edek(wrapped, caller)).collect();
    let after = again
        .into_iter()
        .map(|wrapped| edek(wrapped.expect("re-wrapped"), caller));
    let edeks: Vec<_> = before.into_iter().chain(after).collect();
    let opened = fleet.unwrap(&edeks).await.expect("called");
    let deks: Vec<_> = opened
        .into_iter()
        .map(|dek| dek.expect("it opens").into_wire())
        .collect();
    assert_eq!(deks[..10], deks[10..], "a wrong answer");
}

pub(crate) async fn becomes(fleet: &Fleet, label: &str, wanted: impl Fn(&Health) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let health = report(fleet, label).health;
        if wanted(&health) {
            return;
        }
        assert!(Instant::now() < deadline, "{label} stays {health:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a token that was hurt at `since` serves and was compared after that: what is said of it may be older.
async fn recovers(fleet: &Fleet, label: &str, since: Timestamp) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let report = report(fleet, label);
        if report.health == Health::Serving && report.checked.is_some_and(|checked| checked > since) {
            return;
        }
        assert!(Instant::now() < deadline, "{label} does not recover: {report:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_hung_and_removed_tokens_cost_no_call() {
    let pair = Pair::new();
    let fleet = pair.start().await;
    fleet.generate(&fresh("payroll", 0)).await.expect("in both");
    let load = Load::start(&fleet);
    load.goes_on(20).await;

    for label in LABELS {
        let since = Timestamp::now();
        pair.signal(label, "KILL");
        load.goes_on(20).await;
        recovers(&fleet, label, since).await;
    }

    pair.signal(LABELS[0], "STOP");
    load.goes_on(40).await;
    let since = Timestamp::now();
    pair.signal(LABELS[0], "CONT");
    load.goes_on(20).await;
    // One at a time: on a slow machine it may have hung for so long that its worker is replaced.
    recovers(&fleet, LABELS[0], since).await;

    pair.remove(LABELS[1]);
    load.goes_on(40).await;
    becomes(&fleet, LABELS[1], |health| matches!(health, Health::Away(_))).await;
    load.goes_on(20).await;
    pair.return_token(LABELS[1]);
    becomes(&fleet, LABELS[1], |health| *health == Health::Serving).await;
    load.goes_on(20).await;

    let slowest = load.end().await;
    assert!(slowest < CLIENT_PATIENCE, "a caller waited for {slowest:?}");
    fleet.stop().await;
}

/// The token that comes back is neither kept out by the one that hangs nor overlooked by calls that wait for that one.
#[tokio::test]
async fn a_call_that_hangs_is_taken_to_a_token_that_comes_back_meanwhile() {
    let pair = Pair::new();
    let fleet = pair.start().await;
    fleet.generate(&fresh("payroll", 0)).await.expect("in both");
    pair.signal(LABELS[1], "KILL");
    becomes(&fleet, LABELS[1], |health| *health != Health::Serving).await;
    pair.signal(LABELS[0], "STOP");
    let since = Instant::now();
    let minted = fleet.mint(&name("payroll"), KeyVersion(0), &zone(1), 1).await;
    minted.expect("the other one comes back");
    // A hang is seen after 10 s by itself.
    assert!(
        since.elapsed() < Duration::from_secs(8),
        "it waited for {:?}",
        since.elapsed()
    );
    assert_eq!(report(&fleet, LABELS[1]).health, Health::Serving);
    pair.signal(LABELS[0], "CONT");
    fleet.stop().await;
}

#[tokio::test]
async fn a_bad_edek_is_refused_by_both_and_the_good_ones_beside_it_open() {
    let pair = Pair::new();
    let fleet = pair.start().await;
    fleet.generate(&fresh("payroll", 0)).await.expect("in both");
    let minted = fleet
        .mint(&name("payroll"), KeyVersion(0), &zone(1), 3)
        .await
        .expect("minted");
    let mut edeks: Vec<_> = minted.into_iter().map(|wrapped| edek(wrapped, 1)).collect();
    let mut bytes = edeks[1].wrapped.to_vec();
    bytes[3] ^= 1;
    edeks[1].wrapped = bytes.into();
    let opened = fleet.unwrap(&edeks).await.expect("called");
    let reasons: Vec<_> = opened
        .iter()
        .map(|dek| dek.as_ref().err().map(|failure| failure.reason))
        .collect();
    assert_eq!(reasons, [None, Some(Reason::EdekInvalid), None]);
    for label in LABELS {
        assert_eq!(report(&fleet, label).health, Health::Serving, "the client was to blame");
    }
    fleet.stop().await;
}

#[tokio::test]
async fn without_any_token_calls_say_so_and_what_each_suffers_from() {
    let pair = Pair::new();
    let fleet = pair.start().await;
    fleet.generate(&fresh("payroll", 0)).await.expect("in both");
    for label in LABELS {
        pair.remove(label);
        becomes(&fleet, label, |health| matches!(health, Health::Away(_))).await;
    }
    let failure = fleet
        .mint(&name("payroll"), KeyVersion(0), &zone(1), 1)
        .await
        .expect_err("no token");
    assert_eq!(failure.reason, Reason::TokenUnavailable);
    for label in LABELS {
        assert!(failure.message.contains(label), "{failure}");
    }
    fleet.stop().await;
}
