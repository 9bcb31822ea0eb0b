//! What becomes of a job's record: begun, slowed, over.

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::JobId;

use crate::{
    error::MetadataError,
    schema::{
        access,
        access::transact,
        keys,
        records::{Job, JobState},
    },
};

/// Bytes of a message that is kept with a job.
const MESSAGE_BYTES_MAX: usize = 500;

/// Records a new job, which is to run.
pub(crate) fn begin(txn: &mut impl Txn, id: JobId, job: Job) {
    let job = Job {
        state: JobState::Running.into(),
        since_ms: job.created_ms,
        ..job
    };
    put(txn, id, &job);
}

/// Records a job as it is now, whether there is work to do on it, and whether it is over.
pub(crate) fn put(txn: &mut impl Txn, id: JobId, job: &Job) {
    access::put(txn, &keys::job(id), job);
    let running = keys::job_running(job.kind(), id);
    mark(txn, &running, job.state() == JobState::Running && job.has_work());
    mark(txn, &keys::job_unfinished(id), !job.is_over());
}

fn mark(txn: &mut impl Txn, key: &[u8], there: bool) {
    if there {
        txn.put(key, bytes::Bytes::new());
    } else {
        txn.delete(key);
    }
}

/// The job, if it runs.
pub(crate) async fn running(reader: &mut impl Reader, id: JobId) -> Result<Option<Job>, MetadataError> {
    let job = access::job(reader, id).await?;
    Ok(job.filter(|job| job.state() == JobState::Running))
}

impl Job {
    /// Whether nothing will change any more.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state(), JobState::Completed | JobState::Canceled)
    }

    /// Ends the job.
    pub(crate) fn end(&mut self, state: JobState, now_ms: u64, message: impl Into<String>) {
        self.set_state(state);
        self.finished_ms = now_ms;
        self.message = message.into();
    }

    /// Has the job run, from now on as far as its rate is concerned.
    pub(crate) fn resume(&mut self, now_ms: u64) {
        self.set_state(JobState::Running);
        self.since_ms = now_ms;
        self.done_before = self.done;
        self.message.clear();
    }

    /// What was done in a second since it was started or resumed; 0 unless it runs.
    pub(crate) fn rate(&self, now_ms: u64) -> u64 {
        if self.state() != JobState::Running {
            return 0;
        }
        let done = u128::from(self.done.saturating_sub(self.done_before));
        let elapsed_ms = u128::from(now_ms.saturating_sub(self.since_ms).max(1));
        u64::try_from(done * 1000 / elapsed_ms).unwrap_or(u64::MAX)
    }
}

/// Records what slows a job. Says whether it still runs.
pub(crate) async fn note(store: &impl Store, id: JobId, message: &str) -> Result<bool, MetadataError> {
    let message = cut(message);
    transact!(store, [message], |txn| note_in(txn, id, message)).await
}

async fn note_in(txn: &mut impl Txn, id: JobId, message: String) -> Result<bool, MetadataError> {
    let Some(mut job) = running(txn, id).await? else {
        return Ok(false);
    };
    if job.message != message {
        job.message = message;
        put(txn, id, &job);
    }
    Ok(true)
}

/// Pauses a job that fails again and again.
pub(crate) async fn give_up(store: &impl Store, id: JobId, why: &str) -> Result<(), MetadataError> {
    let why = cut(&format!(
        "{why}; it is paused, try again with: strongroom job resume {id}"
    ));
    transact!(store, [why], |txn| give_up_in(txn, id, why)).await
}

async fn give_up_in(txn: &mut impl Txn, id: JobId, why: String) -> Result<(), MetadataError> {
    if let Some(mut job) = running(txn, id).await? {
        job.set_state(JobState::Paused);
        job.message = why;
        put(txn, id, &job);
    }
    Ok(())
}

fn cut(message: &str) -> String {
    let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
    message[..end].to_owned()
}
