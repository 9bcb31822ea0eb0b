//! Records of calls that were refused before they came to anything, so many and no more: whoever floods the service with calls
//! that are none neither fills its disk nor keeps the refusals of others out of the log.
//!
//! Each caller who is known by a certificate or a token has an allowance of his own, and each address from which somebody
//! unknown calls. All unknown callers together have one for the day. What is left out is counted in a record a minute.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use strongroom_proto::{Failure, Reason, transport::network};

use crate::audit::{AuditLog, Entry};

/// What a caller who is known may have recorded one by one: so many at once, and so many a second after that.
const KNOWN: Rate = Rate {
    burst: 200.0,
    per_second: 20.0,
};
/// The same for an address from which somebody unknown calls.
const UNKNOWN: Rate = Rate {
    burst: 50.0,
    per_second: 1.0,
};
/// The same for all unknown callers together: some 5 MB a day.
const UNKNOWN_ALL: Rate = Rate {
    burst: 10_000.0,
    per_second: 10_000.0 / 86_400.0,
};
/// Callers and addresses that are told apart at once. Who comes on top shares one allowance of an address.
const SOURCES_MAX: usize = 4096;
/// Pause between two records of how many were left out.
const SUM_INTERVAL: Duration = Duration::from_secs(60);

/// Who is refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// By a certificate or a token.
    Known(String),
    /// An IPv4 address, or the first half of an IPv6 one: the other half is its holder's to choose.
    Unknown(Option<IpAddr>),
}

/// What keeps the records within bounds.
pub(super) struct Refusals {
    audit: AuditLog,
    allowances: Mutex<Allowances>,
}

impl Refusals {
    /// Starts the task that records what was left out; it ends with what is answered.
    pub(super) fn new(audit: AuditLog) -> Arc<Self> {
        let refusals = Arc::new(Self {
            audit,
            allowances: Mutex::new(Allowances::new(Instant::now())),
        });
        tokio::spawn(sum_up(Arc::downgrade(&refusals)));
        refusals
    }

    /// Records the refusal, if `source` has an allowance for it.
    pub(super) async fn record(&self, source: Source, entry: impl FnOnce() -> Entry) {
        let allowed = {
            let mut allowances = self.allowances.lock().unwrap_or_else(PoisonError::into_inner);
            allowances.take(source, Instant::now())
        };
        if allowed {
            // The call is refused anyway; that the log cannot be written is said where it is.
            _ = self.audit.record(vec![entry()]).await;
        }
    }

    fn left_out(&self) -> usize {
        let mut allowances = self.allowances.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut allowances.left_out)
    }
}

impl Source {
    pub(super) fn of(who: Option<&str>, from: Option<SocketAddr>) -> Self {
        match who {
            Some(who) => Self::Known(who.to_owned()),
            None => Self::Unknown(from.map(|from| network(from.ip()))),
        }
    }

    const fn rate(&self) -> Rate {
        match self {
            Self::Known(_) => KNOWN,
            Self::Unknown(_) => UNKNOWN,
        }
    }
}

/// Says now and then how many refused calls have no record of their own.
async fn sum_up(refusals: Weak<Refusals>) {
    loop {
        tokio::time::sleep(SUM_INTERVAL).await;
        let Some(refusals) = refusals.upgrade() else { return };
        let left_out = refusals.left_out();
        if left_out > 0 {
            _ = refusals.audit.record(vec![flood(left_out)]).await;
        }
    }
}

fn flood(left_out: usize) -> Entry {
    let failure = Failure::new(
        Reason::Overloaded,
        "so many calls were refused before they came to anything that they were not recorded one by one",
    );
    Entry::of_service("service kms", "refused-calls")
        .failed(&failure)
        .count(left_out)
}

/// How many records there may be.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: f64,
    per_second: f64,
}

/// What is left for whom.
struct Allowances {
    sources: HashMap<Source, Bucket>,
    /// Of those for whom there was no room in the table.
    others: Bucket,
    unknown: Bucket,
    left_out: usize,
}

impl Allowances {
    fn new(now: Instant) -> Self {
        Self {
            sources: HashMap::new(),
            others: Bucket::full(UNKNOWN, now),
            unknown: Bucket::full(UNKNOWN_ALL, now),
            left_out: 0,
        }
    }

    /// Takes the allowance for one record. What is refused it is counted.
    fn take(&mut self, source: Source, now: Instant) -> bool {
        let anybody = matches!(source, Source::Unknown(_));
        if !self.sources.contains_key(&source) && self.sources.len() >= SOURCES_MAX {
            // A bucket that is full says no more than none.
            self.sources.retain(|_, bucket| !bucket.is_full(now));
        }
        let room = self.sources.len() < SOURCES_MAX;
        let bucket = match self.sources.get_mut(&source) {
            Some(bucket) => bucket,
            None if room => {
                let full = Bucket::full(source.rate(), now);
                self.sources.entry(source).or_insert(full)
            }
            None => &mut self.others,
        };
        let allowed = bucket.take(now) && (!anybody || self.unknown.take(now));
        self.left_out += usize::from(!allowed);
        allowed
    }
}

/// An allowance that refills by itself.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: Rate,
    left: f64,
    at: Instant,
}

impl Bucket {
    const fn full(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            left: rate.burst,
            at: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left >= self.rate.burst
    }

    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + since * self.rate.per_second).min(self.rate.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> Source {
        Source::of(None, Some((std::net::Ipv4Addr::from_bits(number), 1).into()))
    }

    fn taken(allowances: &mut Allowances, source: &Source, tries: usize, now: Instant) -> usize {
        (0..tries).filter(|_| allowances.take(source.clone(), now)).count()
    }

    #[test]
    fn a_flood_leaves_the_allowances_of_others_alone() {
        let now = Instant::now();
        let mut allowances = Allowances::new(now);
        let alice = Source::of(Some("user alice"), None);
        assert_eq!(taken(&mut allowances, &address(1), 1000, now), 50);
        assert_eq!(taken(&mut allowances, &address(2), 10, now), 10);
        assert_eq!(taken(&mut allowances, &alice, 1000, now), 200);
        assert_eq!(allowances.left_out, 950 + 800);
        let later = now + Duration::from_secs(3600);
        assert_eq!(
            taken(&mut allowances, &address(1), 1000, later),
            50,
            "no more than a burst"
        );
    }

    #[test]
    fn all_unknown_callers_together_have_one_allowance_for_the_day_and_others_another() {
        let now = Instant::now();
        let mut allowances = Allowances::new(now);
        let all: usize = (0..1000).map(|n| taken(&mut allowances, &address(n), 50, now)).sum();
        assert_eq!(all, 10_000);
        let alice = Source::of(Some("user alice"), None);
        assert!(allowances.take(alice, now));
        let day: usize = (0..24 * 60)
            .map(|minute| now + Duration::from_secs(60 * minute))
            .map(|now| taken(&mut allowances, &address(7), 100, now))
            .sum();
        assert!((9_900..=10_000).contains(&day), "{day} in a day");
    }

    #[test]
    fn the_table_is_bounded_and_who_finds_no_room_shares() {
        let now = Instant::now();
        let mut allowances = Allowances::new(now);
        let alice = Source::of(Some("user alice"), None);
        assert!(allowances.take(alice.clone(), now));
        for number in 0..10_000 {
            allowances.take(address(number), now);
        }
        assert_eq!(allowances.sources.len(), SOURCES_MAX);
        assert!(allowances.take(alice, now), "who is in it stays");
        let bob = Source::of(Some("user bob"), None);
        assert!(!allowances.take(bob.clone(), now), "the shared allowance is used up");
        let later = now + Duration::from_secs(60);
        assert_eq!(taken(&mut allowances, &bob, 300, later), 200, "there is room again");
        assert!(allowances.sources.len() < 10);
    }
}
