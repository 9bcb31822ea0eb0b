//! Random tests that say how to repeat them.

use std::{
    fmt::Debug,
    hash::{BuildHasher as _, RandomState},
};

use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};

/// Holds `property` against `cases` random values. A failure names the seed that finds it again.
pub(crate) fn check<S: Strategy>(cases: u32, values: &S, property: impl Fn(S::Value) -> Result<(), String>)
where
    S::Value: Debug,
{
    let seed = seed();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let outcome = runner.run(values, |value| property(value).map_err(TestCaseError::fail));
    if let Err(failure) = outcome {
        panic!("with STRONGROOM_TEST_SEED={seed}: {failure}");
    }
}

/// The seed given, or a new one.
fn seed() -> u64 {
    let given = std::env::var("STRONGROOM_TEST_SEED").ok();
    given.map_or_else(
        || RandomState::new().hash_one(0),
        |seed| seed.parse().expect("a seed is a number"),
    )
}
