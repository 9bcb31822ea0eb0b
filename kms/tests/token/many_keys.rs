//! Many keys in a token that takes its time: it comes up, serves while its keys are listed, and is not taken for one that hangs.

use std::time::{Duration, Instant};

use strongroom_kms::token::{Token, TokenConfig, TokenKeyVersion, TokenState};
use strongroom_pkcs11_shim::{Fault, Function, Shim, When};
use strongroom_proto::{KeyVersion, Reason};

use crate::fixture::{Fixture, fresh, name, zone};

const KEYS: u32 = 120;
const FEW: u32 = 20;
/// Of each look at an object's attributes, of which a key takes several: as many keys take longer than any one call may.
const LATENCY: Duration = Duration::from_millis(30);
const CALL_MAX: Duration = Duration::from_secs(10);

/// A slow token with that many keys.
async fn slow(fixture: &Fixture, keys: u32) -> (Shim, Token, Vec<TokenKeyVersion>) {
    let token = fixture.start().await;
    let mut made = Vec::new();
    for n in 0..keys {
        let new = fresh(&format!("key-{n:03}"), 0);
        made.push(token.generate(&new).await.expect("a fresh version"));
    }
    token.stop().await;

    let shim = Shim::in_front_of(&fixture.config().module).expect("the module is written");
    let latency = Fault::Delay {
        least: LATENCY,
        jitter: Duration::ZERO,
    };
    shim.set(Function::GetAttributeValue, latency, When::Always);
    let config = TokenConfig {
        module: shim.module(),
        ..fixture.config()
    };
    let token = fixture.try_start(config).await.expect("all is there");
    assert_eq!(*token.subscribe().borrow(), TokenState::Ready);
    (shim, token, made)
}

#[tokio::test]
async fn a_slow_token_with_many_keys_is_listed_whole_and_serves_meanwhile() {
    let fixture = Fixture::new();
    let (shim, token, mut made) = slow(&fixture, KEYS).await;
    let started = Instant::now();
    let listing = tokio::spawn({
        let token = token.clone();
        async move { token.list_versions().await }
    });
    // What changes meanwhile is not overlooked for good, nor brought back.
    let logins = shim.logins();
    let gone = made.remove(0);
    let late = token.generate(&fresh("late", 0)).await.expect("made meanwhile");
    for gone in [&gone, &made.remove(KEYS as usize / 2)] {
        let destroyed = token.destroy(&gone.key, gone.version, gone.token_id).await;
        destroyed.expect("destroyed meanwhile");
    }
    let mut longest = Duration::ZERO;
    while !listing.is_finished() {
        let asked = Instant::now();
        let minted = token.mint(&name("key-119"), KeyVersion(0), &zone(1), 1).await;
        assert_eq!(minted.expect("served meanwhile").len(), 1);
        longest = longest.max(asked.elapsed());
    }
    assert!(
        started.elapsed() > CALL_MAX,
        "too quick to show anything: {:?}",
        started.elapsed()
    );
    assert!(longest < Duration::from_secs(3), "a call waited for {longest:?}");
    let mut listed = listing.await.expect("no panic").expect("listed");
    listed.retain(|version| ![&gone.key, &late.key].contains(&&version.key));
    assert_eq!(listed, made);
    assert_eq!(shim.logins(), logins, "what is gone is not taken for a session that is");
    shim.clear_all();
    let failure = token
        .mint(&gone.key, gone.version, &zone(1), 1)
        .await
        .expect_err("gone");
    assert_eq!(failure.reason, Reason::KeyVersionUnusable);
    made.push(late);
    assert_eq!(token.list_versions().await.expect("listed"), made);
    assert_eq!(fixture.starts().len(), 2, "no worker was taken for one that hangs");
    token.stop().await;
}

#[tokio::test]
async fn listings_that_are_asked_for_all_the_time_all_end_and_places_are_looked_for_meanwhile() {
    let fixture = Fixture::new();
    let (shim, token, made) = slow(&fixture, FEW).await;
    let started = Instant::now();
    token.list_versions().await.expect("listed");
    let alone = started.elapsed();

    let list = |token: &Token| {
        let token = token.clone();
        tokio::spawn(async move { token.list_versions().await })
    };
    let started = Instant::now();
    let first = list(&token);
    let mut others = Vec::new();
    let places: Vec<_> = [&made[3], &made[7]]
        .map(|made| (made.key.clone(), made.version))
        .to_vec();
    let mut asked = places.clone();
    asked.push((name("nothing"), KeyVersion(0)));
    while !first.is_finished() {
        assert!(started.elapsed() < 4 * alone, "{} listings and none ends", others.len());
        others.push(list(&token));
        // A few places do not wait for a listing.
        let found = token.look_for(&asked).await.expect("looked for").versions;
        let found: Vec<_> = found.into_iter().map(|found| (found.key, found.version)).collect();
        assert_eq!(found, places);
    }
    assert_eq!(first.await.expect("no panic").expect("listed"), made);
    assert!(others.len() > 2, "too quick to show anything");
    let surveys = started.elapsed();
    for other in others {
        assert_eq!(other.await.expect("no panic").expect("listed"), made);
    }
    assert!(
        started.elapsed() < surveys + 3 * alone,
        "they share one listing, or two"
    );
    shim.clear_all();
    token.stop().await;
}
