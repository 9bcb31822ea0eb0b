use std::{fmt, num::NonZeroUsize};

use super::{Ctr, CtrError};

/// AES-CTR over a file from one end to the other, in pieces of any length, with jumps. Encrypts and decrypts alike.
pub struct CtrStream {
    ctr: Ctr,
    position: u64,
    threads: NonZeroUsize,
}

impl CtrStream {
    /// A stream that stands at the start of the file and works on the caller's thread alone.
    #[must_use]
    pub const fn new(ctr: Ctr) -> Self {
        Self {
            ctr,
            position: 0,
            threads: NonZeroUsize::MIN,
        }
    }

    /// The same stream, on up to `threads` cores for pieces of 64 MiB and more ([`Ctr::apply_on_cores`]).
    #[must_use]
    pub fn with_threads(self, threads: NonZeroUsize) -> Self {
        Self { threads, ..self }
    }

    /// Position in the file of the next byte.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Makes `position` that of the next byte.
    pub const fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// Encrypts or decrypts the next bytes in place.
    ///
    /// # Errors
    /// [`CtrError::Position`]; bytes and position are then as they were.
    pub fn apply(&mut self, bytes: &mut [u8]) -> Result<(), CtrError> {
        self.ctr.apply_on_cores(self.position, bytes, self.threads)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Encrypts or decrypts the next bytes, `from`, into `to`.
    ///
    /// # Errors
    /// [`CtrError`]; `to` and the position are then as they were.
    pub fn apply_to(&mut self, from: &[u8], to: &mut [u8]) -> Result<(), CtrError> {
        self.ctr.apply_to_on_cores(self.position, from, to, self.threads)?;
        self.position += to.len() as u64;
        Ok(())
    }
}

impl fmt::Debug for CtrStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CtrStream({:?} at {})", self.ctr, self.position)
    }
}
