//! What streams, and the files that say what a directory is, begin and end with.

use super::{RawError, crc32c};

const MAGIC: &[u8; 6] = b"SRMRAW";
/// Bytes before a header: magic, kind, format, the header's length and its checksum.
pub(super) const PREFIX: usize = 16;
/// What follows the last block, or the header of a directory.
pub(super) const END: [u8; 8] = *b"SRMRAWED";
/// Most bytes of a header: 1024 extents take 80 KiB, an ACL 40 KiB, and 32 attributes of 16 KiB half a MiB.
pub(super) const HEADER_BYTES_MAX: usize = 1 << 20;

/// Of what something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::File => 0,
            Self::Directory => 1,
        }
    }

    /// The newest format that is known here; all before it are, too.
    const fn newest(self) -> u8 {
        match self {
            Self::File => 2,
            Self::Directory => 1,
        }
    }

    const fn another(self) -> RawError {
        match self {
            Self::File => RawError::NotAStream,
            Self::Directory => RawError::NotADirectory,
        }
    }
}

/// A header behind its prefix.
pub(super) fn framed(kind: Kind, format: u8, header: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREFIX + header.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[kind.byte(), format]);
    bytes.extend_from_slice(&(header.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&crc32c(header).to_be_bytes());
    bytes.extend_from_slice(header);
    bytes
}

/// Bytes of the header that follows a prefix.
///
/// # Errors
/// [`RawError::NotAStream`] or [`RawError::NotADirectory`], [`RawError::Format`] or [`RawError::Header`].
pub(super) fn length(kind: Kind, prefix: &[u8; PREFIX]) -> Result<usize, RawError> {
    if prefix[..6] != MAGIC[..] || prefix[6] != kind.byte() {
        return Err(kind.another());
    }
    let (found, newest) = (format(prefix), kind.newest());
    if !(1..=newest).contains(&found) {
        return Err(RawError::Format { found, newest });
    }
    let length = u32::from_be_bytes([prefix[8], prefix[9], prefix[10], prefix[11]]) as usize;
    if length > HEADER_BYTES_MAX {
        return Err(RawError::Header);
    }
    Ok(length)
}

/// The format that a prefix names.
pub(super) const fn format(prefix: &[u8; PREFIX]) -> u8 {
    prefix[7]
}

/// Whether a header is the one that its prefix announced.
///
/// # Errors
/// [`RawError::Header`].
pub(super) fn check(prefix: &[u8; PREFIX], header: &[u8]) -> Result<(), RawError> {
    let crc = u32::from_be_bytes([prefix[12], prefix[13], prefix[14], prefix[15]]);
    if crc32c(header) == crc {
        Ok(())
    } else {
        Err(RawError::Header)
    }
}
