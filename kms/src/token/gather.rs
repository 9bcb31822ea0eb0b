//! Unwrap calls about few EDEKs that wait at the same time go to a worker together.
//!
//! A message to the worker and back costs about as much as a DEK. So a call that finds carriers enough under way waits for
//! the next one, which takes all that wait by then; a call that finds none leaves at once, and nobody waits for company.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use strongroom_proto::Failure;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::pb::UnwrapItem;

/// Carriers under way for each worker: one that the token works on, and one that is at hand when it is done.
const CARRIERS_PER_WORKER: usize = 2;

/// Results of a call's items, in order.
pub(super) type Opened = Vec<Result<Zeroizing<Vec<u8>>, Failure>>;

/// How a call came back from its carrier.
pub(super) enum Carried {
    /// The worker's answer to this call.
    Answered(Result<Opened, Failure>),
    /// The worker was lost on the way; what it did is not known.
    Lost(Lost),
}

/// Which worker was lost, and how that looked.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub(super) seat: usize,
    pub(super) generation: u64,
    pub(super) failure: Failure,
}

/// A call that waits for a carrier, or is aboard of one.
pub(super) struct Passenger {
    pub(super) items: Vec<UnwrapItem>,
    reply: oneshot::Sender<Carried>,
}

impl Passenger {
    /// Tells the caller. One that has gone away needs no answer.
    pub(super) fn arrive(self, carried: Carried) {
        _ = self.reply.send(carried);
    }
}

/// The calls that wait, and how many carriers are under way. Callers bound how many calls there are.
pub(super) struct Gather {
    platform: Mutex<Platform>,
    carriers_max: usize,
}

#[derive(Default)]
struct Platform {
    waiting: VecDeque<Passenger>,
    carriers: usize,
}

/// One of the carriers under way.
pub(super) struct Carrier {
    gather: Arc<Gather>,
    done: bool,
}

impl Gather {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            platform: Mutex::default(),
            carriers_max: workers * CARRIERS_PER_WORKER,
        }
    }

    /// Queues a call. Answers where its outcome comes, and the carrier that the caller has to send on its way, if any.
    pub(super) fn join(self: &Arc<Self>, items: Vec<UnwrapItem>) -> (oneshot::Receiver<Carried>, Option<Carrier>) {
        let (reply, outcome) = oneshot::channel();
        let mut platform = self.platform();
        platform.waiting.push_back(Passenger { items, reply });
        if platform.carriers == self.carriers_max {
            return (outcome, None);
        }
        platform.carriers += 1;
        let carrier = Carrier {
            gather: Arc::clone(self),
            done: false,
        };
        (outcome, Some(carrier))
    }

    fn platform(&self) -> MutexGuard<'_, Platform> {
        // Nothing between taking and giving back can panic half way.
        self.platform.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Carrier {
    /// Takes calls aboard in their order, of `items_max` items together at most, but one in any case. With `None` nobody
    /// waits any more and the carrier is done: whoever comes now sends the next one.
    pub(super) fn board(&mut self, items_max: usize) -> Option<Vec<Passenger>> {
        let mut platform = self.gather.platform();
        let mut aboard: Vec<Passenger> = Vec::new();
        let mut items = 0;
        while let Some(next) = platform.waiting.pop_front() {
            if next.reply.is_closed() {
                continue;
            }
            items += next.items.len();
            if items > items_max && !aboard.is_empty() {
                platform.waiting.push_front(next);
                break;
            }
            aboard.push(next);
        }
        if aboard.is_empty() {
            platform.carriers -= 1;
            drop(platform);
            self.done = true;
            return None;
        }
        Some(aboard)
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        if !self.done {
            self.gather.platform().carriers -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(count: usize) -> Vec<UnwrapItem> {
        vec![UnwrapItem::default(); count]
    }

    fn counts(aboard: &[Passenger]) -> Vec<usize> {
        aboard.iter().map(|passenger| passenger.items.len()).collect()
    }

    #[test]
    fn the_first_calls_leave_at_once_and_those_that_wait_go_together_in_order() {
        let gather = Arc::new(Gather::new(1));
        let sent: Vec<_> = (1..=6).map(|count| gather.join(items(count))).collect();
        let (_outcomes, carriers): (Vec<_>, Vec<_>) = sent.into_iter().unzip();
        let mut carriers: Vec<Carrier> = carriers.into_iter().flatten().collect();
        assert_eq!(carriers.len(), CARRIERS_PER_WORKER);
        assert_eq!(counts(&carriers[0].board(1).expect("somebody waits")), [1]);
        assert_eq!(
            counts(&carriers[1].board(100).expect("the others wait")),
            [2, 3, 4, 5, 6]
        );
    }

    #[test]
    fn a_load_is_bounded_and_those_who_gave_up_are_left() {
        let gather = Arc::new(Gather::new(1));
        let (first, carrier) = gather.join(items(3));
        let (gone, _) = gather.join(items(1));
        let (second, _) = gather.join(items(4));
        let (third, _) = gather.join(items(300));
        drop(gone);
        let mut carrier = carrier.expect("the first call sends one");
        assert_eq!(counts(&carrier.board(7).expect("somebody waits")), [3, 4]);
        assert_eq!(
            counts(&carrier.board(7).expect("somebody waits")),
            [300],
            "too big for any load"
        );
        assert!(carrier.board(7).is_none());
        drop((first, second, third));
    }

    #[test]
    fn whoever_comes_after_the_last_carrier_sends_another_also_if_that_was_cut_off() {
        let gather = Arc::new(Gather::new(1));
        for _ in 0..3 * CARRIERS_PER_WORKER {
            let (_outcome, carrier) = gather.join(items(1));
            let mut carrier = carrier.expect("none is under way");
            assert!(carrier.board(1).is_some());
            assert!(carrier.board(1).is_none());
        }
        for _ in 0..3 * CARRIERS_PER_WORKER {
            let (_outcome, carrier) = gather.join(items(1));
            drop(carrier.expect("none is under way"));
        }
    }
}
