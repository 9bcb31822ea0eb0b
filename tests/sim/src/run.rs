//! One run: a seed in, what happened out.

use std::{rc::Rc, time::Duration};

use tokio::time::sleep;
use turmoil::Sim;

use crate::{
    checker::{self, Verdict},
    faults::{Director, LATENCY_MAX},
    judge, machine,
    sabotage::Sabotage,
    site::{self, BLOCKS, CLIENTS, JUDGE, KMS, METADATA, Phase, Site},
    trace, workload,
};

/// How long users work among faults.
const BUSY: Duration = Duration::from_secs(30);
/// How long setting up, coming to rest and judging may take.
const SETUP_MAX: Duration = Duration::from_secs(60);
const REST_MAX: Duration = Duration::from_secs(120);
const JUDGEMENT_MAX: Duration = Duration::from_secs(1_200);
/// The steps of the simulated time.
const TICK: Duration = Duration::from_millis(4);

/// What a run came to.
pub(crate) struct Report {
    /// Line by line.
    pub(crate) trace: String,
    /// What must never be.
    pub(crate) violations: Vec<String>,
    /// Calls of users.
    pub(crate) calls: usize,
    /// Whether the history was too wide to be searched.
    pub(crate) undecided: bool,
}

/// Runs a seed, with something wrong if it is to be found; to be called once in a process.
pub(crate) fn run(seed: u64, verbose: bool, sabotage: Option<Sabotage>) -> Report {
    machine::begin(seed);
    trace::listen(verbose);
    std::panic::set_hook(Box::new(|panic| trace::violation(&format!("a panic: {panic}"))));
    let site = Rc::new(Site::new(sabotage));
    let mut sim = build(&site);
    play(&mut sim, &site);
    drop(sim);
    let events = site.history.events();
    let verdict = checker::check(&events);
    if let Verdict::Not { reached, stuck } = &verdict {
        trace::violation(&format!(
            "the history is not linearizable: no order of its {} calls gets past {reached}; next would be one of {stuck:?}",
            events.len()
        ));
    }
    let (trace, violations) = trace::end();
    Report {
        trace,
        violations,
        calls: events.len(),
        undecided: verdict == Verdict::Undecided,
    }
}

fn build(site: &Rc<Site>) -> Sim<'static> {
    let mut sim = turmoil::Builder::new()
        .rng_seed(machine::random())
        .tick_duration(TICK)
        .min_message_latency(Duration::ZERO)
        .max_message_latency(LATENCY_MAX)
        .simulation_duration(Duration::from_secs(100_000))
        .tcp_capacity(4096)
        .build();
    let host = Rc::clone(site);
    sim.host(KMS, move || site::key_service(Rc::clone(&host)));
    for (instance, name) in METADATA.into_iter().enumerate() {
        let host = Rc::clone(site);
        sim.host(name, move || site::metadata(Rc::clone(&host), instance));
    }
    for (index, name) in BLOCKS.into_iter().enumerate() {
        let host = Rc::clone(site);
        sim.host(name, move || site::block(Rc::clone(&host), index));
    }
    for name in CLIENTS {
        let host = Rc::clone(site);
        sim.host(name, move || user(Rc::clone(&host), name));
    }
    let host = Rc::clone(site);
    sim.host(JUDGE, move || set_up_and_judge(Rc::clone(&host)));
    sim
}

async fn set_up_and_judge(site: Rc<Site>) -> turmoil::Result {
    let fs = site.filesystem(JUDGE);
    while let Err(error) = site::make_zone(&fs).await {
        trace::line(format_args!("the zone is not made yet: {error}"));
        sleep(Duration::from_secs(1)).await;
    }
    drop(fs);
    site.enter(Phase::Busy);
    judge::judge(site).await
}

async fn user(site: Rc<Site>, name: &'static str) -> turmoil::Result {
    let _at_work = site.count_worker();
    let fs = site.filesystem(name);
    while site.phase() < Phase::Busy {
        sleep(Duration::from_millis(100)).await;
    }
    workload::work(&site, name, &fs).await;
    Ok(())
}

/// Takes the run through its phases.
fn play(sim: &mut Sim<'_>, site: &Rc<Site>) {
    let mut director = Director::new();
    if !until(sim, SETUP_MAX, |_| site.phase() >= Phase::Busy) {
        return trace::violation("the zone cannot be made");
    }
    until(sim, BUSY, |sim| {
        director.act(sim, site);
        false
    });
    director.heal(sim, site);
    site.enter(Phase::Rest);
    if !until(sim, REST_MAX, |_| !site.is_anybody_working()) {
        trace::violation("a user's call never ends");
    }
    site.enter(Phase::Judgement);
    if !until(sim, JUDGEMENT_MAX, |_| site.phase() == Phase::Over) {
        trace::violation("the judge does not come to an end");
    }
}

/// Steps until `is_done`, for no longer than `most`; says whether it was.
fn until<'s>(sim: &mut Sim<'s>, most: Duration, mut is_done: impl FnMut(&mut Sim<'s>) -> bool) -> bool {
    let end = sim.elapsed() + most;
    while sim.elapsed() < end {
        if is_done(sim) {
            return true;
        }
        if let Err(error) = sim.step() {
            trace::violation(&format!("a process failed: {error}"));
            return false;
        }
        machine::set_elapsed(sim.elapsed());
    }
    false
}
