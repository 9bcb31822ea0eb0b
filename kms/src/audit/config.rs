//! `[audit]` of the key service's configuration.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

/// When segments end, when checkpoints are made and how long a call waits for its record. Every field has a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// A segment that has so many bytes is followed by the next: 4 KiB to 4 GiB.
    #[serde(deserialize_with = "segment_bytes")]
    pub segment_bytes: u64,
    /// Records after which a checkpoint is made, 1 to 10,000.
    #[serde(deserialize_with = "checkpoint_records")]
    pub checkpoint_records: u64,
    /// Seconds after which a checkpoint is made if there are new records, 1 to 86,400.
    #[serde(deserialize_with = "checkpoint_s")]
    pub checkpoint_s: u64,
    /// How long a call waits until its record is on disk before it fails, 100 to 10,000 ms.
    #[serde(deserialize_with = "wait_ms")]
    pub wait_ms: u64,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 256 << 20,
            checkpoint_records: 10_000,
            checkpoint_s: 60,
            wait_ms: 2000,
        }
    }
}

impl AuditConfig {
    /// [`Self::wait_ms`].
    #[must_use]
    pub const fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms)
    }

    /// [`Self::checkpoint_s`].
    #[must_use]
    pub const fn checkpoint_every(&self) -> Duration {
        Duration::from_secs(self.checkpoint_s)
    }
}

fn segment_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    within(deserializer, 4 << 10, 4 << 30)
}

fn checkpoint_records<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    within(deserializer, 1, 10_000)
}

fn checkpoint_s<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    within(deserializer, 1, 86_400)
}

fn wait_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    within(deserializer, 100, 10_000)
}

fn within<'de, D: Deserializer<'de>>(deserializer: D, least: u64, most: u64) -> Result<u64, D::Error> {
    let value = u64::deserialize(deserializer)?;
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(D::Error::custom(format!("{value} is not within {least} and {most}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_a_default_and_a_range() {
        let parse = |text: &str| toml::from_str::<AuditConfig>(text);
        assert_eq!(parse("").expect("empty"), AuditConfig::default());
        assert_eq!(
            parse("wait_ms = 100").expect("the least").wait(),
            Duration::from_millis(100)
        );
        for bad in [
            "segment_bytes = 4095",
            "checkpoint_records = 0",
            "checkpoint_s = 0",
            "wait_ms = 99",
            "off = true",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
