use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Remote;
use crate::ParseError;

/// Where the instances of a service are, any of which may be called: `host:port`, or several of them separated by commas.
/// In configurations also a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Remotes(Arc<[Remote]>);

impl Remotes {
    /// Each address.
    pub fn iter(&self) -> impl Iterator<Item = &Remote> {
        self.0.iter()
    }

    /// The addresses, at least one, beginning with the one at `first` and going round.
    pub(super) fn round_from(&self, first: usize) -> impl Iterator<Item = &Remote> {
        let start = first % self.0.len();
        self.0[start..].iter().chain(&self.0[..start])
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }
}

impl From<&Remote> for Remotes {
    fn from(remote: &Remote) -> Self {
        Self([remote.clone()].into())
    }
}

impl FromStr for Remotes {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        s.split(',')
            .map(|remote| remote.trim().parse())
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for Remotes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remotes: Vec<String> = self.0.iter().map(Remote::to_string).collect();
        f.write_str(&remotes.join(","))
    }
}

/// How a configuration may say it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    List(Vec<Remote>),
}

impl<'de> Deserialize<'de> for Remotes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
            Written::List(list) if list.is_empty() => Err(serde::de::Error::custom("at least one address is needed")),
            Written::List(list) => Ok(Self(list.into())),
        }
    }
}

impl Serialize for Remotes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instance_gets_its_turn() {
        let remotes: Remotes = "a:1, b:2,c:3".parse().expect("addresses");
        let turn = |first| remotes.round_from(first).map(Remote::to_string).collect::<Vec<_>>();
        assert_eq!(turn(0), ["a:1", "b:2", "c:3"]);
        assert_eq!(turn(4), ["b:2", "c:3", "a:1"]);
        assert_eq!(remotes.to_string(), "a:1,b:2,c:3");
        assert!("a:1,,b:2".parse::<Remotes>().is_err());
    }
}
