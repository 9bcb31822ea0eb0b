//! A rejected PIN is tried once, whatever is restarted, until its file changes.

use std::fs;

use strongroom_kms::token::TokenState;
use strongroom_proto::Reason;

use crate::fixture::{Fixture, LABEL, PIN, reaches, write_secret};

#[tokio::test]
async fn a_wrong_pin_is_tried_once_and_the_corrected_one_at_once() {
    let fixture = Fixture::new();
    write_secret(&fixture.path("pin"), "0000-wrong");
    let token = fixture.try_start(fixture.config()).await.expect("starts all the same");
    assert_eq!(*token.subscribe().borrow(), TokenState::PinRejected);
    let failure = token.profile().await.expect_err("no PIN, no answer");
    assert_eq!(failure.reason, Reason::PinRejected);
    let expected = format!(
        "token {LABEL:?} rejected the PIN in {}; correct the PIN file; it is read again when it changes",
        fixture.path("pin").display()
    );
    assert_eq!(failure.message, expected);
    assert_eq!(fixture.starts().len(), 1);
    token.stop().await;

    // The key service is restarted: no worker is even started.
    let token = fixture.try_start(fixture.config()).await.expect("starts all the same");
    assert_eq!(*token.subscribe().borrow(), TokenState::PinRejected);
    assert_eq!(
        token.list_versions().await.expect_err("still wrong").reason,
        Reason::PinRejected
    );
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert_eq!(
        fixture.starts().len(),
        1,
        "two polls of the file later nothing was tried"
    );

    let mark = fs::read_to_string(fixture.path("state/pin-rejected")).expect("the mark is there");
    assert!(!mark.contains("0000-wrong"), "the mark holds the PIN");

    write_secret(&fixture.path("pin"), &format!("{PIN}\n"));
    reaches(&token, |state| *state == TokenState::Ready).await;
    assert_eq!(fixture.starts().len(), 2);
    assert!(token.profile().await.is_ok());
    assert!(
        !fixture.path("state/pin-rejected").exists(),
        "an accepted PIN leaves no mark"
    );
}

#[tokio::test]
async fn another_wrong_pin_is_tried_once_too() {
    let fixture = Fixture::new();
    write_secret(&fixture.path("pin"), "0000-wrong");
    let token = fixture.try_start(fixture.config()).await.expect("starts all the same");
    write_secret(&fixture.path("pin"), "1111-wrong-too");
    crate::fixture::becomes("the second PIN is tried", || fixture.starts().len() == 2).await;
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert_eq!(*token.subscribe().borrow(), TokenState::PinRejected);
    assert_eq!(fixture.starts().len(), 2);
}

#[tokio::test]
async fn the_pin_does_not_reach_the_worker_by_its_arguments_or_environment() {
    let fixture = Fixture::new();
    let _token = fixture.start().await;
    let pid = fixture.starts()[0];
    for (file, hidden) in [
        ("cmdline", PIN),
        ("environ", PIN),
        // Set by cargo for this test: what a worker has no use for, it does not get.
        ("environ", "CARGO_MANIFEST_DIR"),
    ] {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).expect("own child");
        let shown = bytes.windows(hidden.len()).any(|window| window == hidden.as_bytes());
        assert!(!shown, "{file} shows {hidden}");
    }
}

#[tokio::test]
async fn a_worker_that_crashes_leaves_no_core_dump() {
    let fixture = Fixture::new();
    let _token = fixture.start().await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", fixture.starts()[0])).expect("own child");
    let core = limits.lines().find(|line| line.starts_with("Max core file size"));
    let values: Vec<_> = core.expect("a limit").split_whitespace().collect();
    assert_eq!(values[4..6], ["0", "0"], "{limits}");
}
