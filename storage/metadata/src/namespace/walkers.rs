//! How many walks over trees go on at once, of one user and in all, and for how long. Each keeps a view of the store and reads as fast as
//! it can, for anybody who asks for it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use strongroom_proto::transport::UserName;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use crate::{authority::Caller, error::MetadataError};

/// Walks at once, of users and as many of superusers: those of the ones do not keep the others waiting. Of one user fewer.
const AT_ONCE: usize = 4;
const OF_ONE_USER: usize = 2;
/// How long a call waits for its place, how long it walks then, and how long it may at least make use of what it saw: together less than
/// a client waits for an answer.
const WAIT: Duration = Duration::from_secs(3);
pub(crate) const WALK: Duration = Duration::from_secs(10);
const USE: Duration = Duration::from_secs(1);

/// The places of walks in one service.
pub(crate) struct Walkers {
    of_users: Arc<Semaphore>,
    of_superusers: Arc<Semaphore>,
    /// Of those who have a place or wait for one.
    of_each: Mutex<BTreeMap<UserName, Arc<Semaphore>>>,
}

/// A place, until it is dropped.
pub(crate) struct Leave {
    deadline: Instant,
    _places: [OwnedSemaphorePermit; 2],
}

impl Leave {
    /// Until when the walks of the call may go on.
    pub(crate) const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Until when the call may make use of what it saw, from now on: for a second, however long its walks took.
    pub(crate) fn use_until(&self) -> Instant {
        self.deadline.max(Instant::now() + USE)
    }
}

impl Walkers {
    pub(crate) fn new() -> Self {
        Self {
            of_users: Arc::new(Semaphore::new(AT_ONCE)),
            of_superusers: Arc::new(Semaphore::new(AT_ONCE)),
            of_each: Mutex::default(),
        }
    }

    /// A place for a call, for which it waits up to 3 s. While it waits it should hold nothing of the store.
    pub(crate) async fn begin(&self, who: &Caller) -> Result<Leave, MetadataError> {
        let busy = || MetadataError::TooManyWalks(who.name.clone());
        let places = timeout(WAIT, self.places(who)).await.map_err(|_| busy())?;
        Ok(Leave {
            deadline: Instant::now() + WALK,
            _places: places.ok_or_else(busy)?,
        })
    }

    /// None if there are none any more, which does not happen while the service runs.
    async fn places(&self, who: &Caller) -> Option<[OwnedSemaphorePermit; 2]> {
        let own = self.own(&who.name).acquire_owned().await.ok()?;
        let of_all = if who.superuser {
            &self.of_superusers
        } else {
            &self.of_users
        };
        let of_all = Arc::clone(of_all).acquire_owned().await.ok()?;
        Some([own, of_all])
    }

    /// The places of one user.
    fn own(&self, user: &UserName) -> Arc<Semaphore> {
        let mut of_each = self.of_each.lock().unwrap_or_else(PoisonError::into_inner);
        of_each.retain(|_, own| Arc::strong_count(own) > 1);
        let own = of_each.entry(user.clone());
        Arc::clone(own.or_insert_with(|| Arc::new(Semaphore::new(OF_ONE_USER))))
    }
}

#[cfg(test)]
mod tests {
    use strongroom_proto::groups::Groups;

    use super::*;

    fn user(name: &str, superuser: bool) -> Caller {
        Caller::of(name, Groups::default(), superuser)
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_few_and_one_user_has_not_all() {
        let walkers = Walkers::new();
        let mut held = Vec::new();
        for name in ["alice", "alice", "bob"] {
            held.push(walkers.begin(&user(name, false)).await.expect("a place"));
        }
        let third = walkers.begin(&user("alice", false)).await;
        let failure = third.err().expect("she has two").to_string();
        assert!(failure.contains("user alice"), "{failure}");
        held.push(walkers.begin(&user("carol", false)).await.expect("the last one"));
        assert!(walkers.begin(&user("dave", false)).await.is_err());
        for name in ["fsadmin", "fsadmin", "root", "root"] {
            held.push(
                walkers
                    .begin(&user(name, true))
                    .await
                    .expect("superusers have their own"),
            );
        }
        held.remove(0);
        let (alice, dave) = (user("alice", false), user("dave", false));
        let again = walkers.begin(&alice).await.expect("one of hers is free");
        // Who waits gets a place as soon as there is one.
        let (waited, ()) = tokio::join!(walkers.begin(&dave), async {
            tokio::time::sleep(WAIT / 2).await;
            drop(again);
        });
        held.push(waited.expect("in time"));
        drop(held);
        walkers.begin(&alice).await.expect("a place");
        let known = walkers.of_each.lock().expect("no panic").len();
        assert!(known <= 1, "{known} users are remembered");
    }
}
