//! What the background does of moves: when a directory moved, its files' new EDEKs take the place of the old ones; when a job was canceled,
//! what was staged is taken away. Nobody waits for either: files are read the same before and after.

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{FileId, JobId, ZonePath};

use super::staged;
use crate::{
    authority::Caller,
    core::Core,
    error::MetadataError,
    jobs::{pace::Pace, record},
    namespace::resolve::climb,
    schema::{
        access,
        access::{told, transact},
        keys::{self, Stage},
        records::{Entry, Job, JobState, TransferPhase},
    },
    zones::source::EdekSource,
};

/// Files in one transaction: their bodies may be large.
const FILES_PER_STEP: usize = 200;
/// How long a client may be silent before its transfer is canceled, in milliseconds: what is staged keeps key versions in use.
const LAPSE_MS: u64 = 24 * 3_600_000;
/// Jobs looked at together for that.
const JOBS_AT_ONCE: usize = 500;

/// Works on a transfer until nothing is left to tidy up, or it is paused.
pub(crate) async fn run<S: Store, E: EdekSource>(core: &Core<S, E>, id: JobId) -> Result<(), MetadataError> {
    let mut pace = Pace::new();
    loop {
        let job = record::running(&mut core.store.snapshot().await?, id).await?;
        let Some(job) = job.filter(Job::has_work) else {
            return Ok(());
        };
        let files = Pace::step(job.throttle, FILES_PER_STEP);
        pace.wait(files, job.throttle).await;
        let now_ms = core.clock.now_ms();
        transact!(&core.store, [], |txn| step(txn, id, files, now_ms)).await?;
    }
}

async fn step(txn: &mut impl Txn, id: JobId, files: usize, now_ms: u64) -> Result<(), MetadataError> {
    let Some(mut job) = record::running(txn, id).await?.filter(Job::has_work) else {
        return Ok(());
    };
    let has_moved = job.has_moved();
    let staged = access::page(txn, &keys::transfers(id, Stage::Staged), files).await?;
    for (key, _) in &staged {
        let file = keys::transfer_of(key).ok_or(MetadataError::Corrupt { what: "job" })?;
        settle(txn, id, file, has_moved).await?;
        if has_moved {
            job.moves_mut()?.folded += 1;
        } else {
            job.done = job.done.saturating_sub(1);
        }
    }
    if staged.is_empty() && drop_lists(txn, id, files).await? {
        end(txn, &mut job, id, now_ms).await?;
    }
    record::put(txn, id, &job);
    Ok(())
}

async fn settle(txn: &mut impl Txn, id: JobId, file: FileId, has_moved: bool) -> Result<(), MetadataError> {
    match access::body(txn, file).await? {
        Some(mut body) if staged::has_job(&body, id)? => {
            if has_moved {
                staged::fold(txn, file, &mut body)
            } else {
                staged::unstage(txn, file, &mut body)
            }
        }
        _ => {
            txn.delete(&keys::transfer(id, Stage::Staged, file));
            Ok(())
        }
    }
}

/// Drops files without an EDEK and directories that were not looked through, so many at most. Says whether there was none.
async fn drop_lists(txn: &mut impl Txn, id: JobId, most: usize) -> Result<bool, MetadataError> {
    let mut dropped = 0;
    for list in [keys::transfers(id, Stage::Missing), keys::removals(id)] {
        for (key, _) in access::page(txn, &list, most).await? {
            txn.delete(&key);
            dropped += 1;
        }
    }
    Ok(dropped == 0)
}

async fn end(txn: &mut impl Txn, job: &mut Job, id: JobId, now_ms: u64) -> Result<(), MetadataError> {
    if job.has_moved() {
        job.end(JobState::Completed, now_ms, "");
        return Ok(());
    }
    unmark(txn, access::file_id(&job.moves()?.root)?, id).await?;
    let message = std::mem::take(&mut job.message);
    job.end(JobState::Canceled, now_ms, message);
    Ok(())
}

/// Takes the job's name off the directory, unless that is gone.
async fn unmark(txn: &mut impl Txn, root: FileId, id: JobId) -> Result<(), MetadataError> {
    let Some(place) = access::place(txn, root).await? else {
        return Ok(());
    };
    let parent = access::file_id(&place.parent)?;
    let entry = access::entry(txn, parent, &place.name).await?;
    let marked = |entry: &Entry| entry.id.as_ref() == root.as_bytes() && entry.moving.as_ref() == id.as_bytes();
    if let Some(mut entry) = entry.filter(marked) {
        entry.moving.clear();
        access::put(txn, &keys::dentry(parent, &place.name), &entry);
    }
    Ok(())
}

/// Has a job taken back what it staged, unless its directory moved already.
pub(crate) fn undo(job: &mut Job, why: &str, now_ms: u64) -> Result<(), MetadataError> {
    let transfer = job.moves_mut()?;
    if transfer.phase() == TransferPhase::Folding {
        return Ok(());
    }
    transfer.phase = TransferPhase::Undoing.into();
    job.resume(now_ms);
    why.clone_into(&mut job.message);
    Ok(())
}

/// The directory that an entry stood for was removed, and with it what was to be moved.
pub(crate) async fn lose(txn: &mut impl Txn, entry: &Entry, now_ms: u64) -> Result<(), MetadataError> {
    let Some(id) = entry.moving()? else { return Ok(()) };
    let Some(mut job) = access::job(txn, id).await? else {
        return Ok(());
    };
    undo(&mut job, "the directory was removed", now_ms)?;
    record::put(txn, id, &job);
    Ok(())
}

/// Cancels transfers whose clients were not heard of for too long.
pub(crate) async fn lapse(store: &impl Store, now_ms: u64) -> Result<(), MetadataError> {
    let mut range = keys::jobs_unfinished();
    loop {
        let mut view = store.snapshot().await?;
        let found = access::page(&mut view, &range, JOBS_AT_ONCE).await?;
        let mut lapsed = Vec::new();
        for (key, _) in &found {
            let Some(id) = keys::running_job_of(key) else { continue };
            let job = told(access::job(&mut view, id).await, &id.to_string())?.flatten();
            lapsed.extend(job.filter(|job| is_lapsed(job, now_ms)).map(|_| id));
        }
        drop(view);
        for id in lapsed {
            transact!(store, [], |txn| lapse_in(txn, id, now_ms)).await?;
        }
        match found.last() {
            Some((last, _)) if found.len() == JOBS_AT_ONCE => range = keys::jobs_unfinished().after(last),
            _ => return Ok(()),
        }
    }
}

async fn lapse_in(txn: &mut impl Txn, id: JobId, now_ms: u64) -> Result<(), MetadataError> {
    let job = access::job(txn, id).await?;
    if let Some(mut job) = job.filter(|job| is_lapsed(job, now_ms)) {
        undo(&mut job, "its client was not heard of for a day", now_ms)?;
        record::put(txn, id, &job);
    }
    Ok(())
}

/// Whether a job waits for a client that was not heard of for too long.
fn is_lapsed(job: &Job, now_ms: u64) -> bool {
    let silent = |heard_ms: u64| now_ms.saturating_sub(heard_ms) > LAPSE_MS;
    let waits = job.state() == JobState::Running && !job.has_work();
    waits && job.transfer.as_ref().is_some_and(|transfer| silent(transfer.heard_ms))
}

/// Where something in the moved directory is; the directory itself if its place cannot be told.
pub(super) async fn path_of(
    reader: &mut impl Reader,
    who: &Caller,
    directory: FileId,
    name: &str,
    job: &Job,
) -> Result<ZonePath, MetadataError> {
    match climb(reader, who, directory).await? {
        Some(found) => Ok(found.path.child(name)?),
        None => Ok(ZonePath::parse(job.path.as_bytes())?),
    }
}
