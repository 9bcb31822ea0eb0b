//! What a token holds: all of it, in a listing that those who ask at once share, or what is in a few places.
//!
//! A listing is a search of the whole token, which takes minutes where there are thousands of keys and a call takes a
//! millisecond. One runs at a time. Whoever asks meanwhile wants what is there now, and not what was there when that one
//! began: all of them get the outcome of the next.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use strongroom_proto::{EdekSuite, Failure, KeyName, KeyVersion, Reason};
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
    /// Which it was of those begun, and when it began.
    number: u64,
    begun: Instant,
    outcome: Result<Listing, Failure>,
}

/// Whatever a worker is to look for.
#[derive(Debug, Clone, Copy)]
enum Search<'p> {
    Everything,
    /// These places, whose versions may be known to be of one suite.
    Places(&'p [(KeyName, KeyVersion)], Option<EdekSuite>),
}

impl Listings {
    /// The outcome of `list`, or of one that somebody else began after this call, and when it began.
    async fn share(&self, list: impl Future<Output = Result<Listing, Failure>>) -> Result<(Instant, Listing), Failure> {
        let asked = self.begun.load(Ordering::Acquire);
        let mut last = self.last.lock().await;
        if last.as_ref().is_none_or(|ended| ended.number <= asked) {
            let number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
            let begun = Instant::now();
            let outcome = list.await;
            *last = Some(Ended { number, begun, outcome });
        }
        let ended = last.as_ref().map(|ended| (ended.begun, ended.outcome.clone()));
        let (begun, outcome) = ended.ok_or_else(|| malformed("no listing"))?;
        outcome.map(|listing| (begun, listing))
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
        self.list_since().await.map(|(_, versions)| versions)
    }

    /// The same, with when the listing began: what was made or destroyed since may or may not be in it.
    pub(crate) async fn list_since(&self) -> Result<(Instant, Vec<TokenKeyVersion>), Failure> {
        let (begun, listing) = self.listings().share(self.search(Search::Everything)).await?;
        *self.last_unfit() = listing.unfit;
        Ok((begun, listing.versions))
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
        self.search(Search::Places(places, None)).await
    }

    /// The same of versions that are known to be of one suite, for a fraction of the calls where a worker has not found them yet.
    ///
    /// # Errors
    /// `token-unavailable`, `overloaded`, `pin-rejected`.
    pub async fn look_for_of(&self, suite: EdekSuite, places: &[(KeyName, KeyVersion)]) -> Result<Listing, Failure> {
        self.search(Search::Places(places, Some(suite))).await
    }

    /// Has every worker that serves look for versions, and forget what it derived from those that are not there any more.
    ///
    /// # Errors
    /// If a worker has not done it and goes on: `token-unavailable`, `overloaded`, `pin-rejected`.
    pub async fn look_again(&self, places: &[(KeyName, KeyVersion)]) -> Result<(), Failure> {
        let mut outcome = Ok(());
        for seat in 0..self.seats() {
            if let Some(link) = self.link_now(seat)
                && let Attempt::Answered(looked) = self.look_on(seat, &link, places, None).await
            {
                outcome = outcome.and(looked.map(drop));
            }
        }
        outcome
    }

    /// Has a worker search the token, and another one, or the next in its place, if it is lost.
    async fn search(&self, what: Search<'_>) -> Result<Listing, Failure> {
        let first = self.seat(None);
        let link = self.link(first).await?;
        match self.search_on(first, &link, what).await {
            Attempt::Broken(_) if self.is_patient() => {
                let generation = link.generation();
                drop(link);
                let (second, link) = self.next_link(first, generation).await?;
                self.search_on(second, &link, what).await.outcome()
            }
            attempt => attempt.outcome(),
        }
    }

    async fn search_on(&self, seat: usize, link: &Link, what: Search<'_>) -> Attempt<Listing> {
        match what {
            Search::Everything => self.list_on(seat, link).await,
            Search::Places(places, suite) => self.look_on(seat, link, places, suite).await,
        }
    }

    /// What one worker finds in certain places, asked for as often as it takes: each answer is about one of them at least.
    async fn look_on(
        &self,
        seat: usize,
        link: &Link,
        places: &[(KeyName, KeyVersion)],
        suite: Option<EdekSuite>,
    ) -> Attempt<Listing> {
        let mut client = link.client();
        let (mut listing, mut rest) = (Listing::default(), places);
        while !rest.is_empty() {
            let asked = &rest[..rest.len().min(PLACES_MAX)];
            let request = pb::LookForRequest {
                places: asked.iter().map(|(key, version)| place(key, *version)).collect(),
                suite: suite.map(|suite| suite.as_str().to_owned()).unwrap_or_default(),
            };
            let page = match self.attempt(seat, link, Box::pin(client.look_for(request))).await {
                Attempt::Answered(Ok(page)) => page,
                Attempt::Answered(Err(failure)) => return Attempt::Answered(Err(failure)),
                Attempt::Broken(failure) => return Attempt::Broken(failure),
            };
            let looked = usize::try_from(page.looked).unwrap_or(usize::MAX);
            if looked == 0 || looked > asked.len() {
                return Attempt::Answered(Err(malformed("a count of places")));
            }
            if let Err(failure) = listing.add(page.versions, page.unfit) {
                return Attempt::Answered(Err(failure));
            }
            rest = &rest[looked..];
        }
        Attempt::Answered(Ok(listing))
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
