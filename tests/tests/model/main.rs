//! Random sequences of operations, through the real client, data plane, metadata service and store, against a plain oracle, with a
//! process that dies or loses an answer at any commit.
//!
//! Real are: the client library with the data plane, gRPC over mutual TLS, the metadata service with its background, the engine.
//! Stood in for are the key service (EDEKs that are numbers, DEKs from a table) and the block nodes (blocks in memory); power that
//! fails under the engine is a matter of the engine's own tests.
//!
//! Beside the random sequences there are short fixed ones in which every commit fails once (`every_commit.rs`).
//!
//! `STRONGROOM_TEST_SEED` repeats a sequence; `STRONGROOM_MODEL_CASES` says how many are tried, each with a seed of its own, and
//! without it they go on for `STRONGROOM_MODEL_SECONDS`. `STRONGROOM_TEST_STORE=postgres` takes the other engine. With the
//! same seed the operations are the same; which commit of the background a fault meets may differ.

mod audit;
#[path = "../../../storage/kv/tests/cluster/mod.rs"]
mod cluster;
mod compare;
mod crash;
mod every_commit;
mod keys;
mod ledger;
mod nodes;
mod operation;
mod oracle;
mod planted;
mod play;
mod regrant;
mod replays;
mod world;

use std::{
    env,
    ffi::OsStr,
    fmt::Debug,
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner},
};
use strongroom_kv::StoreConfig;
use tokio::runtime::Runtime;

use crate::{
    cluster::Cluster,
    operation::{Operation, operations},
    play::Game,
    regrant::{Regrants, Step, steps},
    world::{Identities, World},
};

/// How long the test goes on unless it is told.
const SECONDS: u64 = 25;
/// Sequences tried at once.
const AT_ONCE: usize = 4;
/// One in so many has a key service that gives every EDEK out twice.
const REPEATING: u64 = 4;
/// One in so many has files that are in no zone.
const PLAIN: u64 = 3;
/// One in so many has a metadata service that hands out extents twice.
const REGRANTING: u64 = 8;
/// Attempts to make a failing sequence shorter.
const SHRINKING: u32 = 60;

#[test]
#[allow(clippy::print_stderr, reason = "the test harness shows it when the test fails")]
fn every_sequence_of_operations_gives_what_the_oracle_says() {
    let identities = Identities::new();
    let trial = Trial::new(strongroom_tests::seed());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| trial.work(&identities));
        }
    });
    let totals = trial.totals.into_inner().expect("no panic under the lock");
    eprintln!("{totals:?}");
    assert!(totals.wrong.is_empty(), "{}", totals.wrong.join("\n\n"));
    let is_long = totals.cases >= 10;
    assert!(
        totals.operations > 0 && (totals.cells > 0 || !is_long),
        "nothing was tried"
    );
    assert!(
        totals.regrants > 0 || totals.cases < 4 * REGRANTING,
        "no extent was granted twice"
    );
    assert!(
        totals.adopted > 0 || totals.cases < 20 * PLAIN,
        "no file was encrypted by the zone that adopted it"
    );
}

/// Sequences that are tried, several at once: each waits most of its time.
struct Trial {
    first: u64,
    cases: Option<u64>,
    end: Instant,
    next: AtomicU64,
    totals: Mutex<Totals>,
}

/// What was tried, and what was wrong.
#[derive(Debug, Default)]
struct Totals {
    cases: u64,
    operations: u64,
    faults: u64,
    cells: u64,
    regrants: u64,
    adopted: u64,
    wrong: Vec<String>,
}

impl Trial {
    fn new(first: u64) -> Self {
        let seconds = number("STRONGROOM_MODEL_SECONDS").unwrap_or(SECONDS);
        Self {
            first,
            cases: number("STRONGROOM_MODEL_CASES"),
            end: Instant::now() + Duration::from_secs(seconds),
            next: AtomicU64::new(0),
            totals: Mutex::default(),
        }
    }

    /// Tries one sequence after another, until one fails anywhere.
    fn work(&self, identities: &Identities) {
        loop {
            let case = self.next.fetch_add(1, Ordering::Relaxed);
            let goes_on = self.cases.map_or(Instant::now() < self.end, |cases| case < cases);
            if !goes_on || !self.lock().wrong.is_empty() {
                return;
            }
            let seed = self.first.wrapping_add(case);
            let outcome = self.try_one(seed, identities);
            let mut totals = self.lock();
            totals.cases += 1;
            if let Err(wrong) = outcome {
                let repeat = format!("repeat with STRONGROOM_TEST_SEED={seed} STRONGROOM_MODEL_CASES=1");
                totals.wrong.push(format!("{repeat}: {wrong}"));
            }
        }
    }

    fn try_one(&self, seed: u64, identities: &Identities) -> Result<(), String> {
        if seed % REGRANTING == 1 {
            return search(seed, &steps(), &async |steps| self.regrant(identities, steps).await);
        }
        search(seed, &operations(seed.is_multiple_of(PLAIN)), &async |operations| {
            self.play(identities, operations, seed).await
        })
    }

    async fn play(&self, identities: &Identities, operations: &[Operation], seed: u64) -> Result<(), String> {
        let mut game = match seed.is_multiple_of(PLAIN) {
            true => Game::with_plain_files(World::with_plain_files(identities, chosen_store()).await),
            false => Game::new(World::start(identities, chosen_store()).await),
        };
        if seed.is_multiple_of(REPEATING) {
            game.world.keys.repeat();
        }
        let played = game.play(operations).await;
        self.lock().adopted += game.adopted;
        self.end(&game.world, operations.len(), played).await
    }

    async fn regrant(&self, identities: &Identities, steps: &[Step]) -> Result<(), String> {
        let mut game = Regrants::new(World::start(identities, chosen_store()).await);
        let played = game.play(steps).await;
        self.end(&game.world, steps.len(), played).await
    }

    /// Adds up what was done in a world, and says all that was wrong with it.
    async fn end(&self, world: &World, operations: usize, played: Result<(), String>) -> Result<(), String> {
        let outcome = end(world, played).await;
        let mut totals = self.lock();
        totals.operations += operations as u64;
        totals.faults += world.faults.struck();
        totals.cells += world.nodes.ledger.cells();
        totals.regrants += world.replays.total();
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a world, and says all that was wrong with it.
async fn end(world: &World, played: Result<(), String>) -> Result<(), String> {
    let mut wrong: Vec<String> = played.err().into_iter().collect();
    wrong.extend(world.stop().await);
    wrong.extend(world.nodes.ledger.reused());
    wrong.truncate(20);
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n"))
    }
}

/// Tries the sequence of a seed, and shorter ones if it fails.
fn search<T: Debug, S: Strategy<Value = Vec<T>>>(
    seed: u64,
    sequences: &S,
    play: &impl AsyncFn(&[T]) -> Result<(), String>,
) -> Result<(), String> {
    let config = Config {
        cases: 1,
        max_shrink_iters: SHRINKING,
        failure_persistence: None,
        ..Config::default()
    };
    let bytes: [u8; 32] = std::array::from_fn(|i| seed.to_be_bytes()[i % 8]);
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let runtime = Runtime::new().expect("a runtime");
    let outcome = runner.run(sequences, |sequence| {
        runtime.block_on(play(&sequence)).map_err(TestCaseError::fail)
    });
    outcome.map_err(|error| match error {
        TestError::Abort(reason) => reason.to_string(),
        TestError::Fail(reason, sequence) => {
            let lines: Vec<_> = sequence.iter().map(|one| format!("{one:?}")).collect();
            format!("{reason}\nof the sequence\n{}", lines.join("\n"))
        }
    })
}

fn number(variable: &str) -> Option<u64> {
    let given = env::var(variable).ok()?;
    Some(given.parse().unwrap_or_else(|_| panic!("{variable} must be a number")))
}

/// Where the databases are, if the other engine was chosen. It ends with this process.
static SERVER: LazyLock<Cluster> = LazyLock::new(Cluster::start);

/// A store that is empty: a file, or a database.
fn chosen_store() -> StoreConfig {
    if env::var("STRONGROOM_TEST_STORE").as_deref() != Ok("postgres") {
        return StoreConfig::default();
    }
    let url_file = SERVER.fresh_url().display().to_string();
    let text = format!("engine = 'postgres'\nurl_file = '{url_file}'\nconnections = 6");
    toml::from_str(&text).expect("a table")
}

/// Clears a store away that nobody will look at again: a database takes megabytes.
fn drop_store(store: &StoreConfig) {
    if let StoreConfig::Postgres(database) = store {
        let file = database.url_file.file_name().and_then(OsStr::to_str).expect("a name");
        let (name, _) = file.split_once('.').expect("the name of the database first");
        SERVER.run_sql(&format!("DROP DATABASE {name} WITH (FORCE)"));
    }
}
