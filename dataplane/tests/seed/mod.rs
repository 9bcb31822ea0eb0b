//! What random tests are random by: a seed that they print, and take from `TEST_SEED` if it is set.

use rand::{SeedableRng, rngs::StdRng};

/// The seed, for messages, and the generator that starts with it.
pub(crate) fn seeded() -> (u64, StdRng) {
    let seed = std::env::var("TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("TEST_SEED={seed}");
    (seed, StdRng::seed_from_u64(seed))
}
