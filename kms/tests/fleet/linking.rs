//! Linking tries no PIN twice that a token refused, neither the user's nor the security officer's.

use std::fs;

use strongroom_proto::Reason;

use crate::{
    fixture::{PIN, SO_PIN, write_secret},
    pair::Pair,
    vendor::SoftHsm2,
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
    assert!(linked.iter().all(|token| !token.keys_readable_with_pin), "{linked:?}");
    let failure = pair.link_accepting(&["another"], false).expect_err("no such token");
    assert_eq!(failure.reason, Reason::InvalidArgument, "{failure}");
    assert_eq!(fs::read_dir(pair.path("state/tokens")).expect("marks").count(), 2);
}
