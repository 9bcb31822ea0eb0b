//! Two instances of the key service over one PostgreSQL database and the same two linked tokens, each with workers of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use strongroom_kms::fleet::Fleet;
use strongroom_proto::{
    ZoneId,
    kms::v1::{self as pb, KeyVersionState as State, token_admin_client::TokenAdminClient},
};

use crate::{
    cluster::Cluster,
    pair::{LABELS, Pair},
    support::{Caller, Kms, Site},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// More than any version waits before it is destroyed.
const WAITING_TIME: Duration = Duration::from_secs(8 * 24 * 3600);

/// Workers of an instance's own, and a directory for its marks.
async fn fleet(pair: &Pair, state: &str) -> Arc<Fleet> {
    let configs = pair.configs();
    let started = Fleet::start(pair.worker(), &configs, Pair::settings(), &pair.path(state)).await;
    Arc::new(started.expect("modules and PIN files are there"))
}

/// A caller of one instance that mints and opens all the time, and does not forgive a failed call.
struct Load {
    stop: Arc<AtomicBool>,
    /// No older version may be minted under from now on.
    least: Arc<AtomicU32>,
    rounds: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(kms: &Kms<'_>) -> Self {
        let (stop, least, rounds) = (
            Arc::<AtomicBool>::default(),
            Arc::<AtomicU32>::default(),
            Arc::<AtomicU32>::default(),
        );
        let (mut minter, mut opener) = (kms.as_user("service/metadata"), kms.as_user("user/alice"));
        let (stopped, at_least, done) = (Arc::clone(&stop), Arc::clone(&least), Arc::clone(&rounds));
        let task = tokio::spawn(async move {
            let (zone, mut first) = (ZoneId::generate(), None);
            while !stopped.load(Ordering::SeqCst) {
                let least = at_least.load(Ordering::SeqCst);
                let minted = minter.mint("payroll", zone, 2).await.expect("minted");
                assert!(
                    minted[0].key_version >= least,
                    "{} after {least}",
                    minted[0].key_version
                );
                let mut edeks = first.get_or_insert_with(|| minted.clone()).clone();
                edeks.extend(minted);
                let opened = opener.unwrap(edeks).await.expect("called");
                assert!(opened.iter().all(Result::is_ok), "{opened:?}");
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self {
            stop,
            least,
            rounds,
            task,
        }
    }

    async fn goes_on(&self, rounds: u32) {
        let (start, began) = (self.rounds.load(Ordering::SeqCst), Instant::now());
        while self.rounds.load(Ordering::SeqCst) < start + rounds {
            assert!(
                !self.task.is_finished() && began.elapsed() < PATIENCE,
                "the caller got stuck"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.expect("no call failed");
    }
}

/// Waits until an instance says of the tokens, in order, how many versions each holds and lacks.
async fn counts(kms: &Kms<'_>, expected: [(u64, u64); 2]) {
    let mut tokens = TokenAdminClient::new(kms.channel("user/keyadmin"));
    let began = Instant::now();
    loop {
        let answer = tokens.list_tokens(pb::ListTokensRequest {}).await.expect("permitted");
        let listed = answer.into_inner().tokens;
        let seen: Vec<_> = listed.iter().map(|token| (token.held, token.lacking)).collect();
        if seen == expected {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{listed:?} and not {expected:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn newest(caller: &mut Caller) -> u32 {
    let key = caller.describe("payroll").await.expect("there");
    key.versions.last().expect("a version").version
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_instances_work_with_the_same_two_tokens() {
    let (cluster, pair) = (Cluster::start(), Pair::new());
    let url = cluster.fresh_url();
    let sites = [(); 2].map(|()| Site::shared(&url));
    let fleets = [fleet(&pair, "state-1").await, fleet(&pair, "state-2").await];
    let (one, two) = (sites[0].start(&fleets[0]).await, sites[1].start(&fleets[1]).await);
    let (mut alice, mut bob) = (one.as_user("user/alice"), two.as_user("user/bob"));

    alice.create("payroll").await.expect("in both tokens");
    alice.create("old").await.expect("in both tokens");
    bob.roll("old").await.expect("by the other instance");
    let loads = [Load::start(&one), Load::start(&two)];
    for version in 1..4 {
        let roller = if version % 2 == 0 { &mut alice } else { &mut bob };
        roller.roll("payroll").await.expect("rolled while both serve");
        for load in &loads {
            load.least.store(version, Ordering::SeqCst);
            load.goes_on(5).await;
        }
        assert_eq!([newest(&mut alice).await, newest(&mut bob).await], [version; 2]);
    }
    for kms in [&one, &two] {
        counts(kms, [(6, 0), (6, 0)]).await;
    }

    // One token goes back to before the last roll, for both instances, and one of them has it filled up.
    pair.back_up(LABELS[1]);
    alice.roll("payroll").await.expect("rolled");
    for load in &loads {
        load.least.store(4, Ordering::SeqCst);
    }
    pair.restore(LABELS[1]);
    for kms in [&one, &two] {
        counts(kms, [(7, 0), (6, 1)]).await;
    }
    let mut tokens = TokenAdminClient::new(two.channel("user/keyadmin"));
    let label = LABELS[1].to_owned();
    let done = tokens.resync_token(pb::ResyncTokenRequest { label, after: None }).await;
    let done = done.expect("permitted").into_inner();
    assert_eq!((done.cloned_count, done.left_count), (1, 0), "{done:?}");
    for kms in [&one, &two] {
        counts(kms, [(7, 0), (7, 0)]).await;
    }
    for load in &loads {
        load.goes_on(10).await;
    }

    bob.delete("old", Some(0), Vec::new()).await.expect("no zone needs it");
    for site in &sites {
        site.clock.advance(WAITING_TIME);
    }
    let began = Instant::now();
    for caller in [&mut alice, &mut bob] {
        while caller.describe("old").await.expect("known").versions[0].state() != State::Destroyed {
            assert!(began.elapsed() < PATIENCE, "nobody destroys it");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    for (kms, load) in [&one, &two].into_iter().zip(loads) {
        counts(kms, [(6, 0), (6, 0)]).await;
        load.goes_on(5).await;
        load.end().await;
    }
    for label in LABELS {
        let dump = pair.probe(label, "dump", &[]);
        assert!(dump.contains("old@1") && !dump.contains("old@0"), "{label}: {dump}");
    }
    one.stop().await;
    two.stop().await;
    for fleet in fleets {
        fleet.stop().await;
    }
}
