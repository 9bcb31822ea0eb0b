//! AES-CTR over the bytes of a file, at any position.
//!
//! Byte for byte what HDFS calls `AES/CTR/NoPadding` (`CryptoInputStream`, `OpensslCtrCryptoCodec`): the byte at position
//! `p` is XORed with byte `p mod 16` of `AES(key, IV + p / 16)`, where IV and sum are 128-bit big-endian numbers modulo
//! 2^128 (NIST SP 800-38A, 6.5, with the whole block as counter). Encrypting and decrypting are the same operation.
//!
//! It hides bytes and nothing else: who can write ciphertext can flip any bit of the plaintext. Two files, or two contents
//! at one position of a file, must never share key and IV.

mod backend;
mod key;
mod parallel;
mod stream;
mod summed;

use std::fmt;

use zeroize::Zeroize;

pub use self::{
    backend::{BACKEND_VARIABLE, Backend, BackendError},
    key::{CtrKey, CtrKeyLengthError},
    stream::CtrStream,
};
pub use crate::kernel::Direction;
use crate::kernel::{Engine, Text};

/// Bytes of an AES block.
const BLOCK: usize = 16;

/// Why a range was not transformed. Its buffers are as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CtrError {
    /// The range ends beyond what a position can say.
    #[error("{bytes} bytes at position {position} end beyond the last position, 2^64 - 1")]
    Position {
        /// Where the range starts.
        position: u64,
        /// Its length.
        bytes: usize,
    },
    /// Source and destination differ in length.
    #[error("{from} bytes do not fill {to} bytes")]
    Length {
        /// Bytes of the source.
        from: usize,
        /// Bytes of the destination.
        to: usize,
    },
    /// There is not one checksum for each chunk.
    #[error("{sums} checksums were given for {chunks} chunks")]
    Sums {
        /// Checksums to fill.
        sums: usize,
        /// Chunks that the bytes have.
        chunks: usize,
    },
}

/// The keystream of one key and initial counter (IV): expanded once, of fixed size, wiped when dropped. It may be used by
/// many threads at once.
///
/// After the first 16 KiB, where the backend knows how, it keeps a table of 5 KiB that saves two of the rounds of each
/// block (`docs/adr/0021-counter-mode-caching.md`).
pub struct Ctr {
    engine: Engine,
    backend: Backend,
}

impl Ctr {
    /// The keystream of `key` and `iv` on the fastest backend.
    #[must_use]
    pub fn new(key: CtrKey<'_>, iv: &[u8; 16]) -> Self {
        Self::with_backend(key, iv, Backend::best())
    }

    /// The same keystream on a backend of the caller's choice, for tests and measurements.
    #[must_use]
    pub fn with_backend(key: CtrKey<'_>, iv: &[u8; 16], backend: Backend) -> Self {
        Self {
            engine: Engine::new(key, u128::from_be_bytes(*iv), backend),
            backend,
        }
    }

    /// What computes it.
    #[must_use]
    pub const fn backend(&self) -> Backend {
        self.backend
    }

    /// Encrypts or decrypts, in place, the bytes that lie at `position` of the file.
    ///
    /// # Errors
    /// [`CtrError::Position`], before anything is changed.
    pub fn apply(&self, position: u64, bytes: &mut [u8]) -> Result<(), CtrError> {
        check_end(position, bytes.len())?;
        self.transform(position, Text::in_place(bytes));
        Ok(())
    }

    /// Encrypts or decrypts the bytes `from`, which lie at `position` of the file, into `to`.
    ///
    /// # Errors
    /// [`CtrError`], before anything is written.
    pub fn apply_to(&self, position: u64, from: &[u8], to: &mut [u8]) -> Result<(), CtrError> {
        check_lengths(from, to)?;
        check_end(position, from.len())?;
        self.transform(position, Text::across(from, to));
        Ok(())
    }

    #[inline]
    fn transform(&self, position: u64, mut text: Text<'_>) {
        let offset = position as usize % BLOCK;
        let mut block = position / BLOCK as u64;
        if offset > 0 {
            let count = text.len().min(BLOCK - offset);
            self.transform_within(block, offset, text.take(count));
            block += 1;
        }
        if text.len() > 0 {
            self.engine.apply(block, text);
        }
    }

    /// Transforms bytes of one block that do not start it.
    fn transform_within(&self, block: u64, offset: usize, mut text: Text<'_>) {
        let mut padded = [0; BLOCK];
        let wanted = offset..offset + text.len();
        padded[wanted.clone()].copy_from_slice(text.input());
        self.engine.apply(block, Text::in_place(&mut padded));
        text.output().copy_from_slice(&padded[wanted]);
        padded.zeroize();
    }
}

impl fmt::Debug for Ctr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ctr(withheld, {})", self.backend)
    }
}

fn check_end(position: u64, bytes: usize) -> Result<(), CtrError> {
    match position.checked_add(bytes as u64) {
        Some(_) => Ok(()),
        None => Err(CtrError::Position { position, bytes }),
    }
}

fn check_lengths(from: &[u8], to: &[u8]) -> Result<(), CtrError> {
    let (from, to) = (from.len(), to.len());
    if from == to {
        Ok(())
    } else {
        Err(CtrError::Length { from, to })
    }
}
