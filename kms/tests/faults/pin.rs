//! A PIN that is wrong or locked is tried once, however much load waits for the token.

use std::time::{Duration, Instant};

use strongroom_kms::token::{TokenConfig, TokenState};
use strongroom_pkcs11_shim::{Ckr, Fault, Function, Shim, When};
use strongroom_proto::{KeyVersion, Reason};

use crate::fixture::{Fixture, PIN, becomes, fresh, name, reaches, write_secret, zone};

const WRONG_PINS_MAX: u32 = 3;

fn shimmed(fixture: &Fixture) -> (Shim, TokenConfig) {
    let shim = Shim::in_front_of(&fixture.config().module).expect("the module is written");
    shim.lock_pin_after(WRONG_PINS_MAX);
    let config = TokenConfig {
        module: shim.module(),
        ..fixture.config()
    };
    (shim, config)
}

#[tokio::test]
async fn a_wrong_pin_is_tried_once_and_does_not_lock_the_token() {
    let fixture = Fixture::new();
    let (shim, config) = shimmed(&fixture);
    write_secret(&fixture.path("pin"), "0000-wrong");
    for restart in 0..4 {
        let token = fixture.try_start(config.clone()).await.expect("all is there");
        for _ in 0..50 {
            let failure = token
                .mint(&name("payroll"), KeyVersion(0), &zone(1), 1)
                .await
                .expect_err("no PIN");
            assert_eq!(failure.reason, Reason::PinRejected);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(shim.logins(), 1, "after {restart} restarts");
        token.stop().await;
    }
    write_secret(&fixture.path("pin"), PIN);
    let token = fixture.try_start(config).await.expect("all is there");
    reaches(&token, |state| *state == TokenState::Ready).await;
    assert_eq!(shim.logins(), 2);
}

#[tokio::test]
async fn a_pin_that_gets_locked_while_in_use_is_tried_once() {
    let fixture = Fixture::new();
    let (shim, config) = shimmed(&fixture);
    let token = fixture.try_start(config).await.expect("all is there");
    token.generate(&fresh("payroll", 0)).await.expect("a fresh version");
    let logins = shim.logins();
    // Somebody else has given wrong PINs, and the session is lost.
    shim.set(Function::Login, Fault::Error(Ckr::PIN_LOCKED), When::Always);
    shim.set(Function::WrapKey, Fault::CloseSessions, When::Next(1));
    for _ in 0..20 {
        let failure = token
            .mint(&name("payroll"), KeyVersion(0), &zone(1), 1)
            .await
            .expect_err("locked");
        assert_eq!(failure.reason, Reason::PinRejected);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shim.logins(), logins + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_lose_their_sessions_together_try_a_changed_pin_once() {
    const WORKERS: u8 = 4;
    let fixture = Fixture::new();
    let (shim, config) = shimmed(&fixture);
    let config = TokenConfig {
        workers: WORKERS,
        ..config
    };
    let token = fixture.try_start(config.clone()).await.expect("all is there");
    becomes("every worker is logged in", || shim.logins() == u64::from(WORKERS)).await;
    token.generate(&fresh("payroll", 0)).await.expect("a fresh version");
    // The PIN was changed in the token, and not in the file; then the token is restarted.
    shim.set(Function::Login, Fault::Error(Ckr::PIN_INCORRECT), When::Always);
    shim.set(Function::WrapKey, Fault::CloseSessions, When::Always);
    let calls = (0..16).map(|_| {
        let token = token.clone();
        tokio::spawn(async move { token.mint(&name("payroll"), KeyVersion(0), &zone(1), 1).await })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.expect("no panic").expect_err("no session, no EDEK");
    }
    // A worker that none of these calls came to still has its session; it gets the next ones.
    let started = Instant::now();
    while *token.subscribe().borrow() != TokenState::PinRejected {
        assert!(started.elapsed() < Duration::from_secs(20), "no worker is left");
        let minted = token.mint(&name("payroll"), KeyVersion(0), &zone(1), 1).await;
        minted.expect_err("no session, no EDEK");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shim.logins(), u64::from(WORKERS) + 1, "of all workers one tries it");
    token.stop().await;

    let token = fixture.try_start(config).await.expect("all is there");
    assert_eq!(*token.subscribe().borrow(), TokenState::PinRejected);
    assert_eq!(shim.logins(), u64::from(WORKERS) + 1);
}
