//! Having a page of EDEKs re-wrapped: single EDEKs that fail for a while are sent again a bounded number of times, a key service that is
//! away is waited for, and a page that is refused as a whole is halved until those are found that it is refused for.

use std::time::Duration;

use bytes::Bytes;
use strongroom_kv::Store;
use strongroom_proto::{Failure, JobId, KeyName, KeyVersion, Reason, ZoneId};
use tokio::time::{sleep, timeout};

use super::{
    swap::{Fresh, Outcome, Stale},
    worker::Stop,
};
use crate::{
    core::Core,
    error::MetadataError,
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

    /// Re-wraps a page, in its order. What cannot be is in it without a new EDEK.
    ///
    /// # Errors
    /// What the key service refuses for the key, whatever EDEKs are sent: going on would count all of the zone as failed.
    pub(super) async fn rewrap(&self, stale: Vec<Stale>) -> Result<Vec<Outcome>, Stop> {
        for _ in 1..TRIES_MAX {
            match self.when_there(&stale).await? {
                Ok(page) => return Ok(page),
                Err(_) => sleep(PAUSE_FIRST).await,
            }
        }
        match self.when_there(&stale).await? {
            Ok(page) => Ok(page),
            Err(_) => self.in_parts(stale).await,
        }
    }

    /// A page that was refused as a whole, half by half.
    async fn in_parts(&self, stale: Vec<Stale>) -> Result<Vec<Outcome>, Stop> {
        let (mut page, mut refusals) = (Vec::new(), 0);
        let mut parts = halves(stale);
        while let Some(part) = parts.pop() {
            if refusals >= REFUSALS_MAX {
                tracing::warn!(zone = %self.zone, first = %part[0].file, files = part.len(), "not tried any more beside those that are refused");
                page.extend(refused(part));
                continue;
            }
            refusals += 1;
            match self.when_there(&part).await? {
                Ok(found) => page.extend(found),
                Err(failure) if part.len() == 1 => {
                    tracing::warn!(file = %part[0].file, %failure, "an EDEK cannot be re-wrapped");
                    page.extend(refused(part));
                }
                Err(_) => parts.extend(halves(part)),
            }
        }
        Ok(page)
    }

    /// What the key service says to a page, when it is there to say something.
    async fn when_there(&self, stale: &[Stale]) -> Result<Result<Vec<Outcome>, Failure>, Stop> {
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
            if is_of_the_key(&failure) {
                return Err(Stop::Failed(MetadataError::Remote(failure)));
            }
            if !failure.is_transient() {
                return Ok(Err(failure));
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Re-wraps a page; EDEKs that fail for a while are sent again a bounded number of times.
    async fn attempt(&self, stale: &[Stale]) -> Result<Vec<Outcome>, Failure> {
        let mut page: Vec<Outcome> = refused(stale.to_vec()).collect();
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
            self.core.stock.learned(self.key, answer.version);
            next = sort(answer, &next, &mut page);
        }
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

/// What could not be re-wrapped.
fn refused(stale: Vec<Stale>) -> impl Iterator<Item = Outcome> {
    stale.into_iter().map(|stale| Outcome { stale, fresh: None })
}

/// The second half and the first.
fn halves(mut stale: Vec<Stale>) -> Vec<Vec<Stale>> {
    let second = stale.split_off(stale.len() / 2);
    [second, stale].into_iter().filter(|half| !half.is_empty()).collect()
}

/// Whether a refusal of a whole call is about the key, or the caller, as such, whatever EDEKs are sent. What an EDEK is refused for
/// comes with that EDEK.
const fn is_of_the_key(failure: &Failure) -> bool {
    matches!(
        failure.reason,
        Reason::KeyNotFound
            | Reason::KeyDisabled
            | Reason::KeyVersionUnusable
            | Reason::PermissionDenied
            | Reason::Unauthenticated
            | Reason::UntrustedPeer
            | Reason::PinRejected
    )
}

/// Enters results and says which positions are worth another try.
fn sort(answer: Rewrapped, positions: &[usize], outcomes: &mut [Outcome]) -> Vec<usize> {
    let mut again = Vec::new();
    let version = answer.version;
    for (&position, result) in positions.iter().zip(answer.results) {
        let outcome = &mut outcomes[position];
        match result {
            Ok(wrapped) => outcome.fresh = Some(Fresh { version, wrapped }),
            Err(failure) if failure.is_transient() => again.push(position),
            Err(failure) => tracing::warn!(file = %outcome.stale.file, %failure, "an EDEK cannot be re-wrapped"),
        }
    }
    again
}
