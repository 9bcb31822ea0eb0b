//! `fs mv`: rename, also from one zone to another.

use std::cell::Cell;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use strongroom_fs::{FileKind, Stat, TransferProgress, ZoneFs};
use strongroom_proto::{Reason, ZonePath};

use super::{look_up, parse, with_force_hint};
use crate::{
    error::Error,
    output::{Output, note, progress_wanted},
};

/// Renames `from` to `to`, or into `to` if that is a directory that exists, as `mv` does; with `transfer` also to another zone.
pub(super) async fn run(
    fs: &ZoneFs,
    from: &str,
    to: &str,
    force: bool,
    transfer: bool,
    output: Output,
) -> Result<(), Error> {
    let from = parse(from)?;
    let to = destination(fs, &from, to).await?;
    let stat = match fs.rename(&from, &to, force).await {
        Err(error) if transfer && error.reason() == Reason::CrossZone => across(fs, &from, &to, force).await?,
        outcome => outcome.map_err(with_force_hint)?,
    };
    output.result(&stat, String::new)
}

async fn destination(fs: &ZoneFs, from: &ZonePath, to: &str) -> Result<ZonePath, Error> {
    let path = parse(to)?;
    let found = look_up(fs, &path).await?;
    let into_directory = found.is_some_and(|found| found.kind == FileKind::Directory);
    match from.split_last() {
        Some((_, name)) if into_directory => Ok(path.join(name)?),
        _ => Ok(path),
    }
}

/// Moves to another zone. Says which job it is if it does not come to its end.
async fn across(fs: &ZoneFs, from: &ZonePath, to: &ZonePath, force: bool) -> Result<Stat, Error> {
    let (bar, job) = (new_bar(), Cell::new(None));
    let tell = |progress: TransferProgress| {
        job.set(Some(progress.job_id));
        bar.set_length(progress.found.max(progress.staged));
        bar.set_position(progress.staged);
    };
    let outcome = fs.transfer(from, to, force, tell).await;
    bar.finish_and_clear();
    if let (Err(_), Some(job)) = (&outcome, job.get()) {
        note(&format!(
            "strongroom: what was prepared is kept as job {job}: the same command goes on with it, strongroom job cancel {job} drops it"
        ));
    }
    outcome.map_err(with_force_hint)
}

fn new_bar() -> ProgressBar {
    let target = if progress_wanted() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} files {per_sec} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(0), target).with_style(style)
}
