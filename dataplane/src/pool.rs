//! Buffers that are used again.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use zeroize::Zeroize;

/// Buffers start at multiples of this: a line of the cache and the widest vector.
const ALIGNMENT: usize = 64;

/// Buffers of one size, never more than so many at once, handed out again when they come back. What was in them is
/// overwritten when they do, since it may be plaintext.
#[derive(Clone)]
pub struct BufferPool(Arc<Shared>);

struct Shared {
    buffer_bytes: usize,
    buffers_max: usize,
    state: Mutex<State>,
}

struct State {
    free: Vec<Vec<u8>>,
    made: usize,
}

impl BufferPool {
    /// A pool of at most `buffers_max` buffers of `buffer_bytes` bytes. None is made before it is asked for.
    #[must_use]
    pub fn new(buffer_bytes: usize, buffers_max: usize) -> Self {
        let state = State {
            free: Vec::new(),
            made: 0,
        };
        Self(Arc::new(Shared {
            buffer_bytes,
            buffers_max,
            state: Mutex::new(state),
        }))
    }

    /// A buffer of zeros that starts at a multiple of 64, or none while all are handed out.
    #[must_use]
    pub fn take(&self) -> Option<PooledBuffer> {
        let mut state = self.state();
        let memory = match state.free.pop() {
            Some(memory) => memory,
            None if state.made < self.0.buffers_max => {
                state.made += 1;
                vec![0; self.0.buffer_bytes + ALIGNMENT - 1]
            }
            None => return None,
        };
        drop(state);
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT - 1);
        Some(PooledBuffer {
            memory,
            start,
            pool: self.clone(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock half done.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared {
            buffer_bytes,
            buffers_max,
            ..
        } = *self.0;
        write!(f, "BufferPool({buffers_max} of {buffer_bytes} bytes)")
    }
}

/// A buffer of a [`BufferPool`], which goes back when it is dropped.
pub struct PooledBuffer {
    memory: Vec<u8>,
    start: usize,
    pool: BufferPool,
}

impl Deref for PooledBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..][..self.pool.0.buffer_bytes]
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.pool.0.buffer_bytes]
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        self.memory.as_mut_slice().zeroize();
        let memory = std::mem::take(&mut self.memory);
        self.pool.state().free.push(memory);
    }
}

impl fmt::Debug for PooledBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PooledBuffer(withheld, {} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_bounded_and_come_back_clean() {
        for bytes in [0, 1, 63, 64, 1000, 1 << 20] {
            let pool = BufferPool::new(bytes, 2);
            let mut first = pool.take().expect("the first of two");
            let second = pool.clone().take().expect("the second of two");
            assert!(pool.take().is_none(), "no third");
            for buffer in [&first, &second] {
                assert_eq!((buffer.len(), buffer.as_ptr().align_offset(64)), (bytes, 0));
            }
            first.fill(7);
            drop(first);
            let again = pool.take().expect("one came back");
            assert!(again.iter().all(|byte| *byte == 0), "wiped");
            assert!(pool.take().is_none(), "still no third");
        }
    }
}
