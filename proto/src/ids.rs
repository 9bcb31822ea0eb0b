//! Typed ids and names. Wire fields become these at the edge and stay these inside.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// A wire or command-line value that is not what it should be; says what, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct ParseError {
    what: &'static str,
    value: String,
    rule: &'static str,
}

impl ParseError {
    /// Values longer than 64 characters are cut, so that an error stays a line.
    pub(crate) fn new(what: &'static str, value: &str, rule: &'static str) -> Self {
        let value = match value.char_indices().nth(64) {
            Some((cut, _)) => format!("{}…", &value[..cut]),
            None => value.to_owned(),
        };
        Self { what, value, rule }
    }
}

/// The name of an EZ key: 1 to 128 characters of `A-Z a-z 0-9 . _ -`, starting with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyName(String);

impl KeyName {
    const RULE: &'static str = "1 to 128 characters of A-Z a-z 0-9 . _ -, starting with a letter or digit";

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        if is_name(s, 128) {
            Ok(Self(s.to_owned()))
        } else {
            Err(ParseError::new("key name", s, Self::RULE))
        }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a block node: 1 to 64 characters of `A-Z a-z 0-9 . _ -`, starting with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(String);

impl NodeId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        const RULE: &str = "1 to 64 characters of A-Z a-z 0-9 . _ -, starting with a letter or digit";
        if is_name(s, 64) {
            Ok(Self(s.to_owned()))
        } else {
            Err(ParseError::new("node id", s, RULE))
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn is_name(s: &str, bytes_max: usize) -> bool {
    s.len() <= bytes_max
        && s.starts_with(|c: char| c.is_ascii_alphanumeric())
        && s.chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// The version of an EZ key, from 0, written `name@version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyVersion(pub u32);

impl KeyVersion {
    /// The version a roll makes.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident, $what:literal, $make:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// A new id.
            #[must_use]
            pub fn generate() -> Self {
                let make: fn() -> Uuid = $make;
                Self(*make().as_bytes())
            }

            /// The id whose bytes these are.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes of the id.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = ParseError;

            fn try_from(bytes: &[u8]) -> Result<Self, ParseError> {
                bytes
                    .try_into()
                    .map(Self)
                    .map_err(|_| ParseError::new($what, &hex::encode(bytes), "16 bytes"))
            }
        }

        impl From<$name> for bytes::Bytes {
            fn from(id: $name) -> Self {
                Self::copy_from_slice(&id.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

id128! {
    /// A zone, for ever: it keeps its id through renames. Random, because EDEKs are bound to it.
    ZoneId, "zone id", Uuid::new_v4
}
id128! {
    /// A file or directory (an inode), through renames. Time-ordered, so that new ones sit together in the store.
    FileId, "file id", Uuid::now_v7
}
id128! {
    /// An extent: what one client writes in one go.
    ExtentId, "extent id", Uuid::now_v7
}
id128! {
    /// Long work of the metadata service. Time-ordered, so that a list shows the oldest first.
    JobId, "job id", Uuid::now_v7
}
id128! {
    /// A directory's quota, from when it is set until it is cleared.
    QuotaId, "quota id", Uuid::new_v4
}
id128! {
    /// A caller's own id of a request, by which a repeat is known. Time-ordered, so that the answers that a store keeps under them sit
    /// together: spread over all of it, they cost more than all else that a new file writes (ADR 43). No secret, and no [nonce](crate::sealed::nonce).
    RequestId, "request id", Uuid::now_v7
}

id128! {
    /// A block node's data directory, drawn when it is made: a node that comes back with an emptied disk has another.
    Incarnation, "incarnation", Uuid::new_v4
}

impl FromStr for Incarnation {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let bytes = hex::decode(s).ok().and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| ParseError::new("incarnation", s, "32 hexadecimal digits"))
    }
}

/// A block: one piece of an extent's ciphertext. Never written twice with different bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId {
    /// The extent that the block is part of.
    pub extent: ExtentId,
    /// Position in the extent, from 0.
    pub index: u32,
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.extent, self.index)
    }
}

impl FromStr for BlockId {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let parsed = s.split_once('-').and_then(|(extent, index)| {
            let extent: [u8; 16] = hex::decode(extent).ok()?.try_into().ok()?;
            let extent = ExtentId::from_bytes(extent);
            let id = Self {
                extent,
                index: index.parse().ok()?,
            };
            // One id has one name.
            (id.to_string() == s).then_some(id)
        });
        parsed.ok_or_else(|| ParseError::new("block id", s, "the extent in 32 hexadecimal digits, -, and the index"))
    }
}

/// How an EDEK is wrapped. Fixed per key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EdekSuite {
    /// Strict: AES key wrap (RFC 3394) under a wrapping key that the token derives per zone from the EZ
    /// key; a DEK is minted and re-wrapped without leaving the token in the clear.
    #[default]
    Kw,
    /// Fast: AES-256-GCM under the EZ key itself, with name, version and zone as additional data. The DEK passes through
    /// the token worker's memory.
    Gcm,
    /// AES-CTR exactly as Hadoop's key service does it, for keys that serve Hadoop: nothing tells whether an EDEK was
    /// changed, and no zone is bound.
    Hadoop,
}

impl EdekSuite {
    /// Every suite, the ones to be preferred first.
    pub const ALL: [Self; 3] = [Self::Kw, Self::Gcm, Self::Hadoop];

    /// The suite's name on the wire, in the token and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kw => "kw",
            Self::Gcm => "gcm",
            Self::Hadoop => "hadoop",
        }
    }
}

impl FromStr for EdekSuite {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let named = Self::ALL.into_iter().find(|suite| suite.as_str() == s);
        named.ok_or_else(|| ParseError::new("EDEK suite", s, "known suites: kw, gcm, hadoop"))
    }
}

impl fmt::Display for EdekSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How file bytes are encrypted. Fixed per zone; what is in none may be [`Self::Plain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DataSuite {
    /// Authenticated: AES-256-GCM in frames, tags bound to file, extent and position.
    #[default]
    Gcm,
    /// AES-CTR, for files that HDFS is to read as they are: nothing shows that bytes were changed. For zones under a key of
    /// [`EdekSuite::Hadoop`].
    CtrHdfs,
    /// Not encrypted: for files that are in no zone, or were not before it adopted them.
    Plain,
}

impl DataSuite {
    /// Every suite that a zone can have, the ones to be preferred first.
    pub const ALL: [Self; 2] = [Self::Gcm, Self::CtrHdfs];

    /// The suite's name on the wire and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gcm => "gcm",
            Self::CtrHdfs => "ctr-hdfs",
            Self::Plain => "plain",
        }
    }
}

impl FromStr for DataSuite {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let mut all = Self::ALL.into_iter().chain([Self::Plain]);
        let named = all.find(|suite| suite.as_str() == s);
        named.ok_or_else(|| ParseError::new("data suite", s, "known suites: gcm, ctr-hdfs"))
    }
}

impl fmt::Display for DataSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_one_name() {
        let block = BlockId {
            extent: ExtentId::from_bytes([0xab; 16]),
            index: 7,
        };
        assert_eq!(block.to_string().parse(), Ok(block));
        let name = block.to_string();
        for other in [
            name.to_uppercase(),
            name.replace("-7", "-07"),
            name.replace("-7", "-+7"),
            name.replace('-', ""),
            String::new(),
        ] {
            other.parse::<BlockId>().expect_err("not its name");
        }
    }

    #[test]
    fn suites_have_one_word_each() {
        for suite in EdekSuite::ALL {
            assert_eq!(suite.to_string().parse(), Ok(suite));
        }
        for suite in DataSuite::ALL {
            assert_eq!(suite.to_string().parse(), Ok(suite));
            let refusal = "rot13".parse::<DataSuite>().expect_err("not a suite").to_string();
            assert!(refusal.contains(suite.as_str()), "{refusal}");
        }
        assert_eq!("plain".parse(), Ok(DataSuite::Plain));
        let refusal = "rot13".parse::<EdekSuite>().expect_err("not a suite").to_string();
        for suite in EdekSuite::ALL {
            assert!(refusal.contains(suite.as_str()), "{refusal}");
        }
    }
}
