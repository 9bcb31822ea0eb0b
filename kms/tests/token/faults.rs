//! A token that fails in the middle: lost sessions, a lost device, codes that say nothing, attributes that are wrong. The
//! failures come from a module in front of the token's own.

use std::time::Duration;

use strongroom_kms::token::{NewVersion, Token, TokenConfig, TokenState};
use strongroom_pkcs11_shim::{Ckr, Fault, Function, Shim, When};
use strongroom_proto::{Edek, EdekSuite, Failure, KeyVersion, Reason};

use crate::{
    fixture::{Fixture, becomes, fresh, name, reaches, write_secret, zone},
    import::wrap,
};

const V0: KeyVersion = KeyVersion(0);

struct Faulty {
    fixture: Fixture,
    shim: Shim,
}

impl Faulty {
    fn new() -> Self {
        let fixture = Fixture::new();
        let shim = Shim::in_front_of(&fixture.config().module).expect("the module is written");
        Self { fixture, shim }
    }

    fn config(&self) -> TokenConfig {
        TokenConfig {
            module: self.shim.module(),
            ..self.fixture.config()
        }
    }

    async fn start(&self) -> Token {
        let token = self.fixture.try_start(self.config()).await.expect("all is there");
        assert_eq!(*token.subscribe().borrow(), TokenState::Ready);
        token
    }

    /// A token with one key version, and an EDEK of it.
    async fn start_with_edek(&self) -> (Token, Edek) {
        let token = self.start().await;
        let made = token.generate(&fresh("payroll", 0)).await;
        made.expect("a fresh version");
        let wrapped = token
            .mint(&name("payroll"), V0, &zone(1), 1)
            .await
            .expect("minted")
            .remove(0);
        let edek = Edek {
            key: name("payroll"),
            version: V0,
            zone: zone(1),
            suite: EdekSuite::Kw,
            wrapped,
        };
        (token, edek)
    }

    /// The next `count` calls of a function fail.
    fn fail(&self, function: Function, fault: Fault, count: u64) {
        self.shim.set(function, fault, When::Next(count));
    }
}

async fn unwrap_one(token: &Token, edek: &Edek) -> Result<(), Failure> {
    let mut results = token.unwrap(std::slice::from_ref(edek)).await?;
    results.remove(0).map(drop)
}

#[tokio::test]
async fn a_listing_that_meets_a_passing_error_fails_and_leaves_no_version_out() {
    let faulty = Faulty::new();
    let (token, _) = faulty.start_with_edek().await;
    token.stop().await;
    let token = faulty.start().await;
    faulty
        .shim
        .set(Function::DeriveKey, Fault::Error(Ckr::DEVICE_MEMORY), When::Next(1));
    let failure = token.list_versions().await.expect_err("its check value is not known");
    assert_eq!(failure.reason, Reason::TokenUnavailable, "{failure}");
    assert_eq!(token.unfit(), []);
    assert_eq!(token.list_versions().await.expect("listed").len(), 1);
}

#[tokio::test]
async fn a_lost_session_is_opened_anew_within_the_call() {
    let faulty = Faulty::new();
    let (token, edek) = faulty.start_with_edek().await;
    assert_eq!(faulty.shim.logins(), 1);
    for (number, function) in [Function::GenerateKey, Function::WrapKey].into_iter().enumerate() {
        faulty.fail(function, Fault::CloseSessions, 1);
        let minted = token.mint(&name("payroll"), V0, &zone(1), 50).await;
        assert_eq!(minted.expect("repeated").len(), 50, "{function:?}");
        assert_eq!(faulty.shim.logins(), 2 + number as u64);
    }
    faulty.fail(Function::UnwrapKey, Fault::CloseSessions, 1);
    unwrap_one(&token, &edek).await.expect("repeated");
    assert_eq!(faulty.shim.logins(), 4);
    assert_eq!(faulty.fixture.starts().len(), 1, "no worker was lost");
}

#[tokio::test]
async fn a_worker_that_has_grown_too_large_makes_way_without_a_failed_call() {
    let faulty = Faulty::new();
    let (token, edek) = faulty.start_with_edek().await;
    faulty.fail(Function::GenerateKey, Fault::Leak(64 << 20), 5);
    for _ in 0..64 {
        let minted = token.mint(&name("payroll"), V0, &zone(1), 1).await;
        assert_eq!(minted.expect("no call fails").len(), 1);
        unwrap_one(&token, &edek).await.expect("no call fails");
    }
    assert_eq!(faulty.fixture.starts().len(), 2, "one worker made way for another");
}

#[tokio::test]
async fn a_session_that_is_lost_again_and_again_ends_the_call() {
    let faulty = Faulty::new();
    let (token, edek) = faulty.start_with_edek().await;
    faulty.fail(Function::UnwrapKey, Fault::CloseSessions, 2);
    let failure = unwrap_one(&token, &edek).await.expect_err("lost twice");
    assert_eq!(failure.reason, Reason::TokenUnavailable);
    unwrap_one(&token, &edek).await.expect("the next call finds a session");
}

/// Whoever imports must not be told that the key he sent is wrong when it is the token that fails.
#[tokio::test]
async fn an_import_while_the_token_fails_is_repeated_or_said_to_be_the_tokens_fault() {
    let faulty = Faulty::new();
    let token = faulty.start().await;
    let import = token.import_key(false).await.expect("an import key");
    let mut version = 0;
    let mut bring = |fault, count: u64| {
        let new = fresh("payroll", version);
        version += 1;
        let wrapped = wrap(&import, &[7; 32]);
        if count > 0 {
            faulty.fail(Function::UnwrapKey, fault, count);
        } else {
            faulty.shim.set(Function::UnwrapKey, fault, When::Always);
        }
        let (token, import) = (token.clone(), import.id);
        async move { token.import(&new, import, wrapped).await }
    };
    for fault in [
        Fault::CloseSessions,
        Fault::Error(Ckr::SESSION_HANDLE_INVALID),
        Fault::Error(Ckr::USER_NOT_LOGGED_IN),
        Fault::Error(Ckr::DEVICE_ERROR),
        Fault::Error(Ckr::GENERAL_ERROR),
        Fault::Error(Ckr::FUNCTION_FAILED),
        Fault::Error(Ckr::VENDOR_DEFINED),
    ] {
        bring(fault, 1)
            .await
            .unwrap_or_else(|failure| panic!("{fault:?}, once: {failure}"));
        let failure = bring(fault, 0).await.expect_err("it never opens");
        faulty.shim.clear_all();
        token.list_versions().await.expect("it is itself again");
        let fair = [Reason::TokenUnavailable, Reason::TokenRefused].contains(&failure.reason);
        assert!(fair, "{fault:?}, always: {}: {failure}", failure.reason);
    }
    let failure = token
        .import(&fresh("payroll", 99), import.id, vec![9; 384].into())
        .await;
    assert_eq!(failure.expect_err("not wrapped to it").reason, Reason::InvalidArgument);
    token.stop().await;
}

#[tokio::test]
async fn a_lost_device_costs_a_worker_and_no_call() {
    let faulty = Faulty::new();
    let (token, edek) = faulty.start_with_edek().await;
    faulty.fail(Function::UnwrapKey, Fault::Error(Ckr::DEVICE_REMOVED), 1);
    unwrap_one(&token, &edek).await.expect("repeated by another worker");
    assert_eq!(faulty.fixture.starts().len(), 2);
}

#[tokio::test]
async fn a_failing_token_does_not_make_a_good_edek_look_bad() {
    let faulty = Faulty::new();
    let (token, edek) = faulty.start_with_edek().await;
    let mut met = 0;
    for count in [2, 4] {
        faulty.fail(Function::UnwrapKey, Fault::Error(Ckr::GENERAL_ERROR), count);
        let outcome = unwrap_one(&token, &edek).await;
        let reason = outcome.err().map(|failure| failure.reason);
        assert_ne!(reason, Some(Reason::EdekInvalid), "after {count} failures");
        met += count;
        assert_eq!(
            faulty.shim.fired(Function::UnwrapKey),
            met,
            "all {count} failures were met"
        );
    }
    unwrap_one(&token, &edek).await.expect("the token works again");
}

#[tokio::test]
async fn a_key_that_was_ever_extractable_is_destroyed_again() {
    let faulty = Faulty::new();
    let token = faulty.start().await;
    let lie = || {
        faulty
            .shim
            .set(Function::GetAttributeValue, Fault::EVER_EXTRACTABLE, When::Always);
    };
    lie();
    let failure = token
        .generate(&fresh("payroll", 0))
        .await
        .expect_err("not as asked for");
    assert_eq!(failure.reason, Reason::TokenRefused);
    assert!(failure.message.contains("destroyed again"), "{failure}");
    faulty.shim.clear(Function::GetAttributeValue);
    assert_eq!(token.list_versions().await.expect("listed"), []);
    token.generate(&fresh("payroll", 0)).await.expect("the version is free");

    lie();
    assert_eq!(
        token.list_versions().await.expect("listed"),
        [],
        "not used while it reads back wrong"
    );
    let failure = token
        .mint(&name("payroll"), V0, &zone(1), 1)
        .await
        .expect_err("not used");
    assert_eq!(failure.reason, Reason::KeyVersionUnusable);
    assert!(failure.message.contains("CKA_ID"), "{failure}");
    let failure = token
        .generate(&fresh("payroll", 0))
        .await
        .expect_err("there all the same");
    assert_eq!(failure.reason, Reason::AlreadyExists);
}

#[tokio::test]
async fn a_canary_that_does_not_sing_leaves_no_key() {
    let faulty = Faulty::new();
    let token = faulty.start().await;
    // The first wrap of the canary.
    faulty.fail(Function::WrapKey, Fault::Error(Ckr::KEY_NOT_WRAPPABLE), 1);
    let failure = token.generate(&fresh("payroll", 0)).await.expect_err("no canary");
    assert_eq!(failure.reason, Reason::TokenRefused);
    assert_eq!(token.list_versions().await.expect("listed"), []);
}

#[tokio::test]
async fn a_wrong_pin_is_given_to_the_token_once() {
    let faulty = Faulty::new();
    write_secret(&faulty.fixture.path("pin"), "0000-wrong");
    for _ in 0..2 {
        let token = faulty.fixture.try_start(faulty.config()).await.expect("all is there");
        for _ in 0..3 {
            let failure = token.profile().await.expect_err("wrong PIN");
            assert_eq!(failure.reason, Reason::PinRejected);
        }
        token.stop().await;
    }
    assert_eq!(faulty.shim.logins(), 1);
}

#[tokio::test]
async fn a_worker_that_dies_in_a_login_costs_one_more() {
    let faulty = Faulty::new();
    faulty.fail(Function::Login, Fault::CrashAfter, 1);
    let token = faulty.fixture.try_start(faulty.config()).await.expect("all is there");
    reaches(&token, |state| *state == TokenState::Ready).await;
    assert_eq!(faulty.shim.logins(), 2);
    assert!(!faulty.fixture.path("state/login-under-way").exists());
}

/// Whether a PIN was rejected is never told, across restarts of the service: it must not be tried until the token locks.
#[tokio::test]
async fn logins_that_are_never_answered_end_after_two() {
    let faulty = Faulty::new();
    faulty.fail(Function::Login, Fault::CrashAfter, 100);
    for _ in 0..3 {
        let token = faulty.fixture.try_start(faulty.config()).await.expect("all is there");
        reaches(&token, |state| *state == TokenState::PinRejected).await;
        assert_eq!(token.profile().await.expect_err("no login").reason, Reason::PinRejected);
        token.stop().await;
    }
    assert_eq!(faulty.shim.logins(), 2);
    faulty.shim.clear(Function::Login);

    let token = faulty.fixture.try_start(faulty.config()).await.expect("all is there");
    // The same PIN in another file is the same PIN; the way out is the one that the message names.
    write_secret(&faulty.fixture.path("pin"), crate::fixture::PIN);
    std::fs::remove_file(faulty.fixture.path("state/pin-rejected")).expect("there is a mark");
    reaches(&token, |state| *state == TokenState::Ready).await;
    assert_eq!(faulty.shim.logins(), 3);
}

/// A vendor's own code for a wrong PIN must not be tried until the token locks.
#[tokio::test]
async fn a_login_refused_with_an_unknown_code_counts_as_a_rejected_pin() {
    let faulty = Faulty::new();
    faulty.fail(Function::Login, Fault::Error(Ckr::VENDOR_DEFINED), 100);
    let token = faulty.fixture.try_start(faulty.config()).await.expect("all is there");
    assert_eq!(*token.subscribe().borrow(), TokenState::PinRejected);
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(faulty.shim.logins(), 1);
}

#[tokio::test]
async fn a_pin_that_is_locked_while_the_worker_runs_is_not_tried_again() {
    let faulty = Faulty::new();
    let (token, edek) = faulty.start_with_edek().await;
    faulty.fail(Function::Login, Fault::Error(Ckr::PIN_LOCKED), 1);
    faulty.fail(Function::UnwrapKey, Fault::CloseSessions, 1);
    let failure = unwrap_one(&token, &edek).await.expect_err("no login any more");
    assert_eq!(failure.reason, Reason::PinRejected);
    reaches(&token, |state| *state == TokenState::PinRejected).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(faulty.shim.logins(), 2, "one at the start, one that was refused");
    assert!(faulty.fixture.path("state/pin-rejected").exists());
}

/// All calls are there before the first of their carriers leaves, which takes them all: one thread runs everything here.
#[tokio::test]
async fn calls_that_went_with_one_that_fails_are_made_again_alone() {
    let faulty = Faulty::new();
    let (token, good) = faulty.start_with_edek().await;
    let new = NewVersion {
        suite: EdekSuite::Gcm,
        ..fresh("broken", 0)
    };
    token.generate(&new).await.expect("a fresh version");
    let minted = token.mint(&new.key, V0, &zone(1), 1).await.expect("minted").remove(0);
    let bad = Edek {
        key: new.key,
        suite: EdekSuite::Gcm,
        wrapped: minted,
        ..good.clone()
    };
    // No other suite is opened by this function.
    faulty.shim.set(
        Function::Decrypt,
        Fault::Error(Ckr::SESSION_HANDLE_INVALID),
        When::Always,
    );
    let (first, failed, second, third) = tokio::join!(
        unwrap_one(&token, &good),
        unwrap_one(&token, &bad),
        unwrap_one(&token, &good),
        unwrap_one(&token, &good),
    );
    for outcome in [first, second, third] {
        outcome.expect("nothing is wrong with its key");
    }
    assert_eq!(failed.expect_err("its key fails").reason, Reason::TokenUnavailable);
    let fired = faulty.shim.fired(Function::Decrypt);
    assert!(
        fired > 2,
        "{fired}: alone it is tried twice, and it went with the others before"
    );
    assert_eq!(faulty.fixture.starts().len(), 1, "no worker was lost");
}

/// A smart card searches for primes for a minute, and does nothing else meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_pair_may_take_longer_than_other_calls_and_nobody_ends_the_worker_that_makes_it() {
    let faulty = Faulty::new();
    let (token, edek) = faulty.start_with_edek().await;
    let slow = Fault::Hang(Some(Duration::from_secs(12)));
    faulty.fail(Function::GenerateKeyPair, slow, 1);
    let maker = token.clone();
    let making = tokio::spawn(async move { maker.import_key(false).await });
    becomes("it is being made", || faulty.shim.fired(Function::GenerateKeyPair) == 1).await;
    let failure = unwrap_one(&token, &edek).await.expect_err("it waits behind that");
    assert_eq!(failure.reason, Reason::TokenUnavailable, "{failure}");
    assert!(failure.message.contains("too slow"), "{failure}");
    let made = making.await.expect("no panic").expect("made in the end");
    unwrap_one(&token, &edek).await.expect("by the same worker");
    assert_eq!(token.import_key(false).await.expect("it stays").id, made.id);
    assert_eq!(faulty.fixture.starts().len(), 1, "no worker was ended");
}
