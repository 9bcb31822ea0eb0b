//! What a token holds: all of it, in a listing that those who ask at once share, or what is in a few places.
//!
//! A listing is a search of the whole token, which takes minutes where there are thousands of keys and a call takes a
//! millisecond. One runs at a time. Whoever asks meanwhile wants what is there now, and not what was there when that one
//! began: all of them get the outcome of the next.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use strongroom_proto::{Failure, KeyName, KeyVersion, Reason};
use tokio::{sync::Mutex, time::timeout};

use super::{
    Token, TokenKeyVersion, UnfitVersion,
    handle::Attempt,
    link::Link,
    pb,
    wire::{malformed, place},
};

/// How long a listing may take: that of thousands of keys, at a few milliseconds for each of some ten calls.
const LISTING_TIMEOUT: Duration = Duration::from_mins(10);
/// Places that a worker is told at once.
pub(super) const PLACES_MAX: usize = 1000;

/// What a token holds, all of it or in the places that were asked for.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Key versions.
    pub versions: Vec<TokenKeyVersion>,
    /// What looks like a version and is not fit for use.
    pub unfit: Vec<UnfitVersion>,
}

impl Listing {
    fn add(&mut self, versions: Vec<pb::TokenKeyVersion>, unfit: Vec<pb::UnfitVersion>) -> Result<(), Failure> {
        for version in versions {
            self.versions.push(version.try_into()?);
        }
        for version in unfit {
            self.unfit.push(version.try_into()?);
        }
        Ok(())
    }
}

/// The listing that is under way, and the last one that ended.
#[derive(Debug, Default)]
pub(super) struct Listings {
    begun: AtomicU64,
    /// Held while one is under way.
    last: Mutex<Option<Ended>>,
}

#[derive(Debug)]
struct Ended {
    /// Which it was of those begun.
    number: u64,
    outcome: Result<Listing, Failure>,
}

impl Listings {
    /// The outcome of `list`, or of one that somebody else began after this call.
    async fn share(&self, list: impl Future<Output = Result<Listing, Failure>>) -> Result<Listing, Failure> {
        let asked = self.begun.load(Ordering::Acquire);
        let mut last = self.last.lock().await;
        if let Some(ended) = last.as_ref().filter(|ended| ended.number > asked) {
            return ended.outcome.clone();
        }
        let number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let outcome = list.await;
        *last = Some(Ended {
            number,
            outcome: outcome.clone(),
        });
        outcome
    }
}

impl Token {
    /// Every key version in the token, by name and version. Objects that look like one and are not fit for use are left
    /// out, with a line in the log, and so are two that claim to be the same version: [`Self::unfit`] says why.
    ///
    /// Calls that come while the token is being listed share the next listing.
    ///
    /// # Errors
    /// `token-unavailable`, `pin-rejected`.
    pub async fn list_versions(&self) -> Result<Vec<TokenKeyVersion>, Failure> {
        let listing = self.listings().share(self.list_now()).await?;
        *self.last_unfit() = listing.unfit;
        Ok(listing.versions)
    }

    /// What [`Self::list_versions`] last left out, and why.
    #[must_use]
    pub fn unfit(&self) -> Vec<UnfitVersion> {
        self.last_unfit().clone()
    }

    /// What the token holds in certain places, looked for there and then: it costs a few calls for each.
    ///
    /// # Errors
    /// `token-unavailable`, `overloaded`, `pin-rejected`.
    pub async fn look_for(&self, places: &[(KeyName, KeyVersion)]) -> Result<Listing, Failure> {
        let mut listing = Listing::default();
        for chunk in places.chunks(PLACES_MAX) {
            let mut rest: Vec<_> = chunk.iter().map(|(key, version)| place(key, *version)).collect();
            while !rest.is_empty() {
                let request = pb::LookForRequest { places: rest.clone() };
                let page = self.call(|mut client| {
                    let request = request.clone();
                    async move { client.look_for(request).await }
                });
                let page = page.await?;
                let looked = usize::try_from(page.looked).unwrap_or(usize::MAX);
                if looked == 0 || looked > rest.len() {
                    return Err(malformed("a count of places"));
                }
                listing.add(page.versions, page.unfit)?;
                rest.drain(..looked);
            }
        }
        Ok(listing)
    }

    /// Has every worker that serves search the token, and forget what it derived from versions that are not there any more.
    ///
    /// # Errors
    /// If a worker has not done it and goes on: `token-unavailable`, `overloaded`, `pin-rejected`.
    pub async fn look_again(&self) -> Result<(), Failure> {
        // Nobody's listing: others need one that was answered, and this one all workers.
        let _turn = self.listings().last.lock().await;
        let mut outcome = Ok(());
        for seat in 0..self.seats() {
            if let Some(link) = self.link_now(seat)
                && let Attempt::Answered(listed) = self.list_on(seat, &link).await
            {
                outcome = outcome.and(listed.map(drop));
            }
        }
        outcome
    }

    async fn list_now(&self) -> Result<Listing, Failure> {
        let first = self.seat(None);
        let link = self.link(first).await?;
        match self.list_on(first, &link).await {
            Attempt::Broken(_) if self.is_patient() => {
                let generation = link.generation();
                drop(link);
                let (second, link) = self.next_link(first, generation).await?;
                self.list_on(second, &link).await.outcome()
            }
            attempt => attempt.outcome(),
        }
    }

    /// All pages of the listing of one worker. Each is answered in time or the worker is lost, and there is an end to them.
    async fn list_on(&self, seat: usize, link: &Link) -> Attempt<Listing> {
        let pages = timeout(LISTING_TIMEOUT, self.list_pages(seat, link)).await;
        pages.unwrap_or_else(|_| {
            let limit_min = LISTING_TIMEOUT.as_secs() / 60;
            let text = format!("the token did not list its keys within {limit_min} minutes");
            Attempt::Answered(Err(Failure::new(Reason::TokenUnavailable, text)))
        })
    }

    async fn list_pages(&self, seat: usize, link: &Link) -> Attempt<Listing> {
        let mut client = link.client();
        let (mut listing, mut anew, mut after) = (Listing::default(), true, None);
        loop {
            let request = pb::ListVersionsRequest { anew, after };
            let page = match self.attempt(seat, link, Box::pin(client.list_versions(request))).await {
                Attempt::Answered(Ok(page)) => page,
                Attempt::Answered(Err(failure)) => return Attempt::Answered(Err(failure)),
                Attempt::Broken(failure) => return Attempt::Broken(failure),
            };
            if let Err(failure) = listing.add(page.versions, page.unfit) {
                return Attempt::Answered(Err(failure));
            }
            if !page.more {
                return Attempt::Answered(Ok(listing));
            }
            (anew, after) = (false, page.last);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{sync::Semaphore, task::JoinSet};

    use super::*;

    #[tokio::test]
    async fn who_asks_while_one_is_under_way_gets_the_next_and_all_of_them_the_same() {
        let (listings, ran) = (Arc::new(Listings::default()), Arc::new(AtomicU64::new(0)));
        let gate = Arc::new(Semaphore::new(0));
        let mut asked = JoinSet::new();
        for n in 0..10 {
            let (listings, counted, gate) = (Arc::clone(&listings), Arc::clone(&ran), Arc::clone(&gate));
            asked.spawn(async move {
                let list = async {
                    let number = counted.fetch_add(1, Ordering::SeqCst);
                    gate.acquire().await.expect("open").forget();
                    Err(Failure::new(Reason::TokenUnavailable, number.to_string()))
                };
                (n, listings.share(list).await.expect_err("as told").message)
            });
            // The first is under way before the others ask.
            while ran.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        }
        gate.add_permits(10);
        let mut outcomes = asked.join_all().await;
        outcomes.sort();
        let first = outcomes.remove(0);
        assert_eq!(first, (0, "0".to_owned()));
        assert!(outcomes.iter().all(|(_, outcome)| outcome == "1"), "{outcomes:?}");
        assert_eq!(ran.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn one_that_is_given_up_is_nobodys_outcome() {
        let listings = Listings::default();
        let given_up = timeout(Duration::from_millis(1), listings.share(std::future::pending()));
        given_up.await.expect_err("never ends");
        let listed = listings.share(async { Ok(Listing::default()) }).await;
        listed.expect("one of its own");
    }
}
