//! The measurements and their text form (OpenMetrics 1.0).

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::audit::Entry;

/// Keys that are counted under their own names; what goes beyond shares the name [`OTHER_KEYS`], so that a store of many
/// keys does not flood the monitoring.
const KEYS_LABELLED_MAX: usize = 1000;
const OTHER_KEYS: &str = "(other)";

/// A gRPC method and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    call: String,
    /// `ok`, or the word of `strongroom_proto::Reason`.
    outcome: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    call: String,
}

/// What was done with a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyLabels {
    operation: String,
    key: String,
    outcome: &'static str,
}

/// Every measurement of one key service.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    calls: Family<CallLabels, Counter>,
    call_seconds: Family<MethodLabels, Histogram>,
    in_flight: Gauge<i64, AtomicI64>,
    key_operations: Family<KeyLabels, Counter>,
    keys: Mutex<HashSet<String>>,
    audit_seconds: Histogram,
    audit_failures: Counter,
    started: Instant,
    /// Milliseconds from `started` to the last call that was refused for want of room, plus one; 0 if none was.
    overloaded_ms: AtomicU64,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("strongroom_kms")),
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(seconds),
            in_flight: Gauge::default(),
            key_operations: Family::default(),
            keys: Mutex::default(),
            audit_seconds: seconds(),
            audit_failures: Counter::default(),
            started: Instant::now(),
            overloaded_ms: AtomicU64::new(0),
        };
        metrics.with_registry(|registry| metrics.register(registry));
        metrics
    }

    /// Adds measurements that another part keeps.
    pub(crate) fn with_registry(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts a call until the guard goes.
    pub(super) fn enter(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// A call was answered with `outcome` (`ok` or a reason) after `took`.
    pub(super) fn called(&self, call: &str, outcome: &str, took: Duration) {
        let labels = CallLabels {
            call: call.to_owned(),
            outcome: outcome.to_owned(),
        };
        self.calls.get_or_create(&labels).inc();
        let method = MethodLabels { call: call.to_owned() };
        self.call_seconds.get_or_create(&method).observe(took.as_secs_f64());
        if outcome == strongroom_proto::Reason::Overloaded.as_str() {
            self.overloaded_ms.store(self.now_ms() + 1, Ordering::Relaxed);
        }
    }

    /// What the audit log was given; keys are counted by what it says of them.
    pub(crate) fn recorded(&self, entries: &[Entry]) {
        for entry in entries {
            if let Some(key) = &entry.key {
                let labels = KeyLabels {
                    operation: entry.action.clone(),
                    key: self.label(key),
                    outcome: entry.outcome.as_str(),
                };
                let count = entry.count.unwrap_or(1) as u64;
                self.key_operations.get_or_create(&labels).inc_by(count);
            }
        }
    }

    /// How long the audit log took, and whether it took the records at all.
    pub(crate) fn audited(&self, took: Duration, written: bool) {
        self.audit_seconds.observe(took.as_secs_f64());
        if !written {
            self.audit_failures.inc();
        }
    }

    /// Whether a call was refused for want of room within the last `window`.
    pub(super) fn overloaded_within(&self, window: Duration) -> bool {
        let at_ms = self.overloaded_ms.load(Ordering::Relaxed);
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        at_ms != 0 && self.now_ms().saturating_sub(at_ms - 1) < window_ms
    }

    /// Everything in OpenMetrics' text form.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry).expect("a string takes all that is written to it");
        text
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("calls", "gRPC calls by method and outcome", self.calls.clone());
        registry.register_with_unit(
            "call",
            "Time from a call's arrival to its answer",
            Unit::Seconds,
            self.call_seconds.clone(),
        );
        registry.register("calls_in_flight", "Calls under way", self.in_flight.clone());
        registry.register(
            "key_operations",
            "EDEKs and keys that were worked on, by operation, key and outcome, as the audit log has them",
            self.key_operations.clone(),
        );
        registry.register_with_unit(
            "audit_write",
            "Time that a call waited for its audit records to be on disk",
            Unit::Seconds,
            self.audit_seconds.clone(),
        );
        registry.register(
            "audit_failures",
            "Calls that were refused because the audit log could not take them",
            self.audit_failures.clone(),
        );
    }

    fn label(&self, key: &str) -> String {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.contains(key) {
            return key.to_owned();
        }
        if keys.len() >= KEYS_LABELLED_MAX {
            return OTHER_KEYS.to_owned();
        }
        keys.insert(key.to_owned());
        key.to_owned()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A call under way.
pub(super) struct InFlight(Gauge<i64, AtomicI64>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// 50 µs to 13 s, each bucket 1.75 times the one before.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(50e-6, 1.75, 23))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Outcome;

    #[test]
    fn many_keys_share_a_name_in_the_end() {
        let metrics = Metrics::new();
        for n in 0..KEYS_LABELLED_MAX + 5 {
            let mut entry = Entry::of_service("service kms", "mint");
            entry.key = Some(format!("key-{n}"));
            entry.count = Some(2);
            entry.outcome = Outcome::Allowed;
            metrics.recorded(&[entry]);
        }
        let text = metrics.render();
        let line = |key: &str| {
            format!("strongroom_kms_key_operations_total{{operation=\"mint\",key=\"{key}\",outcome=\"allowed\"}}")
        };
        assert!(text.contains(&format!("{} 2\n", line("key-7"))), "{text}");
        assert!(text.contains(&format!("{} 10\n", line(OTHER_KEYS))), "five keys of two");
        assert_eq!(text.matches("key=\"key-").count(), KEYS_LABELLED_MAX);
    }

    #[test]
    fn overload_is_remembered_for_a_while() {
        let metrics = Metrics::new();
        assert!(!metrics.overloaded_within(Duration::from_secs(5)));
        metrics.called("Mint/Mint", "token-unavailable", Duration::ZERO);
        assert!(!metrics.overloaded_within(Duration::from_secs(5)));
        metrics.called("Mint/Mint", "overloaded", Duration::ZERO);
        assert!(metrics.overloaded_within(Duration::from_secs(5)));
        assert!(!metrics.overloaded_within(Duration::ZERO));
    }
}
