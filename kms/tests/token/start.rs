//! What a token layer says that cannot start, or cannot start yet.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use strongroom_kms::token::{TokenStartError, TokenState};
use strongroom_proto::Reason;

use crate::fixture::{Fixture, LABEL, module, reaches, write_secret};

#[tokio::test]
async fn a_missing_module_is_said_with_the_remedy() {
    let fixture = Fixture::new();
    let mut config = fixture.config();
    config.module = PathBuf::from("/nowhere/libsofthsm2.so");
    let error = fixture.try_start(config).await.expect_err("there is no module");
    assert!(matches!(error, TokenStartError::ModuleMissing { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("/nowhere/libsofthsm2.so"), "{message}");
    assert!(message.contains("apt-get install softhsm2"), "{message}");
}

#[tokio::test]
async fn a_file_that_is_no_module_is_said() {
    let fixture = Fixture::new();
    let mut config = fixture.config();
    config.module = fixture.path("so-pin");
    let token = fixture.try_start(config).await.expect("the file is there");
    let failure = token.profile().await.expect_err("no module");
    assert_eq!(failure.reason, Reason::TokenUnavailable);
    assert!(failure.message.contains("cannot be loaded"), "{failure}");
}

#[tokio::test]
async fn a_missing_token_is_said_and_found_once_it_is_there() {
    let fixture = Fixture::without_token();
    let token = fixture.try_start(fixture.config()).await.expect("may still appear");
    let state = token.subscribe().borrow().clone();
    assert!(matches!(state, TokenState::Unavailable { .. }), "{state:?}");
    let failure = token.profile().await.expect_err("no token");
    assert_eq!(failure.reason, Reason::TokenUnavailable);
    for part in [LABEL, "found: none", "strongroom token init"] {
        assert!(failure.message.contains(part), "{failure}");
    }
    assert!(fixture.init(LABEL).status.success());
    reaches(&token, |state| *state == TokenState::Ready).await;
}

#[tokio::test]
async fn a_pin_file_that_is_missing_or_open_to_others_is_refused() {
    let fixture = Fixture::new();
    let pin = fixture.path("pin");
    fs::set_permissions(&pin, fs::Permissions::from_mode(0o644)).expect("own file");
    let error = fixture.try_start(fixture.config()).await.expect_err("open to others");
    assert!(error.to_string().contains("chmod 600"), "{error}");
    fs::remove_file(&pin).expect("own file");
    let error = fixture.try_start(fixture.config()).await.expect_err("missing");
    assert!(error.to_string().contains(&pin.display().to_string()), "{error}");
    assert!(fixture.starts().is_empty());
}

#[tokio::test]
async fn an_existing_token_is_not_initialised_again() {
    let fixture = Fixture::new();
    let output = fixture.init(LABEL);
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("exists already"), "{message}");
    assert!(
        fixture.init("another").status.success(),
        "a second token has its own slot"
    );
    fixture.start().await;
}

#[test]
fn bad_labels_and_pins_make_no_token() {
    let fixture = Fixture::without_token();
    for label in ["", " padded", &"x".repeat(33)] {
        let output = fixture.init(label);
        assert!(!output.status.success(), "{label:?}");
    }
    write_secret(&fixture.path("pin"), "123");
    let output = fixture.init(LABEL);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("has 3 bytes; this token takes "), "{message}");
    write_secret(&fixture.path("pin"), crate::fixture::PIN);
    assert!(fixture.init(LABEL).status.success(), "nothing was made before");
}

#[test]
fn a_worker_started_by_hand_says_what_it_is_for() {
    let fixture = Fixture::new();
    let output = Command::new(fixture.worker())
        .args(["token-worker", "--token-label", LABEL, "--module"])
        .arg(module())
        .arg("--pin-file")
        .arg(fixture.path("pin"))
        .arg("--marks")
        .arg(fixture.path("state"))
        .stdin(std::process::Stdio::null())
        .output()
        .expect("the script runs");
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("started by the key service, not by hand"), "{message}");
}
