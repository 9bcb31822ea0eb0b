//! The same faults in one of two tokens: the other one keeps every call whole.

use std::time::Duration;

use strongroom_pkcs11_shim::{Ckr, Fault, Function, Shim, When};

use crate::{
    all_key_use,
    scenario::{Scenario, run_all_beside_another},
    sometimes,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_in_one_of_two_tokens_fail_no_call() {
    const CODES: [(&str, Ckr); 4] = [
        ("CKR_DEVICE_MEMORY", Ckr::DEVICE_MEMORY),
        ("CKR_DEVICE_ERROR", Ckr::DEVICE_ERROR),
        ("CKR_KEY_HANDLE_INVALID", Ckr::KEY_HANDLE_INVALID),
        ("a vendor's own code", Ckr::VENDOR_DEFINED),
    ];
    let scenarios = CODES
        .into_iter()
        .map(|(name, code)| Scenario::new(name, move |shim| all_key_use(shim, Fault::Error(code), sometimes(20))));
    run_all_beside_another(scenarios.collect()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hangs_crashes_and_lost_tokens_fail_no_call() {
    run_all_beside_another(vec![
        Scenario::new("hangs for ever", |shim| {
            shim.set(Function::UnwrapKey, Fault::Hang(None), When::Next(1));
        })
        .lasting(Duration::from_secs(12)),
        Scenario::new("SIGSEGV after a call", |shim| {
            shim.set(Function::WrapKey, Fault::CrashAfter, When::Next(2));
        }),
        Scenario::new("the call was made, the answer lost", |shim| {
            all_key_use(shim, Fault::ErrorAfter(Ckr::DEVICE_ERROR), sometimes(10));
        }),
        Scenario::new("the token is pulled out", Shim::vanish),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_answers_of_one_of_two_tokens_reach_nobody() {
    run_all_beside_another(vec![
        Scenario::new("every wrapped key has a wrong bit", |shim| {
            shim.set(Function::WrapKey, Fault::FlipBit, When::Always);
        }),
        Scenario::new("a DEK is read with a wrong bit", |shim| {
            shim.set(Function::GetAttributeValue, Fault::FlipBit, sometimes(20));
        }),
        Scenario::new("an unwrap gives another key", |shim| {
            shim.set(Function::UnwrapKey, Fault::OtherObject, sometimes(20));
        }),
        Scenario::new("a decryption has a wrong bit", |shim| {
            shim.set(Function::Decrypt, Fault::FlipBit, sometimes(20));
        }),
    ])
    .await;
}
