//! The background side of re-encryption: a bounded number of zones at once, each page with bounded tries.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use strongroom_kv::Store;
use strongroom_proto::{Failure, KeyName, KeyVersion, Reason, ZoneId};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::swap::{Outcome, Stale, apply, finish, note, raise_target, stale_page};
use crate::{
    core::Core,
    error::MetadataError,
    schema::{access, keys, records},
    zones::source::{EdekSource, Rewrapped},
};

/// How long one re-wrap call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// The first pause after a failed call; it doubles up to the second.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Tries of a page that the key service refuses for good, and of single EDEKs that fail for a while.
const TRIES_MAX: u32 = 3;
/// How often jobs are looked for when nobody says that there is one.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Works on jobs for ever; those that were running before a restart first.
pub(crate) async fn work<S: Store, E: EdekSource>(core: Arc<Core<S, E>>) {
    let mut workers = JoinSet::new();
    let mut busy = HashMap::new();
    loop {
        match running(&core.store).await {
            Ok(zones) => {
                for zone in zones {
                    let is_busy = busy.values().any(|other| *other == zone);
                    if busy.len() < core.settings.reencryptions && !is_busy {
                        let worker = workers.spawn(run(Arc::clone(&core), zone));
                        busy.insert(worker.id(), zone);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot look for re-encryptions"),
        }
        tokio::select! {
            () = core.work.notified() => {}
            () = sleep(LOOK_EVERY) => {}
            Some(ended) = workers.join_next_with_id(), if !workers.is_empty() => {
                let id = match ended {
                    Ok((id, ())) => id,
                    Err(error) => {
                        tracing::error!(%error, "a re-encryption worker failed");
                        error.id()
                    }
                };
                busy.remove(&id);
            }
        }
    }
}

async fn running(store: &impl Store) -> Result<Vec<ZoneId>, MetadataError> {
    const PAGE: usize = 1000;
    let mut range = keys::reencryptions();
    let mut zones = Vec::new();
    loop {
        let found = access::page(&mut store.snapshot().await?, &range, PAGE).await?;
        for (key, value) in &found {
            if access::decode::<records::Reencryption>(value.clone(), "re-encryption")?.running {
                zones.extend(keys::zone_of(key));
            }
        }
        match found.last() {
            Some((last, _)) if found.len() == PAGE => range = range.after(last),
            _ => return Ok(zones),
        }
    }
}

/// Runs one zone's job to its end, or until the store fails; then a later look takes it up again.
async fn run<S: Store, E: EdekSource>(core: Arc<Core<S, E>>, zone: ZoneId) {
    tracing::info!(%zone, "re-encryption runs");
    let mut pass = Pass {
        core: &core,
        zone,
        pause: PAUSE_FIRST,
        tries: 0,
    };
    loop {
        match pass.page().await {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                tracing::warn!(%zone, %error, "re-encryption paused");
                sleep(PAUSE_MAX).await;
                break;
            }
        }
    }
}

struct Pass<'a, S, E> {
    core: &'a Core<S, E>,
    zone: ZoneId,
    pause: Duration,
    /// Failed tries of the page that is next.
    tries: u32,
}

impl<S: Store, E: EdekSource> Pass<'_, S, E> {
    /// One page, or one failed try of it. Says whether there may be more.
    async fn page(&mut self) -> Result<bool, MetadataError> {
        let store = &self.core.store;
        let mut txn = store.begin().await?;
        let job = access::reencryption(&mut txn, self.zone).await?;
        let record = access::zone(&mut txn, self.zone).await?;
        drop(txn);
        let (Some(job), Some(record)) = (job.filter(|job| job.running), record) else {
            return Ok(false);
        };
        let stale = stale_page(store, self.zone, &job).await?;
        if stale.is_empty() {
            let finished = finish(store, self.zone, &job, self.core.clock.now_ms()).await?;
            if finished {
                tracing::info!(zone = %self.zone, done = job.done, failures = job.failures, "re-encryption completed");
            }
            return Ok(!finished);
        }
        let key = record.key_name.parse()?;
        match self.rewrap(&key, stale.clone()).await {
            Ok((version, outcomes)) => self.settle(&job, version, &outcomes).await?,
            Err(failure) => self.failed(&job, stale, &failure).await?,
        }
        Ok(true)
    }

    async fn settle(
        &mut self,
        job: &records::Reencryption,
        version: KeyVersion,
        outcomes: &[Outcome],
    ) -> Result<(), MetadataError> {
        self.pause = PAUSE_FIRST;
        self.tries = 0;
        let applied = apply(&self.core.store, self.zone, job, version, outcomes).await?;
        if applied && version.0 > job.target_version {
            tracing::info!(zone = %self.zone, %version, "the key was rolled again; re-encryption aims at the new version");
            self.core.stock.drop_zone(self.zone);
            raise_target(&self.core.store, self.zone, version).await?;
        }
        Ok(())
    }

    /// After a call that failed as a whole: waits and tries again, for ever if the key service is only away;
    /// what it refuses for good is counted and passed over.
    async fn failed(
        &mut self,
        job: &records::Reencryption,
        stale: Vec<Stale>,
        failure: &Failure,
    ) -> Result<(), MetadataError> {
        self.tries += 1;
        tracing::warn!(zone = %self.zone, tries = self.tries, reason = %failure.reason, %failure, "cannot re-wrap");
        if !failure.is_transient() && self.tries >= TRIES_MAX {
            let outcomes: Vec<Outcome> = stale.into_iter().map(|stale| Outcome { stale, fresh: None }).collect();
            return self.settle(job, KeyVersion(job.target_version), &outcomes).await;
        }
        if job.message != failure.message {
            note(&self.core.store, self.zone, &failure.message).await?;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }

    /// Re-wraps a page; EDEKs that fail for a while are sent again a bounded number of times.
    async fn rewrap(&self, key: &KeyName, stale: Vec<Stale>) -> Result<(KeyVersion, Vec<Outcome>), Failure> {
        let mut outcomes: Vec<Outcome> = stale.into_iter().map(|stale| Outcome { stale, fresh: None }).collect();
        let mut version = None;
        let mut next: Vec<usize> = (0..outcomes.len())
            .filter(|&position| !outcomes[position].stale.wrapped.is_empty())
            .collect();
        for attempt in 0..TRIES_MAX {
            if next.is_empty() {
                break;
            }
            if attempt > 0 {
                sleep(PAUSE_FIRST).await;
            }
            let batch: Vec<(KeyVersion, Bytes)> = next
                .iter()
                .map(|&position| {
                    (
                        outcomes[position].stale.version,
                        outcomes[position].stale.wrapped.clone(),
                    )
                })
                .collect();
            let answer = self.call(key, &batch).await?;
            // A roll between two tries: what came before it is of the older version and is met again.
            if version.is_some_and(|version| version != answer.version) {
                break;
            }
            version = Some(answer.version);
            self.core.stock.learned(key, answer.version);
            next = sort(answer, &next, &mut outcomes);
        }
        Ok((version.unwrap_or(KeyVersion(0)), outcomes))
    }

    async fn call(&self, key: &KeyName, batch: &[(KeyVersion, Bytes)]) -> Result<Rewrapped, Failure> {
        let answer = match timeout(CALL_TIMEOUT, self.core.source.rewrap(key, &self.zone, batch)).await {
            Ok(answer) => answer?,
            Err(_) => {
                let message = format!("the key service did not answer for {} s", CALL_TIMEOUT.as_secs());
                return Err(Failure::new(Reason::DeadlineExceeded, message));
            }
        };
        if answer.results.len() == batch.len() {
            return Ok(answer);
        }
        let message = "the key service answered for another number of EDEKs than it was asked";
        Err(Failure::new(Reason::Internal, message))
    }
}

/// Enters results and says which positions are worth another try.
fn sort(answer: Rewrapped, positions: &[usize], outcomes: &mut [Outcome]) -> Vec<usize> {
    let mut again = Vec::new();
    for (&position, result) in positions.iter().zip(answer.results) {
        let outcome = &mut outcomes[position];
        match result {
            Ok(fresh) => outcome.fresh = Some(fresh),
            Err(failure) if failure.is_transient() => again.push(position),
            Err(failure) => tracing::warn!(file = %outcome.stale.file, %failure, "an EDEK cannot be re-wrapped"),
        }
    }
    again
}
