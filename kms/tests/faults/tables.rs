//! The faults, by kind. Each strikes a token that is alone, and one of two.

use std::time::Duration;

use strongroom_pkcs11_shim::{Ckr, Fault, Function, Shim, When};

use crate::scenario::Scenario;

/// Where the draws of all rows start, so that a run can be repeated.
const SEED: u64 = 20_260_726;

const fn sometimes(per_mille: u32) -> When {
    When::Sometimes { per_mille, seed: SEED }
}

fn all_key_use(shim: &Shim, fault: Fault, when: When) {
    for function in Function::KEY_USE {
        shim.set(function, fault, when);
    }
}

pub(crate) fn codes() -> Vec<Scenario> {
    const CODES: [(&str, Ckr); 14] = [
        ("CKR_HOST_MEMORY", Ckr::HOST_MEMORY),
        ("CKR_DEVICE_MEMORY", Ckr::DEVICE_MEMORY),
        ("CKR_GENERAL_ERROR", Ckr::GENERAL_ERROR),
        ("CKR_FUNCTION_FAILED", Ckr::FUNCTION_FAILED),
        ("CKR_DEVICE_ERROR", Ckr::DEVICE_ERROR),
        ("CKR_DEVICE_REMOVED", Ckr::DEVICE_REMOVED),
        ("CKR_TOKEN_NOT_PRESENT", Ckr::TOKEN_NOT_PRESENT),
        ("CKR_KEY_HANDLE_INVALID", Ckr::KEY_HANDLE_INVALID),
        ("CKR_OBJECT_HANDLE_INVALID", Ckr::OBJECT_HANDLE_INVALID),
        ("CKR_SESSION_CLOSED", Ckr::SESSION_CLOSED),
        ("CKR_SESSION_COUNT", Ckr::SESSION_COUNT),
        ("CKR_USER_NOT_LOGGED_IN", Ckr::USER_NOT_LOGGED_IN),
        ("CKR_CRYPTOKI_NOT_INITIALIZED", Ckr::CRYPTOKI_NOT_INITIALIZED),
        ("a vendor's own code", Ckr::VENDOR_DEFINED),
    ];
    let scenarios = CODES
        .into_iter()
        .map(|(name, code)| Scenario::new(name, move |shim| all_key_use(shim, Fault::Error(code), sometimes(20))));
    scenarios.collect()
}

pub(crate) fn slow_hanging_and_crashing() -> Vec<Scenario> {
    let slow = Fault::Delay {
        least: Duration::from_millis(2),
        jitter: Duration::from_millis(20),
    };
    vec![
        Scenario::new("2 to 22 ms on one call in ten", move |shim| {
            all_key_use(shim, slow, sometimes(100));
        })
        .without_failures(),
        Scenario::new("hangs for 1 s", |shim| {
            shim.set(
                Function::UnwrapKey,
                Fault::Hang(Some(Duration::from_secs(1))),
                When::Next(1),
            );
        })
        .without_failures(),
        Scenario::new("hangs for ever", |shim| {
            shim.set(Function::UnwrapKey, Fault::Hang(None), When::Next(1));
        })
        .lasting(Duration::from_secs(12)),
        Scenario::new("SIGSEGV before a call", |shim| {
            shim.set(Function::UnwrapKey, Fault::Crash, When::Next(1));
        }),
        Scenario::new("SIGSEGV after a call", |shim| {
            shim.set(Function::WrapKey, Fault::CrashAfter, When::Next(2));
        }),
        Scenario::new("loses 8 MiB with one key in ten", |shim| {
            shim.set(Function::GenerateKey, Fault::Leak(8 << 20), sometimes(100));
        })
        .without_failures(),
    ]
}

pub(crate) fn sessions_handles_and_tokens() -> Vec<Scenario> {
    vec![
        Scenario::new("all sessions closed", |shim| {
            shim.set(Function::UnwrapKey, Fault::CloseSessions, sometimes(5));
        }),
        Scenario::new("handles renumbered at reconnect", |shim| {
            shim.renumber_handles(true);
            shim.set(Function::GenerateKey, Fault::CloseSessions, sometimes(10));
        }),
        Scenario::new("the call was made, the answer lost", |shim| {
            all_key_use(shim, Fault::ErrorAfter(Ckr::DEVICE_ERROR), sometimes(10));
        }),
        Scenario::new("no session to be had", |shim| {
            shim.set(Function::OpenSession, Fault::Error(Ckr::SESSION_COUNT), When::Always);
            shim.set(Function::UnwrapKey, Fault::CloseSessions, When::Next(1));
        }),
        Scenario::new("the token is pulled out", Shim::vanish),
    ]
}

pub(crate) fn wrong_answers() -> Vec<Scenario> {
    vec![
        Scenario::new("every wrapped key has a wrong bit", |shim| {
            shim.set(Function::WrapKey, Fault::FlipBit, When::Always);
        })
        .ending_within_a_batch(),
        Scenario::new("a wrapped key is not written", |shim| {
            shim.set(Function::WrapKey, Fault::Nothing, When::Always);
        })
        .ending_within_a_batch(),
        Scenario::new("one wrapped key in fifty has a wrong bit", |shim| {
            shim.set(Function::WrapKey, Fault::FlipBit, sometimes(20));
        })
        .with_dead_edeks(),
        Scenario::new("one wrapped key in fifty is not written", |shim| {
            shim.set(Function::WrapKey, Fault::Nothing, sometimes(20));
        })
        .with_dead_edeks(),
        Scenario::new("a DEK is read with a wrong bit", |shim| {
            shim.set(Function::GetAttributeValue, Fault::FlipBit, sometimes(20));
        }),
        Scenario::new("a MAC has a wrong bit", |shim| {
            shim.set(Function::Sign, Fault::FlipBit, sometimes(20));
        }),
        Scenario::new("an unwrap gives another key", |shim| {
            shim.set(Function::UnwrapKey, Fault::OtherObject, sometimes(20));
        }),
        Scenario::new("a derivation gives another key", |shim| {
            shim.set(Function::DeriveKey, Fault::OtherObject, When::Always);
            shim.set(Function::GenerateKey, Fault::CloseSessions, When::Next(1));
        }),
        Scenario::new("an encryption has a wrong bit", |shim| {
            shim.set(Function::Encrypt, Fault::FlipBit, When::Always);
        })
        .ending_within_a_batch(),
        Scenario::new("one encryption in fifty has a wrong bit", |shim| {
            shim.set(Function::Encrypt, Fault::FlipBit, sometimes(20));
        })
        .with_dead_edeks(),
        Scenario::new("a decryption has a wrong bit", |shim| {
            shim.set(Function::Decrypt, Fault::FlipBit, sometimes(20));
        }),
        Scenario::new("an encryption is not made", |shim| {
            shim.set(Function::Encrypt, Fault::Nothing, sometimes(20));
        }),
        Scenario::new("a decryption is not made", |shim| {
            shim.set(Function::Decrypt, Fault::Nothing, sometimes(20));
        }),
        Scenario::new("random bytes are not drawn", |shim| {
            shim.set(Function::GenerateRandom, Fault::Nothing, When::Always);
        }),
    ]
}
