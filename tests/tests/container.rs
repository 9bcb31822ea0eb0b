//! The key service in a container of its own, over its real port: used, paused and killed.

use std::time::{Duration, Instant};

use strongroom_proto::{Reason, limits::CALL_TIMEOUT};
use strongroom_tests::{KmsContainer, create_key, mint, unwrap};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_serves_over_its_real_port() {
    let kms = KmsContainer::start().await;
    let key = create_key(kms.channel("user/keyadmin"), "payroll")
        .await
        .expect("may manage");
    assert_eq!(key.current_version, Some(0));
    let edeks = mint(kms.channel("service/metadata"), "payroll", 100)
        .await
        .expect("may mint");
    assert_eq!(edeks.len(), 100);
    let opened = unwrap(kms.channel("user/alice"), edeks.clone())
        .await
        .expect("may unwrap");
    assert!(opened.iter().all(Result::is_ok));
    let refused = unwrap(kms.channel("user/guest"), edeks).await;
    let message = match &refused {
        Ok(results) => results[0].as_ref().expect_err("guest has no grant").message.clone(),
        Err(failure) => failure.message.clone(),
    };
    assert!(message.contains("guest") && message.contains("payroll"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_service_costs_its_callers_a_bounded_time() {
    let kms = KmsContainer::start().await;
    create_key(kms.channel("user/keyadmin"), "payroll")
        .await
        .expect("may manage");
    let edeks = mint(kms.channel("service/metadata"), "payroll", 1)
        .await
        .expect("may mint");
    let alice = kms.channel("user/alice");
    assert!(unwrap(alice.clone(), edeks.clone()).await.expect("serves")[0].is_ok());

    kms.pause().await;
    let started = Instant::now();
    let failure = unwrap(alice.clone(), edeks.clone()).await.expect_err("nobody answers");
    let took = started.elapsed();
    kms.unpause().await;
    assert!(failure.is_transient(), "{:?}: {failure}", failure.reason);
    assert!(
        took < CALL_TIMEOUT + Duration::from_secs(5),
        "took {} s",
        took.as_secs()
    );

    // A pause shorter than the deadline is nothing but a delay, on the same connection.
    kms.pause().await;
    let waiting = tokio::spawn(unwrap(alice.clone(), edeks.clone()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!waiting.is_finished(), "a frozen service cannot have answered");
    kms.unpause().await;
    assert!(waiting.await.expect("no panic").expect("served after the pause")[0].is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_service_is_named_and_knows_its_keys_when_it_is_back() {
    let kms = KmsContainer::start().await;
    create_key(kms.channel("user/keyadmin"), "payroll")
        .await
        .expect("may manage");
    let edeks = mint(kms.channel("service/metadata"), "payroll", 1)
        .await
        .expect("may mint");
    let alice = kms.channel("user/alice");
    assert!(unwrap(alice.clone(), edeks.clone()).await.expect("serves")[0].is_ok());

    kms.kill();
    let started = Instant::now();
    let failure = unwrap(kms.channel("user/alice"), edeks.clone())
        .await
        .expect_err("nobody is there");
    assert_eq!(failure.reason, Reason::Unavailable, "{failure}");
    for words in ["kms", &kms.remote().to_string()] {
        assert!(failure.message.contains(words), "{failure}");
    }
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "a refused connection is known at once"
    );

    kms.start_again().await;
    assert!(
        unwrap(alice, edeks.clone()).await.expect("serves again")[0].is_ok(),
        "the old channel finds it"
    );
    let more = mint(kms.channel("service/metadata"), "payroll", 1)
        .await
        .expect("mints again");
    assert_ne!(more[0].wrapped, edeks[0].wrapped);
}
