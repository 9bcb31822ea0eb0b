//! AES-CTR on several cores.

use std::{num::NonZeroUsize, thread};

use super::{Ctr, CtrError, check_end, check_lengths};
use crate::kernel::Text;

/// Least bytes for a thread: starting one takes as long as encrypting about 1 MiB does on one core.
const THREAD_BYTES_MIN: usize = 4 << 20;
/// Threads start at multiples of this, so that no two write to one line of a cache.
const ALIGNMENT: usize = 4096;
/// More threads than this saturate any memory.
const THREADS_MAX: usize = 64;

impl Ctr {
    /// As [`Ctr::apply`], on up to `threads` cores (at most 64), each with 4 MiB or more to do. The caller's thread is one of
    /// them; the others end before this returns.
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

    fn spread(&self, mut position: u64, mut text: Text<'_>, threads: NonZeroUsize) {
        let threads = threads.get().min(THREADS_MAX).min(text.len() / THREAD_BYTES_MIN).max(1);
        let share = (text.len() / threads).next_multiple_of(ALIGNMENT);
        thread::scope(|scope| {
            while text.len() > share {
                let (start, part) = (position, text.take(share));
                scope.spawn(move || self.transform(start, part));
                position += share as u64;
            }
            self.transform(position, text);
        });
    }
}
