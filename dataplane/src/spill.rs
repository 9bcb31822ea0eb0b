//! Encryption of intermediate data: what a job spills to a disk and reads back itself.

use std::fmt;

use zeroize::Zeroizing;

use crate::{Ctr, CtrError, CtrKey};

/// Why spilled bytes were not read. The buffer is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes at position {position} end beyond what was spilled, {end} bytes")]
pub struct SpillRangeError {
    /// Where the range starts.
    pub position: u64,
    /// Its length.
    pub bytes: usize,
    /// Bytes spilled so far.
    pub end: u64,
}

/// A spill file's encryption: AES-256-CTR under a key that is made at the start, cannot be taken out and is wiped when this
/// is dropped, after which nobody can read the file. Bytes are only appended, so that no position is ever encrypted twice.
///
/// It keeps spilled data from who gets hold of the disk. It does not notice changes to it.
pub struct Spill {
    ctr: Ctr,
    end: u64,
}

impl Spill {
    /// An empty spill. `fill` fills what it is given with bytes of the operating system's generator; they are the key and
    /// the initial counter.
    pub fn begin(fill: impl FnOnce(&mut [u8; 48])) -> Self {
        let mut random = Zeroizing::new([0; 48]);
        fill(&mut random);
        let (key, iv) = random.split_first_chunk().expect("48 bytes are more than 32");
        let iv = iv.try_into().expect("48 bytes are 32 and 16");
        Self {
            ctr: Ctr::new(CtrKey::Aes256(key), iv),
            end: 0,
        }
    }

    /// Encrypts in place the bytes that are appended to the file, and says at which position they belong.
    ///
    /// # Errors
    /// [`CtrError::Position`]; bytes and spill are then as they were.
    pub fn append(&mut self, bytes: &mut [u8]) -> Result<u64, CtrError> {
        let position = self.end;
        self.ctr.apply(position, bytes)?;
        self.end += bytes.len() as u64;
        Ok(position)
    }

    /// Decrypts in place bytes of the file that lie at `position`.
    ///
    /// # Errors
    /// [`SpillRangeError`] if they were not all appended.
    pub fn read(&self, position: u64, bytes: &mut [u8]) -> Result<(), SpillRangeError> {
        let error = SpillRangeError {
            position,
            bytes: bytes.len(),
            end: self.end,
        };
        match position.checked_add(bytes.len() as u64) {
            Some(end) if end <= self.end => self.ctr.apply(position, bytes).map_err(|_| error),
            _ => Err(error),
        }
    }
}

impl fmt::Debug for Spill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spill(withheld, {} bytes)", self.end)
    }
}
