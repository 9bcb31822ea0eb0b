//! Interleaved measurement, and its output as a table or as JSON lines.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "output is what this program is for"
)]

use std::time::{Duration, Instant};

/// Runs of each side; the median counts.
const ROUNDS: usize = 31;
/// Least time of one run, so that the clock's grain does not show.
const RUN_MIN: Duration = Duration::from_millis(4);

/// One measured figure.
#[derive(serde::Serialize)]
pub(crate) struct Figure {
    pub(crate) bench: String,
    #[serde(rename = "impl")]
    pub(crate) implementation: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) against: &'static str,
    pub(crate) ratio: f64,
}

/// Times `ours` and `theirs` in turn, each handling `bytes` bytes a call.
pub(crate) fn throughput(
    bench: String,
    against: &'static str,
    bytes: usize,
    mut ours: impl FnMut(),
    mut theirs: impl FnMut(),
) -> Figure {
    let calls = calls_per_run(&mut ours);
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        our_times.push(time(calls, &mut ours));
        their_times.push(time(calls, &mut theirs));
    }
    let (our, their) = (median(our_times), median(their_times));
    Figure {
        bench,
        implementation: "strongroom",
        value: (bytes * calls) as f64 / our / 1e9,
        unit: "GB/s",
        against,
        ratio: their / our,
    }
}

fn calls_per_run(work: &mut impl FnMut()) -> usize {
    let mut calls = 1;
    while time(calls, work) < RUN_MIN.as_secs_f64() {
        calls *= 2;
    }
    calls
}

fn time(calls: usize, work: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..calls).for_each(|_| work());
    start.elapsed().as_secs_f64()
}

pub(crate) fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Prints the figures for people, or one JSON object a line.
pub(crate) fn print(figures: &[Figure], json: bool) {
    if json {
        for figure in figures {
            println!("{}", serde_json::to_string(figure).expect("figures are plain"));
        }
        return;
    }
    println!("{:<28} {:>10} {:<5} {:>7}  against", "bench", "value", "unit", "ratio");
    for figure in figures {
        println!(
            "{:<28} {:>10.2} {:<5} {:>7.2}  {}",
            figure.bench, figure.value, figure.unit, figure.ratio, figure.against
        );
    }
}

/// Says what is being measured, to who waits.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// Says why a process of the benchmark ended.
pub(crate) fn complain(text: &str) {
    eprintln!("error: {text}");
}

pub(crate) fn usage() {
    eprintln!(
        "usage: ci/bench dataplane [--json]\n       ci/bench kms [CASE…] [--json]\ncases, all of them unless named: kw gcm audit tokens keys"
    );
}
