//! Keeping a job to so many operations a second.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// When a job may go on.
#[derive(Debug)]
pub(crate) struct Pace {
    next: Instant,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { next: Instant::now() }
    }

    /// How many operations a step may have: what is allowed in a second, so that no wait is longer, or `most`.
    pub(crate) fn step(throttle: u32, most: usize) -> usize {
        match usize::try_from(throttle).unwrap_or(usize::MAX) {
            0 => most,
            throttle => throttle.min(most),
        }
    }

    /// Waits until as much time has passed as the operations before were allowed, and counts `operations` more.
    pub(crate) async fn wait(&mut self, operations: usize, throttle: u32) {
        sleep_until(self.turn(Instant::now(), operations, throttle)).await;
    }

    /// When so many operations may be begun.
    fn turn(&mut self, now: Instant, operations: usize, throttle: u32) -> Instant {
        // Time that was not used is not made up for.
        let turn = self.next.max(now);
        if throttle == 0 {
            self.next = now;
            return now;
        }
        let allowed = Duration::from_secs(1) * u32::try_from(operations).unwrap_or(u32::MAX) / throttle;
        self.next = turn + allowed;
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_so_many_in_a_second() {
        let begun = Instant::now();
        let mut pace = Pace { next: begun };
        let turns = [0, 1, 2, 3, 4].map(|_| pace.turn(begun, Pace::step(100, 500), 100) - begun);
        assert_eq!(turns.map(|turn| turn.as_secs()), [0, 1, 2, 3, 4], "hundred by hundred");
        assert_eq!(pace.turn(begun, 500, 0), begun, "without a bound there is no wait");
        let late = begun + Duration::from_secs(60);
        assert_eq!(pace.turn(late, 10, 10), late);
        assert_eq!(
            (pace.turn(late, 10, 10) - late).as_secs(),
            1,
            "a minute of rest is not made up for"
        );
        assert_eq!(
            (Pace::step(0, 500), Pace::step(7, 500), Pace::step(900, 500)),
            (500, 7, 500)
        );
    }
}
