//! AES-CTR and CRC-32C (RFC 3720, B.4) of the ciphertext together: in one pass where there is a kernel for it, else piece by
//! piece while a piece is in the first-level cache.

use std::{num::NonZeroUsize, slice};

use crc_fast::{CrcAlgorithm, Digest};

use super::{BLOCK, Ctr, CtrError, check_end, check_lengths};
use crate::kernel::{Direction, Text};

/// Bytes that go through both passes before the next do.
const PIECE: usize = 8 << 10;
/// Shorter texts are not worth folding.
const FUSED_BYTES_MIN: usize = 1 << 10;

impl Ctr {
    /// As [`Ctr::apply`], and the CRC-32C of the ciphertext, going on from `crc`: that of the ciphertext before it, 0 if there
    /// is none.
    ///
    /// # Errors
    /// As [`Ctr::apply`].
    pub fn apply_summed(
        &self,
        position: u64,
        bytes: &mut [u8],
        direction: Direction,
        crc: u32,
    ) -> Result<u32, CtrError> {
        check_end(position, bytes.len())?;
        Ok(self.sum_one(position, Text::in_place(bytes), direction, crc))
    }

    /// As [`Ctr::apply_to`], and the CRC-32C of the ciphertext, going on from `crc`.
    ///
    /// # Errors
    /// As [`Ctr::apply_to`].
    pub fn apply_to_summed(
        &self,
        position: u64,
        from: &[u8],
        to: &mut [u8],
        direction: Direction,
        crc: u32,
    ) -> Result<u32, CtrError> {
        check_lengths(from, to)?;
        check_end(position, from.len())?;
        Ok(self.sum_one(position, Text::across(from, to), direction, crc))
    }

    /// As [`Ctr::apply`], and a CRC-32C of the ciphertext of each `chunk_bytes` from the start of `bytes` on, as HDFS keeps
    /// them (512 there).
    ///
    /// # Errors
    /// As [`Ctr::apply`], and [`CtrError::Sums`], before anything is changed.
    pub fn apply_chunk_sums(
        &self,
        position: u64,
        bytes: &mut [u8],
        direction: Direction,
        chunk_bytes: NonZeroUsize,
        sums: &mut [u32],
    ) -> Result<(), CtrError> {
        check_end(position, bytes.len())?;
        check_sums(bytes.len(), chunk_bytes, sums)?;
        sums.fill(0);
        self.sum_chunks(position, Text::in_place(bytes), direction, chunk_bytes.get(), sums);
        Ok(())
    }

    /// As [`Ctr::apply_to`], and a CRC-32C of the ciphertext of each `chunk_bytes`.
    ///
    /// # Errors
    /// As [`Ctr::apply_to`], and [`CtrError::Sums`], before anything is written.
    pub fn apply_to_chunk_sums(
        &self,
        position: u64,
        from: &[u8],
        to: &mut [u8],
        direction: Direction,
        chunk_bytes: NonZeroUsize,
        sums: &mut [u32],
    ) -> Result<(), CtrError> {
        check_lengths(from, to)?;
        check_end(position, from.len())?;
        check_sums(from.len(), chunk_bytes, sums)?;
        sums.fill(0);
        self.sum_chunks(position, Text::across(from, to), direction, chunk_bytes.get(), sums);
        Ok(())
    }

    /// A checksum of the whole text. What comes before the first whole block goes ahead.
    fn sum_one(&self, mut position: u64, mut text: Text<'_>, direction: Direction, mut crc: u32) -> u32 {
        // Also of a position in the last block, behind which there is no other.
        let ahead = (position.wrapping_neg() % BLOCK as u64) as usize;
        if ahead > 0 {
            let head = text.take(ahead.min(text.len()));
            let count = head.len() as u64;
            crc = self.sum_in_pieces(position, head, direction, crc);
            position += count;
        }
        let bytes = text.len().max(1);
        self.sum_chunks(position, text, direction, bytes, slice::from_mut(&mut crc));
        crc
    }

    /// Checksums of chunks, each going on from what `sums` holds.
    fn sum_chunks(
        &self,
        mut position: u64,
        mut text: Text<'_>,
        direction: Direction,
        chunk_bytes: usize,
        sums: &mut [u32],
    ) {
        if position.is_multiple_of(BLOCK as u64) && text.len() >= FUSED_BYTES_MIN {
            let block = position / BLOCK as u64;
            if self
                .engine
                .apply_summed(block, text.again(), direction, chunk_bytes, sums)
            {
                return;
            }
        }
        for sum in sums {
            let chunk = text.take(chunk_bytes.min(text.len()));
            let count = chunk.len() as u64;
            *sum = self.sum_in_pieces(position, chunk, direction, *sum);
            position += count;
        }
    }

    fn sum_in_pieces(&self, mut position: u64, mut text: Text<'_>, direction: Direction, crc: u32) -> u32 {
        // The digest's state is the complement of what it has as a result.
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
        while text.len() > 0 {
            let mut piece = text.take(PIECE.min(text.len()));
            if direction == Direction::Decrypt {
                digest.update(piece.input());
            }
            self.transform(position, piece.again());
            if direction == Direction::Encrypt {
                digest.update(piece.output());
            }
            position += piece.len() as u64;
        }
        digest.finalize() as u32
    }
}

fn check_sums(bytes: usize, chunk_bytes: NonZeroUsize, sums: &[u32]) -> Result<(), CtrError> {
    let (sums, chunks) = (sums.len(), bytes.div_ceil(chunk_bytes.get()));
    if sums == chunks {
        Ok(())
    } else {
        Err(CtrError::Sums { sums, chunks })
    }
}
