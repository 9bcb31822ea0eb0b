//! Rewritings of many files, as jobs that a client works on: only a client can unwrap EDEKs. It holds the job by a lease that it renews,
//! so that of two who ask for the same one works; when it dies, another one of the same user takes the job on. What a job has done
//! already is read off each file (ADR 35), so that none needs a list.

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{FileId, JobId, ZonePath, metadata::v1 as pb};

use super::record;
use crate::{
    authority::Caller,
    core::Core,
    error::MetadataError,
    namespace::{
        permission::{Rights, check},
        resolve::{Found, find},
    },
    schema::{
        access,
        access::transact,
        keys,
        records::{self, Job, JobKind, JobState, Rewriting, RewritingKind},
    },
    zones::source::EdekSource,
};

/// How long a client holds a job after it was last heard of.
const LEASE_MS: u64 = 10_000;
/// Unfinished jobs looked at for one that is the same as the one that is asked for.
const LOOKED_AT_MAX: usize = 10_000;
/// How long a job is kept that no client holds.
pub(super) const ABANDONED_MS: u64 = 7 * 24 * 3_600_000;

/// Whose turn it is: an id that a client drew.
pub(crate) type Holder = [u8; 16];

/// What a caller asks for.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    pub(crate) who: Caller,
    pub(crate) path: ZonePath,
    pub(crate) kind: RewritingKind,
    pub(crate) holder: Holder,
    pub(crate) throttle: Option<u32>,
    /// The path has to be the root of a zone.
    pub(crate) whole_zone: bool,
}

/// What a client that holds a job says of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    pub(crate) failures: u64,
    pub(crate) skipped: u64,
    /// It is through with all files.
    pub(crate) over: bool,
}

/// Begins a job, or takes on the one of the same user for the same that no other client holds.
pub(crate) async fn start<S: Store, E: EdekSource>(core: &Core<S, E>, start: Start) -> Result<pb::Job, MetadataError> {
    let (now_ms, fresh) = (core.clock.now_ms(), JobId::generate());
    let name = start.who.name.clone();
    let id = transact!(&core.store, [start], |txn| start_in(txn, &start, fresh, now_ms)).await?;
    tracing::info!(by = %name, job = %id, "a client works on a rewriting");
    super::control::get(core, &name, id).await
}

async fn start_in(txn: &mut impl Txn, start: &Start, fresh: JobId, now_ms: u64) -> Result<JobId, MetadataError> {
    let found = find(txn, &start.who, &start.path).await?;
    check_start(start, &found)?;
    let begun = begun(txn, start, found.id).await?;
    let (id, mut job) = begun.unwrap_or_else(|| (fresh, new_job(start, found.id, now_ms)));
    let rewriting = job.rewriting.get_or_insert_default();
    if rewriting.holder.as_ref() != start.holder && rewriting.lease_expires_ms >= now_ms {
        return Err(MetadataError::JobHeld {
            id,
            left_s: (rewriting.lease_expires_ms - now_ms).div_ceil(1000),
        });
    }
    rewriting.holder = start.holder.to_vec().into();
    rewriting.lease_expires_ms = now_ms + LEASE_MS;
    rewriting.skipped = 0;
    job.failures = 0;
    job.throttle = start.throttle.unwrap_or(job.throttle);
    job.resume(now_ms);
    record::put(txn, id, &job);
    Ok(id)
}

fn check_start(start: &Start, found: &Found) -> Result<(), MetadataError> {
    let rights = if found.entry.is_directory() {
        Rights::LIST
    } else {
        Rights::APPEND
    };
    check(&start.who, found, rights, &start.path)?;
    if start.whole_zone && found.entry.zone_id.is_empty() {
        return Err(MetadataError::NotZoneRoot {
            path: start.path.clone(),
            zone: found.zone.as_ref().map(|zone| zone.path.clone()),
        });
    }
    Ok(())
}

fn new_job(start: &Start, root: FileId, now_ms: u64) -> Job {
    Job {
        kind: JobKind::Rewriting.into(),
        owner: start.who.name.as_str().to_owned(),
        path: start.path.to_string(),
        created_ms: now_ms,
        rewriting: Some(Rewriting {
            kind: start.kind.into(),
            root: root.into(),
            whole_zone: start.whole_zone,
            ..Rewriting::default()
        }),
        ..Job::default()
    }
}

/// The unfinished job of the same user for the same.
async fn begun(txn: &mut impl Reader, start: &Start, root: FileId) -> Result<Option<(JobId, Job)>, MetadataError> {
    for (key, _) in access::page(txn, &keys::jobs_unfinished(), LOOKED_AT_MAX).await? {
        let id = keys::running_job_of(&key).ok_or(MetadataError::Corrupt { what: "job" })?;
        let Some(job) = access::job(txn, id).await? else {
            continue;
        };
        let is_same = job.rewriting.as_ref().is_some_and(|rewriting| {
            rewriting.kind() == start.kind
                && rewriting.root == root.as_bytes().as_slice()
                && rewriting.whole_zone == start.whole_zone
        });
        if is_same && start.who.owns(&job.owner) {
            return Ok(Some((id, job)));
        }
    }
    Ok(None)
}

/// Renews a client's lease of a job, and takes down how far it is. One that is over stays as it is, and is answered.
pub(crate) async fn hold<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    id: JobId,
    holder: Holder,
    told: Told,
) -> Result<pb::Job, MetadataError> {
    let now_ms = core.clock.now_ms();
    transact!(&core.store, [who], |txn| hold_in(txn, &who, id, holder, told, now_ms)).await?;
    super::control::get(core, &who.name, id).await
}

async fn hold_in(
    txn: &mut impl Txn,
    who: &Caller,
    id: JobId,
    holder: Holder,
    told: Told,
    now_ms: u64,
) -> Result<(), MetadataError> {
    let mut job = held_by(txn, who, id, holder).await?;
    if job.is_over() {
        return Ok(());
    }
    job.failures = told.failures;
    let rewriting = job.rewriting.get_or_insert_default();
    rewriting.skipped = told.skipped;
    rewriting.lease_expires_ms = now_ms + LEASE_MS;
    if told.over && job.state() == JobState::Running {
        let message = match told.failures + told.skipped {
            0 => String::new(),
            left => format!("{left} files are as they were; start again to retry them"),
        };
        job.end(JobState::Completed, now_ms, message);
    }
    record::put(txn, id, &job);
    Ok(())
}

/// The caller's job, if it is this client that holds it.
async fn held_by(txn: &mut impl Reader, who: &Caller, id: JobId, holder: Holder) -> Result<Job, MetadataError> {
    let job = access::job(txn, id).await?.filter(|job| who.owns(&job.owner));
    let job = job.ok_or(MetadataError::NoSuchJob(id))?;
    match &job.rewriting {
        Some(rewriting) if rewriting.holder.as_ref() == holder || job.is_over() => Ok(job),
        _ => Err(MetadataError::JobLost(id)),
    }
}

/// The job that a file is rewritten for, which has to run, and by this client.
pub(crate) async fn working(
    txn: &mut impl Reader,
    who: &Caller,
    id: JobId,
    holder: Holder,
) -> Result<Job, MetadataError> {
    let job = held_by(txn, who, id, holder).await?;
    if job.state() == JobState::Running {
        return Ok(job);
    }
    Err(MetadataError::JobStopped(id))
}

/// Whether a job is to put files under DEKs, which only those in zones can have.
pub(crate) fn gives_deks(job: &Job) -> bool {
    let kind = job.rewriting.as_ref().map(Rewriting::kind);
    matches!(kind, Some(RewritingKind::Rekeying | RewritingKind::Adoption))
}

/// Whether a job has nothing to do with a file.
pub(crate) fn is_done(job: &Job, body: &records::Body) -> bool {
    match job.rewriting.as_ref().map(Rewriting::kind) {
        Some(RewritingKind::Compaction) => body.extents.len() <= 1,
        Some(RewritingKind::Adoption) => body.plain.is_none(),
        // A DEK that was given to the file since was nobody's before.
        Some(RewritingKind::Rekeying) => body.dek_ms >= job.created_ms,
        Some(RewritingKind::Unspecified) | None => true,
    }
}

/// Counts a file that is put in its place for a job, in the same transaction; a job that was paused or canceled takes no step.
pub(crate) async fn count(txn: &mut impl Txn, who: &Caller, id: JobId, bytes: u64) -> Result<(), MetadataError> {
    let job = access::job(txn, id).await?.filter(|job| who.owns(&job.owner));
    let mut job = job.ok_or(MetadataError::NoSuchJob(id))?;
    if job.state() != JobState::Running {
        return Err(MetadataError::JobStopped(id));
    }
    job.done += 1;
    job.rewriting.get_or_insert_default().bytes += bytes;
    record::put(txn, id, &job);
    Ok(())
}

/// What is said of a job that no client works on.
pub(super) fn note(job: &Job, now_ms: u64) -> Option<String> {
    let rewriting = job.rewriting.as_ref()?;
    if job.is_over() || rewriting.lease_expires_ms >= now_ms {
        return None;
    }
    let silent_s = (now_ms - rewriting.lease_expires_ms + LEASE_MS) / 1000;
    let how = match (rewriting.kind(), rewriting.whole_zone) {
        (RewritingKind::Compaction, _) => "fs compact -r",
        (RewritingKind::Adoption, _) => "zone adopt",
        (_, true) => "zone rekey",
        (_, false) => "fs rekey -r",
    };
    Some(format!(
        "no client works on it, the last one was heard of {silent_s} s ago; go on with: strongroom {how} PATH, as user {}",
        job.owner
    ))
}

/// Ends jobs that no client has held for a week.
pub(super) async fn end_abandoned(store: &impl Store, now_ms: u64) -> Result<(), MetadataError> {
    let range = keys::jobs_running(JobKind::Rewriting);
    for (key, _) in access::page(&mut store.snapshot().await?, &range, LOOKED_AT_MAX).await? {
        let id = keys::running_job_of(&key).ok_or(MetadataError::Corrupt { what: "job" })?;
        transact!(store, [], |txn| end_one(txn, id, now_ms)).await?;
    }
    Ok(())
}

async fn end_one(txn: &mut impl Txn, id: JobId, now_ms: u64) -> Result<(), MetadataError> {
    let Some(mut job) = record::running(txn, id).await? else {
        return Ok(());
    };
    let lapsed_ms = job.rewriting.as_ref().map_or(0, |rewriting| rewriting.lease_expires_ms);
    if lapsed_ms + ABANDONED_MS < now_ms {
        job.end(
            JobState::Canceled,
            now_ms,
            "canceled, since no client has worked on it for a week; what was done stays so",
        );
        record::put(txn, id, &job);
    }
    Ok(())
}
