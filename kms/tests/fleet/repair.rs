//! Tokens that are down, empty or hold another key.

use std::time::{Duration, Instant};

use strongroom_kms::{
    fleet::{Fleet, Health, RedundancyConfig},
    hsm::Hsm,
};
use strongroom_pkcs11_shim::{Fault, Function, Shim, When};
use strongroom_proto::{Edek, EdekSuite, KeyVersion, Reason};

use crate::{
    failover::{Load, becomes},
    fixture::{fresh, name, zone},
    pair::{LABELS, Pair, report},
};

#[tokio::test]
async fn with_a_token_down_no_version_is_made_and_a_repeat_finishes_it() {
    let pair = Pair::new();
    let fleet = pair.start().await;
    pair.remove(LABELS[1]);
    becomes(&fleet, LABELS[1], |health| matches!(health, Health::Away(_))).await;
    let new = fresh("payroll", 0);
    let failure = fleet.generate(&new).await.expect_err("not every token could hold it");
    assert_eq!(failure.reason, Reason::TokenUnavailable);
    assert!(
        failure.message.contains(LABELS[1]) && failure.message.contains("is not made"),
        "{failure}"
    );
    assert_eq!(pair.probe(LABELS[0], "dump", &[]), "", "nothing half made");
    let place = [(new.key.clone(), new.version)];
    let held = fleet.look_for(&place).await.expect("one serves");
    assert_eq!((held.versions.len(), held.unseen), (0, vec![LABELS[1].to_owned()]));

    pair.return_token(LABELS[1]);
    becomes(&fleet, LABELS[1], |health| *health == Health::Serving).await;
    fleet.generate(&new).await.expect("in both");
    assert!(fleet.look_for(&place).await.expect("both serve").unseen.is_empty());
    fleet.stop().await;
}

#[tokio::test]
async fn a_replacement_is_linked_and_filled_up() {
    let pair = Pair::new();
    let fleet = pair.start().await;
    for version in 0..3 {
        fleet.generate(&fresh("payroll", version)).await.expect("in both");
    }
    let versions: Vec<_> = fleet
        .list_versions()
        .await
        .expect("listed")
        .iter()
        .map(|v| (v.version, v.kcv))
        .collect();
    fleet.expect(&name("payroll"), &versions);

    // Another device takes the place of the dead one.
    pair.remove(LABELS[1]);
    becomes(&fleet, LABELS[1], |health| matches!(health, Health::Away(_))).await;
    pair.make_token(LABELS[1]);
    becomes(&fleet, LABELS[1], |health| *health == Health::Serving).await;
    assert_eq!(
        (report(&fleet, LABELS[1]).held, report(&fleet, LABELS[1]).lacking),
        (0, 3)
    );
    fleet
        .mint(&name("payroll"), KeyVersion(1), &zone(1), 5)
        .await
        .expect("the other one serves it");

    let done = fleet.resync(LABELS[1], None).await.expect("called");
    assert!(done.cloned.is_empty() && done.left.len() == 3, "{done:?}");
    assert!(done.left[0].2.contains("strongroom token link"), "{done:?}");
    pair.link(false).expect("the security officers introduce it");
    let done = fleet.resync(LABELS[1], None).await.expect("called");
    assert_eq!((done.cloned.len(), done.left.len()), (3, 0), "{done:?}");
    assert_eq!(
        (report(&fleet, LABELS[1]).held, report(&fleet, LABELS[1]).lacking),
        (3, 0)
    );
    assert_eq!(
        fleet.resync("no such token", None).await.expect_err("unknown").reason,
        Reason::NotFound
    );
    fleet.stop().await;
}

/// To clone thousands of keys takes long. Nobody waits for more than the one that is just being cloned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_made_while_a_token_is_filled_up() {
    const VERSIONS: u32 = 6;
    let pair = Pair::new();
    let mut configs = pair.configs();
    let shim = Shim::in_front_of(&configs[1].module).expect("the module is written");
    configs[1].module = shim.module();
    let fleet = pair.start_with(&configs, Pair::settings()).await;
    let mut versions = Vec::new();
    for version in 0..VERSIONS {
        let made = fleet.generate(&fresh("payroll", version)).await.expect("in both");
        versions.push((made.version, made.kcv));
    }
    fleet.expect(&name("payroll"), &versions);
    pair.remove(LABELS[1]);
    becomes(&fleet, LABELS[1], |health| matches!(health, Health::Away(_))).await;
    pair.make_token(LABELS[1]);
    becomes(&fleet, LABELS[1], |health| *health == Health::Serving).await;
    pair.link(false).expect("introduced");

    let latency = Fault::Delay {
        least: Duration::from_millis(30),
        jitter: Duration::ZERO,
    };
    shim.set(Function::GetAttributeValue, latency, When::Always);
    let filling = tokio::spawn({
        let fleet = fleet.clone();
        async move { fleet.resync(LABELS[1], None).await }
    });
    let began = Instant::now();
    while report(&fleet, LABELS[1]).held == 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "nothing is cloned");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fleet.generate(&fresh("late", 0)).await.expect("made meanwhile");
    assert!(!filling.is_finished(), "it was made after all were cloned");
    shim.clear_all();
    let done = filling.await.expect("no panic").expect("called");
    assert_eq!((done.cloned.len(), done.left.len()), (VERSIONS as usize, 0), "{done:?}");
    let report = report(&fleet, LABELS[1]);
    assert_eq!((report.held, report.lacking), (VERSIONS as usize + 1, 0));
    fleet.stop().await;
}

/// Waits until a token holds so many versions and lacks none.
async fn is_full(fleet: &Fleet, label: &str, held: usize) {
    let began = Instant::now();
    while (report(fleet, label).held, report(fleet, label).lacking) != (held, 0) {
        let seen = report(fleet, label);
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "it is not filled up: {seen:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_empty_replacement_is_filled_without_being_asked() {
    let pair = Pair::new();
    let settings = || RedundancyConfig {
        auto_resync: true,
        ..Pair::settings()
    };
    let fleet = pair.start_with(&pair.configs(), settings()).await;
    let mut versions = Vec::new();
    for version in 0..3 {
        let made = fleet.generate(&fresh("payroll", version)).await.expect("in both");
        versions.push((made.version, made.kcv));
    }
    fleet.expect(&name("payroll"), &versions);
    let minted = fleet
        .mint(&name("payroll"), KeyVersion(2), &zone(1), 1)
        .await
        .expect("minted");

    // It is seen empty before its officer has introduced it.
    pair.remove(LABELS[1]);
    becomes(&fleet, LABELS[1], |health| matches!(health, Health::Away(_))).await;
    pair.make_token(LABELS[1]);
    becomes(&fleet, LABELS[1], |health| *health == Health::Serving).await;
    assert_eq!(report(&fleet, LABELS[1]).lacking, 3);
    pair.link(false).expect("introduced");
    is_full(&fleet, LABELS[1], 3).await;
    fleet.stop().await;

    // Replaced while the service was down, which learns what to expect from its store once the tokens are up.
    pair.make_token(LABELS[0]);
    pair.link(false).expect("introduced");
    let fleet = pair.start_with(&pair.configs(), settings()).await;
    fleet.expect(&name("payroll"), &versions);
    is_full(&fleet, LABELS[0], 3).await;
    fleet.stop().await;
    // What it has now went through both replacements.
    let alone = pair.start_with(&pair.configs()[..1], Pair::settings()).await;
    let edek = Edek {
        key: name("payroll"),
        version: KeyVersion(2),
        zone: zone(1),
        suite: EdekSuite::Kw,
        wrapped: minted[0].clone(),
    };
    let opened = alone.unwrap(&[edek]).await.expect("called");
    assert!(opened[0].is_ok(), "{:?}", opened[0].as_ref().err());
    alone.stop().await;
}

/// Everything that is minted while a token comes back with another key under the same label and id opens in the right one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_comes_back_with_another_key_serves_nothing() {
    let pair = Pair::new();
    let fleet = pair.start().await;
    let made = fleet.generate(&fresh("payroll", 0)).await.expect("in both");
    fleet.stop().await;
    pair.back_up(LABELS[1]);
    let id = made.token_id.to_string();
    pair.probe(LABELS[1], "replace", &["strongroom:1:kw:payroll@0", &id, "no"]);
    pair.swap_backup(LABELS[1]);

    let fleet = pair.start().await;
    fleet.expect(&made.key, &[(made.version, made.kcv)]);
    let load = Load::start(&fleet);
    load.goes_on(10).await;
    pair.restore(LABELS[1]);
    let (mut minted, mut out) = (Vec::new(), 0);
    // Until it was out for some time.
    while out < 50 {
        let wrapped = fleet.mint(&made.key, made.version, &zone(1), 4).await;
        minted.extend(wrapped.expect("the right one serves"));
        out += usize::from(matches!(report(&fleet, LABELS[1]).health, Health::Out(_)));
        assert!(minted.len() < 100_000, "{:?}", report(&fleet, LABELS[1]));
    }
    load.end().await;
    let alarms = fleet.alarms().borrow().clone();
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert!(
        alarms[0].token == LABELS[1] && alarms[0].what.contains("it is another key"),
        "{alarms:?}"
    );
    fleet.stop().await;

    let alone = pair.start_with(&pair.configs()[..1], Pair::settings()).await;
    let edeks: Vec<_> = minted
        .into_iter()
        .map(|wrapped| Edek {
            key: made.key.clone(),
            version: made.version,
            zone: zone(1),
            suite: EdekSuite::Kw,
            wrapped,
        })
        .collect();
    for part in edeks.chunks(1000) {
        let opened = alone.unwrap(part).await.expect("called");
        assert!(opened.iter().all(Result::is_ok), "one was minted under the other key");
    }
    alone.stop().await;
}

#[tokio::test]
async fn another_key_with_the_same_label_and_id_raises_an_alarm_and_takes_the_token_out() {
    let pair = Pair::new();
    let fleet = pair.start().await;
    let made = fleet.generate(&fresh("payroll", 0)).await.expect("in both");
    fleet.expect(&made.key, &[(made.version, made.kcv)]);

    let id = made.token_id.to_string();
    pair.probe(LABELS[1], "replace", &["strongroom:1:kw:payroll@0", &id, "no"]);
    becomes(&fleet, LABELS[1], |health| matches!(health, Health::Out(_))).await;
    let alarms = fleet.alarms().borrow().clone();
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert_eq!(alarms[0].token, LABELS[1]);
    assert!(alarms[0].what.contains("version 0 of key payroll"), "{alarms:?}");
    assert!(alarms[0].what.contains(&made.kcv.to_string()), "{alarms:?}");

    let minted = fleet
        .mint(&made.key, made.version, &zone(1), 10)
        .await
        .expect("the right one serves");
    assert_eq!(minted.len(), 10);
    assert_eq!(fleet.list_versions().await.expect("listed"), [made]);
    fleet.stop().await;
}

#[tokio::test]
async fn a_version_goes_from_both_tokens_and_from_none_while_one_is_away() {
    let pair = Pair::new();
    let fleet = pair.start().await;
    let new = fresh("payroll", 0);
    fleet.generate(&new).await.expect("in both");
    pair.remove(LABELS[1]);
    becomes(&fleet, LABELS[1], |health| matches!(health, Health::Away(_))).await;
    let refused = fleet.destroy(&new.key, new.version, new.id).await;
    assert_eq!(
        refused.expect_err("it would come back").reason,
        Reason::TokenUnavailable
    );
    assert!(
        pair.probe(LABELS[0], "dump", &[]).contains("payroll"),
        "nothing half gone"
    );

    pair.return_token(LABELS[1]);
    becomes(&fleet, LABELS[1], |health| *health == Health::Serving).await;
    let gone = fleet.destroy(&new.key, new.version, new.id).await.expect("gone");
    let labels: Vec<_> = gone.iter().map(|token| token.label.as_str()).collect();
    assert_eq!(labels, LABELS, "both are named");
    assert_ne!(gone[0].serial, gone[1].serial);
    for label in LABELS {
        assert!(!pair.probe(label, "dump", &[]).contains("payroll"), "{label}");
    }
    let again = fleet.destroy(&new.key, new.version, new.id).await;
    assert_eq!(again, Ok(gone), "a repeat finds the same");
    fleet.stop().await;
}
