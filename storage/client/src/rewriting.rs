//! Rewriting many files, as a job that this client holds: what it has done already, whether it is to go on and how fast, is with the
//! metadata service, so that another client can take it on.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use strongroom_proto::{
    DataSuite, JobId, KeyName, Reason, RequestId, ZonePath,
    metadata::v1 as pb,
    transport::{Repeat, retry},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::{FsError, Job, JobState, Stat, ZoneFs, random, rewrite::Terms};

/// How often the job's holder is heard of, and hears whether it is to go on.
const BEAT: Duration = Duration::from_secs(2);
const MIB: u64 = 1 << 20;

/// What is to be done to files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RewritingKind {
    /// Files of several extents get one.
    Compaction,
    /// Every file gets another DEK.
    Rekeying,
    /// Files that are not encrypted get their first. What the metadata service gives for it has to be this, or no byte is written.
    Adoption {
        /// The zone's key.
        key: KeyName,
        /// How the zone's files are encrypted.
        suite: DataSuite,
    },
}

/// Which files are rewritten, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RewriteOptions {
    /// What is done.
    pub kind: RewritingKind,
    /// MiB a second at most, 0 for no bound; none leaves it as it was.
    pub throttle: Option<u32>,
    /// The path is the root of a zone.
    pub whole_zone: bool,
}

/// A job of rewriting that this client holds until it is dropped; cheap to clone. A client that is gone leaves nothing half done: the
/// same call takes the job on.
#[derive(Clone)]
pub struct Rewriting {
    shared: Arc<Shared>,
    _keeper: Arc<Keeper>,
}

struct Shared {
    fs: ZoneFs,
    id: JobId,
    holder: [u8; 16],
    /// What files are put under that were not encrypted.
    terms: Option<Terms>,
    told: Mutex<Told>,
    pace: Pace,
    /// As it was heard of last, and whether it is another client's.
    job: watch::Sender<Heard>,
}

#[derive(Debug, Clone)]
struct Heard {
    job: Job,
    lost: bool,
}

/// What was not done, since this client took the job.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    failures: u64,
    skipped: u64,
}

impl std::fmt::Debug for Rewriting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rewriting(job {})", self.shared.id)
    }
}

impl ZoneFs {
    /// Begins to rewrite the file at `path`, or files below it, or goes on with this user's unfinished job for the same. Which files those are
    /// is the caller's to find out: each is given to [`Rewriting::rewrite`].
    ///
    /// # Errors
    /// `not-found` or `permission-denied`; `job-held` while another client works on it; `not-in-zone` if the path is to be a zone's and is not.
    pub async fn start_rewriting(&self, path: &ZonePath, options: &RewriteOptions) -> Result<Rewriting, FsError> {
        let holder: [u8; 16] = random::bytes()?;
        let (kind, terms) = match &options.kind {
            RewritingKind::Compaction => (pb::RewritingKind::Compaction, None),
            RewritingKind::Rekeying => (pb::RewritingKind::Rekeying, None),
            RewritingKind::Adoption { key, suite } => {
                let (key, suite) = (key.clone(), *suite);
                (pb::RewritingKind::Adoption, Some(Terms { key, suite }))
            }
        };
        let request = pb::StartRewritingRequest {
            path: path.into(),
            kind: kind.into(),
            holder: holder.to_vec().into(),
            throttle: options.throttle,
            whole_zone: options.whole_zone,
        };
        let job = retry(Repeat::Harmless, || self.metadata().start_rewriting(request.clone())).await?;
        let job = Job::try_from(job)?;
        let shared = Arc::new(Shared {
            fs: self.clone(),
            id: job.job_id,
            holder,
            terms,
            told: Mutex::default(),
            pace: Pace::new(),
            job: watch::Sender::new(Heard { job, lost: false }),
        });
        Ok(Rewriting {
            _keeper: Arc::new(Keeper::start(Arc::clone(&shared))),
            shared,
        })
    }
}

impl Rewriting {
    /// The job, as it was heard of last.
    #[must_use]
    pub fn job(&self) -> Job {
        self.shared.job.borrow().job.clone()
    }

    /// Waits while the job is paused. Says whether it goes on: not once it was canceled, or taken on by another client.
    pub async fn goes_on(&self) -> bool {
        let mut heard = self.shared.job.subscribe();
        let decided = heard
            .wait_for(|heard| heard.lost || heard.job.state != JobState::Paused)
            .await;
        decided.is_ok_and(|heard| !heard.lost && heard.job.state == JobState::Running)
    }

    /// Rewrites a file, if the job has not done so and has to. None if there was nothing to do.
    ///
    /// # Errors
    /// As [`ZoneFs::rewrite`]; `job-stopped` if the job was paused or ended meanwhile, which [`Self::goes_on`] tells.
    pub async fn rewrite(&self, path: &ZonePath) -> Result<Option<Stat>, FsError> {
        let Shared {
            fs, id, holder, terms, ..
        } = &*self.shared;
        let request = pb::RewriteFileRequest {
            path: path.into(),
            request_id: RequestId::generate().into(),
            job_id: (*id).into(),
            holder: holder.to_vec().into(),
        };
        let outcome = fs
            .rewrite_at(path, request, terms.as_ref(), |bytes| self.shared.turn(bytes))
            .await;
        if outcome
            .as_ref()
            .is_err_and(|error| error.reason() == Reason::JobStopped)
        {
            self.shared.beat(false).await?;
        }
        outcome
    }

    /// Notes a file that was not rewritten because others wrote it.
    pub fn skip(&self) {
        self.shared.told().skipped += 1;
    }

    /// Notes a file that could not be rewritten.
    pub fn fail(&self) {
        self.shared.told().failures += 1;
    }

    /// Says that all files had their turn. The job as it is then.
    ///
    /// # Errors
    /// As any call to the metadata service.
    pub async fn end(self) -> Result<Job, FsError> {
        self.shared.beat(true).await?;
        Ok(self.job())
    }
}

impl Shared {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until so many bytes more may be rewritten.
    async fn turn(&self, bytes: usize) {
        let throttle = self.job.borrow().job.throttle;
        self.pace.wait(bytes, throttle).await;
    }

    /// Is heard of, and hears how the job is.
    async fn beat(&self, over: bool) -> Result<(), FsError> {
        let Told { failures, skipped } = *self.told();
        let request = pb::HoldRewritingRequest {
            job_id: self.id.into(),
            holder: self.holder.to_vec().into(),
            failures,
            skipped,
            over,
        };
        let metadata = self.fs.metadata();
        let outcome = retry(Repeat::Harmless, || metadata.hold_rewriting(request.clone())).await;
        match outcome {
            Ok(job) => {
                let job = Job::try_from(job)?;
                self.job.send_modify(|heard| heard.job = job);
                Ok(())
            }
            Err(failure) => {
                if [Reason::JobStopped, Reason::NotFound].contains(&failure.reason) {
                    self.job.send_modify(|heard| heard.lost = true);
                }
                Err(failure.into())
            }
        }
    }
}

/// Is heard of in the background, until it is dropped.
struct Keeper(JoinHandle<()>);

impl Keeper {
    fn start(shared: Arc<Shared>) -> Self {
        Self(tokio::spawn(async move {
            loop {
                sleep(BEAT).await;
                if let Err(error) = shared.beat(false).await {
                    tracing::debug!(%error, job = %shared.id, "cannot hold a job");
                }
            }
        }))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Keeps all files of a job together to so many bytes a second.
struct Pace(Mutex<Instant>);

impl Pace {
    fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    /// Waits until so many bytes are allowed, at `throttle` MiB a second; 0 is no bound.
    async fn wait(&self, bytes: usize, throttle: u32) {
        if throttle > 0 {
            sleep_until(self.turn(Instant::now(), bytes as u64, throttle)).await;
        }
    }

    fn turn(&self, now: Instant, bytes: u64, throttle: u32) -> Instant {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Time that was not used is not made up for.
        let turn = now.max(*next);
        *next = turn + Duration::from_secs_f64(bytes as f64 / (u64::from(throttle) * MIB) as f64);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_so_many_bytes_in_a_second() {
        let pace = Pace::new();
        let now = Instant::now() + Duration::from_secs(60);
        let turns = [0; 4].map(|_| pace.turn(now, 2 * MIB, 4) - now);
        assert_eq!(turns.map(|turn| turn.as_millis()), [0, 500, 1000, 1500]);
        let late = now + Duration::from_secs(60);
        assert_eq!(pace.turn(late, MIB, 1), late, "a minute of rest is not made up for");
        assert_eq!((pace.turn(late, MIB, 1) - late).as_secs(), 1);
    }
}
