//! Waiting for what takes minutes or hours, and saying how far it is.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, interval_at};

use crate::report::note;

/// How often something is said.
const EVERY: Duration = Duration::from_secs(10);

/// Waits for `work`; what `say` gives is noted now and then.
pub(super) async fn watched<T>(work: impl Future<Output = T>, say: impl AsyncFn() -> String) -> T {
    let mut work = pin!(work);
    let mut ticks = interval_at(Instant::now() + EVERY, EVERY);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => note(&say().await),
        }
    }
}
