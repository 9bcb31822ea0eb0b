//! Sealed delivery where DEKs are sealed by the worker and not by the token, and where there are several workers.

use strongroom_kms::token::{NewVersion, TokenConfig};
use strongroom_pkcs11_shim::{Ckr, Fault, Function, Shim, When};
use strongroom_proto::{
    Edek, EdekSuite, KeyVersion, Reason,
    sealed::{HeldIn, SealedAnswer},
};

use crate::{
    fixture::{fresh, name, zone},
    pki::load,
    sealed::{Scene, carry, in_the_clear, sealing, taken_by},
    sealed_user::SealedUser,
};

/// Keys whose DEKs are sealed in the worker: name, suite, and the size of key and DEK in bits.
const IN_WORKER: [(&str, EdekSuite, u32); 4] = [
    ("g", EdekSuite::Gcm, 256),
    ("h128", EdekSuite::Hadoop, 128),
    ("h192", EdekSuite::Hadoop, 192),
    ("h256", EdekSuite::Hadoop, 256),
];

impl Scene {
    /// EDEKs of a new key.
    async fn mint_of(&self, key: &str, suite: EdekSuite, key_bits: u32, count: usize) -> Vec<Edek> {
        let new = NewVersion {
            suite,
            key_bits,
            ..fresh(key, 0)
        };
        self.token.generate(&new).await.expect("a fresh version");
        let minted = self.token.mint(&name(key), KeyVersion(0), &zone(1), count).await;
        let edek = |wrapped| Edek {
            key: name(key),
            version: KeyVersion(0),
            zone: zone(1),
            suite,
            wrapped,
        };
        minted.expect("minted").into_iter().map(edek).collect()
    }
}

#[tokio::test]
async fn what_the_token_cannot_seal_is_sealed_in_the_worker_and_every_item_says_where() {
    let scene = Scene::new(&[]).await;
    let mut edeks = scene.mint(2).await;
    for (key, suite, key_bits) in IN_WORKER {
        edeks.extend(scene.mint_of(key, suite, key_bits, 2).await);
    }
    let signed = scene.alice.sign(scene.alice.request(&edeks));
    let reply = scene.carry(&signed).await.expect("sealed");
    let made_in: Vec<_> = SealedAnswer::decode(&reply.answer)
        .expect("an answer")
        .transport_keys
        .iter()
        .map(|key| key.made_in)
        .collect();
    assert_eq!(made_in, [HeldIn::Token, HeldIn::Worker], "one key for each place");
    let plain = in_the_clear(&scene.token, &edeks).await;
    let opened = scene.alice.open(&signed, &reply.answer, &reply.signature);
    for ((edek, sealed), plain) in edeks.iter().zip(opened).zip(plain) {
        let (place, dek) = sealed.expect("opens");
        let expected = match edek.suite {
            EdekSuite::Kw => HeldIn::Token,
            EdekSuite::Gcm | EdekSuite::Hadoop => HeldIn::Worker,
        };
        assert_eq!(
            (place, dek.as_slice()),
            (expected, plain.expect("opens").as_ref()),
            "{edek:?}"
        );
    }
}

#[tokio::test]
async fn bad_edeks_of_every_suite_fail_alone_and_sealed() {
    let scene = Scene::new(&[]).await;
    let mut edeks = Vec::new();
    for (key, suite, key_bits) in IN_WORKER {
        let [good, mut other_suite, mut short] =
            scene.mint_of(key, suite, key_bits, 3).await.try_into().expect("three");
        other_suite.suite = EdekSuite::Kw;
        short.wrapped = short.wrapped.slice(..short.wrapped.len() - 1);
        edeks.extend([good, other_suite, short]);
    }
    let mut elsewhere = edeks[0].clone();
    elsewhere.zone = zone(2);
    edeks.push(elsewhere);
    let signed = scene.alice.sign(scene.alice.request(&edeks));
    let reply = scene.carry(&signed).await.expect("sealed");
    let opened = scene.alice.open(&signed, &reply.answer, &reply.signature);
    for (at, result) in opened.into_iter().enumerate() {
        let good = at % 3 == 0 && at < 12;
        assert_eq!(
            result.as_ref().map(drop).map_err(|failure| failure.reason),
            if good { Ok(()) } else { Err(Reason::EdekInvalid) },
            "item {at}"
        );
    }
    assert_eq!(scene.fixture.starts().len(), 1, "bad EDEKs cost no worker");
}

/// Whoever makes the token refuse a public key of his has his own DEKs sealed in the worker, and nobody else's.
#[tokio::test]
async fn a_public_key_that_the_token_refuses_is_no_word_on_the_others() {
    let scene = Scene::new(&[]).await;
    let shim = Shim::in_front_of(&scene.fixture.config().module).expect("the module is written");
    let config = TokenConfig {
        module: shim.module(),
        ..sealing(&scene.fixture, &scene.pki, "service/token-worker", &[])
    };
    let token = scene.fixture.try_start(config).await.expect("a worker of its own");
    let edeks = scene.mint(1).await;
    taken_by(&token, &scene.alice, &edeks).await;

    let user = |name: &str| SealedUser::new(load(&scene.pki.issue(name, &format!("user/{name}"))));
    let (bob, carol) = (user("bob"), user("carol"));
    shim.set(Function::CreateObject, Fault::Error(Ckr::VENDOR_DEFINED), When::Next(1));
    for (who, expected) in [
        (&bob, HeldIn::Worker),
        (&carol, HeldIn::Token),
        (&bob, HeldIn::Worker),
        (&scene.alice, HeldIn::Token),
    ] {
        let signed = who.sign(who.request(&edeks));
        let reply = carry(&token, &signed).await.expect("sealed");
        let (place, _) = who
            .open(&signed, &reply.answer, &reply.signature)
            .remove(0)
            .expect("opens");
        assert_eq!((place, shim.fired(Function::CreateObject)), (expected, 1));
    }
}

/// Each worker answers a request once, and knows nothing of what another one answered. Whoever has a request answered by
/// several gets the same DEKs several times, each time for the public key that is in it.
#[tokio::test]
async fn a_replay_on_another_worker_is_an_answer_for_the_same_reader_and_nobody_else() {
    let scene = Scene::new(&[]).await;
    let config = sealing(&scene.fixture, &scene.pki, "service/token-worker", &[]);
    let other = scene.fixture.try_start(config).await.expect("a second worker");
    let edeks = scene.mint(1).await;
    let plain = in_the_clear(&scene.token, &edeks).await.remove(0).expect("opens");
    taken_by(&other, &scene.alice, &edeks).await;

    let signed = scene.alice.sign(scene.alice.request(&edeks));
    let answers = [
        carry(&scene.token, &signed).await.expect("the first worker answers"),
        carry(&other, &signed).await.expect("the second worker answers"),
    ];
    for answer in &answers {
        let opened = scene.alice.open(&signed, &answer.answer, &answer.signature).remove(0);
        assert_eq!(opened.expect("opens").1, plain.as_ref(), "for whoever signed");
    }
    assert_ne!(answers[0].answer, answers[1].answer, "each has its own transport key");
    for token in [&scene.token, &other] {
        let failure = carry(token, &signed).await.expect_err("once each");
        assert!(failure.message.contains("answered before"), "{failure}");
    }
}
