//! How much work waits for a token, and whether a call may still join it.
//!
//! The queue is bounded by time, not by length: from how long items took lately follows how long a new call would wait.
//! A call that would wait too long is refused at once, with the pause after which there will be room.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// What a call costs beside its items, in items: a session's turn, a message there and back.
const CALL_WEIGHT: usize = 4;
/// Part of a new sample in the average: one in eight.
const SAMPLE_SHIFT: u32 = 3;
/// The first guess of what an item takes.
const FIRST_GUESS_NS: u64 = 100_000;

/// The calls that wait for one token or are under way in it.
#[derive(Debug)]
pub(super) struct Load {
    calls: AtomicUsize,
    items: AtomicUsize,
    item_ns: AtomicU64,
}

/// A call's place; dropping it leaves the queue.
#[derive(Debug)]
pub(super) struct Place<'l> {
    load: &'l Load,
    items: usize,
    ahead: usize,
    since: Instant,
}

impl Load {
    pub(super) const fn new() -> Self {
        Self {
            calls: AtomicUsize::new(0),
            items: AtomicUsize::new(0),
            item_ns: AtomicU64::new(FIRST_GUESS_NS),
        }
    }

    /// Calls that wait or are under way.
    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Items that wait or are under way.
    pub(super) fn items(&self) -> usize {
        self.items.load(Ordering::Relaxed)
    }

    /// A place for a call with that many items.
    ///
    /// # Errors
    /// After which pause to try again, if the call would wait for longer than `wait_max`.
    pub(super) fn enter(&self, items: usize, wait_max: Duration) -> Result<Place<'_>, Duration> {
        let items = items + CALL_WEIGHT;
        let ahead = self.items.fetch_add(items, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            load: self,
            items,
            ahead,
            since: Instant::now(),
        };
        let wait = self.time_for(ahead);
        if wait <= wait_max {
            Ok(place)
        } else {
            Err(wait - wait_max)
        }
    }

    fn time_for(&self, items: usize) -> Duration {
        let items = u64::try_from(items).unwrap_or(u64::MAX);
        Duration::from_nanos(items.saturating_mul(self.item_ns.load(Ordering::Relaxed)))
    }

    fn sample(&self, elapsed: Duration, items: usize) {
        let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let sample = elapsed_ns / u64::try_from(items.max(1)).unwrap_or(u64::MAX);
        let known = self.item_ns.load(Ordering::Relaxed);
        // Lost updates only make the average slower.
        let next = known - (known >> SAMPLE_SHIFT) + (sample >> SAMPLE_SHIFT);
        self.item_ns.store(next.max(1), Ordering::Relaxed);
    }
}

impl Place<'_> {
    /// Notes how long the call took, if it was answered.
    pub(super) fn answered(&self) {
        self.load.sample(self.since.elapsed(), self.ahead + self.items);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.load.items.fetch_sub(self.items, Ordering::Relaxed);
        self.load.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_would_wait_too_long_is_refused_with_the_pause_and_leaves_no_trace() {
        let load = Load::new();
        let second = Duration::from_secs(1);
        // At the first guess, 100 µs an item, 15,000 items are 1.5 s.
        let waiting = load.enter(15_000 - CALL_WEIGHT, second).expect("nothing waits");
        let pause = load.enter(1, second).map(drop).expect_err("it would wait 1.5 s");
        assert_eq!(pause, Duration::from_millis(500));
        assert_eq!((load.calls(), load.items()), (1, 15_000));
        load.enter(1, 2 * second)
            .map(drop)
            .expect("for who can wait, there is room");
        drop(waiting);
        assert_eq!((load.calls(), load.items()), (0, 0));
        load.enter(1, second).map(drop).expect("the queue is empty");
    }

    #[test]
    fn the_rate_follows_what_calls_take() {
        let load = Load::new();
        for _ in 0..100 {
            load.sample(Duration::from_millis(100), 100);
        }
        let item = load.time_for(1);
        assert!(
            (Duration::from_micros(900)..=Duration::from_millis(1)).contains(&item),
            "{item:?}"
        );
    }
}
