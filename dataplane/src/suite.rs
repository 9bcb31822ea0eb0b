use std::fmt;

use crate::geometry::TAG_BYTES;

/// How the bytes of a file are encrypted. What differs between the suites is asked for here, but for the encryption itself
/// ([`crate::ExtentKey`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suite {
    /// AES-256-GCM in frames: `docs/formats/data-gcm.md`.
    Gcm,
    /// AES-CTR, a file's first extent exactly as HDFS has it: `docs/formats/data-ctr.md`. Nothing shows that bytes were changed.
    CtrHdfs,
    /// Not encrypted at all: there is no DEK, so that nothing is hidden and nobody authenticates anything. For files that stand outside of
    /// every encryption zone, which whoever opens them has to allow ([`crate::ExtentKey::plain`]).
    Plain,
}

impl Suite {
    /// The byte that stands for the suite in additional data and manifests.
    pub(crate) const fn id(self) -> u8 {
        match self {
            Self::Gcm => 1,
            Self::CtrHdfs => 2,
            Self::Plain => 3,
        }
    }

    /// Bytes that a frame grows by when it is sealed.
    #[must_use]
    pub const fn tag_bytes(self) -> u32 {
        match self {
            Self::Gcm => TAG_BYTES,
            Self::CtrHdfs | Self::Plain => 0,
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gcm => "gcm",
            Self::CtrHdfs => "ctr-hdfs",
            Self::Plain => "plain",
        })
    }
}

/// What an extent's key is made of beside the file's DEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seed {
    /// 16 random bytes that the extent's writer drew. The key is derived with them and is this extent's alone.
    Salt([u8; 16]),
    /// The extent is encrypted under the DEK itself, from this initial counter on, as HDFS encrypts a file: only the first
    /// extent of a file of suite [`Suite::CtrHdfs`], and only by the writer that made the file.
    Iv([u8; 16]),
}

impl Seed {
    /// The salt, or the initial counter.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 16] {
        match self {
            Self::Salt(bytes) | Self::Iv(bytes) => bytes,
        }
    }

    /// Whether it is an initial counter.
    #[must_use]
    pub const fn is_iv(&self) -> bool {
        matches!(self, Self::Iv(_))
    }
}
