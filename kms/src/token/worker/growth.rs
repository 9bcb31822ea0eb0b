//! When a worker has to make way for a fresh one because the vendor library does not give memory back.
//!
//! SoftHSM2 2.6, for one, keeps some hundred bytes of every session object that was ever destroyed, until the process
//! ends.

use std::fs;

/// Bytes by which the process may grow after its first call. 256 MiB are well over half a million EDEKs on SoftHSM2.
const GROWTH_BYTES_MAX: u64 = 256 << 20;
/// Calls between two looks.
const CALLS_BETWEEN: u32 = 32;

/// Watches the process' resident memory.
#[derive(Default)]
pub(super) struct Growth {
    first_bytes: Option<u64>,
    calls: u32,
}

impl Growth {
    /// To be asked after every call: bytes grown since the first one, once they are too many.
    pub(super) fn excess(&mut self) -> Option<u64> {
        self.calls += 1;
        if self.first_bytes.is_some() && !self.calls.is_multiple_of(CALLS_BETWEEN) {
            return None;
        }
        self.excess_at(resident_bytes()?)
    }

    fn excess_at(&mut self, resident_bytes: u64) -> Option<u64> {
        let first = *self.first_bytes.get_or_insert(resident_bytes);
        let grown = resident_bytes.saturating_sub(first);
        (grown > GROWTH_BYTES_MAX).then_some(grown)
    }
}

/// Resident memory of this process (proc(5), `statm`); `None` on a system without it.
fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_counts_from_the_first_look() {
        let mut growth = Growth::default();
        assert_eq!(growth.excess_at(1 << 30), None);
        assert_eq!(growth.excess_at((1 << 30) + GROWTH_BYTES_MAX), None);
        assert_eq!(growth.excess_at(1 << 20), None, "it may shrink");
        let grown = GROWTH_BYTES_MAX + 1;
        assert_eq!(growth.excess_at((1 << 30) + grown), Some(grown));
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 16));
    }
}
