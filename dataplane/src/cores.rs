//! Several cores at one buffer: threads that take pieces off it in turn, so that one that runs late does not hold up the
//! others by more than a piece.

use std::{num::NonZeroUsize, thread};

/// More threads than this saturate any memory.
const THREADS_MAX: usize = 64;

/// How many threads of up to `threads` have `bytes_min` of `bytes` to do each; at least one.
pub(crate) fn useful(threads: NonZeroUsize, bytes: usize, bytes_min: usize) -> usize {
    threads.get().min(THREADS_MAX).min(bytes / bytes_min).max(1)
}

/// Runs `work`, which takes pieces until there are none, on `threads` threads. The caller's is one of them; the others end
/// before this returns.
pub(crate) fn run(threads: usize, work: impl Fn() + Sync) {
    thread::scope(|scope| {
        for _ in 1..threads {
            // Where the system gives no thread, those that there are do it all.
            if thread::Builder::new().spawn_scoped(scope, &work).is_err() {
                break;
            }
        }
        work();
    });
}
