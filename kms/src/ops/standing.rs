//! What is read off the service's parts when somebody asks for the measurements.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
};
use tokio::sync::watch;

use crate::{audit::Signing, policy::PolicyStatus};

/// The parts that are looked at.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) policy: watch::Receiver<PolicyStatus>,
    pub(crate) signing: watch::Receiver<Signing>,
    /// Whether the token is up and compared with the store.
    pub(crate) compared: watch::Receiver<bool>,
}

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let policy = self.policy.borrow();
        let signing = self.signing.borrow();
        for (name, help, value) in [
            (
                "ready",
                "1 while a token is up and compared with the store",
                i64::from(*self.compared.borrow()),
            ),
            (
                "policy_broken",
                "1 while the policy files on disk cannot be used and the set before them is in force",
                i64::from(policy.broken.is_some()),
            ),
            (
                "policy_loaded_timestamp_seconds",
                "When the policies in force were read, in seconds since 1970",
                policy.loaded_at.as_second(),
            ),
            (
                "audit_signing_paused",
                "1 while no token signs the audit log's head",
                i64::from(signing.paused.is_some()),
            ),
            (
                "audit_signed_records",
                "The last audit record that a signature of this run speaks of",
                i64::try_from(signing.signed_seq).unwrap_or(i64::MAX),
            ),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
