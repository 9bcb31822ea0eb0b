use std::{fmt, mem, sync::Arc};

use zeroize::Zeroize;

use super::{ExtentKey, SealError};
use crate::Geometry;

/// Writes an extent from one end to the other, in pieces of any length: cuts them into blocks that are ready to be sealed,
/// wherever and in whatever order that is done. Each index is handed out once, so no frame can be sealed twice. Holds at most
/// a block, in memory that never moves and is wiped if it is not sealed. That memory goes with the block, since what sends a
/// sealed block keeps it for as long as it may have to send it again; there is nothing to take back and use again.
pub struct ExtentSealer {
    key: Arc<ExtentKey>,
    /// The block being filled, with room for a tag after each full frame. Has from the start what a full block takes, which
    /// costs address space only: a buffer that grew would leave plaintext behind wherever it was.
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
            block: Self::room(key.geometry),
            key: Arc::new(key),
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
    /// [`SealError::Full`] if the extent has no number for a frame that the bytes would be in, [`SealError::Ended`] after
    /// [`Self::finish`]; nothing is taken then, and what was taken before can still be finished.
    pub fn append(&mut self, data: &mut &[u8]) -> Result<Option<UnsealedBlock>, SealError> {
        if self.ended {
            return Err(SealError::Ended);
        }
        if data.is_empty() {
            return Ok(None);
        }
        self.check_room(data.len())?;
        if self.filled == self.key.geometry.block_bytes() {
            let next = Self::room(self.key.geometry);
            return self.cut(false, next).map(Some);
        }
        while !data.is_empty() && self.filled < self.key.geometry.block_bytes() {
            self.fill(data);
        }
        Ok(None)
    }

    /// Ends the extent: its last block, or none if it is empty.
    ///
    /// # Errors
    /// [`SealError::Full`] if its frames cannot be numbered, which [`Self::append`] sees to before it takes them.
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

    fn room(geometry: Geometry) -> Vec<u8> {
        Vec::with_capacity(geometry.sealed_bytes(geometry.block_bytes()) as usize)
    }

    /// Whether the frames of those of `bytes` bytes that this block has room for can be numbered; if it is full, that of the
    /// first one behind it.
    fn check_room(&self, bytes: usize) -> Result<(), SealError> {
        let room = self.key.geometry.block_bytes() - self.filled;
        let taken = u32::try_from(bytes).map_or(room, |bytes| bytes.min(room));
        self.key.geometry.blocks(self.length() + u64::from(taken.max(1)))?;
        Ok(())
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
        let tag = self.key.geometry.suite().tag_bytes() as usize;
        self.block.resize(self.block.len() + tag, 0);
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
            bytes: mem::take(&mut self.bytes),
            crc32c,
        }
    }
}

impl Drop for ExtentSealer {
    fn drop(&mut self) {
        // Not the vector, which would touch what was never filled.
        self.block.as_mut_slice().zeroize();
    }
}

impl Drop for UnsealedBlock {
    fn drop(&mut self) {
        self.bytes.as_mut_slice().zeroize();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataKey, GeometryError, Seed, Suite, TAG_BYTES};

    const FRAME: u32 = 4 << 10;

    /// An extent that has room for `frames` more.
    fn nearly_full(block_frames: u32, frames: u64) -> ExtentSealer {
        let geometry = Geometry::new(Suite::Gcm, FRAME, block_frames * FRAME).expect("valid");
        let key = ExtentKey::derive(&DataKey::new(&[1; 32]), &[2; 16], Seed::Salt([3; 16]), geometry);
        let mut sealer = ExtentSealer::new(key.expect("a DEK and a salt"));
        sealer.cut = (((1_u64 << 32) - frames) / u64::from(block_frames)) as u32;
        sealer
    }

    #[test]
    fn what_cannot_be_numbered_is_refused_before_it_is_taken() {
        // The last block of an extent of 2^32 frames is full in one and not in the other.
        for (block_frames, frames) in [(4, 4), (3, 1)] {
            let mut sealer = nearly_full(block_frames, frames);
            let bytes = vec![7; frames as usize * FRAME as usize];
            let mut taken = bytes.as_slice();
            assert!(sealer.append(&mut taken).expect("the last frames").is_none());
            assert!(taken.is_empty());
            let length = sealer.length();
            assert_eq!(length, 1 << 44, "2^32 frames of 4 KiB");
            let full = SealError::Full(GeometryError::ExtentTooLong { length: length + 1 });
            let mut over: &[u8] = &[7];
            assert_eq!(sealer.append(&mut over).expect_err("no number is left"), full);
            assert_eq!((over.len(), sealer.length()), (1, length), "nothing is taken");

            let last = sealer.finish().expect("all is numbered").expect("a block");
            assert_eq!(last.first_frame, u32::MAX - frames as u32 + 1);
            assert_eq!(
                last.seal().bytes.len(),
                bytes.len() + frames as usize * TAG_BYTES as usize
            );
            assert!(sealer.finish().expect("nothing to do").is_none());
        }
    }

    #[test]
    fn bytes_that_fit_in_part_are_not_taken_in_part() {
        let mut sealer = nearly_full(3, 1);
        let mut over: &[u8] = &[7; FRAME as usize + 1];
        assert!(matches!(sealer.append(&mut over), Err(SealError::Full(_))));
        assert_eq!((over.len(), sealer.filled), (FRAME as usize + 1, 0));
    }
}
