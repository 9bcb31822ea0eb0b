//! Clearing away what a removed directory held, as a job. The directory was cut off from the root when it was removed; the job has
//! a list of directories to empty, which begins with that one, and takes a bounded number of entries in a transaction.

use strongroom_kv::{Store, Txn};
use strongroom_proto::{FileId, JobId, transport::UserName};

use super::{
    remove::{drop_directory, drop_file},
    resolve::Found,
    xattrs,
};
use crate::{
    core::Core,
    error::MetadataError,
    jobs::{pace::Pace, record},
    quota::{self, links::take_out},
    schema::{
        access,
        access::transact,
        keys,
        records::{self, Job, JobKind, JobState},
    },
    transfer::tidy,
    zones::source::EdekSource,
};

/// Entries removed in one transaction, and directories that they may come from.
const ENTRIES_PER_STEP: usize = 500;
const DIRECTORIES_PER_STEP: usize = 200;

/// Takes a directory out of its own, and has it cleared away with all it holds.
pub(super) async fn begin(
    txn: &mut impl Txn,
    found: &Found,
    by: &UserName,
    now_ms: u64,
) -> Result<JobId, MetadataError> {
    let id = JobId::generate();
    let job = Job {
        kind: JobKind::Removal.into(),
        owner: by.as_str().to_owned(),
        path: found.path.to_string(),
        created_ms: now_ms,
        ..Job::default()
    };
    // First, since it may be refused, and then nothing is to be left of it in the transaction.
    take_out(txn, found).await?;
    record::begin(txn, id, job);
    cut_off(txn, id, &found.entry, now_ms).await?;
    Ok(id)
}

/// Marks a directory whose entry is gone as such, and leaves it to a job.
async fn cut_off(txn: &mut impl Txn, job: JobId, entry: &records::Entry, now_ms: u64) -> Result<(), MetadataError> {
    tidy::lose(txn, entry, now_ms).await?;
    let directory = entry.file_id()?;
    let place = access::place(txn, directory).await?;
    let mut place = place.ok_or(MetadataError::Corrupt { what: "inode" })?;
    place.unlinked = true;
    access::put(txn, &keys::place(directory), &place);
    txn.put(&keys::removal(job, directory), entry.zone_id.clone());
    quota::forget(txn, entry)?;
    xattrs::forget(txn, entry)?;
    Ok(())
}

/// Works on a removal until it is over or paused.
pub(crate) async fn run<S: Store, E: EdekSource>(core: &Core<S, E>, id: JobId) -> Result<(), MetadataError> {
    let mut pace = Pace::new();
    loop {
        // No view outlives its look: on a database it would keep a connection while this one waits.
        let job = record::running(&mut core.store.snapshot().await?, id).await?;
        let Some(job) = job else { return Ok(()) };
        let entries = Pace::step(job.throttle, ENTRIES_PER_STEP);
        pace.wait(entries, job.throttle).await;
        let now_ms = core.clock.now_ms();
        transact!(&core.store, [], |txn| step(txn, id, entries, now_ms)).await?;
    }
}

async fn step(txn: &mut impl Txn, id: JobId, entries: usize, now_ms: u64) -> Result<(), MetadataError> {
    let Some(mut job) = record::running(txn, id).await? else {
        return Ok(());
    };
    let directories = access::page(txn, &keys::removals(id), DIRECTORIES_PER_STEP).await?;
    if directories.is_empty() {
        job.end(JobState::Completed, now_ms, "");
    }
    let mut room = entries;
    for (key, zone) in &directories {
        let directory = keys::removal_of(key).ok_or(MetadataError::Corrupt { what: "job" })?;
        let taken = take_entries(txn, id, directory, room, now_ms).await?;
        job.done += taken as u64;
        if taken == room {
            break;
        }
        room -= taken;
        txn.delete(key);
        drop_directory(txn, directory, zone, now_ms).await?;
    }
    job.message.clear();
    record::put(txn, id, &job);
    Ok(())
}

/// Takes up to so many entries out of a directory. Says how many there were.
async fn take_entries(
    txn: &mut impl Txn,
    job: JobId,
    directory: FileId,
    entries: usize,
    now_ms: u64,
) -> Result<usize, MetadataError> {
    let children = access::page(txn, &keys::dentries(directory), entries).await?;
    for (key, value) in &children {
        let entry: records::Entry = access::decode(value.clone(), "directory entry")?;
        txn.delete(key);
        if entry.is_directory() {
            cut_off(txn, job, &entry, now_ms).await?;
        } else {
            drop_file(txn, &entry).await?;
        }
    }
    Ok(children.len())
}
