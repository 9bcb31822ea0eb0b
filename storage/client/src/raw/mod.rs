//! The raw view: files as ciphertext with their EDEK, read and brought in without any key. What a stream of them looks like is
//! `docs/formats/raw.md`.

mod closed;
mod directory;
mod error;
mod frame;
mod header;
mod reader;
mod writer;

pub use self::{
    directory::RawDirectory,
    error::RawError,
    header::{HDFS_ATTRIBUTE, RawHeader},
    reader::RawReader,
    writer::RawWriter,
};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};

/// A block of ciphertext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawBlock {
    /// Its bytes, as block nodes have them.
    pub bytes: Bytes,
    /// Their CRC-32C (RFC 3720, B.4).
    pub crc32c: u32,
}

impl RawBlock {
    /// A block that is summed here.
    #[must_use]
    pub fn of(bytes: Bytes) -> Self {
        Self {
            crc32c: crc32c(&bytes),
            bytes,
        }
    }

    /// Whether the bytes are those that were summed.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        crc32c(&self.bytes) == self.crc32c
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}
