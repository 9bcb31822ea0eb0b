//! What clients write: each chunk has a number, from which its length and bytes follow.

use std::{
    fmt,
    hash::{DefaultHasher, Hasher},
};

/// The bytes of a chunk: its number, its length, and bytes that follow from both.
pub(crate) fn bytes(chunk: u32) -> Vec<u8> {
    let length = length(chunk);
    let mut bytes = [chunk.to_le_bytes(), length.to_le_bytes()].concat();
    bytes.extend((8..length).map(|at| (chunk.wrapping_add(at) % 251) as u8));
    bytes
}

/// How many bytes a chunk has.
pub(crate) fn length(chunk: u32) -> u32 {
    8 + chunk.wrapping_mul(2_654_435_761) % 3_000
}

/// What a file holds, as its length and a sum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    length: u64,
    sum: u64,
}

impl Content {
    /// Of a file of these bytes.
    pub(crate) fn of(file: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(file);
        Self {
            length: file.len() as u64,
            sum: hasher.finish(),
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes with sum {:016x}", self.length, self.sum)
    }
}
