use std::{
    fmt::Display,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Deserializer};
use strongroom_proto::{
    NodeId,
    config::{self, ConfigError},
    transport::{Remote, Remotes, TlsFiles},
};

/// How a block node runs; `block.sample.toml` explains every field.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node's name in the cluster; its certificate must carry the same.
    #[serde(deserialize_with = "from_text")]
    pub node_id: NodeId,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where clients and other nodes reach it.
    pub advertise: Remote,
    /// The metadata service that it reports to, every instance of it.
    pub metadata: Remotes,
    /// The directory that holds its blocks, for this node alone.
    pub data_dir: PathBuf,
    /// Bytes of the disk that blocks leave free.
    #[serde(default = "default_reserve_bytes")]
    pub reserve_bytes: u64,
    /// Certificate, key and CA.
    pub tls: TlsFiles,
}

impl Config {
    /// Reads a configuration. Relative paths in it are taken from the file's directory.
    ///
    /// # Errors
    /// Says which line is not valid.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        config::load(path, "block.sample.toml", |config: Self, base| {
            Ok(Self {
                data_dir: base.join(&config.data_dir),
                tls: config.tls.relative_to(base),
                ..config
            })
        })
    }
}

const fn default_reserve_bytes() -> u64 {
    64 << 20
}

fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    String::deserialize(deserializer)?
        .parse()
        .map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("block.sample.toml")
    }

    #[test]
    fn the_sample_is_valid_and_its_paths_are_relative_to_it() {
        let config = Config::load(&sample()).expect("valid");
        assert_eq!(config.node_id.as_str(), "node-1");
        assert_eq!(config.reserve_bytes, 1 << 30);
        assert_eq!(config.tls.ca, Path::new(env!("CARGO_MANIFEST_DIR")).join("tls/ca.pem"));
        assert!(config.data_dir.is_absolute());
    }

    #[test]
    fn mistakes_are_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("block.toml");
        let text = std::fs::read_to_string(sample()).expect("sample");
        for (from, to, mention) in [
            (
                "node_id = \"node-1\"",
                "node_id = \"a/b\"",
                "node id \"a/b\" is not valid",
            ),
            ("reserve_bytes", "reserved_bytes", "unknown field `reserved_bytes`"),
            ("listen = ", "# listen = ", "missing field `listen`"),
            ("advertise = \"", "advertise = \"nowhere", "host:port"),
        ] {
            let changed = text
                .replace(from, to)
                .replace("nowherenode-1.example.org:7720", "nowhere");
            std::fs::write(&path, changed).expect("write");
            let ConfigError::Parse { source, .. } = Config::load(&path).expect_err("refused") else {
                panic!("{from} is not a parse error");
            };
            assert!(
                source.to_string().contains(mention),
                "{source} does not mention {mention}"
            );
        }
        assert!(matches!(
            Config::load(&directory.path().join("none")),
            Err(ConfigError::Read { .. })
        ));
    }
}
