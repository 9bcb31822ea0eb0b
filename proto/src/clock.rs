//! The time as an argument, so that leases and expiries can be tested without waiting.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};

/// A source of the time of day, and of a time that only goes forward.
#[derive(Clone)]
pub struct Clock {
    now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    since_boot: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::of(unix_ms, boot_time)
    }

    /// The machine's clock with its time of day moved forward by what `ahead_ms` holds, for tests.
    #[must_use]
    pub fn ahead(ahead_ms: Arc<AtomicU64>) -> Self {
        Self::of(move || unix_ms() + ahead_ms.load(Ordering::Relaxed), boot_time)
    }

    /// A clock of the caller's making: milliseconds since the Unix epoch, and the time since its machine started.
    pub fn of(
        now_ms: impl Fn() -> u64 + Send + Sync + 'static,
        since_boot: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        Self {
            now_ms: Arc::new(now_ms),
            since_boot: Arc::new(since_boot),
        }
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        (self.now_ms)()
    }

    /// Time since the machine started, its sleep included.
    #[must_use]
    pub fn since_boot(&self) -> Duration {
        (self.since_boot)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({} ms)", self.now_ms())
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}
