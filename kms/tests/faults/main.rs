//! Load on a token that fails: whatever it does, no answer is wrong, every failure is clean and bounded in time, and the
//! service recovers by itself. Real worker processes and a real token, with the shim in front of it.
//!
//! Each test runs the rows of one table (`tables`). Prints how long recovery took; `docs/reliability.md` has the figures.

#[path = "../token/fixture.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod fixture;
mod load;
#[path = "../fleet/pair.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod pair;
mod pin;
mod scenario;
mod second_token;
mod tables;
#[path = "../token/vendor.rs"]
#[allow(dead_code, reason = "each test binary uses a part of what they share")]
mod vendor;

use scenario::run_all;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_of_every_class() {
    run_all(tables::codes()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_hanging_crashing_and_leaking() {
    run_all(tables::slow_hanging_and_crashing()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_handles_and_tokens_that_go() {
    run_all(tables::sessions_handles_and_tokens()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_answers() {
    run_all(tables::wrong_answers()).await;
}
