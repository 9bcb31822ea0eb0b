//! Keys come to be in every token, or in none.

use strongroom_kms::hsm::Hsm;
use strongroom_proto::{Edek, EdekSuite, KeyVersion, Reason};

use crate::{
    fixture::{fresh, name, zone},
    pair::{LABELS, Pair, report},
    vendor::SoftHsm2,
};

#[tokio::test]
async fn a_version_is_in_both_tokens_and_what_one_wraps_the_other_opens() {
    let pair = Pair::new();
    let fleet = pair.start().await;
    let new = fresh("payroll", 0);
    let made = fleet.generate(&new).await.expect("made and cloned");
    assert_eq!(made.token_id, new.id);
    assert_eq!(fleet.generate(&new).await.expect("found again"), made);
    assert_eq!(
        fleet.list_versions().await.expect("listed"),
        std::slice::from_ref(&made)
    );
    for label in LABELS {
        assert_eq!(report(&fleet, label).held, 1);
        let dump = pair.probe(label, "dump", &[]);
        assert!(
            dump.contains("Sensitive(true)") && dump.contains("Extractable(true)"),
            "{dump}"
        );
        assert!(
            dump.contains("WrapWithTrusted(true)") && !dump.contains("Value("),
            "{dump}"
        );
    }
    let wrapped = fleet.mint(&new.key, new.version, &zone(1), 20).await.expect("minted");
    for label in LABELS {
        // One token at a time.
        let fleet_of_one = pair
            .configs()
            .into_iter()
            .filter(|config| config.label == label)
            .collect::<Vec<_>>();
        let single = pair.start_with(&fleet_of_one, Pair::settings()).await;
        let edeks: Vec<_> = wrapped
            .iter()
            .map(|wrapped| Edek {
                key: name("payroll"),
                version: KeyVersion(0),
                zone: zone(1),
                suite: EdekSuite::Kw,
                wrapped: wrapped.clone(),
            })
            .collect();
        let opened = single.unwrap(&edeks).await.expect("called");
        assert!(opened.iter().all(Result::is_ok), "{label}: {opened:?}");
        single.stop().await;
    }
    fleet.stop().await;
}

#[tokio::test]
async fn tokens_that_do_not_know_each_other_make_no_key() {
    let pair = Pair::unlinked([&SoftHsm2, &SoftHsm2]);
    let fleet = pair.start().await;
    let failure = fleet.generate(&fresh("payroll", 0)).await.expect_err("no clone key");
    assert_eq!(failure.reason, Reason::TokenRefused);
    assert!(failure.message.contains("strongroom token link"), "{failure}");
    fleet.stop().await;
}
