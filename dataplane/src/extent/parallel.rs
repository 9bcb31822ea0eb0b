//! Many blocks and frames on several cores.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
};

use zeroize::Zeroize;

use super::{ExtentKey, OpenError, SealError};
use crate::{BLOCK_BYTES_MAX, cores};

/// Least bytes for a thread: what one core seals in one to two milliseconds, for which a thread may have to wait on a busy
/// machine before it runs.
const THREAD_BYTES_MIN: usize = 16 << 20;

impl ExtentKey {
    /// As [`ExtentKey::seal_block`] for consecutive blocks from `first` on, which lie one after another in `blocks`; `crcs`
    /// takes the CRC-32C of each. `last` says that no block follows these. Works on up to `threads` cores (at most 64), each
    /// with 16 MiB or more to do. The caller's thread is one of them; the others end before this returns.
    ///
    /// # Errors
    /// [`SealError`], before anything is sealed.
    pub fn seal_blocks_on_cores(
        &self,
        first: u32,
        last: bool,
        blocks: &mut [u8],
        crcs: &mut [u32],
        threads: NonZeroUsize,
    ) -> Result<(), SealError> {
        let sealed_block = self.geometry.sealed_bytes(self.geometry.block_bytes()) as usize;
        let count = blocks.len().div_ceil(sealed_block);
        if crcs.len() != count {
            return Err(SealError::Sums {
                sums: crcs.len(),
                blocks: count,
            });
        }
        let frame = self.check_seal_run(first, last, blocks.len(), sealed_block)?;
        let threads = cores::useful(threads, blocks.len(), THREAD_BYTES_MIN);
        let rest = Mutex::new(blocks.chunks_mut(sealed_block).zip(crcs).enumerate());
        cores::run(threads, || {
            while let Some((i, (block, crc))) = next(&rest) {
                let first = frame + i as u32 * self.geometry.block_frames();
                *crc = self.seal_frames(first, last && i + 1 == count, block);
            }
        });
        Ok(())
    }

    /// As [`ExtentKey::open_frames`], on up to `threads` cores (at most 64), each with 16 MiB or more to do.
    ///
    /// # Errors
    /// [`OpenError`], of the first of several bad frames; `out` then holds zeros.
    pub fn open_frames_on_cores(
        &self,
        extent_length: u64,
        first_frame: u32,
        sealed: &[u8],
        out: &mut [u8],
        threads: NonZeroUsize,
    ) -> Result<(), OpenError> {
        let opened = self
            .check_open(extent_length, first_frame, sealed.len(), out.len())
            .and_then(|last| self.open_spread(last, first_frame, sealed, out, threads));
        if opened.is_err() {
            out.zeroize();
        }
        opened
    }

    /// The number of the first frame, once all the blocks are known to fit.
    fn check_seal_run(&self, first: u32, last: bool, bytes: usize, sealed_block: usize) -> Result<u32, SealError> {
        let before = bytes.saturating_sub(1) / sealed_block;
        let index = u32::try_from(before).ok().and_then(|before| first.checked_add(before));
        // No extent has a block of the highest number, so it stands for all that are too high.
        let index = index.unwrap_or(u32::MAX);
        self.check_seal(index, last, bytes - before * sealed_block)?;
        Ok(first * self.geometry.block_frames())
    }

    fn open_spread(
        &self,
        last_frame: u32,
        first: u32,
        sealed: &[u8],
        out: &mut [u8],
        threads: NonZeroUsize,
    ) -> Result<(), OpenError> {
        let threads = cores::useful(threads, out.len(), THREAD_BYTES_MIN);
        if threads == 1 {
            return self.open_all(last_frame, first, sealed, out);
        }
        let frames = (BLOCK_BYTES_MAX / self.geometry.frame_bytes()) as usize;
        let pieces = sealed
            .chunks(frames * self.geometry.sealed_frame_bytes() as usize)
            .zip(out.chunks_mut(frames * self.geometry.frame_bytes() as usize));
        let (rest, bad) = (Mutex::new(pieces.enumerate()), Mutex::new(None));
        cores::run(threads, || {
            while lock(&bad).is_none()
                && let Some((i, (sealed, out))) = next(&rest)
            {
                let opened = self.open_all(last_frame, first + (i * frames) as u32, sealed, out);
                note(&bad, opened);
            }
        });
        bad.into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .map_or(Ok(()), Err)
    }
}

/// Keeps what is wrong with the first bad frame. Pieces are taken in order, so whoever has it comes to it.
fn note(bad: &Mutex<Option<OpenError>>, opened: Result<(), OpenError>) {
    let Err(error) = opened else { return };
    let mut bad = lock(bad);
    let number = |error: &OpenError| match error {
        OpenError::Tampered { frame } => Some(*frame),
        OpenError::Length { .. } | OpenError::Range(_) => None,
    };
    if bad.as_ref().is_none_or(|known| number(&error) < number(known)) {
        *bad = Some(error);
    }
}

fn next<I: Iterator>(rest: &Mutex<I>) -> Option<I::Item> {
    lock(rest).next()
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds a lock half done.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
