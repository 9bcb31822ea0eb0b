//! Tokens that are down, empty or hold another key.

use strongroom_kms::{fleet::Health, hsm::Hsm};
use strongroom_proto::{KeyVersion, Reason};

use crate::{
    failover::becomes,
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

    pair.return_token(LABELS[1]);
    becomes(&fleet, LABELS[1], |health| *health == Health::Serving).await;
    fleet.generate(&new).await.expect("in both");
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

    let done = fleet.resync(LABELS[1]).await.expect("called");
    assert!(done.cloned.is_empty() && done.left.len() == 3, "{done:?}");
    assert!(done.left[0].2.contains("strongroom token link"), "{done:?}");
    pair.link(false).expect("the security officers introduce it");
    let done = fleet.resync(LABELS[1]).await.expect("called");
    assert_eq!((done.cloned.len(), done.left.len()), (3, 0), "{done:?}");
    assert_eq!(
        (report(&fleet, LABELS[1]).held, report(&fleet, LABELS[1]).lacking),
        (3, 0)
    );
    assert_eq!(
        fleet.resync("no such token").await.expect_err("unknown").reason,
        Reason::NotFound
    );
    fleet.stop().await;
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
