//! Latencies: sorted, and read at a share of them.

use std::time::Duration;

/// What a run took, call by call.
#[derive(Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    pub(crate) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// The latency that a `share` of the calls did not exceed, in milliseconds.
    pub(crate) fn at_ms(&mut self, share: f64) -> f64 {
        self.0.sort_unstable();
        let index = (self.0.len() as f64 * share) as usize;
        let at = self.0.get(index).or(self.0.last());
        at.map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    }
}
