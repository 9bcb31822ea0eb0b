//! The metadata role's configuration file.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use strongroom_kv::StoreConfig;
use strongroom_proto::{
    config::{self, ConfigError},
    groups::GroupName,
    transport::{Remotes, TlsFiles, UserName},
};

/// Everything that the metadata service is told. Paths are absolute once loaded.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its certificate, key and CA.
    pub tls: TlsFiles,
    /// Where the capability key is, and the store unless it is a database.
    pub data_dir: PathBuf,
    /// The engine of the store.
    #[serde(default)]
    pub store: StoreConfig,
    /// The key service.
    pub kms: Remotes,
    /// Users whom no permission of the namespace stops, and who alone may make zones and re-encrypt them. The first owns the root
    /// directory when a namespace begins.
    pub superusers: Vec<UserName>,
    /// The group whose members are superusers, too.
    #[serde(default = "supergroup", deserialize_with = "group")]
    pub supergroup: GroupName,
    /// Who is in which group, `group = ["user", "user"]`; the key service reads the same. Without it nobody is in any.
    #[serde(default)]
    pub groups: Option<PathBuf>,
    /// What has defaults.
    #[serde(default)]
    pub settings: Settings,
}

/// What has a sane default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Replicas wanted of each block.
    pub replicas: u32,
    /// Replicas that must be durable before a block counts as written.
    pub min_replicas: u32,
    /// How long a writer may be silent before its file is given up, in milliseconds.
    pub lease_ms: u64,
    /// How long a capability is good for, in milliseconds.
    pub capability_ms: u64,
    /// EDEKs held ready per zone when the stock is full.
    pub stock_edeks: usize,
    /// EDEKs below which a zone's stock is filled up again.
    pub stock_low_edeks: usize,
    /// Age at which an EDEK in stock is dropped, in milliseconds.
    pub stock_age_ms: u64,
    /// How often the key service is asked whether a key with EDEKs in stock was rolled, in milliseconds.
    pub stock_look_ms: u64,
    /// How long a create waits for an EDEK when there is none, in milliseconds.
    pub mint_wait_ms: u64,
    /// Silence after which a block node is asked for nothing more until it reports again, in milliseconds.
    pub node_silence_ms: u64,
    /// Silence after which a block node's replicas no longer count and are made anew elsewhere, in milliseconds.
    pub node_gone_ms: u64,
    /// How long a block node has to answer a command before it is sent again, in milliseconds.
    pub command_timeout_ms: u64,
    /// Zones being re-encrypted at once.
    pub reencryptions: usize,
    /// Files that one user may have open to write.
    pub open_files_per_user: u32,
    /// How often block nodes' disks are compared with what is recorded, in milliseconds; 0 for never.
    pub inventory_ms: u64,
    /// How old a block on a disk is before it is deleted because nothing that is recorded needs it, in milliseconds.
    pub stray_ms: u64,
    /// How many blocks of a node, of any age, may be needed by nothing for the old ones to be deleted without a superuser's word; if so
    /// many percent of what it has are more, those.
    pub stray_blocks_max: u64,
    /// The percentage.
    pub stray_percent_max: u64,
    /// How long a checkpoint of what was removed is kept, in milliseconds; 0 for no trash.
    pub trash_ms: u64,
    /// How long what is removed is gathered for one checkpoint, in milliseconds; 0 for as long as one is kept.
    pub trash_checkpoint_ms: u64,
    /// Whether files may be written outside of every zone, where they are not encrypted.
    pub plain_files: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replicas: 3,
            min_replicas: 2,
            lease_ms: 600_000,
            capability_ms: 600_000,
            stock_edeks: 100,
            stock_low_edeks: 30,
            stock_age_ms: 12 * 3_600_000,
            stock_look_ms: 60_000,
            mint_wait_ms: 5_000,
            node_silence_ms: 5_000,
            node_gone_ms: 600_000,
            command_timeout_ms: 10_000,
            reencryptions: 4,
            open_files_per_user: 1000,
            inventory_ms: 6 * 3_600_000,
            stray_ms: 24 * 3_600_000,
            stray_blocks_max: 20,
            stray_percent_max: 1,
            trash_ms: 24 * 3_600_000,
            trash_checkpoint_ms: 0,
            plain_files: false,
        }
    }
}

impl Config {
    /// Reads and checks a configuration file. Relative paths in it are taken from its directory.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        config::load(path, "metadata.sample.toml", |config: Self, base| {
            match config.settings.broken_rule() {
                Some(rule) => Err(rule),
                None if config.superusers.is_empty() => Err("superusers must name at least one user"),
                None => Ok(Self {
                    tls: config.tls.relative_to(base),
                    data_dir: base.join(&config.data_dir),
                    store: config.store.relative_to(base),
                    groups: config.groups.map(|groups| base.join(groups)),
                    ..config
                }),
            }
        })
    }
}

impl Settings {
    fn broken_rule(&self) -> Option<&'static str> {
        let rules = [
            (
                // A chain of block nodes is no longer.
                (1..=9).contains(&self.replicas),
                "settings.replicas must be from 1 to 9",
            ),
            (
                (1..=self.replicas).contains(&self.min_replicas),
                "settings.min_replicas must be from 1 to settings.replicas",
            ),
            (
                (1..=1000).contains(&self.stock_edeks),
                "settings.stock_edeks must be from 1 to 1000",
            ),
            (
                self.stock_low_edeks <= self.stock_edeks,
                "settings.stock_low_edeks must not exceed settings.stock_edeks",
            ),
            (
                // Each time leaves a record in the key service's audit log.
                self.stock_look_ms >= 1_000,
                "settings.stock_look_ms must be at least 1000",
            ),
            (
                // Writers renew once a minute at the latest.
                self.lease_ms >= 120_000,
                "settings.lease_ms must be at least 120000",
            ),
            (
                self.capability_ms >= 10_000,
                "settings.capability_ms must be at least 10000",
            ),
            (
                self.mint_wait_ms <= 20_000,
                "settings.mint_wait_ms must be at most 20000",
            ),
            (
                self.node_gone_ms > self.node_silence_ms,
                "settings.node_gone_ms must be more than settings.node_silence_ms",
            ),
            (
                (1..=64).contains(&self.reencryptions),
                "settings.reencryptions must be from 1 to 64",
            ),
            (
                self.open_files_per_user >= 1,
                "settings.open_files_per_user must be at least 1",
            ),
            (
                self.inventory_ms == 0 || self.inventory_ms >= 1_000,
                "settings.inventory_ms must be 0 or at least 1000",
            ),
            (
                self.stray_percent_max <= 100,
                "settings.stray_percent_max must be at most 100",
            ),
            (
                // A look at all trashes takes its time, and names of checkpoints differ by seconds.
                self.trash_ms == 0 || self.trash_ms >= 60_000,
                "settings.trash_ms must be 0 or at least 60000",
            ),
            (
                // So many checkpoints are looked at.
                self.trash_checkpoint_ms == 0
                    || (60_000..=self.trash_ms).contains(&self.trash_checkpoint_ms)
                        && self.trash_ms / self.trash_checkpoint_ms <= 1000,
                "settings.trash_checkpoint_ms must be 0, or from 60000 to settings.trash_ms and at least a thousandth of it",
            ),
        ];
        rules.into_iter().find_map(|(kept, rule)| (!kept).then_some(rule))
    }
}

/// HDFS' name for it.
fn supergroup() -> GroupName {
    "supergroup".parse().expect("a valid name")
}

fn group<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<GroupName, D::Error> {
    String::deserialize(deserializer)?
        .parse()
        .map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_parses_and_says_the_defaults() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("metadata.sample.toml");
        let config = Config::load(&path).expect("the sample is valid");
        assert_eq!(config.settings, Settings::default());
        assert!(config.data_dir.is_absolute() && config.tls.ca.is_absolute());
        assert_eq!((config.superusers.len(), config.supergroup), (1, supergroup()));
        assert!(config.groups.is_some_and(|groups| groups.is_absolute()));
        assert!(
            matches!(&config.store, StoreConfig::Postgres(store) if store.url_file.is_absolute()),
            "the sample shows the table of the key service"
        );
    }

    #[test]
    fn broken_files_are_refused_with_the_rule() {
        let sample = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("metadata.sample.toml"))
            .expect("the sample is there");
        let dir = tempfile::tempdir().expect("a directory");
        for (from, to, expected) in [
            ("replicas = 3\n", "replicas = 0\n", "from 1 to 9"),
            ("node_gone_ms = 600000", "node_gone_ms = 5000", "settings.node_gone_ms"),
            ("min_replicas = 2", "min_replicas = 4", "settings.min_replicas"),
            ("trash_ms = 86400000", "trash_ms = 100", "settings.trash_ms"),
            ("trash_checkpoint_ms = 0", "trash_checkpoint_ms = 60000", "a thousandth"),
            ("[settings]", "[settings]\nnonsense = 1", "is not valid"),
            ("[\"fsadmin\"]", "[\"a/b\"]", "is not valid"),
            ("[\"fsadmin\"]", "[]", "at least one"),
            ("kms = \"kms.example.org:7600\"\n", "", "is not valid"),
            ("\"supergroup\"", "\"\"", "is not valid"),
        ] {
            let path = dir.path().join("metadata.toml");
            assert!(sample.contains(from), "the sample lacks {from}");
            std::fs::write(&path, sample.replacen(from, to, 1)).expect("writable");
            let error = Config::load(&path).expect_err(to).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
