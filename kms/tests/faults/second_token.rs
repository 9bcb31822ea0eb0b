//! The same faults in one of two tokens: the other one keeps every call whole.

use strongroom_pkcs11_shim::{Ckr, Fault, Function, When};

use crate::{
    scenario::{Scenario, run_all_beside_another},
    tables,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_in_one_of_two_tokens_fail_no_call() {
    run_all_beside_another(tables::codes()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hangs_and_crashes_of_one_of_two_tokens_fail_no_call() {
    run_all_beside_another(tables::slow_hanging_and_crashing()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_handles_and_tokens_that_go_fail_no_call() {
    run_all_beside_another(tables::sessions_handles_and_tokens()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_answers_of_one_of_two_tokens_reach_nobody() {
    run_all_beside_another(tables::wrong_answers()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_that_one_of_two_tokens_locks_fails_no_call() {
    let locked = Scenario::new("the PIN gets locked", |shim| {
        shim.set(Function::Login, Fault::Error(Ckr::PIN_LOCKED), When::Always);
        shim.set(Function::WrapKey, Fault::CloseSessions, When::Next(1));
    });
    run_all_beside_another(vec![locked.for_good()]).await;
}
