//! Sealed delivery against a key service that is played here, and lies.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use strongroom_kms::token::{SealedCall, SealedConfig, SealedOnly, SealedReply, Token, TokenConfig, WireDek};
use strongroom_pki::Validity;
use strongroom_proto::{
    Edek, EdekSuite, Failure, KeyVersion, Reason,
    sealed::{ANSWER_DOMAIN, HeldIn, SealedRequest},
};

use crate::{
    fixture::{Fixture, fresh, name, zone},
    pki::{Pki, load},
    sealed_user::{SealedUser, Signed},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A token whose worker seals, with two keys, and a user.
pub(crate) struct Scene {
    pub(crate) fixture: Fixture,
    pub(crate) pki: Pki,
    pub(crate) token: Token,
    pub(crate) alice: SealedUser,
}

impl Scene {
    pub(crate) async fn new(only: &[&str]) -> Self {
        let (fixture, pki) = (Fixture::new(), Pki::new());
        let config = sealing(&fixture, &pki, "service/token-worker", only);
        let token = fixture.try_start(config).await.expect("module and PIN file are there");
        for (key, version) in [("payroll", 0), ("payroll", 1), ("other", 0)] {
            token.generate(&fresh(key, version)).await.expect("a fresh version");
        }
        let alice = SealedUser::new(load(&pki.issue("alice", "user/alice")));
        let scene = Self {
            fixture,
            pki,
            token,
            alice,
        };
        scene.wait_until_taken().await;
        scene
    }

    async fn wait_until_taken(&self) {
        taken_by(&self.token, &self.alice, &self.mint(1).await).await;
    }

    pub(crate) async fn mint(&self, count: usize) -> Vec<Edek> {
        let minted = self.token.mint(&name("payroll"), KeyVersion(0), &zone(1), count).await;
        let edek = |wrapped| Edek {
            key: name("payroll"),
            version: KeyVersion(0),
            zone: zone(1),
            suite: EdekSuite::Kw,
            wrapped,
        };
        minted.expect("minted").into_iter().map(edek).collect()
    }

    pub(crate) async fn carry(&self, signed: &Signed) -> Result<SealedReply, Failure> {
        carry(&self.token, signed).await
    }

    pub(crate) async fn refusal(&self, signed: &Signed) -> Failure {
        self.carry(signed).await.expect_err("must be refused")
    }
}

/// Carries a request as an honest key service would.
pub(crate) async fn carry(token: &Token, signed: &Signed) -> Result<SealedReply, Failure> {
    let call = SealedCall {
        request: signed.encoded.clone(),
        signature: signed.signature.clone(),
        left_out: Default::default(),
    };
    token.unwrap_sealed(call).await
}

/// Waits until requests are taken: for a while after its start a worker takes none.
pub(crate) async fn taken_by(token: &Token, user: &SealedUser, edeks: &[Edek]) {
    let started = Instant::now();
    loop {
        match carry(token, &user.sign(user.request(edeks))).await {
            Err(failure) if failure.reason == Reason::SignedTooEarly => {
                assert!(started.elapsed() < PATIENCE, "{failure}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            outcome => return drop(outcome.expect("it is taken at last")),
        }
    }
}

pub(crate) fn sealing(fixture: &Fixture, pki: &Pki, who: &str, only: &[&str]) -> TokenConfig {
    let own = pki.issue("token-worker", who);
    let only = only.iter().map(|only| only.parse::<SealedOnly>().expect("a key name"));
    TokenConfig {
        sealed: Some(SealedConfig {
            certificate: own.certificate,
            key: own.key,
            only: only.collect(),
            client_ca: own.ca,
        }),
        ..fixture.config()
    }
}

/// What a key service does to a request that it carries.
type Swap<'a> = &'a dyn Fn(&mut SealedRequest);

pub(crate) async fn in_the_clear(token: &Token, edeks: &[Edek]) -> Vec<Result<Bytes, Reason>> {
    let results = token.unwrap(edeks).await.expect("called");
    let plain = |result: Result<WireDek, Failure>| result.map(WireDek::into_wire).map_err(|failure| failure.reason);
    results.into_iter().map(plain).collect()
}

#[tokio::test]
async fn a_sealed_batch_has_the_same_deks_and_each_item_its_own_result() {
    let scene = Scene::new(&[]).await;
    let mut edeks = scene.mint(200).await;
    edeks[7].zone = zone(2);
    edeks[8].version = KeyVersion(1);
    edeks[9].wrapped = edeks[9].wrapped.slice(..32);
    edeks[10].version = KeyVersion(5);
    let signed = scene.alice.sign(scene.alice.request(&edeks));
    let call = SealedCall {
        request: signed.encoded.clone(),
        signature: signed.signature.clone(),
        left_out: [11].into(),
    };
    let reply = scene.token.unwrap_sealed(call).await.expect("sealed");
    let opened = scene.alice.open(&signed, &reply.answer, &reply.signature);
    let plain = in_the_clear(&scene.token, &edeks).await;
    for (at, (sealed, plain)) in opened.into_iter().zip(plain).enumerate() {
        match (sealed, plain) {
            (Ok((place, dek)), Ok(plain)) => assert_eq!((place, dek.as_slice()), (HeldIn::Token, plain.as_ref())),
            (Err(failure), Err(reason)) => assert_eq!(failure.reason, reason, "item {at}"),
            (Err(failure), Ok(_)) => assert_eq!((at, failure.reason), (11, Reason::PermissionDenied)),
            (Ok(_), Err(reason)) => panic!("item {at} must be refused with {reason}"),
        }
    }
}

#[tokio::test]
async fn a_lying_key_service_gets_nothing() {
    let scene = Scene::new(&[]).await;
    let (edeks, alice) = (scene.mint(3).await, &scene.alice);
    let mallory = SealedUser::new(load(&scene.pki.issue("kms", "service/kms")));
    let swaps: [(&str, Swap<'_>); 12] = [
        ("the public key", &|r| r.recipient = mallory.request(&edeks).recipient),
        ("the EDEK", &|r| r.edeks[0].wrapped = edeks[2].wrapped.clone()),
        ("the zone", &|r| r.edeks[0].zone = zone(2)),
        ("the key", &|r| r.edeks[0].key = name("other")),
        ("the version", &|r| r.edeks[0].version = KeyVersion(1)),
        ("the suite", &|r| r.edeks[0].suite = EdekSuite::Hadoop),
        ("the order", &|r| r.edeks.swap(0, 1)),
        ("the number of EDEKs", &|r| r.edeks.push(edeks[2].clone())),
        ("the nonce", &|r| r.nonce[0] ^= 1),
        ("the expiry", &|r| r.expires_ms += 20_000),
        ("the time of signing", &|r| r.issued_ms += 1),
        ("the signer", &|r| r.signer = mallory.tls.identity().clone()),
    ];
    for (what, swap) in swaps {
        let mut lie = alice.sign(alice.request(&edeks[..2]));
        swap(&mut lie.request);
        lie.encoded = lie.request.encode().expect("still a sound request");
        let failure = scene.refusal(&lie).await;
        assert_eq!(
            failure.reason,
            Reason::PermissionDenied,
            "{what} was swapped: {failure}"
        );
    }

    // Two requests of the same user: a signature is of one of them.
    let (mut first, second) = (
        alice.sign(alice.request(&edeks[..1])),
        alice.sign(alice.request(&edeks[1..])),
    );
    first.signature = second.signature.clone();
    let failure = scene.refusal(&first).await;
    assert_eq!(failure.reason, Reason::PermissionDenied, "{failure}");
    // A signature of his that is for something else.
    first.signature = alice.tls.sign(ANSWER_DOMAIN, &first.encoded).expect("signs");
    let failure = scene.refusal(&first).await;
    assert_eq!(failure.reason, Reason::PermissionDenied, "{failure}");

    let own = mallory.sign(mallory.request(&edeks));
    let failure = scene.refusal(&own).await;
    assert!(failure.message.contains("service kms is no user"), "{failure}");
    let mut in_alices_name = mallory.request(&edeks);
    in_alices_name.signer = alice.tls.identity().clone();
    let failure = scene.refusal(&mallory.sign(in_alices_name)).await;
    assert!(
        failure
            .message
            .contains("service kms signed it, and it names user alice"),
        "{failure}"
    );

    let once = alice.sign(alice.request(&edeks));
    scene.carry(&once).await.expect("the first time");
    let failure = scene.refusal(&once).await;
    assert!(failure.message.contains("answered before"), "{failure}");
    assert_eq!(failure.reason, Reason::PermissionDenied);
}

#[tokio::test]
async fn certificates_of_another_ca_or_out_of_date_and_times_out_of_bounds_are_refused() {
    let scene = Scene::new(&[]).await;
    let edeks = scene.mint(1).await;
    let foreign = SealedUser::new(load(&Pki::new().issue("alice", "user/alice")));
    let failure = scene.refusal(&foreign.sign(foreign.request(&edeks))).await;
    assert_eq!(failure.reason, Reason::PermissionDenied, "{failure}");

    // Valid while it is loaded, and expired when it is used.
    let (now, short) = (SystemTime::now(), Duration::from_secs(3));
    let ends = Validity::starting(now, short);
    let brief = SealedUser::new(load(&scene.pki.issue_for("brief", "user/brief", ends)));
    let started = Instant::now();
    let failure = loop {
        match scene.carry(&brief.sign(brief.request(&edeks))).await {
            Err(failure) => break failure,
            Ok(_) => assert!(started.elapsed() < PATIENCE, "an expired certificate is believed"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(failure.message.contains("not trusted"), "{failure}");

    let alice = &scene.alice;
    let mut late = alice.request(&edeks);
    late.issued_ms -= 1000;
    late.expires_ms = late.issued_ms + 1;
    assert_eq!(scene.refusal(&alice.sign(late)).await.reason, Reason::SignedTooEarly);
    let mut ahead = alice.request(&edeks);
    ahead.issued_ms += 10_000;
    ahead.expires_ms += 10_000;
    let failure = scene.refusal(&alice.sign(ahead)).await;
    assert!(failure.message.contains("ms ahead"), "{failure}");
}

/// The worker runs on, while a CA is added to the file and taken away again.
#[tokio::test]
async fn a_worker_follows_the_ca_of_the_day() {
    let (scene, next) = (Scene::new(&[]).await, Pki::new());
    let edeks = scene.mint(1).await;
    let newcomer = SealedUser::new(load(&next.issue("bob", "user/bob")));
    let failure = scene.refusal(&newcomer.sign(newcomer.request(&edeks))).await;
    assert!(failure.message.contains("not trusted"), "{failure}");
    let ca = scene.pki.path("ca.pem");
    let read = |path: &std::path::Path| std::fs::read(path).expect("own file");
    let (old, new) = (read(&ca), read(&next.path("ca.pem")));
    for (cas, trusted) in [([&old[..], &new].concat(), true), (old, false)] {
        std::fs::write(&ca, cas).expect("own file");
        let started = Instant::now();
        while scene.carry(&newcomer.sign(newcomer.request(&edeks))).await.is_ok() != trusted {
            assert!(started.elapsed() < PATIENCE, "trusted: {trusted}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    assert_eq!(scene.fixture.starts().len(), 1, "no worker was started for that");
}

#[tokio::test]
async fn what_is_sealed_only_stays_so_and_a_restart_opens_no_window_for_a_replay() {
    let scene = Scene::new(&["payroll"]).await;
    let edeks = scene.mint(2).await;
    let required = Err(Reason::SealedRequired);
    assert_eq!(in_the_clear(&scene.token, &edeks).await, [required.clone(), required]);
    let minted = scene
        .token
        .mint(&name("other"), KeyVersion(0), &zone(1), 1)
        .await
        .expect("minted");
    let other = Edek {
        key: name("other"),
        wrapped: minted[0].clone(),
        ..edeks[0].clone()
    };
    let mixed = in_the_clear(&scene.token, &[edeks[0].clone(), other]).await;
    assert!(matches!(mixed[..], [Err(Reason::SealedRequired), Ok(_)]), "{mixed:?}");
    // A key service that could bring in a key of its own would open what is minted under it by itself.
    let import = scene.token.import_key(false).await.expect("an import key");
    let planted = scene
        .token
        .import(&fresh("payroll", 2), import.id, Bytes::from_static(&[1; 384]))
        .await;
    let failure = planted.expect_err("sealed only");
    assert_eq!(failure.reason, Reason::TokenRefused);
    assert!(failure.message.contains("brought in"), "{failure}");

    let signed = scene.alice.sign(scene.alice.request(&edeks));
    scene.carry(&signed).await.expect("the first time");
    scene.fixture.signal_worker("KILL");
    let started = Instant::now();
    // Until another worker is up the token is unavailable.
    let failure = loop {
        let failure = scene.refusal(&signed).await;
        if failure.reason != Reason::TokenUnavailable {
            break failure;
        }
        assert!(started.elapsed() < PATIENCE, "{failure}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(failure.reason, Reason::SignedTooEarly, "{failure}");
    scene.wait_until_taken().await;
    let failure = scene.refusal(&signed).await;
    assert_eq!(failure.reason, Reason::SignedTooEarly, "also later: {failure}");
}

#[tokio::test]
async fn more_public_keys_than_are_kept_are_served() {
    let scene = Scene::new(&[]).await;
    let edeks = scene.mint(1).await;
    let plain = in_the_clear(&scene.token, &edeks).await.remove(0).expect("opens");
    let mut users: Vec<SealedUser> = Vec::new();
    for _ in 0..66 {
        let user = SealedUser::new(load(&scene.pki.issue("alice", "user/alice")));
        users.push(user);
    }
    for user in users.iter().chain(&users) {
        let signed = user.sign(user.request(&edeks));
        let reply = scene.carry(&signed).await.expect("sealed");
        let opened = user
            .open(&signed, &reply.answer, &reply.signature)
            .remove(0)
            .expect("opens");
        assert_eq!(opened.1, plain.as_ref());
    }
}

#[tokio::test]
async fn without_a_certificate_of_its_own_a_worker_seals_nothing_and_still_keeps_what_is_sealed_only() {
    let (fixture, pki) = (Fixture::new(), Pki::new());
    let config = sealing(&fixture, &pki, "user/alice", &["*"]);
    let token = fixture.try_start(config).await.expect("starts all the same");
    token.generate(&fresh("payroll", 0)).await.expect("a fresh version");
    let wrapped = token
        .mint(&name("payroll"), KeyVersion(0), &zone(1), 1)
        .await
        .expect("minted")
        .remove(0);
    let edek = Edek {
        key: name("payroll"),
        version: KeyVersion(0),
        zone: zone(1),
        suite: EdekSuite::Kw,
        wrapped,
    };
    let user = SealedUser::new(load(&pki.issue("alice", "user/alice")));
    let signed = user.sign(user.request(std::slice::from_ref(&edek)));
    let call = SealedCall {
        request: signed.encoded,
        signature: signed.signature,
        left_out: Default::default(),
    };
    let failure = token.unwrap_sealed(call).await.expect_err("no certificate");
    assert!(failure.message.contains("is that of user alice"), "{failure}");
    assert_eq!(in_the_clear(&token, &[edek]).await, [Err(Reason::SealedRequired)]);
}
