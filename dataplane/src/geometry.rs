use std::ops::Range;

use crate::Suite;

/// Bytes that a frame of suite `gcm` grows by when it is sealed: its tag.
pub const TAG_BYTES: u32 = 16;
/// The smallest frame, in plaintext bytes.
pub const FRAME_BYTES_MIN: u32 = 4 << 10;
/// The largest frame, in plaintext bytes.
pub const FRAME_BYTES_MAX: u32 = 1 << 20;
/// The largest block, in plaintext bytes.
pub const BLOCK_BYTES_MAX: u32 = 4 << 20;
/// Frames in one extent: their index is the 32-bit invocation field of the nonce (NIST SP 800-38D, 8.2.1).
pub const EXTENT_FRAMES_MAX: u64 = 1 << 32;

/// A size or position that the format does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// The frame size is not one of the format's.
    #[error("frames of {frame_bytes} bytes are not supported: a power of two from 4096 to 1048576 is")]
    FrameBytes {
        /// The size asked for.
        frame_bytes: u32,
    },
    /// The block size is not one of the format's.
    #[error(
        "blocks of {block_bytes} bytes are not supported: a multiple of the frame ({frame_bytes}) up to 4194304 is"
    )]
    BlockBytes {
        /// The size asked for.
        block_bytes: u32,
        /// The frame size beside it.
        frame_bytes: u32,
    },
    /// The extent would have more frames or blocks than it can number.
    #[error("an extent of {length} bytes is too long: it has at most 2^32 frames and 2^32 - 1 blocks")]
    ExtentTooLong {
        /// Plaintext bytes asked for.
        length: u64,
    },
    /// A range or block beyond the extent's end.
    #[error("position {position} is beyond the extent's end at {end}")]
    OutOfRange {
        /// The position asked for.
        position: u64,
        /// Where the extent ends, in the same unit.
        end: u64,
    },
}

/// How plaintext is cut into frames and blocks. Sizes are plaintext bytes unless they are called sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    suite: Suite,
    frame_bytes: u32,
    block_bytes: u32,
}

/// A run of whole frames within one block, and the part of their plaintext that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRun {
    /// The block's index in its extent.
    pub block: u32,
    /// The first frame's index in its extent.
    pub first_frame: u32,
    /// Where the run starts in the sealed block.
    pub sealed_offset: u32,
    /// Sealed bytes of the run.
    pub sealed_bytes: u32,
    /// Plaintext bytes of the run.
    pub plain_bytes: u32,
    /// The wanted bytes within the run's plaintext.
    pub wanted: (u32, u32),
}

impl FrameRun {
    /// The wanted bytes within the run's plaintext, as a range to index with.
    #[must_use]
    pub fn wanted_range(&self) -> Range<usize> {
        self.wanted.0 as usize..self.wanted.1 as usize
    }
}

impl Geometry {
    /// A geometry of the format.
    ///
    /// # Errors
    /// [`GeometryError::FrameBytes`] or [`GeometryError::BlockBytes`], with what is allowed.
    pub const fn new(suite: Suite, frame_bytes: u32, block_bytes: u32) -> Result<Self, GeometryError> {
        if !frame_bytes.is_power_of_two() || frame_bytes < FRAME_BYTES_MIN || frame_bytes > FRAME_BYTES_MAX {
            return Err(GeometryError::FrameBytes { frame_bytes });
        }
        if block_bytes == 0 || block_bytes > BLOCK_BYTES_MAX || !block_bytes.is_multiple_of(frame_bytes) {
            return Err(GeometryError::BlockBytes {
                block_bytes,
                frame_bytes,
            });
        }
        Ok(Self {
            suite,
            frame_bytes,
            block_bytes,
        })
    }

    /// How the frames are sealed.
    #[must_use]
    pub const fn suite(self) -> Suite {
        self.suite
    }

    /// Plaintext bytes of a full frame.
    #[must_use]
    pub const fn frame_bytes(self) -> u32 {
        self.frame_bytes
    }

    /// Plaintext bytes of a full block.
    #[must_use]
    pub const fn block_bytes(self) -> u32 {
        self.block_bytes
    }

    /// Frames in a full block.
    #[must_use]
    pub const fn block_frames(self) -> u32 {
        self.block_bytes / self.frame_bytes
    }

    /// Sealed bytes of a full frame.
    #[must_use]
    pub const fn sealed_frame_bytes(self) -> u32 {
        self.frame_bytes + self.suite.tag_bytes()
    }

    /// Sealed bytes of `plain_bytes` that start at a frame's start; at most a block's worth.
    #[must_use]
    pub const fn sealed_bytes(self, plain_bytes: u32) -> u32 {
        plain_bytes + plain_bytes.div_ceil(self.frame_bytes) * self.suite.tag_bytes()
    }

    /// Where a plaintext byte of a block lies in the sealed block.
    #[must_use]
    pub const fn sealed_offset(self, plain_offset: u32) -> u32 {
        plain_offset + plain_offset / self.frame_bytes * self.suite.tag_bytes()
    }

    /// Blocks of an extent; none for an empty one.
    ///
    /// # Errors
    /// [`GeometryError::ExtentTooLong`] if frames or blocks cannot be numbered.
    pub fn blocks(self, extent_length: u64) -> Result<u32, GeometryError> {
        let too_long = GeometryError::ExtentTooLong { length: extent_length };
        if extent_length.div_ceil(self.frame_bytes.into()) > EXTENT_FRAMES_MAX {
            return Err(too_long);
        }
        u32::try_from(extent_length.div_ceil(self.block_bytes.into())).map_err(|_| too_long)
    }

    /// Sealed bytes of a whole extent.
    ///
    /// # Errors
    /// As [`Self::blocks`].
    pub fn sealed_extent_bytes(self, extent_length: u64) -> Result<u64, GeometryError> {
        self.blocks(extent_length)?;
        Ok(extent_length + extent_length.div_ceil(self.frame_bytes.into()) * u64::from(self.suite.tag_bytes()))
    }

    /// Plaintext bytes of one block: full but for the last.
    ///
    /// # Errors
    /// [`GeometryError::OutOfRange`] if the extent has no such block; else as [`Self::blocks`].
    pub fn block_plain_bytes(self, extent_length: u64, block: u32) -> Result<u32, GeometryError> {
        let blocks = self.blocks(extent_length)?;
        if block >= blocks {
            return Err(GeometryError::OutOfRange {
                position: block.into(),
                end: blocks.into(),
            });
        }
        let rest = extent_length - u64::from(block) * u64::from(self.block_bytes);
        Ok(u32::try_from(rest).map_or(self.block_bytes, |rest| rest.min(self.block_bytes)))
    }

    /// The frames that hold a range of an extent's plaintext, one run for each block touched, in order.
    ///
    /// # Errors
    /// [`GeometryError::OutOfRange`] if the range ends beyond the extent; else as [`Self::blocks`].
    pub fn runs(self, extent_length: u64, range: Range<u64>) -> Result<Runs, GeometryError> {
        self.blocks(extent_length)?;
        if range.end > extent_length {
            return Err(GeometryError::OutOfRange {
                position: range.end,
                end: extent_length,
            });
        }
        Ok(Runs {
            geometry: self,
            extent_length,
            next: range.start,
            end: range.end,
        })
    }

    /// The run for `start..end`, which is not empty and lies within one block and within the extent.
    fn run(self, extent_length: u64, start: u64, end: u64) -> FrameRun {
        let frame = u64::from(self.frame_bytes);
        let (first, after) = (start / frame, end.div_ceil(frame));
        let (run_start, run_end) = (first * frame, (after * frame).min(extent_length));
        let plain_bytes = narrow(run_end - run_start);
        let block_start = start - start % u64::from(self.block_bytes);
        FrameRun {
            block: narrow(start / u64::from(self.block_bytes)),
            first_frame: narrow(first),
            sealed_offset: self.sealed_offset(narrow(run_start - block_start)),
            sealed_bytes: self.sealed_bytes(plain_bytes),
            plain_bytes,
            wanted: (narrow(start - run_start), narrow(end - run_start)),
        }
    }
}

/// The runs of [`Geometry::runs`].
#[derive(Debug, Clone)]
pub struct Runs {
    geometry: Geometry,
    extent_length: u64,
    next: u64,
    end: u64,
}

impl Iterator for Runs {
    type Item = FrameRun;

    fn next(&mut self) -> Option<FrameRun> {
        if self.next >= self.end {
            return None;
        }
        let block = u64::from(self.geometry.block_bytes);
        let end = self.end.min((self.next / block + 1) * block);
        let run = self.geometry.run(self.extent_length, self.next, end);
        self.next = end;
        Some(run)
    }
}

/// Narrows what a checked extent length has bounded.
fn narrow(value: u64) -> u32 {
    u32::try_from(value).expect("bounded by the extent's checked length")
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: u32 = 4096;

    fn small() -> Geometry {
        Geometry::new(Suite::Gcm, F, 4 * F).expect("valid")
    }

    #[test]
    fn only_the_formats_sizes_are_geometries() {
        for (frame, block) in [(F, F), (65536, 4 << 20), (1 << 20, 1 << 20), (F, 3 * F)] {
            assert!(Geometry::new(Suite::Gcm, frame, block).is_ok(), "{frame}/{block}");
        }
        for (frame, block) in [
            (0, F),
            (2048, F),
            (5000, 5000),
            (2 << 20, 4 << 20),
            (F, 0),
            (F, F + 1),
            (F, (4 << 20) + F),
            (65536, F),
            (u32::MAX, u32::MAX),
        ] {
            assert!(
                Geometry::new(Suite::Gcm, frame, block).is_err(),
                "{frame}/{block} passes"
            );
        }
    }

    #[test]
    fn lengths_follow_from_whole_frames_and_blocks() {
        let f = u64::from(F);
        for (length, blocks, sealed) in [
            (0, 0, 0),
            (1, 1, 17),
            (f - 1, 1, f + 15),
            (f, 1, f + 16),
            (f + 1, 1, f + 33),
            (4 * f, 1, 4 * f + 64),
            (4 * f + 1, 2, 4 * f + 81),
        ] {
            assert_eq!(small().blocks(length), Ok(blocks), "{length}");
            assert_eq!(small().sealed_extent_bytes(length), Ok(sealed), "{length}");
        }
        assert_eq!(small().block_plain_bytes(4 * f + 1, 0), Ok(4 * F));
        assert_eq!(small().block_plain_bytes(4 * f + 1, 1), Ok(1));
        assert_eq!(
            small().block_plain_bytes(4 * f + 1, 2),
            Err(GeometryError::OutOfRange { position: 2, end: 2 })
        );
    }

    #[test]
    fn nothing_is_added_to_frames_without_tags() {
        let geometry = Geometry::new(Suite::CtrHdfs, F, 4 * F).expect("valid");
        for length in [0, 1, F, F + 1, 4 * F] {
            assert_eq!(
                (geometry.sealed_bytes(length), geometry.sealed_offset(length)),
                (length, length)
            );
        }
        let (start, end) = (u64::from(4 * F) + 5, u64::from(7 * F) + 1);
        let run = geometry.runs(end, start..end).expect("in range").next().expect("one");
        assert_eq!(
            (run.block, run.first_frame, run.sealed_offset, run.sealed_bytes),
            (1, 4, 0, 3 * F + 1)
        );
        assert_eq!(geometry.sealed_extent_bytes(end), Ok(end));
    }

    #[test]
    fn what_cannot_be_numbered_is_refused_and_the_last_that_can_is_not() {
        let most = u64::from(F) << 32;
        assert_eq!(small().blocks(most), Ok(1 << 30));
        assert_eq!(
            small().blocks(most + 1),
            Err(GeometryError::ExtentTooLong { length: most + 1 })
        );
        assert!(small().sealed_extent_bytes(u64::MAX).is_err());
        assert!(small().runs(u64::MAX, 0..1).is_err());
        let one_frame_blocks = Geometry::new(Suite::Gcm, F, F).expect("valid");
        assert!(one_frame_blocks.blocks(most).is_err());
        assert_eq!(one_frame_blocks.blocks(most - u64::from(F)), Ok(u32::MAX));
        let last = small()
            .runs(most, most - 1..most)
            .expect("in range")
            .next()
            .expect("one");
        assert_eq!(
            (last.first_frame, last.block, last.wanted),
            (u32::MAX, (1 << 30) - 1, (F - 1, F))
        );
    }

    #[test]
    fn runs_beyond_the_end_are_refused() {
        assert_eq!(
            small().runs(10, 5..11).map(|_| ()),
            Err(GeometryError::OutOfRange { position: 11, end: 10 })
        );
        assert_eq!(small().runs(10, 10..10).expect("empty").count(), 0);
    }
}
