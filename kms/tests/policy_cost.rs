//! What a decision costs with many policies and keys, evaluated and remembered. Run it with
//! `cargo test -p strongroom-kms --test policy_cost -- --ignored --nocapture`.

use std::{hint::black_box, io::Write as _, path::Path, time::Instant};

use strongroom_kms::policy::{Action, Context, Groups, KeyFacts, Principal, Rules, SAMPLE, hadoop};
use strongroom_proto::{ZoneId, transport::PeerIdentity};

const KEYS: usize = 10_000;

#[test]
#[ignore = "measures, and asserts nothing that a busy machine could break"]
fn decisions_on_ten_thousand_keys() {
    let acls: String = (0..500)
        .map(|key| format!("<property><name>key.acl.key-{key}.DECRYPT_EEK</name><value>alice hr</value></property>"))
        .collect();
    let imported = hadoop::import(&format!("<configuration>{acls}</configuration>"), None).expect("valid");
    for (name, text) in [("sample", SAMPLE), ("500 imported ACLs", &imported.cedar)] {
        let rules = Rules::parse(Path::new("p.cedar"), text, Groups::default()).expect("valid");
        let keys: Vec<_> = (0..KEYS).map(|key| (facts(key), ZoneId::generate())).collect();
        let fresh = time_ns(&keys[..200], |who, key, context| {
            drop(rules.evaluate(who, Action::Unwrap, key, context))
        });
        let ask = |who: &Principal<'_>, key: &KeyFacts, context: &Context<'_>| {
            black_box(rules.decide(who, Action::Unwrap, key, context));
        };
        time_ns(&keys, ask);
        let remembered = time_ns(&keys, ask);
        let line = format!("{name}: {fresh} ns evaluated, {remembered} ns remembered, {KEYS} keys");
        writeln!(std::io::stdout(), "{line}").expect("standard output");
    }
}

fn facts(key: usize) -> KeyFacts {
    KeyFacts::unknown(format!("key-{key}").parse().expect("a key name"))
}

/// Nanoseconds of one question.
fn time_ns(keys: &[(KeyFacts, ZoneId)], ask: impl Fn(&Principal<'_>, &KeyFacts, &Context<'_>)) -> u128 {
    let alice: PeerIdentity = "spiffe://strongroom/user/alice".parse().expect("an identity");
    let who = Principal::certified(&alice);
    let started = Instant::now();
    for (key, zone) in keys {
        ask(&who, key, &Context::of("unwrap").zone(*zone));
    }
    started.elapsed().as_nanos() / keys.len() as u128
}
