//! Many runs, each in a process of its own: what one leaves in the memory of its process, another would not begin with.

use std::{
    env,
    io::{self, BufRead as _, Write as _},
    process::{Command, Stdio},
    sync::Mutex,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// Lines of a failed run that are shown.
const LINES_MAX: usize = 12;
/// Runs whose failure is shown, after which no more are begun.
const FAILURES_MAX: u64 = 10;
/// Of a hundred histories that may be too wide to search. One that is not searched shows nothing of its order, and nobody would see it if
/// most were not.
const UNDECIDED_PERCENT_MAX: u64 = 5;

/// Which runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch {
    pub(crate) seeds: u64,
    pub(crate) first: u64,
    pub(crate) seconds: u64,
}

#[derive(Default)]
struct Tally {
    begun: AtomicU64,
    played: AtomicU64,
    failed: AtomicU64,
    calls: AtomicU64,
    undecided: AtomicU64,
    trouble: Mutex<Option<io::Error>>,
}

/// Plays them; whether none failed.
pub(crate) fn play(batch: Batch) -> io::Result<bool> {
    let (tally, start) = (Tally::default(), since_boot());
    let workers = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| work(batch, start, &tally));
        }
    });
    if let Some(trouble) = tally.trouble.into_inner().unwrap_or_default() {
        return Err(trouble);
    }
    let (played, failed) = (tally.played.into_inner(), tally.failed.into_inner());
    let undecided = tally.undecided.into_inner();
    writeln!(
        io::stdout(),
        "{played} runs from seed {} in {} s: {failed} failed, {} calls, {undecided} histories too wide to search",
        batch.first,
        (since_boot() - start).as_secs(),
        tally.calls.into_inner(),
    )?;
    let searched = is_searched(undecided, played);
    if !searched {
        writeln!(
            io::stdout(),
            "too few histories were searched: {UNDECIDED_PERCENT_MAX} of 100 may be too wide; have users do less in a run"
        )?;
    }
    Ok(failed == 0 && played > 0 && searched)
}

/// Whether enough histories were searched for the others to be passed over.
const fn is_searched(undecided: u64, played: u64) -> bool {
    undecided.saturating_mul(100) <= played.saturating_mul(UNDECIDED_PERCENT_MAX)
}

fn work(batch: Batch, start: Duration, tally: &Tally) {
    let end = start.saturating_add(Duration::from_secs(batch.seconds));
    while since_boot() < end && tally.failed.load(Ordering::Relaxed) < FAILURES_MAX {
        let number = tally.begun.fetch_add(1, Ordering::Relaxed);
        if number >= batch.seeds {
            return;
        }
        if let Err(error) = one(batch.first.wrapping_add(number), tally) {
            *tally.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
            return;
        }
    }
}

fn one(seed: u64, tally: &Tally) -> io::Result<()> {
    let output = Command::new(env::current_exe()?)
        .args(["run", &seed.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    tally.played.fetch_add(1, Ordering::Relaxed);
    let lines: Vec<String> = output.stdout.lines().collect::<io::Result<_>>()?;
    let last = lines.last().map_or("", String::as_str);
    tally.calls.fetch_add(calls(last), Ordering::Relaxed);
    tally
        .undecided
        .fetch_add(u64::from(last.ends_with("search")), Ordering::Relaxed);
    if output.status.success() {
        return Ok(());
    }
    tally.failed.fetch_add(1, Ordering::Relaxed);
    let mut out = io::stdout().lock();
    writeln!(out, "seed {seed} failed ({}):", output.status)?;
    for line in lines.iter().filter(|line| line.contains("VIOLATION")).take(LINES_MAX) {
        writeln!(out, "  {line}")?;
    }
    Ok(())
}

/// The number of calls in a run's last line, `seed 7: 120 calls, …`.
fn calls(last: &str) -> u64 {
    let word = last.split(' ').nth(2);
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The real time: this executable's clocks stand still outside of a run ([`crate::machine`]).
fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_histories_may_be_too_wide() {
        for (undecided, played, searched) in [
            (0, 1, true),
            (1, 1, false),
            (1, 19, false),
            (1, 20, true),
            (6, 100, false),
        ] {
            assert_eq!(is_searched(undecided, played), searched, "{undecided} of {played}");
        }
    }

    /// As the last line of a run says it.
    #[test]
    fn the_calls_of_a_run_are_counted() {
        assert_eq!(calls("seed 7: 120 calls, 0 violations, too many orders to search"), 120);
        assert_eq!(calls(""), 0);
    }
}
