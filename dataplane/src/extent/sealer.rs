use std::{fmt, mem, sync::Arc};

use super::{ExtentKey, SealError, TAG};
use crate::Geometry;

/// Writes an extent from one end to the other, in pieces of any length: cuts them into blocks that are ready to be sealed,
/// wherever and in whatever order that is done. Each index is handed out once, so no frame can be sealed twice. Holds at most
/// a block.
pub struct ExtentSealer {
    key: Arc<ExtentKey>,
    /// The block being filled, with room for a tag after each full frame.
    block: Vec<u8>,
    /// Plaintext bytes in `block`.
    filled: u32,
    /// Blocks before `block`.
    cut: u32,
    ended: bool,
}

/// A whole block of plaintext that waits to be sealed.
pub struct UnsealedBlock {
    key: Arc<ExtentKey>,
    index: u32,
    first_frame: u32,
    last: bool,
    bytes: Vec<u8>,
}

/// A block as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBlock {
    /// Its position in the extent.
    pub index: u32,
    /// Its sealed bytes.
    pub bytes: Vec<u8>,
    /// Their CRC-32C (RFC 3720, B.4).
    pub crc32c: u32,
}

impl ExtentSealer {
    /// The start of the extent that `key` was derived for.
    #[must_use]
    pub fn new(key: ExtentKey) -> Self {
        Self {
            key: Arc::new(key),
            block: Vec::new(),
            filled: 0,
            cut: 0,
            ended: false,
        }
    }

    /// How the extent is cut.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.key.geometry
    }

    /// Plaintext bytes so far.
    #[must_use]
    pub fn length(&self) -> u64 {
        u64::from(self.cut) * u64::from(self.key.geometry.block_bytes()) + u64::from(self.filled)
    }

    /// Blocks cut so far; after [`Self::finish`] all there are.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        self.cut
    }

    /// Takes bytes off the front of `data`, up to the end of a block, or gives the block before them. A full block waits for a
    /// byte after it: only then is it known not to be the last. Call it until `data` is empty.
    ///
    /// # Errors
    /// [`SealError::Full`] if the extent can have no further block, [`SealError::Ended`] after [`Self::finish`]; nothing is
    /// taken then.
    pub fn append(&mut self, data: &mut &[u8]) -> Result<Option<UnsealedBlock>, SealError> {
        if self.ended {
            return Err(SealError::Ended);
        }
        if data.is_empty() {
            return Ok(None);
        }
        if self.filled == self.key.geometry.block_bytes() {
            let capacity = self.block.len();
            return self.cut(false, Vec::with_capacity(capacity)).map(Some);
        }
        while !data.is_empty() && self.filled < self.key.geometry.block_bytes() {
            self.fill(data);
        }
        Ok(None)
    }

    /// Ends the extent: its last block, or none if it is empty.
    ///
    /// # Errors
    /// [`SealError::Full`] if the extent can have no such block.
    pub fn finish(&mut self) -> Result<Option<UnsealedBlock>, SealError> {
        self.ended = true;
        if self.filled == 0 {
            return Ok(None);
        }
        if !self.filled.is_multiple_of(self.key.geometry.frame_bytes()) {
            self.add_tag_room();
        }
        self.cut(true, Vec::new()).map(Some)
    }

    /// Takes bytes up to the end of the frame.
    fn fill(&mut self, data: &mut &[u8]) {
        let frame = self.key.geometry.frame_bytes();
        let room = (frame - self.filled % frame) as usize;
        let (taken, rest) = data.split_at(data.len().min(room));
        self.block.extend_from_slice(taken);
        self.filled += taken.len() as u32;
        *data = rest;
        if taken.len() == room {
            self.add_tag_room();
        }
    }

    fn add_tag_room(&mut self) {
        self.block.resize(self.block.len() + TAG, 0);
    }

    fn cut(&mut self, last: bool, next: Vec<u8>) -> Result<UnsealedBlock, SealError> {
        let first_frame = self.key.check_seal(self.cut, last, self.block.len())?;
        let block = UnsealedBlock {
            key: Arc::clone(&self.key),
            index: self.cut,
            first_frame,
            last,
            bytes: mem::replace(&mut self.block, next),
        };
        self.cut += 1;
        self.filled = 0;
        Ok(block)
    }
}

impl UnsealedBlock {
    /// The block's position in the extent.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Seals the block where it lies.
    #[must_use]
    pub fn seal(mut self) -> SealedBlock {
        let crc32c = self.key.seal_frames(self.first_frame, self.last, &mut self.bytes);
        SealedBlock {
            index: self.index,
            bytes: self.bytes,
            crc32c,
        }
    }
}

impl fmt::Debug for ExtentSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExtentSealer(withheld, {} bytes)", self.length())
    }
}

impl fmt::Debug for UnsealedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnsealedBlock(withheld, block {})", self.index)
    }
}
