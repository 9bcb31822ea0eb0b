//! The table `[redundancy]` of the key service's configuration.

use std::time::Duration;

/// How several tokens come to hold the same keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Redundancy {
    /// Strongroom clones each new version from the token that made it to all others, wrapped under an RSA key that only
    /// the destination can use. Keys are extractable in no other way.
    #[default]
    Clone,
    /// The tokens replicate what one of them makes by themselves: keys are not extractable at all.
    ReplicatedByHsm,
}

/// How the tokens are used together. Every field has a default that suits two tokens in one building.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedundancyConfig {
    /// How a version comes to be in every token. Without effect on a single token, whose keys are not extractable.
    pub mode: Redundancy,
    /// With `replicated-by-hsm`: how long tokens may take to show a new version that one of them made.
    pub replication_wait_s: u64,
    /// Pause between two comparisons of the tokens.
    pub check_interval_s: u64,
    /// How long a call may have to wait for a token: one that would wait longer everywhere is refused at once.
    pub queue_wait_ms_max: u64,
    /// A token that has answered nothing for that long while a call waits gets company: the call is also made on another.
    pub hedge_after_ms: u64,
    /// Whether a token that lacks versions gets them without being asked: `strongroom token resync` whenever a comparison finds
    /// that it lacks some.
    pub auto_resync: bool,
}

impl Default for RedundancyConfig {
    fn default() -> Self {
        Self {
            mode: Redundancy::default(),
            replication_wait_s: 30,
            check_interval_s: 60,
            queue_wait_ms_max: 2000,
            hedge_after_ms: 300,
            auto_resync: false,
        }
    }
}

impl RedundancyConfig {
    pub(super) const fn replication_wait(&self) -> Duration {
        Duration::from_secs(self.replication_wait_s)
    }

    pub(super) const fn check_interval(&self) -> Duration {
        Duration::from_secs(self.check_interval_s)
    }

    pub(super) const fn queue_wait_max(&self) -> Duration {
        Duration::from_millis(self.queue_wait_ms_max)
    }

    pub(super) const fn hedge_after(&self) -> Duration {
        Duration::from_millis(self.hedge_after_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_is_the_default() {
        let config: RedundancyConfig = toml::from_str("").expect("valid");
        assert_eq!(config, RedundancyConfig::default());
        let config: RedundancyConfig = toml::from_str("mode = 'replicated-by-hsm'\nauto_resync = true").expect("valid");
        assert_eq!((config.mode, config.auto_resync), (Redundancy::ReplicatedByHsm, true));
        assert!(toml::from_str::<RedundancyConfig>("mode = 'none'").is_err());
    }
}
