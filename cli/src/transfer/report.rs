//! Counts what a transfer did, shows progress meanwhile, and sums it up at the end.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::{
    error::{Error, Exit, chain},
    output::{Output, note, one_line, progress_wanted},
};

/// Failures that are listed at the end; more are only counted.
const LISTED_MAX: usize = 100;
/// Files that are named to people of those that are left.
const LEFT_NAMED_MAX: usize = 10;

/// After so many failures in a row because a service, the token or the nodes cannot be reached, the rest is not tried:
/// each try takes its time to fail.
const UNAVAILABLE_IN_A_ROW_MAX: u32 = 32;

/// What the transfer does, for its summary.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verb {
    Stored,
    Appended,
    Fetched,
    Rewritten,
    Encrypted,
}

impl Verb {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Appended => "appended",
            Self::Fetched => "fetched",
            Self::Rewritten => "rewrote",
            Self::Encrypted => "encrypted",
        }
    }
}

/// The running account of a transfer, shared by its tasks.
pub(crate) struct Report {
    verb: Verb,
    started: Instant,
    bar: ProgressBar,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    files: u64,
    directories: u64,
    bytes: u64,
    /// Files that there was nothing to do with.
    unchanged: u64,
    /// Files that are to be done yet, where that is known.
    left: Option<u64>,
    /// Where some of them are.
    left_files: Vec<String>,
    skipped: u64,
    /// Of `skipped`, those that nobody allowed.
    unexpected: u64,
    failed: u64,
    listed: Vec<Listed>,
    /// The exit code of the first failure.
    exit: Option<Exit>,
    unavailable_in_a_row: u32,
    /// Everything was met once.
    again: bool,
}

/// A failure in the summary.
#[derive(Serialize)]
struct Listed {
    path: String,
    reason: &'static str,
    message: String,
}

/// The summary in `--json`.
#[derive(Serialize)]
struct Summary<'a> {
    files: u64,
    directories: u64,
    bytes: u64,
    seconds: f64,
    mb_per_s: f64,
    files_per_s: f64,
    unchanged: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<u64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    left_files: &'a [String],
    skipped: u64,
    failed: u64,
    failures: &'a [Listed],
}

impl Report {
    /// Starts the clock.
    pub(crate) fn start(verb: Verb) -> Self {
        Self {
            verb,
            started: Instant::now(),
            bar: new_bar(),
            counts: Mutex::default(),
        }
    }

    /// A file of so many bytes was found and will be transferred.
    pub(crate) fn expect(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    /// Bytes moved.
    pub(crate) fn advance(&self, bytes: usize) {
        self.bar.inc(bytes as u64);
    }

    /// A file is done.
    pub(crate) fn file_done(&self, bytes: u64) {
        let mut counts = self.counts();
        counts.files += 1;
        counts.bytes += bytes;
        counts.unavailable_in_a_row = 0;
        self.bar.set_message(format!("{} files", counts.files));
    }

    /// All is gone through once more: what was met before is not counted again.
    pub(crate) fn go_through_again(&self) {
        self.counts().again = true;
    }

    /// There was nothing to do with a file.
    pub(crate) fn unchanged(&self) {
        let mut counts = self.counts();
        counts.unchanged += u64::from(!counts.again);
    }

    /// So many files are to be done yet, some of them at these paths.
    pub(crate) fn leave(&self, files: u64, paths: Vec<String>) {
        let mut counts = self.counts();
        counts.left = Some(files);
        counts.left_files = paths;
    }

    /// Whether something failed or was skipped.
    pub(crate) fn is_partly(&self) -> bool {
        let counts = self.counts();
        counts.failed + counts.skipped > 0
    }

    /// A directory is done.
    pub(crate) fn directory_done(&self) {
        let mut counts = self.counts();
        counts.directories += u64::from(!counts.again);
    }

    /// Something that cannot be transferred was left out; `allowed` if the user said so.
    pub(crate) fn skip(&self, path: &str, what: &str, allowed: bool) {
        {
            let mut counts = self.counts();
            counts.skipped += 1;
            counts.unexpected += u64::from(!allowed);
        }
        self.bar
            .suspend(|| note(&format!("strongroom: skipped {}: {what}", one_line(path))));
    }

    /// Something failed; the others go on.
    pub(crate) fn fail(&self, path: &str, error: &Error) {
        let exit = error.exit();
        let mut counts = self.counts();
        counts.unavailable_in_a_row = if exit == Exit::Unavailable {
            counts.unavailable_in_a_row + 1
        } else {
            0
        };
        counts.exit.get_or_insert(exit);
        counts.failed += 1;
        if counts.listed.len() < LISTED_MAX {
            counts.listed.push(Listed {
                path: path.to_owned(),
                reason: error.reason(),
                message: chain(error),
            });
        }
    }

    /// Whether there is no point in trying further files.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.counts().is_hopeless()
    }

    /// Prints the summary and the failures. Fails if anything failed or was skipped without leave.
    pub(crate) fn finish(&self, output: Output) -> Result<(), Error> {
        self.bar.finish_and_clear();
        let counts = self.counts();
        let summary = counts.summary(self.started.elapsed().as_secs_f64());
        if !output.is_json() {
            counts.list_failures();
        }
        output.result(&summary, || summary.text(self.verb))?;
        counts.outcome()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn summary(&self, seconds: f64) -> Summary<'_> {
        let per_second = |amount: f64| if seconds > 0.0 { rounded(amount / seconds) } else { 0.0 };
        Summary {
            files: self.files,
            directories: self.directories,
            bytes: self.bytes,
            seconds: rounded(seconds),
            mb_per_s: per_second(self.bytes as f64 / 1e6),
            files_per_s: per_second(self.files as f64),
            unchanged: self.unchanged,
            left: self.left,
            left_files: &self.left_files,
            skipped: self.skipped,
            failed: self.failed,
            failures: &self.listed,
        }
    }

    fn list_failures(&self) {
        for Listed { path, message, .. } in &self.listed {
            // Most messages name the path already; the others need it.
            let line = if message.contains(path.as_str()) {
                format!("strongroom: {message}")
            } else {
                format!("strongroom: {path}: {message}")
            };
            note(&one_line(&line));
        }
        let more = self.failed - self.listed.len() as u64;
        if more > 0 {
            note(&format!("strongroom: … and {more} more failures"));
        }
        for path in self.left_files.iter().take(LEFT_NAMED_MAX) {
            note(&format!("strongroom: left: {}", one_line(path)));
        }
        if self.is_hopeless() {
            note("strongroom: gave up, since nothing can be reached any more; the rest was not tried");
        }
    }

    const fn is_hopeless(&self) -> bool {
        self.unavailable_in_a_row >= UNAVAILABLE_IN_A_ROW_MAX
    }

    fn outcome(&self) -> Result<(), Error> {
        if self.failed + self.unexpected == 0 {
            return Ok(());
        }
        // One file was asked for and that one failed, or nothing could be reached: that says more than "partly".
        let alone = self.files + self.unchanged + self.skipped == 0 && (self.failed == 1 || self.is_hopeless());
        let exit = self.exit.filter(|_| alone).unwrap_or(Exit::Partly);
        Err(Error::Partly {
            failed: self.failed,
            skipped: self.skipped,
            total: self.files + self.failed + self.skipped,
            exit,
        })
    }
}

impl Summary<'_> {
    fn text(&self, verb: Verb) -> String {
        let mut text = format!(
            "{} {} files, {} directories, {} bytes in {} s: {} MB/s, {} files/s",
            verb.as_str(),
            self.files,
            self.directories,
            self.bytes,
            self.seconds,
            self.mb_per_s,
            self.files_per_s
        );
        if self.unchanged > 0 {
            text.push_str(&format!("; {} were done already", self.unchanged));
        }
        if let Some(left) = self.left.filter(|left| *left > 0) {
            text.push_str(&format!("; {left} left"));
        }
        if self.skipped + self.failed > 0 {
            text.push_str(&format!("; {} skipped, {} failed", self.skipped, self.failed));
        }
        text
    }
}

/// To three decimals.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn new_bar() -> ProgressBar {
    let target = if progress_wanted() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {msg} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(0), target).with_style(style)
}

#[cfg(test)]
mod tests {
    use strongroom_proto::{Failure, Reason};

    use super::*;

    fn refused() -> Error {
        Failure::new(Reason::PermissionDenied, "no").into()
    }

    fn exists() -> Error {
        Failure::new(Reason::AlreadyExists, "there").into()
    }

    fn exit_of(acts: impl Fn(&Report)) -> Exit {
        let report = Report::start(Verb::Stored);
        acts(&report);
        let outcome = report.counts().outcome();
        outcome.map_or_else(|error| error.exit(), |()| Exit::Done)
    }

    #[test]
    fn the_exit_code_says_how_it_ended() {
        type Acts = fn(&Report);
        let table: [(Acts, Exit); 8] = [
            (|report| report.file_done(1), Exit::Done),
            (|report| report.skip("a", "socket", true), Exit::Done),
            (|report| report.skip("a", "socket", false), Exit::Partly),
            (|report| report.fail("a", &refused()), Exit::Refused),
            (
                |report| {
                    report.fail("a", &refused());
                    report.fail("b", &exists());
                },
                Exit::Partly,
            ),
            (
                |report| {
                    report.fail("a", &exists());
                    report.fail("b", &exists());
                },
                Exit::Partly,
            ),
            (
                |report| {
                    report.file_done(1);
                    report.fail("b", &exists());
                },
                Exit::Partly,
            ),
            (
                |report| {
                    report.unchanged();
                    report.fail("b", &exists());
                },
                Exit::Partly,
            ),
        ];
        for (row, (acts, exit)) in table.into_iter().enumerate() {
            assert_eq!(exit_of(acts), exit, "row {row}");
        }
    }

    #[test]
    fn a_transfer_gives_up_when_nothing_answers() {
        let unavailable = || Error::from(Failure::new(Reason::Unavailable, "nobody there"));
        let report = Report::start(Verb::Fetched);
        for _ in 1..UNAVAILABLE_IN_A_ROW_MAX {
            report.fail("a", &unavailable());
        }
        report.fail("b", &refused());
        report.fail("a", &unavailable());
        assert!(!report.is_hopeless());
        let many = |report: &Report| (0..UNAVAILABLE_IN_A_ROW_MAX).for_each(|_| report.fail("a", &unavailable()));
        many(&report);
        assert!(report.is_hopeless());
        assert_eq!(exit_of(many), Exit::Unavailable);
    }

    #[test]
    fn listed_failures_are_bounded() {
        let report = Report::start(Verb::Fetched);
        for _ in 0..LISTED_MAX + 5 {
            report.fail("a", &refused());
        }
        let counts = report.counts();
        assert_eq!(
            (counts.failed, counts.listed.len()),
            (LISTED_MAX as u64 + 5, LISTED_MAX)
        );
    }
}
