//! `fs rm` and `fs expunge`: removal into the trash or for good, and the end of what is in the trash.

use serde_json::json;
use strongroom_fs::{Expunged, Removed, ZoneFs};
use strongroom_proto::ZonePath;

use super::for_each;
use crate::{
    error::{Error, Exit},
    output::{Output, one_line},
};

/// Removes files, and directories with `recursive`; without `skip_trash` into the trash, if the service keeps one.
pub(super) async fn run(
    fs: &ZoneFs,
    paths: &[ZonePath],
    recursive: bool,
    skip_trash: bool,
    output: Output,
) -> Result<(), Error> {
    for_each(paths, output, async |path| {
        let removed = if skip_trash {
            Removed::ForGood(fs.remove(path, recursive).await?)
        } else {
            fs.move_to_trash(path, recursive).await?
        };
        let (job, trash) = match &removed {
            Removed::ForGood(job) => (job.map(|id| id.to_string()), None),
            Removed::ToTrash(path) => (None, Some(path.as_str())),
        };
        let document = json!({"removed": path.as_str(), "job_id": job, "trash_path": trash});
        output.result(&document, || text(path, &removed))
    })
    .await
}

fn text(path: &ZonePath, removed: &Removed) -> String {
    let path = one_line(path.as_str());
    match removed {
        Removed::ToTrash(trash) => format!("{path}: moved into the trash, {}", one_line(trash.as_str())),
        Removed::ForGood(Some(job)) => format!("{path}: job {job} clears away what it held"),
        Removed::ForGood(None) => String::new(),
    }
}

/// Makes checkpoints of the user's trashes and removes old ones; with `immediate` empties them.
pub(super) async fn expunge(fs: &ZoneFs, immediate: bool, output: Output) -> Result<(), Error> {
    let expunged = fs.expunge(immediate).await?;
    for trash in &expunged {
        output.result(trash, || expunged_text(trash))?;
    }
    let count = |of: fn(&Expunged) -> usize| expunged.iter().map(|trash| of(trash) as u64).sum::<u64>();
    let (kept, removed) = (count(|trash| trash.kept.len()), count(|trash| trash.removed.len()));
    if kept == 0 {
        return Ok(());
    }
    Err(Error::Partly {
        failed: kept,
        skipped: 0,
        total: kept + removed,
        exit: Exit::Partly,
    })
}

fn expunged_text(trash: &Expunged) -> String {
    let made = trash.checkpoint.iter().map(|name| format!("checkpoint {name} made"));
    let removed = trash.removed.iter().map(|name| format!("checkpoint {name} removed"));
    let kept = trash.kept.iter();
    let kept = kept.map(|kept| format!("checkpoint {} kept: {}", kept.name, one_line(&kept.why)));
    let lines = made
        .chain(removed)
        .chain(kept)
        .map(|what| format!("{}: {what}", one_line(&trash.path)));
    lines.collect::<Vec<_>>().join("\n")
}
