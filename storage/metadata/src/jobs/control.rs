//! Looking at jobs, and pausing, resuming and canceling them.

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{JobId, KeyVersion, metadata::v1 as pb, transport::UserName};

use super::rewriting;
use crate::{
    core::Core,
    error::MetadataError,
    schema::{
        access,
        access::transact,
        counted, keys,
        records::{Job, JobKind, JobState, Rewriting, RewritingKind},
    },
    transfer::tidy,
    zones::source::EdekSource,
};

/// Jobs looked at for one page of a listing.
const LOOKED_AT_MAX: usize = 1000;

/// What is to become of a job.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Pause,
    /// With a new throttle, if there is one.
    Resume(Option<u32>),
    Cancel,
}

/// Jobs with ids greater than `after`, those of `of` alone if given.
pub(crate) async fn list<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    of: Option<&UserName>,
    after: Option<JobId>,
    limit: usize,
    unfinished: bool,
) -> Result<pb::ListJobsResponse, MetadataError> {
    if unfinished {
        return list_unfinished(core, of, after, limit).await;
    }
    let range = after.map_or_else(keys::jobs, |after| keys::jobs().after(&keys::job(after)));
    let mut view = core.store.snapshot().await?;
    let found = access::page(&mut view, &range, LOOKED_AT_MAX).await?;
    let is_last = found.len() < LOOKED_AT_MAX;
    let (mut jobs, mut next) = (Vec::new(), None);
    for (key, value) in found {
        if jobs.len() == limit {
            return Ok(listed(jobs, next));
        }
        let id = keys::job_of(&key).ok_or(MetadataError::Corrupt { what: "job" })?;
        let job: Job = access::decode(value, "job")?;
        if is_of(&job, of) {
            jobs.push(wire(&mut view, id, &job, core.clock.now_ms()).await?);
        }
        next = Some(id);
    }
    Ok(listed(jobs, next.filter(|_| !is_last)))
}

/// Those that are not over have rows of their own: of the others there may be millions.
async fn list_unfinished<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    of: Option<&UserName>,
    after: Option<JobId>,
    limit: usize,
) -> Result<pb::ListJobsResponse, MetadataError> {
    let all = keys::jobs_unfinished;
    let range = after.map_or_else(all, |after| all().after(&keys::job_unfinished(after)));
    let mut view = core.store.snapshot().await?;
    let found = access::page(&mut view, &range, LOOKED_AT_MAX).await?;
    let is_last = found.len() < LOOKED_AT_MAX;
    let (mut jobs, mut next) = (Vec::new(), None);
    for (key, _) in found {
        if jobs.len() == limit {
            return Ok(listed(jobs, next));
        }
        let id = keys::running_job_of(&key).ok_or(MetadataError::Corrupt { what: "job" })?;
        let job = access::job(&mut view, id).await?;
        if let Some(job) = job.filter(|job| is_of(job, of)) {
            jobs.push(wire(&mut view, id, &job, core.clock.now_ms()).await?);
        }
        next = Some(id);
    }
    Ok(listed(jobs, next.filter(|_| !is_last)))
}

fn is_of(job: &Job, owner: Option<&UserName>) -> bool {
    owner.is_none_or(|owner| job.owner == owner.as_str())
}

fn listed(jobs: Vec<pb::Job>, next: Option<JobId>) -> pb::ListJobsResponse {
    pb::ListJobsResponse {
        jobs,
        next: next.map(Into::into).unwrap_or_default(),
    }
}

/// A job, for its owner and superusers.
pub(crate) async fn get<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    by: &UserName,
    id: JobId,
) -> Result<pb::Job, MetadataError> {
    let mut view = core.store.snapshot().await?;
    let job = access::job(&mut view, id).await?.ok_or(MetadataError::NoSuchJob(id))?;
    check_owner(core, by, &job, "look at other users' jobs")?;
    wire(&mut view, id, &job, core.clock.now_ms()).await
}

/// Pauses, resumes or cancels a job.
pub(crate) async fn control<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    by: &UserName,
    id: JobId,
    action: Action,
) -> Result<pb::Job, MetadataError> {
    let job = access::job(&mut core.store.snapshot().await?, id).await?;
    let job = job.ok_or(MetadataError::NoSuchJob(id))?;
    check_owner(core, by, &job, "change other users' jobs")?;
    if job.kind() == JobKind::Reencryption && !core.is_superuser(by) {
        return Err(not_allowed(by, "change re-encryptions"));
    }
    // A slow job keeps its place from others.
    let is_own_work = job.kind() == JobKind::Rewriting;
    if matches!(action, Action::Resume(Some(_))) && !is_own_work && !core.is_superuser(by) {
        return Err(not_allowed(by, "set the pace of jobs"));
    }
    change(&core.store, id, action, core.clock.now_ms()).await?;
    core.work.notify_one();
    tracing::info!(%by, job = %id, ?action, "job changed");
    get(core, by, id).await
}

/// Changes a job that is not over; one that is stays as it is.
pub(crate) async fn change(store: &impl Store, id: JobId, action: Action, now_ms: u64) -> Result<(), MetadataError> {
    transact!(store, [], |txn| change_in(txn, id, action, now_ms)).await
}

async fn change_in(txn: &mut impl Txn, id: JobId, action: Action, now_ms: u64) -> Result<(), MetadataError> {
    let mut job = access::job(txn, id).await?.ok_or(MetadataError::NoSuchJob(id))?;
    if job.is_over() {
        return Ok(());
    }
    match action {
        Action::Pause => job.set_state(JobState::Paused),
        Action::Resume(throttle) => {
            job.throttle = throttle.unwrap_or(job.throttle);
            job.resume(now_ms);
        }
        Action::Cancel if job.kind() == JobKind::Removal => return Err(MetadataError::RemovalGoesOn(id)),
        Action::Cancel if job.has_moved() => return Err(MetadataError::TransferGoesOn(id)),
        Action::Cancel if job.kind() == JobKind::Transfer => tidy::undo(&mut job, "canceled", now_ms)?,
        Action::Cancel => job.end(JobState::Canceled, now_ms, "canceled; what was done stays so"),
    }
    super::record::put(txn, id, &job);
    Ok(())
}

fn check_owner<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    by: &UserName,
    job: &Job,
    what: &'static str,
) -> Result<(), MetadataError> {
    if job.owner == by.as_str() || core.is_superuser(by) {
        return Ok(());
    }
    Err(not_allowed(by, what))
}

fn not_allowed(by: &UserName, what: &'static str) -> MetadataError {
    MetadataError::Denied {
        who: format!("user {by}"),
        what,
        remedy: "the superusers in the metadata service's configuration may",
    }
}

async fn wire(reader: &mut impl Reader, id: JobId, job: &Job, now_ms: u64) -> Result<pb::Job, MetadataError> {
    let kind = match job.kind() {
        JobKind::Unspecified => pb::JobKind::Unspecified,
        JobKind::Reencryption => pb::JobKind::Reencryption,
        JobKind::Removal => pb::JobKind::Removal,
        JobKind::Rewriting => pb::JobKind::Rewriting,
        JobKind::Transfer => pb::JobKind::Transfer,
    };
    let state = match job.state() {
        JobState::Unspecified => pb::JobState::Unspecified,
        JobState::Running => pb::JobState::Running,
        JobState::Paused => pb::JobState::Paused,
        JobState::Completed => pb::JobState::Completed,
        JobState::Canceled => pb::JobState::Canceled,
    };
    Ok(pb::Job {
        job_id: id.into(),
        kind: kind.into(),
        state: state.into(),
        owner: job.owner.clone(),
        path: job.path.clone().into(),
        done: job.done,
        failures: job.failures,
        left: left(reader, job).await?,
        created_ms: job.created_ms,
        finished_ms: job.is_over().then_some(job.finished_ms),
        throttle: job.throttle,
        rate: job.rate(now_ms),
        message: rewriting::note(job, now_ms).unwrap_or_else(|| job.message.clone()),
        rewriting: job.rewriting.as_ref().map(wire_rewriting),
    })
}

fn wire_rewriting(rewriting: &Rewriting) -> pb::Rewriting {
    let kind = match rewriting.kind() {
        RewritingKind::Unspecified => pb::RewritingKind::Unspecified,
        RewritingKind::Compaction => pb::RewritingKind::Compaction,
        RewritingKind::Rekeying => pb::RewritingKind::Rekeying,
        RewritingKind::Adoption => pb::RewritingKind::Adoption,
    };
    pb::Rewriting {
        kind: kind.into(),
        skipped: rewriting.skipped,
        bytes: rewriting.bytes,
    }
}

/// What a job has left to do. What a removal finds is known only once it has been there, and a transfer knows what it found so far.
async fn left(reader: &mut impl Reader, job: &Job) -> Result<Option<u64>, MetadataError> {
    if job.is_over() {
        return Ok(None);
    }
    match (job.kind(), &job.transfer) {
        (JobKind::Reencryption, _) => files_left(reader, job).await.map(Some),
        (_, Some(transfer)) if job.has_moved() => Ok(Some(job.done.saturating_sub(transfer.folded))),
        (_, Some(transfer)) if transfer.found > 0 => Ok(Some(transfer.found.saturating_sub(job.done))),
        _ => Ok(None),
    }
}

/// Files of a re-encryption's zone whose EDEKs are older than its target version.
pub(crate) async fn files_left(reader: &mut impl Reader, job: &Job) -> Result<u64, MetadataError> {
    let zone = job.zone_id.as_ref().try_into()?;
    counted::files_before(reader, zone, KeyVersion(job.target_version)).await
}
