//! Having a page of EDEKs re-wrapped: single EDEKs that fail for a while are sent again a bounded number of times, a key service that is
//! away is waited for, and a page that is refused as a whole is halved until those are found that it is refused for.

use std::time::Duration;

use bytes::Bytes;
use strongroom_kv::Store;
use strongroom_proto::{Failure, JobId, KeyName, KeyVersion, Reason, ZoneId};
use tokio::time::{sleep, timeout};

use super::{
    swap::{Outcome, Stale},
    worker::Stop,
};
use crate::{
    core::Core,
    jobs::record,
    zones::source::{EdekSource, Rewrapped},
};

/// How long one re-wrap call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// The first pause after a failed call; it doubles up to the second.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Tries of a page that the key service refuses for good, and of single EDEKs that fail for a while.
const TRIES_MAX: u32 = 3;
/// Refusals of the parts of one page; then the rest of it counts as refused. Enough to find seven files among 500.
const REFUSALS_MAX: u32 = 128;

/// What was re-wrapped under a version, in the order of the page.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) version: KeyVersion,
    pub(super) outcomes: Vec<Outcome>,
}

pub(super) struct Rewrapper<'a, S, E> {
    core: &'a Core<S, E>,
    job: JobId,
    zone: ZoneId,
    key: &'a KeyName,
}

impl<'a, S: Store, E: EdekSource> Rewrapper<'a, S, E> {
    pub(super) const fn new(core: &'a Core<S, E>, job: JobId, zone: ZoneId, key: &'a KeyName) -> Self {
        Self { core, job, zone, key }
    }

    /// Re-wraps a page. What cannot be is in it without a new EDEK.
    pub(super) async fn rewrap(&self, stale: Vec<Stale>) -> Result<Page, Stop> {
        for _ in 1..TRIES_MAX {
            match self.when_there(&stale).await? {
                Ok(page) => return Ok(page),
                Err(_) => sleep(PAUSE_FIRST).await,
            }
        }
        match self.when_there(&stale).await? {
            Ok(page) => Ok(page),
            Err(failure) if is_of_the_key(&failure) => Ok(refused(stale)),
            Err(_) => self.in_parts(stale).await,
        }
    }

    /// A page that was refused as a whole, half by half.
    async fn in_parts(&self, stale: Vec<Stale>) -> Result<Page, Stop> {
        let mut page = refused(Vec::new());
        let mut refusals = 0;
        let mut parts = halves(stale);
        while let Some(part) = parts.pop() {
            let found = if refusals < REFUSALS_MAX {
                self.when_there(&part).await?.ok()
            } else {
                Some(refused(part.clone()))
            };
            match found {
                Some(found) => page.append(found),
                None if part.len() == 1 => page.append(refused(part)),
                None => parts.extend(halves(part)),
            }
            refusals += 1;
        }
        Ok(page)
    }

    /// What the key service says to a page, when it is there to say something.
    async fn when_there(&self, stale: &[Stale]) -> Result<Result<Page, Failure>, Stop> {
        let mut pause = PAUSE_FIRST;
        loop {
            let failure = match self.attempt(stale).await {
                Ok(page) => return Ok(Ok(page)),
                Err(failure) => failure,
            };
            tracing::warn!(zone = %self.zone, reason = %failure.reason, %failure, "cannot re-wrap");
            if !record::note(&self.core.store, self.job, &failure.message).await? {
                return Err(Stop::Void);
            }
            if !failure.is_transient() {
                return Ok(Err(failure));
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Re-wraps a page; EDEKs that fail for a while are sent again a bounded number of times.
    async fn attempt(&self, stale: &[Stale]) -> Result<Page, Failure> {
        let mut page = refused(stale.to_vec());
        let mut version = None;
        let mut next: Vec<usize> = (0..stale.len())
            .filter(|&position| !stale[position].wrapped.is_empty())
            .collect();
        for attempt in 0..TRIES_MAX {
            if next.is_empty() {
                break;
            }
            if attempt > 0 {
                sleep(PAUSE_FIRST).await;
            }
            let edek = |&position: &usize| (stale[position].version, stale[position].wrapped.clone());
            let batch: Vec<(KeyVersion, Bytes)> = next.iter().map(edek).collect();
            let answer = self.call(&batch).await?;
            // A roll between two tries: what came before it is of the older version and is met again.
            if version.is_some_and(|version| version != answer.version) {
                break;
            }
            version = Some(answer.version);
            self.core.stock.learned(self.key, answer.version);
            next = sort(answer, &next, &mut page.outcomes);
        }
        page.version = version.unwrap_or(KeyVersion(0));
        Ok(page)
    }

    async fn call(&self, batch: &[(KeyVersion, Bytes)]) -> Result<Rewrapped, Failure> {
        let answer = match timeout(CALL_TIMEOUT, self.core.source.rewrap(self.key, &self.zone, batch)).await {
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

impl Page {
    /// Adds what comes behind. If the key was rolled in between, what is of the older version is as it was, and is met again by
    /// the pass that the newer one brings about.
    fn append(&mut self, behind: Self) {
        let has_new = |page: &Self| page.outcomes.iter().any(|outcome| outcome.fresh.is_some());
        match (has_new(self), has_new(&behind)) {
            (true, true) if behind.version < self.version => {}
            (true, true) if behind.version > self.version => *self = behind,
            (false, _) => {
                self.version = behind.version;
                self.outcomes.extend(behind.outcomes);
            }
            (true, _) => self.outcomes.extend(behind.outcomes),
        }
    }
}

/// A page of which nothing could be re-wrapped.
fn refused(stale: Vec<Stale>) -> Page {
    let outcomes = stale.into_iter().map(|stale| Outcome { stale, fresh: None });
    Page {
        version: KeyVersion(0),
        outcomes: outcomes.collect(),
    }
}

/// The second half and the first.
fn halves(mut stale: Vec<Stale>) -> Vec<Vec<Stale>> {
    let second = stale.split_off(stale.len() / 2);
    [second, stale].into_iter().filter(|half| !half.is_empty()).collect()
}

/// Whether a refusal is about the key as such, whatever EDEKs are sent.
const fn is_of_the_key(failure: &Failure) -> bool {
    matches!(
        failure.reason,
        Reason::KeyNotFound | Reason::KeyDisabled | Reason::PermissionDenied | Reason::Unauthenticated
    )
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
