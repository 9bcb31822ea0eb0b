//! AES-CTR on several cores.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use super::{Ctr, CtrError, check_end, check_lengths};
use crate::{cores, kernel::Text};

/// Least bytes for a thread. Starting one takes little, but on a machine that is busy it may wait for milliseconds before it
/// runs, in which one core alone encrypts tens of MiB.
const THREAD_BYTES_MIN: usize = 32 << 20;
/// What a thread takes at once.
const PIECE: usize = 16 << 20;

impl Ctr {
    /// As [`Ctr::apply`], on up to `threads` cores (at most 64), each with 32 MiB or more to do. The caller's thread is one of
    /// them; the others end before this returns. It pays where cores are idle; where they are not, it can take longer.
    ///
    /// # Errors
    /// As [`Ctr::apply`].
    pub fn apply_on_cores(&self, position: u64, bytes: &mut [u8], threads: NonZeroUsize) -> Result<(), CtrError> {
        check_end(position, bytes.len())?;
        self.spread(position, Text::in_place(bytes), threads);
        Ok(())
    }

    /// As [`Ctr::apply_to`], on up to `threads` cores.
    ///
    /// # Errors
    /// As [`Ctr::apply_to`].
    pub fn apply_to_on_cores(
        &self,
        position: u64,
        from: &[u8],
        to: &mut [u8],
        threads: NonZeroUsize,
    ) -> Result<(), CtrError> {
        check_lengths(from, to)?;
        check_end(position, from.len())?;
        self.spread(position, Text::across(from, to), threads);
        Ok(())
    }

    fn spread(&self, position: u64, text: Text<'_>, threads: NonZeroUsize) {
        let threads = cores::useful(threads, text.len(), THREAD_BYTES_MIN);
        if threads == 1 {
            return self.transform(position, text);
        }
        let rest = Mutex::new((position, text));
        cores::run(threads, || {
            while let Some((position, piece)) = next_piece(&rest) {
                self.transform(position, piece);
            }
        });
    }
}

fn next_piece<'t>(rest: &Mutex<(u64, Text<'t>)>) -> Option<(u64, Text<'t>)> {
    // Nothing panics while it holds the lock half done.
    let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
    let (position, text) = &mut *rest;
    let count = PIECE.min(text.len());
    let piece = (*position, text.take(count));
    *position += count as u64;
    (count > 0).then_some(piece)
}
