//! Leases: which instances of the key service may rely on what they know. Pure: time is an argument.
//!
//! No two clocks are compared. The holder counts from before it writes a renewal, on a clock that goes on while the
//! process is stopped and the machine sleeps; an observer counts from after it has read a renewal. So whoever an
//! observer takes for lapsed knows it is lapsed. (`docs/adr/0013`)

use std::{collections::BTreeMap, time::Duration};

use prost::Message;
use rustix::time::{ClockId, clock_gettime};

/// How long a renewal counts for observers. Its holder stops a little earlier.
pub(super) const LEASE: Duration = Duration::from_secs(5);
const MARGIN: Duration = Duration::from_millis(500);
/// How often a lease is renewed.
pub(super) const RENEWAL: Duration = Duration::from_secs(1);

/// Names a run of an instance, in the store alone: what people see is the id of its audit log.
pub(super) type InstanceId = [u8; 16];

/// What an instance says of itself in the store.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct InstanceRecord {
    /// Where it listens, for people.
    #[prost(string, tag = "1")]
    pub(super) name: String,
    /// Counts up.
    #[prost(uint64, tag = "2")]
    pub(super) renewal: u64,
    /// The newest revision that it works with.
    #[prost(uint64, tag = "3")]
    pub(super) seen: u64,
    /// Whether its token is up and compared.
    #[prost(bool, tag = "4")]
    pub(super) ready: bool,
    /// The id of its audit log.
    #[prost(bytes = "vec", tag = "5")]
    pub(super) log: Vec<u8>,
}

/// Time since the machine started, its sleep included.
pub(super) fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

/// The own lease.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Standing {
    /// When the last renewal was begun.
    renewed: Duration,
    /// Until when the own lease holds.
    until: Duration,
    /// Whether the store did not answer the last time.
    pub(super) cut_off: bool,
}

impl Standing {
    /// After a renewal that was begun at `begun`.
    pub(super) fn renewed(begun: Duration) -> Self {
        Self {
            renewed: begun,
            until: begun + LEASE - MARGIN,
            cut_off: false,
        }
    }

    pub(super) const fn renewed_at(&self) -> Duration {
        self.renewed
    }

    pub(super) fn holds(&self, now: Duration) -> bool {
        now < self.until
    }
}

/// What this instance has seen of the others' leases.
#[derive(Debug, Default)]
pub(super) struct Observer {
    /// The last renewal of each, and since when it is the last.
    renewals: BTreeMap<InstanceId, (u64, Duration)>,
}

impl Observer {
    /// Takes in what was read before `now`.
    pub(super) fn observe(&mut self, records: &BTreeMap<InstanceId, InstanceRecord>, now: Duration) {
        self.renewals.retain(|id, _| records.contains_key(id));
        for (id, record) in records {
            let last = self.renewals.entry(*id).or_insert((record.renewal, now));
            if last.0 != record.renewal {
                *last = (record.renewal, now);
            }
        }
    }

    /// Whether an instance's lease has lapsed. One without a record has none.
    pub(super) fn has_lapsed(&self, id: &InstanceId, now: Duration) -> bool {
        self.silent_for(id, now).is_none_or(|silent| silent >= LEASE)
    }

    /// How long an instance has not renewed.
    pub(super) fn silent_for(&self, id: &InstanceId, now: Duration) -> Option<Duration> {
        let (_, since) = self.renewals.get(id)?;
        Some(now.saturating_sub(*since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(renewal: u64) -> BTreeMap<InstanceId, InstanceRecord> {
        let record = InstanceRecord {
            renewal,
            ..InstanceRecord::default()
        };
        BTreeMap::from([([1; 16], record)])
    }

    #[test]
    fn a_holder_lets_go_before_any_observer_gives_it_up() {
        let (begun, read) = (Duration::from_secs(100), Duration::from_secs(101));
        let standing = Standing::renewed(begun);
        let mut observer = Observer::default();
        observer.observe(&records(7), read);
        for ms in (0..10_000).step_by(100) {
            let passed = Duration::from_millis(ms);
            assert!(
                !(observer.has_lapsed(&[1; 16], read + passed) && standing.holds(begun + passed)),
                "{passed:?}"
            );
        }
        assert!(standing.holds(begun + Duration::from_secs(4)));
        assert!(!Standing::default().holds(Duration::ZERO));
    }

    #[test]
    fn only_a_renewal_puts_the_lapse_off() {
        let at = Duration::from_secs;
        let mut observer = Observer::default();
        assert!(observer.has_lapsed(&[1; 16], at(0)), "without a record");
        observer.observe(&records(1), at(0));
        observer.observe(&records(1), at(4));
        assert!(!observer.has_lapsed(&[1; 16], at(4)));
        assert!(observer.has_lapsed(&[1; 16], at(5)));
        observer.observe(&records(2), at(6));
        assert!(!observer.has_lapsed(&[1; 16], at(10)));
        observer.observe(&BTreeMap::new(), at(7));
        assert!(observer.has_lapsed(&[1; 16], at(7)));
    }
}
