//! What random tests are random by: a seed that they print, and take from `TEST_SEED` if it is set.

use std::io::{self, Write as _};

use rand::{SeedableRng, rngs::StdRng};

/// The seed, for messages, and the generator that starts with it.
pub(crate) fn seeded() -> (u64, StdRng) {
    let seed = std::env::var("TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    // Past what a test's output is kept back by, which is lost if a kernel ends the process.
    // At once, or other tests write in between.
    _ = io::stderr().write_all(format!("TEST_SEED={seed}\n").as_bytes());
    (seed, StdRng::seed_from_u64(seed))
}
