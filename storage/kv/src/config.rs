//! Which engine a service keeps its state in, as its configuration says it.

use std::path::{Path, PathBuf};

/// The table `[store]` of a service's configuration. Without it the engine is the embedded one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(tag = "engine", rename_all = "lowercase", deny_unknown_fields)]
pub enum StoreConfig {
    /// One file in the service's data directory, for one process.
    Embedded {},
    /// A PostgreSQL database, for one or several instances of the service.
    Postgres(PostgresConfig),
}

/// How a PostgreSQL database is reached.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// A file with the URL and its password, for its owner's eyes only (mode 600):
    /// `postgres://user:password@host:5432/database`. Several hosts may be named, the one that takes writes is used.
    pub url_file: PathBuf,
    /// The CA that the server's certificate must come from, for the host of the URL (`verify-full`). Only a server on
    /// this machine may go without, and only if the URL ends in `?sslmode=disable`.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Connections kept open at most.
    #[serde(default = "connections_default")]
    pub connections: usize,
    /// How long connecting may take, and waiting for a free connection.
    #[serde(default = "connect_timeout_default")]
    pub connect_timeout_ms: u64,
    /// How long the database may take over one statement.
    #[serde(default = "statement_timeout_default")]
    pub statement_timeout_ms: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self::Embedded {}
    }
}

impl StoreConfig {
    /// Takes relative paths from `base`.
    #[must_use]
    pub fn relative_to(self, base: &Path) -> Self {
        match self {
            Self::Embedded {} => self,
            Self::Postgres(config) => Self::Postgres(PostgresConfig {
                url_file: base.join(config.url_file),
                ca: config.ca.map(|ca| base.join(ca)),
                ..config
            }),
        }
    }
}

const fn connections_default() -> usize {
    16
}

const fn connect_timeout_default() -> u64 {
    5_000
}

const fn statement_timeout_default() -> u64 {
    10_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_one_engine_and_nothing_else() {
        assert_eq!(
            toml::from_str(r#"engine = "embedded""#).ok(),
            Some(StoreConfig::default())
        );
        let parsed: StoreConfig =
            toml::from_str("engine = 'postgres'\nurl_file = 'kms.url'\nca = '/etc/ca.pem'").expect("a configuration");
        let StoreConfig::Postgres(config) = parsed.relative_to(Path::new("/etc/strongroom")) else {
            panic!("not PostgreSQL");
        };
        assert_eq!(config.url_file, Path::new("/etc/strongroom/kms.url"));
        assert_eq!(config.ca.as_deref(), Some(Path::new("/etc/ca.pem")));
        assert_eq!((config.connections, config.connect_timeout_ms), (16, 5_000));
        for wrong in [
            "",
            "engine = 'sqlite'",
            "engine = 'embedded'\nurl_file = 'x'",
            "engine = 'postgres'",
            "engine = 'postgres'\nurl_file = 'x'\npassword = 'y'",
        ] {
            assert!(toml::from_str::<StoreConfig>(wrong).is_err(), "{wrong}");
        }
    }
}
