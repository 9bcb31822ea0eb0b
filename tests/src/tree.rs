use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// The seed of a random test: `STRONGROOM_TEST_SEED` if set, else a new one. It is printed, so that a failure can be
/// repeated.
#[allow(clippy::print_stderr, reason = "the test harness shows it when the test fails")]
pub fn seed() -> u64 {
    let given = std::env::var("STRONGROOM_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    eprintln!("repeat with STRONGROOM_TEST_SEED={seed}");
    seed
}

/// Bytes for files, from a seed.
pub struct Bytes(StdRng);

impl Bytes {
    /// The same bytes for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// `length` random bytes.
    pub fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// A number from 0 up to but not including `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0.next_u64() % end.max(1)
    }
}
