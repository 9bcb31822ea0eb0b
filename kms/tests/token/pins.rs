//! A rejected PIN is tried once, whatever is restarted and in whatever file it is, until there is another or its mark is removed.

use std::{fs, process::Command};

use strongroom_kms::token::{TokenConfig, TokenState};
use strongroom_proto::Reason;

use strongroom_pkcs11_shim::{Ckr, Fault, Function, Shim, When};

use crate::fixture::{Fixture, LABEL, PIN, program, reaches, write_secret};

#[tokio::test]
async fn a_wrong_pin_is_tried_once_and_the_corrected_one_at_once() {
    let fixture = Fixture::new();
    write_secret(&fixture.path("pin"), "0000-wrong");
    let token = fixture.try_start(fixture.config()).await.expect("starts all the same");
    assert_eq!(*token.subscribe().borrow(), TokenState::PinRejected);
    let failure = token.profile().await.expect_err("no PIN, no answer");
    assert_eq!(failure.reason, Reason::PinRejected);
    let expected = format!(
        "token {LABEL:?} rejected the PIN in {}; correct the PIN file; it is read again when it changes, and where the same PIN \
         is right by now, when {} is removed",
        fixture.path("pin").display(),
        fixture.path("state/pin-rejected").display()
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

/// As a service manager does it with a credential.
#[tokio::test]
async fn a_wrong_pin_is_tried_once_although_its_file_is_made_anew_at_each_start() {
    let fixture = Fixture::new();
    let shim = Shim::in_front_of(&fixture.config().module).expect("the module is written");
    shim.lock_pin_after(3);
    let start = async |pin: &str| {
        fs::remove_file(fixture.path("pin")).expect("it was there");
        write_secret(&fixture.path("pin"), pin);
        let config = TokenConfig {
            module: shim.module(),
            ..fixture.config()
        };
        fixture.try_start(config).await.expect("starts all the same")
    };
    for restart in 0..4 {
        let token = start("0000-wrong").await;
        reaches(&token, |state| *state == TokenState::PinRejected).await;
        assert_eq!(shim.logins(), 1, "after {restart} restarts");
        token.stop().await;
    }
    let token = start("1111-wrong-too").await;
    reaches(&token, |state| *state == TokenState::PinRejected).await;
    assert_eq!(shim.logins(), 2, "another PIN");
    token.stop().await;

    let token = start(PIN).await;
    reaches(&token, |state| *state == TokenState::Ready).await;
    assert_eq!(shim.logins(), 3);
}

/// As after the PIN was set in the token, or unlocked.
#[tokio::test]
async fn the_same_pin_is_tried_again_when_its_mark_is_removed() {
    let fixture = Fixture::new();
    let shim = Shim::in_front_of(&fixture.config().module).expect("the module is written");
    shim.set(Function::Login, Fault::Error(Ckr::PIN_LOCKED), When::Next(1));
    let config = TokenConfig {
        module: shim.module(),
        ..fixture.config()
    };
    let token = fixture.try_start(config).await.expect("starts all the same");
    assert_eq!(*token.subscribe().borrow(), TokenState::PinRejected);
    write_secret(&fixture.path("pin"), PIN);
    crate::fixture::becomes("the file is looked at", || fixture.starts().len() == 2).await;
    reaches(&token, |state| *state == TokenState::PinRejected).await;
    assert_eq!(shim.logins(), 1);
    fs::remove_file(fixture.path("state/pin-rejected")).expect("there is a mark");
    reaches(&token, |state| *state == TokenState::Ready).await;
    assert_eq!(shim.logins(), 2);
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

/// A command of its own process beside the service, with the service's marks: what it says on standard error, empty if it
/// succeeded.
fn beside(fixture: &Fixture, command: &str, shim: &Shim) -> String {
    let output = Command::new(program())
        .args([command, "--token-label", LABEL, "--module"])
        .arg(shim.module())
        .arg("--pin-file")
        .arg(fixture.path("pin"))
        .arg("--so-pin-file")
        .arg(fixture.path("so-pin"))
        .arg("--marks")
        .arg(fixture.path("state"))
        .envs([fixture.environment()])
        .output()
        .expect("the example token_worker is built with the tests");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), said.is_empty(), "{output:?}");
    said
}

#[tokio::test]
async fn inspecting_tries_no_pin_that_the_service_found_wrong_and_the_other_way_round() {
    let fixture = Fixture::new();
    let shim = Shim::in_front_of(&fixture.config().module).expect("the module is written");
    let config = TokenConfig {
        module: shim.module(),
        ..fixture.config()
    };
    write_secret(&fixture.path("pin"), "0000-wrong");
    let token = fixture.try_start(config.clone()).await.expect("starts all the same");
    assert_eq!(*token.subscribe().borrow(), TokenState::PinRejected);
    token.stop().await;
    for _ in 0..3 {
        let said = beside(&fixture, "token-inspect", &shim);
        assert!(said.contains("rejected the PIN"), "{said}");
    }
    assert_eq!(shim.logins(), 1, "the service's");

    write_secret(&fixture.path("pin"), "1111-wrong-too");
    let said = beside(&fixture, "token-inspect", &shim);
    assert!(said.contains("rejected the PIN"), "{said}");
    let token = fixture.try_start(config).await.expect("starts all the same");
    assert_eq!(*token.subscribe().borrow(), TokenState::PinRejected);
    assert_eq!(shim.logins(), 2, "the command's");

    write_secret(&fixture.path("pin"), PIN);
    reaches(&token, |state| *state == TokenState::Ready).await;
    assert_eq!(
        beside(&fixture, "token-inspect", &shim),
        "",
        "beside the running service"
    );
    token.stop().await;
}

#[test]
fn initialising_tries_no_officers_pin_twice() {
    let (fixture, other) = (Fixture::without_token(), Fixture::without_token());
    let shim = Shim::in_front_of(&fixture.config().module).expect("the module is written");
    shim.set(Function::Login, Fault::Error(Ckr::PIN_INCORRECT), When::Next(1));
    let said = beside(&fixture, "token-init", &shim);
    assert!(said.contains("security officer's login"), "{said}");

    // Another empty device under the same label, with the same file.
    let again = |said: &str| {
        let output = Command::new(program())
            .args(["token-init", "--token-label", LABEL, "--module"])
            .arg(shim.module())
            .arg("--pin-file")
            .arg(fixture.path("pin"))
            .arg("--so-pin-file")
            .arg(fixture.path("so-pin"))
            .arg("--marks")
            .arg(fixture.path("state"))
            .envs([other.environment()])
            .output()
            .expect("the example token_worker is built with the tests");
        let found = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            found.contains(said) && output.status.success() == said.is_empty(),
            "{output:?}"
        );
    };
    again("not tried again");
    assert_eq!(shim.logins(), 1);
    fs::remove_file(fixture.path("so-pin")).expect("it was there");
    write_secret(&fixture.path("so-pin"), crate::fixture::SO_PIN);
    again("not tried again");
    assert_eq!(shim.logins(), 1, "the same PIN in another file");
    fs::remove_file(fixture.path("state/so/pin-rejected")).expect("there is a mark");
    again("");
    assert_eq!(shim.logins(), 2);
}

/// Whoever may write anywhere, as root, meets a disk that is full and a name that is taken.
#[tokio::test]
async fn no_pin_is_tried_while_its_login_cannot_be_noted() {
    for (name, full) in [("login-under-way.new", true), ("login-lock", false)] {
        let fixture = Fixture::new();
        let shim = Shim::in_front_of(&fixture.config().module).expect("the module is written");
        let obstacle = fixture.path("state").join(name);
        fs::create_dir_all(fixture.path("state")).expect("a directory of our own");
        if full {
            std::os::unix::fs::symlink("/dev/full", &obstacle).expect("linked");
        } else {
            fs::create_dir(&obstacle).expect("made");
        }
        let config = TokenConfig {
            module: shim.module(),
            ..fixture.config()
        };
        let token = fixture.try_start(config).await.expect("starts all the same");
        let refused = |state: &TokenState| match state {
            TokenState::Unavailable { why } => why.contains("cannot keep the mark of a rejected PIN"),
            _ => false,
        };
        reaches(&token, refused).await;
        crate::fixture::becomes("it is tried again to note it", || fixture.starts().len() > 1).await;
        assert_eq!(shim.logins(), 0, "{name}");
        if full {
            fs::remove_file(&obstacle).expect("it was there");
        } else {
            fs::remove_dir(&obstacle).expect("it was there");
        }
        reaches(&token, |state| *state == TokenState::Ready).await;
        assert_eq!(shim.logins(), 1, "{name}");
        token.stop().await;
    }
}
