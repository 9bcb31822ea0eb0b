//! The key service's configuration file.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use strongroom_kv::StoreConfig;
use strongroom_proto::{
    config::{self, ConfigError},
    limits::CONNECTION_AGE_MAX,
    transport::TlsFiles,
};

use crate::{
    BearerConfig, MetricsConfig, TracesConfig,
    audit::AuditConfig,
    fleet::RedundancyConfig,
    keys::{Quorum, ROLL_AFTER_DEFAULT, USES_MAX},
    policy::PolicyFiles,
    token::{SealedConfig, TokenConfig},
};

/// The configuration, `kms.sample.toml` being its manual. Relative paths are taken from the file's directory.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the service listens.
    pub listen: SocketAddr,
    /// The Cedar policy file.
    pub policy: PathBuf,
    /// Which users are in which group, in TOML.
    #[serde(default)]
    pub groups: Option<PathBuf>,
    /// The directory of the store, the audit log and the tokens' marks of rejected PINs.
    pub data_dir: PathBuf,
    /// Certificate, key and CA.
    pub tls: TlsFiles,
    /// Seconds after which a connection ends in good order, so that its client proves itself anew.
    #[serde(default = "connection_age_max_s")]
    pub connection_age_max_s: NonZeroU32,
    /// A port for callers with bearer tokens; there is none if absent.
    #[serde(default)]
    pub bearer: Option<BearerConfig>,
    /// Where the states of keys are kept.
    #[serde(default)]
    pub store: StoreConfig,
    /// How several instances over one store keep up with each other.
    #[serde(default)]
    pub instances: InstancesConfig,
    /// The audit log.
    #[serde(default)]
    pub audit: AuditConfig,
    /// How keys are rotated and destroyed.
    #[serde(default)]
    pub keys: KeysConfig,
    /// The tokens: one, or several that hold the same keys.
    pub tokens: Vec<TokenConfig>,
    /// How several tokens are used together.
    #[serde(default)]
    pub redundancy: RedundancyConfig,
    /// Where monitoring looks; nowhere if absent.
    #[serde(default)]
    pub metrics: Option<MetricsConfig>,
    /// Where traces of calls are sent; nowhere if absent.
    #[serde(default)]
    pub traces: Option<TracesConfig>,
    /// Sealed delivery; without it there is none.
    #[serde(default)]
    pub sealed: Option<SealedConfig>,
}

fn connection_age_max_s() -> NonZeroU32 {
    let age_s = u32::try_from(CONNECTION_AGE_MAX.as_secs());
    age_s.ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX)
}

/// How several instances over one store keep up with each other: a table `[instances]`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InstancesConfig {
    /// Milliseconds between two looks at the store. What another instance changed is known here that much later.
    pub poll_ms: u16,
}

impl Default for InstancesConfig {
    fn default() -> Self {
        Self { poll_ms: 250 }
    }
}

/// How keys are rotated and destroyed: a table `[keys]`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeysConfig {
    /// Users other than the one who asks that have to approve a destruction where no proofs say that nothing needs the
    /// key any more: 1 to 16.
    pub destroy_approvals: usize,
    /// Whether every destruction needs them, also one that proofs allow.
    pub destroy_approvals_always: bool,
    /// The shortest rotation period in seconds.
    pub rotation_min_seconds: u32,
    /// Uses after which a `gcm` version is rolled by itself: 16 to 2^31, after which it makes no more. An EDEK counts
    /// as 32 uses, and so does a canary for each batch.
    pub gcm_roll_after_uses: u64,
    /// Zones that one key may serve. Each stays on record until the key is destroyed.
    pub zones_max: usize,
}

impl Default for KeysConfig {
    fn default() -> Self {
        Self {
            destroy_approvals: 2,
            destroy_approvals_always: false,
            rotation_min_seconds: 24 * 3600,
            gcm_roll_after_uses: ROLL_AFTER_DEFAULT,
            zones_max: 100_000,
        }
    }
}

impl KeysConfig {
    /// Approvals that destructions need.
    pub(crate) fn quorum(&self) -> Quorum {
        Quorum {
            approvals: self.destroy_approvals.clamp(1, 16),
            always: self.destroy_approvals_always,
        }
    }

    /// Uses after which a `gcm` version is rolled.
    pub(crate) fn gcm_roll_after(&self) -> u64 {
        self.gcm_roll_after_uses.clamp(16, USES_MAX)
    }

    /// The shortest rotation period in milliseconds; never 0.
    pub(crate) fn rotation_min_ms(&self) -> u64 {
        u64::from(self.rotation_min_seconds).max(1) * 1000
    }
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// Names the file and, in its source, the line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        config::load(path, "kms.sample.toml", |config: Self, base| {
            Ok(config.relative_to(base))
        })
    }

    /// The files that say who may do what.
    #[must_use]
    pub fn policy_files(&self) -> PolicyFiles {
        PolicyFiles {
            policy: self.policy.clone(),
            groups: self.groups.clone(),
        }
    }

    fn relative_to(self, base: &Path) -> Self {
        let tls = self.tls.relative_to(base);
        let sealed = self.sealed.map(|sealed| sealed.complete(base, tls.ca.clone()));
        let mut tokens: Vec<_> = self.tokens.iter().map(|token| token.relative_to(base)).collect();
        for token in &mut tokens {
            token.sealed.clone_from(&sealed);
        }
        Self {
            listen: self.listen,
            connection_age_max_s: self.connection_age_max_s,
            policy: base.join(self.policy),
            groups: self.groups.map(|groups| base.join(groups)),
            data_dir: base.join(self.data_dir),
            store: self.store.relative_to(base),
            bearer: self.bearer.map(|bearer| bearer.relative_to(base)),
            instances: self.instances,
            audit: self.audit,
            keys: self.keys,
            redundancy: self.redundancy,
            metrics: self.metrics,
            traces: self.traces.map(|traces| traces.relative_to(base)),
            tls,
            tokens,
            sealed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_a_configuration() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kms.sample.toml");
        let config = Config::load(&path).expect("the sample is valid");
        assert_eq!(config.policy, path.with_file_name("policy/sample.cedar"));
        crate::policy::Rules::load(&config.policy_files()).expect("its policies and groups are valid");
        assert!(config.data_dir.is_absolute() && config.tls.ca.is_absolute());
        let sealed = config.tokens[0]
            .sealed
            .clone()
            .expect("the table [sealed] reaches the worker");
        assert_eq!((&sealed.client_ca, sealed.only.len()), (&config.tls.ca, 1));
    }

    #[test]
    fn an_unknown_field_is_an_error_with_its_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("kms.toml");
        std::fs::write(&path, "listen = '127.0.0.1:7600'\ntls_mode = 'off'\n").expect("written");
        let error = Config::load(&path).expect_err("must be refused");
        let source = std::error::Error::source(&error).expect("a source").to_string();
        assert!(source.contains("line 2") && source.contains("tls_mode"), "{source}");
    }
}
