use std::fmt;

use bytes::Bytes;

use crate::{EdekSuite, KeyName, KeyVersion, ParseError, ZoneId, kms::v1 as pb};

/// An encrypted data encryption key with everything that its wrapping is bound to. Not secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Edek {
    /// The EZ key.
    pub key: KeyName,
    /// The version of the EZ key that wraps it.
    pub version: KeyVersion,
    /// The zone it is bound to.
    pub zone: ZoneId,
    /// How it is wrapped.
    pub suite: EdekSuite,
    /// The wrapped bytes: 48 in suite `kw`, 68 in `gcm`, 32 to 48 in `hadoop`.
    pub wrapped: Bytes,
}

impl Edek {
    /// The most wrapped bytes that any suite makes.
    pub const WRAPPED_BYTES_MAX: usize = 128;
}

impl fmt::Debug for Edek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Edek({}@{}, zone {}, {})",
            self.key, self.version, self.zone, self.suite
        )
    }
}

impl TryFrom<pb::Edek> for Edek {
    type Error = ParseError;

    fn try_from(wire: pb::Edek) -> Result<Self, ParseError> {
        if wire.wrapped.is_empty() || wire.wrapped.len() > Self::WRAPPED_BYTES_MAX {
            return Err(ParseError::new(
                "EDEK of",
                &wrapped_summary(&wire),
                "1 to 128 wrapped bytes",
            ));
        }
        Ok(Self {
            key: wire.key_name.parse()?,
            version: KeyVersion(wire.key_version),
            zone: wire.zone_id.as_ref().try_into()?,
            suite: wire.suite.parse()?,
            wrapped: wire.wrapped,
        })
    }
}

fn wrapped_summary(wire: &pb::Edek) -> String {
    format!("{} bytes", wire.wrapped.len())
}

impl From<Edek> for pb::Edek {
    fn from(edek: Edek) -> Self {
        Self {
            key_name: edek.key.as_str().to_owned(),
            key_version: edek.version.0,
            zone_id: edek.zone.into(),
            suite: edek.suite.as_str().to_owned(),
            wrapped: edek.wrapped,
        }
    }
}
