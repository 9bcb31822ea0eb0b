//! What is measured of each token.

use std::time::Duration;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use strongroom_proto::Failure;

use super::{Fleet, Health, TokenReport};

/// The token that a measurement is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfToken {
    token: String,
}

/// A token, and a word of `strongroom_proto::Reason`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFailure {
    token: String,
    reason: &'static str,
}

/// Counts calls of every token.
#[derive(Debug)]
pub(super) struct Meter {
    seconds: Family<OfToken, Histogram>,
    failures: Family<OfFailure, Counter>,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            // 50 µs to 13 s, each bucket 1.75 times the one before.
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(50e-6, 1.75, 23))),
            failures: Family::default(),
        }
    }

    /// A token was done with a call after `took`, its queue included, or failed it.
    pub(super) fn called(&self, token: &str, took: Duration, failure: Option<&Failure>) {
        let token = token.to_owned();
        match failure {
            None => {
                let labels = OfToken { token };
                self.seconds.get_or_create(&labels).observe(took.as_secs_f64());
            }
            Some(failure) => {
                let reason = failure.reason.as_str();
                self.failures.get_or_create(&OfFailure { token, reason }).inc();
            }
        }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "token_call",
            "Time that a token took over a call that it did, waiting included",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register(
            "token_failures",
            "Calls that a token failed, by reason; with several tokens another one did most of them",
            self.failures.clone(),
        );
    }
}

impl Fleet {
    /// Adds what is measured of the tokens.
    pub(super) fn measure(&self, registry: &mut Registry) {
        self.meter().register(registry);
        registry.register_collector(Box::new(Standing(self.clone())));
    }
}

/// How the tokens stand when somebody asks.
#[derive(Debug)]
struct Standing(Fleet);

impl prometheus_client::collector::Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let reports = self.0.report();
        let mut gauge = |name: &str, help: &str, value: fn(&TokenReport) -> i64| {
            let value = |report: &TokenReport| (report.label.clone(), value(report));
            encode(&mut encoder, name, help, reports.iter().map(value))
        };
        gauge("token_serving", "1 while calls go to the token", |report| {
            i64::from(report.health == Health::Serving)
        })?;
        gauge("token_out", "1 while the token is taken out by an alarm", |report| {
            i64::from(matches!(report.health, Health::Out(_)))
        })?;
        gauge(
            "token_calls",
            "Calls that wait for the token or are under way in it",
            |report| report.calls as i64,
        )?;
        gauge("token_items", "EDEKs in those calls", |report| report.items as i64)?;
        gauge("token_versions_held", "Key versions that the token holds", |report| {
            report.held as i64
        })?;
        gauge(
            "token_versions_lacking",
            "Key versions that the token should hold and does not",
            |report| report.lacking as i64,
        )
    }
}

fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (String, i64)>,
) -> Result<(), std::fmt::Error> {
    let gauge = ConstGauge::new(0_i64);
    let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
    for (token, value) in values {
        ConstGauge::new(value).encode(family.encode_family(&OfToken { token })?)?;
    }
    Ok(())
}
