//! A worker that crashes, hangs or is orphaned.

use std::{path::Path, time::Duration};

use strongroom_kms::token::{Token, TokenState};
use strongroom_proto::{KeyVersion, Reason};
use tokio::task::JoinSet;

use crate::fixture::{Fixture, becomes, fresh, name, reaches, zone};

const V0: KeyVersion = KeyVersion(0);

async fn ready(fixture: &Fixture) -> Token {
    let token = fixture.start().await;
    let made = token.generate(&fresh("payroll", 0)).await;
    made.expect("a fresh version");
    token
}

fn running(pid: u32) -> bool {
    // A zombie has no command line.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_workers_cost_no_call() {
    let fixture = Fixture::new();
    let token = ready(&fixture).await;
    let mut callers = JoinSet::new();
    for caller in 0..8_u8 {
        let token = token.clone();
        callers.spawn(async move {
            for _ in 0..60 {
                let minted = token.mint(&name("payroll"), V0, &zone(caller), 40).await;
                assert_eq!(minted.expect("a kill costs a retry, not an error").len(), 40);
            }
        });
    }
    for kills in 1..=2_usize {
        tokio::time::sleep(Duration::from_millis(150)).await;
        fixture.signal_worker("KILL");
        becomes("another worker is started", || fixture.starts().len() > kills).await;
        reaches(&token, |state| *state == TokenState::Ready).await;
    }
    while let Some(outcome) = callers.join_next().await {
        outcome.expect("no caller saw an error");
    }
    assert_eq!(fixture.starts().len(), 3);
}

#[tokio::test]
async fn a_hanging_worker_is_replaced() {
    let fixture = Fixture::new();
    let token = ready(&fixture).await;
    let hung = fixture.starts()[0];
    fixture.signal_worker("STOP");
    let minted = token.mint(&name("payroll"), V0, &zone(1), 1).await;
    minted.expect("repeated on the next worker");
    assert_eq!(fixture.starts().len(), 2);
    assert!(!running(hung), "the hanging worker was killed");
}

#[tokio::test]
async fn a_repeated_generation_makes_one_object() {
    let fixture = Fixture::new();
    let token = ready(&fixture).await;
    fixture.signal_worker("STOP");
    let (new, caller) = (fresh("slow", 0), token.clone());
    let id = new.id;
    let call = tokio::spawn(async move { caller.generate(&new).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    fixture.signal_worker("KILL");
    let made = call.await.expect("no panic").expect("repeated on the next worker");
    assert_eq!(made.token_id, id);
    assert_eq!(token.list_versions().await.expect("listed").len(), 2);
}

#[tokio::test]
async fn a_stopped_token_leaves_no_worker() {
    let fixture = Fixture::new();
    let token = ready(&fixture).await;
    let pid = fixture.starts()[0];
    assert!(running(pid));
    token.stop().await;
    becomes("the worker ends", || !running(pid)).await;
    let failure = token.profile().await.expect_err("stopped");
    assert_eq!(failure.reason, Reason::TokenUnavailable);
}

#[test]
fn a_worker_ends_with_the_process_that_started_it() {
    let fixture = Fixture::new();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let token = runtime.block_on(ready(&fixture));
    let pid = fixture.starts()[0];
    // Forgetting the handle leaves nobody to kill the worker; only its socket closes, as it does when a process dies.
    drop(token);
    runtime.shutdown_background();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while running(pid) {
        assert!(std::time::Instant::now() < deadline, "worker {pid} outlives its parent");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn an_interrupt_for_the_whole_group_does_not_end_a_worker() {
    let fixture = Fixture::new();
    let token = ready(&fixture).await;
    for signal in ["INT", "TERM"] {
        fixture.signal_worker(signal);
    }
    assert!(token.mint(&name("payroll"), V0, &zone(1), 1).await.is_ok());
    assert_eq!(fixture.starts().len(), 1);
    assert!(Path::new(&format!("/proc/{}", fixture.starts()[0])).exists());
}
