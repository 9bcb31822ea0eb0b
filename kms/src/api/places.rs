//! Places for calls under way: so many in all, and half of them for one caller at the most, so that nobody takes up them all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use strongroom_proto::{Failure, Reason, transport::PeerIdentity};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls under way at once; more are refused with [`Reason::Overloaded`].
const CALLS_MAX: usize = 1024;
/// Those of one caller.
const CALLS_PER_CALLER_MAX: usize = CALLS_MAX / 2;

/// The places, cheap to clone. Calls outlive their callers, so that connections alone do not bound them.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    callers: Arc<Mutex<HashMap<PeerIdentity, usize>>>,
    per_caller_max: usize,
}

/// The place of one call, which is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _one_of_all: OwnedSemaphorePermit,
    caller: PeerIdentity,
    callers: Arc<Mutex<HashMap<PeerIdentity, usize>>>,
}

impl Places {
    pub(crate) fn new() -> Self {
        Self::of(CALLS_MAX, CALLS_PER_CALLER_MAX)
    }

    pub(crate) fn of(calls_max: usize, per_caller_max: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(calls_max)),
            callers: Arc::default(),
            per_caller_max,
        }
    }

    /// A place for a call of `caller`.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] if all are taken, or all of his.
    pub(crate) fn take(&self, caller: &PeerIdentity) -> Result<Place, Failure> {
        let refused = |who: &str, calls: usize| {
            Failure::new(
                Reason::Overloaded,
                format!("the key service has {calls} calls{who} under way; try again after a pause"),
            )
        };
        // Counts are whole at any time, so that a panic elsewhere leaves nothing half done.
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = callers.get(caller).copied().unwrap_or(0);
        if under_way >= self.per_caller_max {
            return Err(refused(&format!(" of {}", caller.short()), under_way));
        }
        let one_of_all = Arc::clone(&self.all).try_acquire_owned();
        let one_of_all = one_of_all.map_err(|_| refused("", CALLS_MAX))?;
        callers.insert(caller.clone(), under_way + 1);
        Ok(Place {
            _one_of_all: one_of_all,
            caller: caller.clone(),
            callers: Arc::clone(&self.callers),
        })
    }

    /// Whether no call has a place.
    pub(crate) fn are_taken(&self) -> bool {
        self.all.available_permits() == 0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = callers.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                callers.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_up_all_places_and_each_is_free_again() {
        let who =
            |name: &str| -> PeerIdentity { format!("spiffe://strongroom/user/{name}").parse().expect("an identity") };
        let places = Places::of(5, 3);
        let take = |name: &str| -> Vec<Place> { (0..9).map_while(|_| places.take(&who(name)).ok()).collect() };
        let (alice, bob) = (take("alice"), take("bob"));
        assert_eq!((alice.len(), bob.len()), (3, 2));
        assert!(places.are_taken());
        let failure = places.take(&who("alice")).expect_err("her share");
        assert!(failure.message.contains("3 calls of user alice"), "{failure}");
        assert_eq!(places.take(&who("carol")).expect_err("all").reason, Reason::Overloaded);
        drop(alice);
        assert_eq!(take("carol").len(), 3);
        drop(bob);
        assert_eq!(places.callers.lock().expect("no panic").len(), 0);
    }
}
