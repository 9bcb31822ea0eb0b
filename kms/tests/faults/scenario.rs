//! One fault under load, from a sound token to a sound token; with the token alone, or with a second one that stays sound.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, stream};
use strongroom_kms::{
    fleet::{Fleet, Health},
    hsm::Hsm,
    token::{TokenConfig, marks_directory},
};
use strongroom_pkcs11_shim::{Function, Shim};

use crate::{
    fixture::Fixture,
    load::{BATCH, Load, Outcome},
    pair::Pair,
};

/// How long a fault lasts, unless a scenario says otherwise.
const FAULT_TIME: Duration = Duration::from_secs(2);
/// How long the service may take, once the fault is gone, until calls of every kind succeed.
const RECOVERY_MAX: Duration = Duration::from_secs(30);
/// Scenarios at a time: most of each is waiting.
const AT_ONCE: usize = 3;

/// A fault and what is expected under it.
pub(crate) struct Scenario {
    name: &'static str,
    inject: Box<dyn Fn(&Shim) + Send + Sync>,
    lasts: Duration,
    may_fail: bool,
    /// EDEKs at most that may be minted and open to nothing.
    dead_max: usize,
    /// Whether the token is back in service some time after the fault.
    returns: bool,
}

impl Scenario {
    pub(crate) fn new(name: &'static str, inject: impl Fn(&Shim) + Send + Sync + 'static) -> Self {
        Self {
            name,
            inject: Box::new(inject),
            lasts: FAULT_TIME,
            may_fail: true,
            dead_max: 0,
            returns: true,
        }
    }

    pub(crate) const fn lasting(mut self, lasts: Duration) -> Self {
        self.lasts = lasts;
        self
    }

    /// The one token is enough: no call fails.
    pub(crate) const fn without_failures(mut self) -> Self {
        self.may_fail = false;
        self
    }

    /// The canary of a batch vouches for the token, and not for each EDEK beside it: one may open to nothing.
    pub(crate) const fn with_dead_edeks(mut self) -> Self {
        self.dead_max = usize::MAX;
        self
    }

    /// The fault strikes every EDEK, so that no batch gets by its canary, but one that is minted while the fault ends: its
    /// canary comes last, and may be the first that is sound.
    pub(crate) const fn ending_within_a_batch(mut self) -> Self {
        self.dead_max = BATCH;
        self
    }

    /// It takes a person to mend it.
    pub(crate) const fn for_good(mut self) -> Self {
        self.returns = false;
        self
    }

    /// Injects the fault, waits while it lasts, and sees that it has struck: a row whose calls are not made any more shows
    /// nothing.
    async fn strike(&self, shim: &Shim) {
        (self.inject)(shim);
        tokio::time::sleep(self.lasts).await;
        let struck: u64 = Function::ALL.iter().map(|&function| shim.fired(function)).sum();
        assert!(struck > 0, "{}: no call met the fault", self.name);
        shim.clear_all();
    }

    async fn run(self) -> Row {
        let fixture = Fixture::new();
        let shim = Shim::in_front_of(&fixture.config().module).expect("the module is written");
        let config = TokenConfig {
            module: shim.module(),
            ..fixture.config()
        };
        let token = fixture.try_start(config).await.expect("all is there");
        let load = Arc::new(Load::prepare(token.clone()).await);
        let running = load.start();
        self.strike(&shim).await;
        let recovered = load.recovery(RECOVERY_MAX).await;
        let recovery = recovered.unwrap_or_else(|| panic!("{}: no recovery in {RECOVERY_MAX:?}", self.name));
        load.stop(running).await;
        token.stop().await;

        // The token itself is sound, and has the last word on every EDEK that was handed out.
        let clean = fixture.start().await;
        let outcome = load.judge(self.name, self.dead_max, &clean).await;
        clean.stop().await;
        if !self.may_fail {
            assert_eq!(outcome.failed, 0, "{}: {:?}", self.name, outcome.reasons);
        }
        Row {
            name: self.name,
            outcome,
            recovery: Some(recovery),
        }
    }
}

/// The same with two linked tokens, of which the second stays sound: no call may fail. What recovers is the first one, which
/// takes part again.
async fn run_beside_another(scenario: Scenario) -> Row {
    let pair = Pair::new();
    let mut configs = pair.configs();
    let shim = Shim::in_front_of(&configs[0].module).expect("the module is written");
    configs[0].module = shim.module();
    let fleet = pair.start_with(&configs, Pair::settings()).await;
    both_serve(&fleet).await.expect("both are sound");
    let load = Arc::new(Load::prepare(fleet.clone()).await);
    let running = load.start();
    scenario.strike(&shim).await;
    let recovery = if scenario.returns {
        let recovered = both_serve(&fleet).await;
        Some(recovered.unwrap_or_else(|| panic!("{}: {:?} stays out", scenario.name, fleet.tokens())))
    } else {
        let tokens = fleet.tokens();
        assert_ne!(tokens[0].health, Health::Serving, "{}", scenario.name);
        None
    };
    load.stop(running).await;
    fleet.stop().await;

    if !scenario.returns {
        // What its operator does once the token takes the PIN again.
        let marks = marks_directory(&pair.path("state"), &configs[0].label);
        std::fs::remove_dir_all(marks).expect("the rejection was marked");
    }
    let clean = pair.start().await;
    let outcome = load.judge(scenario.name, scenario.dead_max, &clean).await;
    clean.stop().await;
    assert_eq!(outcome.failed, 0, "{}: {:?}", scenario.name, outcome.reasons);
    Row {
        name: scenario.name,
        outcome,
        recovery,
    }
}

/// How long until every token takes part.
async fn both_serve(fleet: &Fleet) -> Option<Duration> {
    let start = Instant::now();
    while start.elapsed() < RECOVERY_MAX {
        if fleet.tokens().iter().all(|token| token.health == Health::Serving) {
            return Some(start.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}

/// What became of it.
struct Row {
    name: &'static str,
    outcome: Outcome,
    /// `None` if it takes a person.
    recovery: Option<Duration>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome {
            succeeded,
            failed,
            reasons,
            longest,
            dead,
        } = &self.outcome;
        let dead = match dead {
            0 => String::new(),
            dead => format!(" (EDEKs that open to nothing: {dead})"),
        };
        write!(
            f,
            "| {}{dead} | {succeeded} | {failed} | {} | {:.1} s | {} |",
            self.name,
            reasons.join(", "),
            longest.as_secs_f64(),
            self.recovery
                .map_or("by hand".to_owned(), |time| format!("{:.2} s", time.as_secs_f64()))
        )
    }
}

/// Runs scenarios, each on a token of its own, and prints their table.
pub(crate) async fn run_all(scenarios: Vec<Scenario>) {
    print_rows(stream::iter(scenarios).map(Scenario::run).buffered(AT_ONCE)).await;
}

/// Runs scenarios, each on two tokens of its own of which the second stays sound, and prints their table.
pub(crate) async fn run_all_beside_another(scenarios: Vec<Scenario>) {
    print_rows(stream::iter(scenarios).map(run_beside_another).buffered(AT_ONCE)).await;
}

#[allow(clippy::print_stdout, reason = "the figures are what the run is for")]
async fn print_rows(rows: impl Stream<Item = Row>) {
    println!("| fault | calls | failed | reasons | longest call | recovery |\n|---|---|---|---|---|---|");
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.next().await {
        println!("{row}");
    }
}
