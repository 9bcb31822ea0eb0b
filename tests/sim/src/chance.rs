//! Random choices of a run.

use std::time::Duration;

use crate::machine::random;

/// A number below `bound`, which is not 0.
pub(crate) fn below(bound: u64) -> u64 {
    random() % bound
}

/// True once in `times`.
pub(crate) fn one_in(times: u64) -> bool {
    below(times) == 0
}

/// One of several.
pub(crate) fn pick<T: Copy>(of: &[T]) -> T {
    let bound = u64::try_from(of.len()).unwrap_or(u64::MAX);
    of[usize::try_from(below(bound)).unwrap_or(0)]
}

/// A time from `least` to `most`, both in milliseconds.
pub(crate) fn between_ms(least: u64, most: u64) -> Duration {
    Duration::from_millis(least + below(most - least + 1))
}
