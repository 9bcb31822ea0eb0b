//! Has the jobs that run worked on: a bounded number of each kind at once, in turn.

use std::{collections::HashMap, sync::Arc, time::Duration};

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{Failure, JobId, Reason};
use tokio::{
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{Instant, sleep},
};

use super::{
    places::{Places, Ready},
    record, rewriting,
};
use crate::{
    core::Core,
    error::{MetadataError, chain},
    namespace::removal,
    reencrypt::worker,
    schema::{
        access,
        access::{told, transact},
        keys,
        records::{Job, JobKind},
    },
    transfer::tidy,
    zones::source::EdekSource,
};

/// Removals worked on at once.
const REMOVALS_MAX: usize = 4;
/// Transfers tidied up at once.
const TRANSFERS_MAX: usize = 4;
/// Jobs of a kind that are looked at together.
const LOOKED_AT_MAX: usize = 500;
/// How often jobs are looked for when nobody says that there is one.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Failures without progress in between before a job is paused, and the pause after each.
const FAILURES_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_secs(2);
/// How long a job is kept once it is over, how often that is looked at, and how many go in one transaction.
const KEPT_MS: u64 = 7 * 24 * 3_600_000;
const FORGET_EVERY: Duration = Duration::from_secs(600);
const FORGOTTEN_AT_ONCE: usize = 500;

/// Works on jobs for ever.
pub(crate) async fn work<S: Store, E: EdekSource>(core: Arc<Core<S, E>>) {
    let mut workers = JoinSet::new();
    let (mut busy, mut crashes) = (HashMap::new(), Crashes::default());
    let mut kinds = [
        Kind::of(JobKind::Reencryption, core.settings.reencryptions),
        Kind::of(JobKind::Removal, REMOVALS_MAX),
        Kind::of(JobKind::Transfer, TRANSFERS_MAX),
    ];
    loop {
        for kind in &mut kinds {
            if let Err(error) = kind.look(&core, &mut workers, &mut busy).await {
                tracing::warn!(error = %chain(&error), "cannot look for jobs");
            }
        }
        tokio::select! {
            () = core.work.notified() => {}
            () = sleep(LOOK_EVERY) => {}
            Some(ended) = workers.join_next_with_id(), if !workers.is_empty() => {
                let worker = busy.remove(&ended.as_ref().map_or_else(JoinError::id, |(task, ())| *task));
                let job = worker.map(|worker| worker.job);
                if let Some(job) = job {
                    kinds.iter_mut().for_each(|kind| kind.places.leave(job));
                }
                if let (Some(job), Err(error)) = (job, &ended)
                    && !error.is_cancelled()
                {
                    tracing::error!(%job, %error, "the worker of a job crashed");
                    if crashes.is_one_too_many(job) {
                        give_up(&core.store, job, "its worker crashed again and again, see the log of the metadata service").await;
                    }
                }
            }
        }
    }
}

/// How often workers of jobs crashed. A job whose workers always do is paused like any other that fails.
#[derive(Debug, Default)]
struct Crashes(HashMap<JobId, u32>);

impl Crashes {
    fn is_one_too_many(&mut self, job: JobId) -> bool {
        let crashes = self.0.entry(job).or_default();
        *crashes += 1;
        let is_one_too_many = *crashes >= FAILURES_MAX;
        if is_one_too_many {
            self.0.remove(&job);
        }
        is_one_too_many
    }
}

/// A task that works on a job.
struct Worker {
    job: JobId,
    task: AbortHandle,
}

/// The jobs of one kind.
struct Kind {
    kind: JobKind,
    /// Worked on at once.
    most: usize,
    places: Places,
    /// Where the next look begins, if there are more jobs than are looked at together.
    after: Option<bytes::Bytes>,
}

impl Kind {
    fn of(kind: JobKind, most: usize) -> Self {
        Self {
            kind,
            most,
            places: Places::default(),
            after: None,
        }
    }

    /// Starts workers for the jobs that are next, and stops one whose turn is over. It may be stopped anywhere: each step of a job is a
    /// transaction.
    async fn look<S: Store, E: EdekSource>(
        &mut self,
        core: &Arc<Core<S, E>>,
        workers: &mut JoinSet<()>,
        busy: &mut HashMap<Id, Worker>,
    ) -> Result<(), MetadataError> {
        let waiting = self.waiting(core).await?;
        let now = Instant::now();
        while let Some(job) = self.places.give(&waiting, self.most, now) {
            let task = workers.spawn(run(Arc::clone(core), self.kind, job));
            busy.insert(task.id(), Worker { job, task });
        }
        if let Some(job) = self.places.over(&waiting, self.most, now) {
            let worker = busy.values().find(|worker| worker.job == job);
            worker.iter().for_each(|worker| worker.task.abort());
            self.places.give_up(job);
        }
        Ok(())
    }

    /// Jobs without a worker, some of them if there are very many.
    async fn waiting<S: Store, E: EdekSource>(&mut self, core: &Core<S, E>) -> Result<Vec<Ready>, MetadataError> {
        let mut range = keys::jobs_running(self.kind);
        if let Some(after) = self.after.take() {
            range = range.after(&after);
        }
        let mut view = core.store.snapshot().await?;
        let found = access::page(&mut view, &range, LOOKED_AT_MAX).await?;
        if found.len() == LOOKED_AT_MAX {
            self.after = found.last().map(|(key, _)| key.clone());
        }
        let mut waiting = Vec::new();
        for (key, _) in &found {
            let Some(id) = keys::running_job_of(key).filter(|id| !self.places.holds(*id)) else {
                continue;
            };
            // What cannot be read keeps no other job from its place.
            let Some(Some(job)) = told(access::job(&mut view, id).await, &id.to_string())? else {
                continue;
            };
            if let Some(group) = told(group(&mut view, &job).await, &id.to_string())? {
                waiting.push(Ready { job: id, group });
            }
        }
        self.places.queue(&waiting, self.after.is_none());
        Ok(waiting)
    }
}

/// Who shares places with a job: re-encryptions on one key, which may be away, and otherwise the jobs of one owner.
async fn group(reader: &mut impl Reader, job: &Job) -> Result<String, MetadataError> {
    if job.kind() != JobKind::Reencryption {
        return Ok(job.owner.clone());
    }
    let zone = access::zone(reader, job.zone_id.as_ref().try_into()?).await?;
    Ok(zone.unwrap_or_default().key_name)
}

/// Works on one job until it is over, paused or given up. What is only away for a while is waited for.
async fn run<S: Store, E: EdekSource>(core: Arc<Core<S, E>>, kind: JobKind, id: JobId) {
    tracing::info!(job = %id, ?kind, "a job runs");
    let (mut failures, mut before) = (0, None);
    while let Err(error) = step(&core, kind, id).await {
        tracing::warn!(job = %id, error = %chain(&error), "a job failed; it is tried again");
        let now = progress(&core.store, id).await;
        if now.is_some() && now != before {
            (failures, before) = (0, now);
        }
        failures += u32::from(!is_waited_for(&error));
        if failures == FAILURES_MAX {
            return give_up(&core.store, id, &error.to_string()).await;
        }
        sleep(PAUSE).await;
    }
}

/// Room is waited for, too: it is what removals make.
fn is_waited_for(error: &MetadataError) -> bool {
    Failure::from(error.clone()).is_transient() || error.reason() == Reason::NoSpace
}

async fn give_up(store: &impl Store, id: JobId, why: &str) {
    if let Err(error) = record::give_up(store, id, why).await {
        tracing::warn!(job = %id, error = %chain(&error), "cannot pause a job");
    }
}

async fn step<S: Store, E: EdekSource>(core: &Core<S, E>, kind: JobKind, id: JobId) -> Result<(), MetadataError> {
    match kind {
        JobKind::Reencryption => worker::run(core, id).await,
        JobKind::Removal => removal::run(core, id).await,
        JobKind::Transfer => tidy::run(core, id).await,
        // Clients work on rewritings.
        JobKind::Rewriting | JobKind::Unspecified => Err(MetadataError::Corrupt { what: "job" }),
    }
}

/// What changes when a job gets on.
async fn progress(store: &impl Store, id: JobId) -> Option<(u64, u64, bytes::Bytes)> {
    let job = access::job(&mut store.snapshot().await.ok()?, id).await.ok()??;
    let folded = job.transfer.map_or(0, |transfer| transfer.folded);
    Some((job.done + folded, job.failures, job.cursor_file))
}

/// Forgets jobs that have been over for a while, and cancels moves that nobody goes on with, now and then, for ever.
pub(crate) async fn forget_old<S: Store, E: EdekSource>(core: Arc<Core<S, E>>) {
    loop {
        let now_ms = core.clock.now_ms();
        if let Err(error) = forget(&core.store, now_ms).await {
            tracing::warn!(error = %chain(&error), "cannot forget old jobs; it is tried again");
        }
        if let Err(error) = rewriting::end_abandoned(&core.store, now_ms).await {
            tracing::warn!(error = %chain(&error), "cannot end abandoned jobs; it is tried again");
        }
        if let Err(error) = tidy::lapse(&core.store, now_ms).await {
            tracing::warn!(error = %chain(&error), "cannot cancel moves that nobody goes on with; it is tried again");
        }
        sleep(FORGET_EVERY).await;
    }
}

/// Forgets jobs that have been over for a while, but for the newest re-encryption of each zone. They are in the order in which they
/// were begun: behind the first that is not old enough to be over for so long, none is looked at.
async fn forget(store: &impl Store, now_ms: u64) -> Result<(), MetadataError> {
    let before_ms = now_ms.saturating_sub(KEPT_MS);
    let mut range = keys::jobs();
    loop {
        let found = access::page(&mut store.snapshot().await?, &range, FORGOTTEN_AT_ONCE).await?;
        let (mut old, mut is_end) = (Vec::new(), found.len() < FORGOTTEN_AT_ONCE);
        for (key, value) in &found {
            let Some(job) = told(access::decode::<Job>(value.clone(), "job"), &hex::encode(key))? else {
                continue;
            };
            if job.created_ms >= before_ms {
                is_end = true;
                break;
            }
            if job.is_over() && job.finished_ms < before_ms {
                old.push(keys::job_of(key).ok_or(MetadataError::Corrupt { what: "job" })?);
            }
        }
        if !old.is_empty() {
            transact!(store, [old], |txn| forget_all(txn, &old)).await?;
        }
        match found.last() {
            Some((last, _)) if !is_end => range = keys::jobs().after(last),
            _ => return Ok(()),
        }
    }
}

async fn forget_all(txn: &mut impl Txn, old: &[JobId]) -> Result<(), MetadataError> {
    for id in old {
        let Some(job) = access::job(txn, *id).await? else {
            continue;
        };
        let is_newest = match job.zone_id.as_ref() {
            [] => false,
            zone => txn.get(&keys::reencryption(zone.try_into()?)).await?.as_deref() == Some(id.as_bytes()),
        };
        if !is_newest {
            txn.delete(&keys::job(*id));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_whose_workers_crash_is_given_up_and_may_be_tried_again() {
        let (mut crashes, other) = (Crashes::default(), JobId::generate());
        let job = JobId::generate();
        for _ in 0..2 {
            let told: Vec<bool> = (0..FAILURES_MAX).map(|_| crashes.is_one_too_many(job)).collect();
            assert_eq!(told, [false, false, false, false, true]);
        }
        assert!(!crashes.is_one_too_many(other));
    }
}
