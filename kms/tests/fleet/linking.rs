//! Linking tries no PIN twice that a token refused, neither the user's nor the security officer's; and it takes no token
//! in which keys for trusted keys only are not safe, nor one that fails while that is tried.

use std::fs;

use strongroom_kms::token::{TokenConfig, trust::KeysReadable};
use strongroom_pkcs11_shim::{Ckr, Fault, Function, Shim, When};
use strongroom_proto::Reason;

use crate::{
    fixture::{PIN, SO_PIN, write_secret},
    pair::{LABELS, Pair},
    vendor::{SoftHsm2, TokenUnderTest as _},
};

#[test]
fn a_refused_user_pin_is_not_tried_again_until_its_file_changes() {
    refused_once("pin", PIN);
}

#[test]
fn a_refused_officers_pin_is_not_tried_again_until_its_file_changes() {
    refused_once("so-pin", SO_PIN);
}

fn refused_once(file: &str, right: &str) {
    let pair = Pair::unlinked([&SoftHsm2, &SoftHsm2]);
    let file = pair.path(file);
    write_secret(&file, "000000");
    let first = pair.link(false).expect_err("a wrong PIN");
    assert!(first.message.contains("took no login"), "{first}");
    for _ in 0..5 {
        let again = pair.link(false).expect_err("still wrong");
        assert!(again.message.contains("not tried again"), "{again}");
    }
    fs::remove_file(&file).expect("it was there");
    write_secret(&file, right);
    let linked = pair.link(false).expect("another PIN is tried");
    assert!(linked.iter().all(|token| token.lacks.is_empty()), "{linked:?}");
    assert!(
        linked.iter().all(|token| token.keys_readable_with_pin.is_none()),
        "{linked:?}"
    );
    let failure = pair.link_accepting(&["another"], false).expect_err("no such token");
    assert_eq!(failure.reason, Reason::InvalidArgument, "{failure}");
    assert_eq!(fs::read_dir(pair.path("state/tokens")).expect("marks").count(), 2);
}

/// Two tokens that are not linked, the first behind a shim.
fn behind_shim() -> (Pair, Shim, Vec<TokenConfig>) {
    let pair = Pair::unlinked([&SoftHsm2, &SoftHsm2]);
    let shim = Shim::in_front_of(&SoftHsm2.module()).expect("writable");
    let mut configs = pair.configs();
    configs[0].module = shim.module();
    (pair, shim, configs)
}

#[test]
fn a_token_that_wraps_under_any_key_what_only_trusted_keys_may_wrap_is_refused_unless_accepted() {
    let (pair, shim, configs) = behind_shim();
    pair.link_with(&configs, &[], false)
        .expect("the token keeps to the standard");
    shim.set(Function::GenerateKey, Fault::TRUST_IGNORED, When::Always);
    let flag = format!("--keys-readable-with-pin {:?}", LABELS[0]);
    for check_only in [false, true] {
        let failure = pair
            .link_with(&configs, &[], check_only)
            .expect_err("keys are not safe");
        assert_eq!(failure.reason, Reason::TokenRefused, "{failure}");
        for part in ["CKA_WRAP_WITH_TRUSTED", LABELS[0], flag.as_str()] {
            assert!(failure.message.contains(part), "{failure} lacks {part:?}");
        }
        assert!(!failure.message.contains("  "), "{failure}");
    }
    let linked = pair.link_with(&configs, &[LABELS[0]], false).expect("accepted");
    let readable: Vec<_> = linked.iter().map(|token| token.keys_readable_with_pin).collect();
    assert_eq!(readable, [Some(KeysReadable::Unguarded), None], "{linked:?}");
}

#[test]
fn a_token_that_fails_while_it_is_tried_is_not_taken_for_safe() {
    let (pair, shim, configs) = behind_shim();
    for (function, code) in [
        (Function::CopyObject, Ckr::GENERAL_ERROR),
        (Function::CopyObject, Ckr::FUNCTION_FAILED),
        (Function::CopyObject, Ckr::DEVICE_ERROR),
        (Function::CopyObject, Ckr::HOST_MEMORY),
        (Function::SetAttributeValue, Ckr::DEVICE_MEMORY),
        (Function::SetAttributeValue, Ckr::SESSION_COUNT),
    ] {
        shim.set(function, Fault::Error(code), When::Always);
        let failure = pair.link_with(&configs, &[], false).expect_err("nothing is known");
        assert!(
            failure.message.contains("not known to be safe"),
            "{function:?} {code:?}: {failure}"
        );
        shim.clear(function);
    }
    pair.link_with(&configs, &[], false).expect("it works again");
}
