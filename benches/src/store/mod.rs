//! The stores: what redb's quick repair costs each commit, and what it saves when a process that was killed
//! opens its file again; and what many writers have of one PostgreSQL. `docs/performance.md` says what was decided by these figures.

mod engine;
mod postgres;

use std::{
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use self::engine::Engine;
use crate::report::{Figure, median, note};

/// The first argument of the process that is killed.
const PART: &str = "part-store-writer";
/// Keys in the file unless the environment says otherwise.
const KEYS: u64 = 1_000_000;
const KEYS_VARIABLE: &str = "STRONGROOM_BENCH_KEYS";
/// Transactions that share a commit: one writer alone, and 64.
const BATCHES: [u64; 2] = [1, 64];
/// How long each kind of commit is timed, in turns.
const TURNS: usize = 8;
const TURN: Duration = Duration::from_millis(750);
/// How often a file is left by a killed process and opened.
const CRASHES: usize = 3;

/// Plays the process that is killed, if `arguments` say so.
pub(crate) fn play_part(arguments: &[String]) -> Option<ExitCode> {
    match arguments {
        [part, path, quick] if part == PART => Some(engine::write_until_killed(Path::new(path), quick == "true")),
        _ => None,
    }
}

/// Parts that can be run alone.
const CASES: [&str; 2] = ["repair", "postgres"];

pub(crate) fn are_cases(cases: &[&str]) -> bool {
    cases.iter().all(|case| CASES.contains(case))
}

/// The cases named, or all.
pub(crate) fn run(cases: &[&str]) -> Vec<Figure> {
    let wants = |case: &str| cases.is_empty() || cases.contains(&case);
    let mut figures = Vec::new();
    if wants("repair") {
        figures.extend(repair());
    }
    if wants("postgres") {
        figures.extend(postgres::run());
    }
    figures
}

fn repair() -> Vec<Figure> {
    let keys = std::env::var(KEYS_VARIABLE).map_or(KEYS, |text| text.parse().expect("a number of keys"));
    let directory = tempfile::tempdir_in(".").expect("a directory on the disk to measure");
    let paths = [false, true].map(|quick| (quick, directory.path().join(format!("{quick}.redb"))));
    for (quick, path) in &paths {
        note(&format!("filling a file of {keys} keys, quick repair {quick}"));
        Engine::open(path, *quick).fill(keys);
    }
    let mut figures = Vec::new();
    for batch in BATCHES {
        note(&format!("committing batches of {batch}"));
        figures.extend(commits(
            &paths.each_ref().map(|(quick, path)| Engine::open(path, *quick)),
            batch,
        ));
    }
    note("killing and opening again");
    let [plain, quick] = paths.map(|(quick, path)| reopened(&path, quick, keys));
    figures.extend(pair(
        &format!("store/reopen/killed/{keys}"),
        "s",
        plain,
        quick,
        plain / quick,
    ));
    figures
}

/// Commits a second, of both kinds in turns.
fn commits([plain, quick]: &[Engine; 2], batch: u64) -> Vec<Figure> {
    let (mut plains, mut quicks) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        plains.push(rate(plain, batch));
        quicks.push(rate(quick, batch));
    }
    let (plain, quick) = (median(plains), median(quicks));
    pair(
        &format!("store/commit/batch{batch}"),
        "op/s",
        plain,
        quick,
        quick / plain,
    )
}

fn rate(engine: &Engine, batch: u64) -> f64 {
    let started = Instant::now();
    let mut commits = 0_u32;
    while started.elapsed() < TURN {
        engine.commit(batch);
        commits += 1;
    }
    f64::from(commits) / started.elapsed().as_secs_f64()
}

/// Seconds to open a file whose process was killed in the middle of its work.
fn reopened(path: &Path, quick: bool, keys: u64) -> f64 {
    let mut times = Vec::new();
    for _ in 0..CRASHES {
        let mut writer = Command::new(std::env::current_exe().expect("this program"))
            .args([PART.as_ref(), path.as_os_str(), quick.to_string().as_ref()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the writer");
        engine::wait_for_commits(&mut writer);
        writer.kill().expect("SIGKILL");
        writer.wait().expect("it ends");
        let started = Instant::now();
        let engine = Engine::open(path, quick);
        times.push(started.elapsed().as_secs_f64());
        assert!(engine.keys() >= keys, "the file has lost keys");
    }
    median(times)
}

fn pair(bench: &str, unit: &'static str, plain: f64, quick: f64, ratio: f64) -> Vec<Figure> {
    [("redb", plain, 1.0), ("redb-quick-repair", quick, ratio)]
        .map(|(implementation, value, ratio)| Figure {
            bench: bench.to_owned(),
            implementation,
            value,
            unit,
            against: "redb",
            ratio: Some(ratio),
        })
        .into()
}
