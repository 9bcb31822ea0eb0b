//! What goes wrong, and when it is over.

use std::{collections::BTreeSet, rc::Rc, time::Duration};

use turmoil::Sim;

use crate::{
    chance::{below, between_ms, one_in, pick},
    site::{BLOCKS, CLIENTS, KMS, METADATA, Site},
    trace,
};

/// The slowest that a message usually is.
pub(crate) const LATENCY_MAX: Duration = Duration::from_millis(12);
/// The same on a link that is slow.
const SLOW_MAX: Duration = Duration::from_millis(700);
/// Between two faults at most.
const PAUSE_MAX_MS: u64 = 2_500;

/// Lets things fail at random.
pub(crate) struct Director {
    next: Duration,
    /// What is wrong, and until when.
    wrong: Vec<(Duration, Fault)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    /// A process is gone.
    Crash(&'static str),
    /// Messages between two are lost.
    Partition(&'static str, &'static str),
    /// Messages from one to another are lost.
    OneWay(&'static str, &'static str),
    /// Messages between two are held back.
    Hold(&'static str, &'static str),
    /// Messages between two are slow.
    Slow(&'static str, &'static str),
    /// Some messages between two are lost, and their connections with them.
    Loss(&'static str, &'static str),
    /// An instance does not reach the database.
    NoDatabase(usize),
}

impl Director {
    pub(crate) fn new() -> Self {
        Self {
            next: Duration::ZERO,
            wrong: Vec::new(),
        }
    }

    /// Ends what is over and now and then begins something, or rolls the key.
    pub(crate) fn act(&mut self, sim: &mut Sim<'_>, site: &Rc<Site>) {
        let now = sim.elapsed();
        self.end(sim, site, |until| until <= now);
        if now < self.next {
            return;
        }
        self.next = now + between_ms(100, PAUSE_MAX_MS);
        if one_in(8) {
            trace::line(format_args!("the key is rolled"));
            site.key.roll();
            return;
        }
        let fault = fault();
        if self.is_free(&fault) {
            trace::line(format_args!("begins {fault:?}"));
            begin(&fault, sim, site);
            self.wrong.push((now + between_ms(100, 12_000), fault));
        }
    }

    /// Ends everything that is wrong.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>, site: &Rc<Site>) {
        self.end(sim, site, |_| true);
    }

    fn end(&mut self, sim: &mut Sim<'_>, site: &Rc<Site>, is_over: impl Fn(Duration) -> bool) {
        let (over, wrong) = std::mem::take(&mut self.wrong)
            .into_iter()
            .partition::<Vec<_>, _>(|(until, _)| is_over(*until));
        self.wrong = wrong;
        for (_, fault) in over {
            trace::line(format_args!("ends {fault:?}"));
            end(&fault, sim, site);
        }
    }

    /// One thing at a time goes wrong with a process, a link or the database.
    fn is_free(&self, fault: &Fault) -> bool {
        let taken: BTreeSet<_> = self.wrong.iter().flat_map(|(_, wrong)| wrong.places()).collect();
        fault.places().iter().all(|place| !taken.contains(place))
    }
}

impl Fault {
    fn places(&self) -> Vec<String> {
        match self {
            Self::Crash(host) => vec![(*host).to_owned()],
            Self::NoDatabase(instance) => vec![format!("database {instance}")],
            Self::Partition(a, b) | Self::OneWay(a, b) | Self::Hold(a, b) | Self::Slow(a, b) | Self::Loss(a, b) => {
                vec![format!("{} {}", a.min(b), a.max(b))]
            }
        }
    }
}

fn fault() -> Fault {
    match below(10) {
        0..3 => Fault::Crash(host()),
        3 => Fault::NoDatabase(if one_in(2) { 0 } else { 1 }),
        kind => {
            let (a, b) = link();
            match kind {
                4 | 5 => Fault::Partition(a, b),
                6 => Fault::OneWay(a, b),
                7 => Fault::Hold(a, b),
                8 => Fault::Slow(a, b),
                _ => Fault::Loss(a, b),
            }
        }
    }
}

fn host() -> &'static str {
    match below(10) {
        0 => KMS,
        1..5 => pick(&METADATA),
        5..8 => pick(&BLOCKS),
        _ => pick(&CLIENTS),
    }
}

/// Two who talk to each other.
fn link() -> (&'static str, &'static str) {
    match below(10) {
        0 => (pick(&METADATA), KMS),
        1 => (pick(&CLIENTS), KMS),
        2..6 => (pick(&CLIENTS), pick(&METADATA)),
        6 | 7 => (pick(&CLIENTS), pick(&BLOCKS)),
        8 => (pick(&BLOCKS), pick(&METADATA)),
        _ => {
            let first = below(3) as usize;
            (BLOCKS[first], BLOCKS[(first + 1) % 3])
        }
    }
}

fn begin(fault: &Fault, sim: &mut Sim<'_>, site: &Rc<Site>) {
    match *fault {
        Fault::Crash(host) => sim.crash(host),
        Fault::Partition(a, b) => sim.partition(a, b),
        Fault::OneWay(a, b) => sim.partition_oneway(a, b),
        Fault::Hold(a, b) => sim.hold(a, b),
        Fault::Slow(a, b) => sim.set_link_max_message_latency(a, b, SLOW_MAX),
        Fault::Loss(a, b) => sim.set_link_fail_rate(a, b, 0.01),
        Fault::NoDatabase(instance) => site.database.cut_off(instance, true),
    }
}

fn end(fault: &Fault, sim: &mut Sim<'_>, site: &Rc<Site>) {
    match *fault {
        Fault::Crash(host) => sim.bounce(host),
        Fault::Partition(a, b) => sim.repair(a, b),
        Fault::OneWay(a, b) => sim.repair_oneway(a, b),
        Fault::Hold(a, b) => sim.release(a, b),
        Fault::Slow(a, b) => sim.set_link_max_message_latency(a, b, LATENCY_MAX),
        Fault::Loss(a, b) => {
            sim.set_link_fail_rate(a, b, 0.0);
            sim.repair(a, b);
        }
        Fault::NoDatabase(instance) => site.database.cut_off(instance, false),
    }
}
