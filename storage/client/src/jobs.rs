//! Long work of the metadata service: looking at it, pausing, resuming and canceling it.

use serde::Serialize;
use strongroom_proto::{
    JobId, ZonePath,
    metadata::v1 as pb,
    transport::{Repeat, retry},
};

use crate::{FsError, Reencryption, ZoneFs, values::text};

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// Re-wraps the EDEKs of a zone.
    Reencryption,
    /// Clears away what a removed directory held.
    Removal,
    /// Puts files in one extent each.
    Compaction,
    /// Puts files under new DEKs.
    Rekeying,
    /// Encrypts files of a zone that were there before it.
    Adoption,
    /// Moves a directory to another zone.
    Transfer,
}

/// What becomes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// It is worked on, or next.
    Running,
    /// It waits to be resumed.
    Paused,
    /// All that could be done is.
    Completed,
    /// Somebody ended it.
    Canceled,
}

/// Long work of the metadata service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Job {
    /// Its id.
    #[serde(serialize_with = "text")]
    pub job_id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// What becomes of it.
    pub state: JobState,
    /// Who asked for it.
    pub owner: String,
    /// What it is about, as its path was when it was asked for.
    pub path: String,
    /// Files re-wrapped or rewritten, entries removed, or files that have an EDEK for the zone they are moved to.
    pub done: u64,
    /// What could not be done and was passed over.
    pub failures: u64,
    /// What is left to do, where that is known.
    pub left: Option<u64>,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it was completed or canceled.
    pub finished_ms: Option<u64>,
    /// Operations a second, and of a rewriting MiB a second, at most; 0 is no bound.
    pub throttle: u32,
    /// What is done in a second, since it was started or resumed; 0 unless it runs.
    pub rate: u64,
    /// What stops or slows it, empty when nothing does.
    pub message: String,
    /// Files that others wrote when their turn to be rewritten came.
    pub skipped: u64,
    /// Of a rewriting: bytes of the files that were rewritten.
    pub bytes: Option<u64>,
}

/// What is to become of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobAction {
    /// Stop until it is resumed.
    Pause,
    /// Go on, with a new bound of operations a second if one is given; 0 is no bound.
    Resume {
        /// The bound.
        throttle: Option<u32>,
    },
    /// End it. Not for removals, nor for moves to another zone that are at their destination.
    Cancel,
}

impl ZoneFs {
    /// All jobs that the user may see: a superuser all, others their own; with `unfinished` only those that are not over.
    ///
    /// # Errors
    /// As any call to the metadata service.
    pub async fn jobs(&self, unfinished: bool) -> Result<Vec<Job>, FsError> {
        let mut request = pb::ListJobsRequest {
            unfinished,
            ..pb::ListJobsRequest::default()
        };
        let mut jobs = Vec::new();
        loop {
            let page = retry(Repeat::Harmless, || self.metadata().list_jobs(request.clone())).await?;
            for job in page.jobs {
                jobs.push(job.try_into()?);
            }
            if page.next.is_empty() {
                return Ok(jobs);
            }
            request.after = page.next;
        }
    }

    /// A job.
    ///
    /// # Errors
    /// `not-found`, or `permission-denied` for another user's.
    pub async fn job(&self, id: JobId) -> Result<Job, FsError> {
        let request = pb::GetJobRequest { job_id: id.into() };
        retry(Repeat::Harmless, || self.metadata().get_job(request.clone()))
            .await?
            .try_into()
    }

    /// Changes a job that is not over; one that is stays as it is.
    ///
    /// # Errors
    /// `not-found`, `permission-denied`, or `invalid-argument` where a removal is to be canceled.
    pub async fn control_job(&self, id: JobId, action: JobAction) -> Result<Job, FsError> {
        let (action, throttle) = match action {
            JobAction::Pause => (pb::JobAction::Pause, None),
            JobAction::Resume { throttle } => (pb::JobAction::Resume, throttle),
            JobAction::Cancel => (pb::JobAction::Cancel, None),
        };
        let request = pb::ControlJobRequest {
            job_id: id.into(),
            action: action.into(),
            throttle,
        };
        retry(Repeat::Harmless, || self.metadata().control_job(request.clone()))
            .await?
            .try_into()
    }

    /// Starts to re-wrap the EDEKs of a zone under its key's newest version, or goes on with a re-encryption that was begun; with
    /// `throttle` at so many files a second at most, 0 for no bound. Goes on in the background.
    ///
    /// # Errors
    /// `not-in-zone`, or `permission-denied` for other than superusers.
    pub async fn start_reencryption(&self, path: &ZonePath, throttle: Option<u32>) -> Result<Reencryption, FsError> {
        let path = path.into();
        let request = pb::StartReencryptionRequest { path, throttle };
        retry(Repeat::Harmless, || self.metadata().start_reencryption(request.clone()))
            .await?
            .try_into()
    }

    /// How far a zone's re-encryption is.
    ///
    /// # Errors
    /// `not-in-zone`.
    pub async fn reencryption(&self, path: &ZonePath) -> Result<Reencryption, FsError> {
        let request = pb::GetReencryptionRequest { path: path.into() };
        retry(Repeat::Harmless, || self.metadata().get_reencryption(request.clone()))
            .await?
            .try_into()
    }

    /// The newest re-encryption of every zone that had one.
    ///
    /// # Errors
    /// As any call to the metadata service.
    pub async fn reencryptions(&self) -> Result<Vec<Reencryption>, FsError> {
        let mut request = pb::ListReencryptionsRequest::default();
        let mut all = Vec::new();
        loop {
            let page = retry(Repeat::Harmless, || self.metadata().list_reencryptions(request.clone())).await?;
            for status in page.reencryptions {
                all.push(status.try_into()?);
            }
            if page.next.is_empty() {
                return Ok(all);
            }
            request.after = page.next;
        }
    }

    /// Ends the re-encryption of a zone, if one is under way; files that were done stay so.
    ///
    /// # Errors
    /// `not-in-zone`, or `permission-denied` for other than superusers.
    pub async fn cancel_reencryption(&self, path: &ZonePath) -> Result<Reencryption, FsError> {
        let request = pb::CancelReencryptionRequest { path: path.into() };
        retry(Repeat::Harmless, || {
            self.metadata().cancel_reencryption(request.clone())
        })
        .await?
        .try_into()
    }
}

impl TryFrom<pb::Job> for Job {
    type Error = FsError;

    fn try_from(wire: pb::Job) -> Result<Self, FsError> {
        let kind = match wire.kind() {
            pb::JobKind::Reencryption => JobKind::Reencryption,
            pb::JobKind::Removal => JobKind::Removal,
            pb::JobKind::Rewriting => rewriting_kind(wire.rewriting.as_ref())?,
            pb::JobKind::Transfer => JobKind::Transfer,
            pb::JobKind::Unspecified => return Err(FsError::metadata_contradiction("it names no kind of job")),
        };
        let state = match wire.state() {
            pb::JobState::Running => JobState::Running,
            pb::JobState::Paused => JobState::Paused,
            pb::JobState::Completed => JobState::Completed,
            pb::JobState::Canceled => JobState::Canceled,
            pb::JobState::Unspecified => return Err(FsError::metadata_contradiction("it names no state of the job")),
        };
        Ok(Self {
            job_id: wire.job_id.as_ref().try_into().map_err(FsError::metadata_answer)?,
            kind,
            state,
            owner: wire.owner,
            path: String::from_utf8_lossy(&wire.path).into_owned(),
            done: wire.done,
            failures: wire.failures,
            left: wire.left,
            created_ms: wire.created_ms,
            finished_ms: wire.finished_ms,
            throttle: wire.throttle,
            rate: wire.rate,
            message: wire.message,
            skipped: wire.rewriting.as_ref().map_or(0, |rewriting| rewriting.skipped),
            bytes: wire.rewriting.map(|rewriting| rewriting.bytes),
        })
    }
}

fn rewriting_kind(wire: Option<&pb::Rewriting>) -> Result<JobKind, FsError> {
    match wire.map(pb::Rewriting::kind) {
        Some(pb::RewritingKind::Compaction) => Ok(JobKind::Compaction),
        Some(pb::RewritingKind::Rekeying) => Ok(JobKind::Rekeying),
        Some(pb::RewritingKind::Adoption) => Ok(JobKind::Adoption),
        _ => Err(FsError::metadata_contradiction("it names no kind of rewriting")),
    }
}
