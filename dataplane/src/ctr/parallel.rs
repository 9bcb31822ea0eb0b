//! AES-CTR on several cores.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    thread,
};

use super::{Ctr, CtrError, check_end, check_lengths};
use crate::kernel::Text;

/// Least bytes for a thread. Starting one takes little, but on a machine that is busy it may wait for milliseconds before it
/// runs, in which one core alone encrypts tens of MiB.
const THREAD_BYTES_MIN: usize = 32 << 20;
/// Threads take pieces of this in turn, so that one that runs late does not hold up the others by more.
const PIECE: usize = 16 << 20;
/// More threads than this saturate any memory.
const THREADS_MAX: usize = 64;

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
        let threads = threads.get().min(THREADS_MAX).min(text.len() / THREAD_BYTES_MIN).max(1);
        if threads == 1 {
            return self.transform(position, text);
        }
        let rest = Mutex::new((position, text));
        let work = || {
            while let Some((position, piece)) = next_piece(&rest) {
                self.transform(position, piece);
            }
        };
        thread::scope(|scope| {
            for _ in 1..threads {
                // Where the system gives no thread, those that there are do it all.
                if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
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
