//! EDEKs moved to another key or zone, against a key service that is played here, and lies.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use strongroom_kms::token::{NewVersion, Token, TransferCall, TransferReply};
use strongroom_proto::{
    Edek, EdekSuite, Failure, KeyVersion, Reason, ZoneId,
    sealed::{HeldIn, REQUEST_DOMAIN},
    transfer::{Place, SignedTransfer, TransferRequest},
    transport::TlsIdentity,
};

use crate::{
    fixture::{Fixture, fresh, name, zone},
    pki::{Pki, load},
    sealed::{in_the_clear, sealing, taken_by},
    sealed_user::SealedUser,
};

const V0: KeyVersion = KeyVersion(0);
const V1: KeyVersion = KeyVersion(1);
/// Keys, by their names, with suite and size in bits. All have versions 0 and 1.
const KEYS: [(&str, EdekSuite, u32); 5] = [
    ("kw", EdekSuite::Kw, 256),
    ("kw-b", EdekSuite::Kw, 256),
    ("gcm", EdekSuite::Gcm, 256),
    ("hadoop", EdekSuite::Hadoop, 256),
    ("hadoop-128", EdekSuite::Hadoop, 128),
];

/// A token whose worker verifies, with keys of every suite, and a user.
struct Scene {
    fixture: Fixture,
    pki: Pki,
    token: Token,
    alice: TlsIdentity,
}

impl Scene {
    async fn new(only: &[&str]) -> Self {
        let (fixture, pki) = (Fixture::new(), Pki::new());
        let config = sealing(&fixture, &pki, "service/token-worker", only);
        let token = fixture.try_start(config).await.expect("module and PIN file are there");
        for (key, suite, key_bits) in KEYS {
            for version in [V0, V1] {
                let new = NewVersion {
                    suite,
                    key_bits,
                    ..fresh(key, version.0)
                };
                token.generate(&new).await.expect("a fresh version");
            }
        }
        let alice = load(&pki.issue("alice", "user/alice"));
        let scene = Self {
            fixture,
            pki,
            token,
            alice,
        };
        let reader = SealedUser::new(load(&scene.pki.issue("reader", "user/reader")));
        let edek = scene.mint("kw", zone(9), 1).await.remove(0);
        taken_by(&scene.token, &reader, &[scene.edek("kw", V0, zone(9), &edek.1)]).await;
        scene
    }

    /// EDEKs under version 0.
    async fn mint(&self, key: &str, zone: ZoneId, count: usize) -> Vec<(KeyVersion, Bytes)> {
        let minted = self.token.mint(&name(key), V0, &zone, count).await.expect("minted");
        minted.into_iter().map(|wrapped| (V0, wrapped)).collect()
    }

    fn edek(&self, key: &str, version: KeyVersion, zone: ZoneId, wrapped: &Bytes) -> Edek {
        let known = KEYS.iter().find(|(known, ..)| *known == key);
        Edek {
            key: name(key),
            version,
            zone,
            suite: known.expect("one of the keys").1,
            wrapped: wrapped.clone(),
        }
    }

    fn request(&self, from: Place, to: Place, edeks: &[(KeyVersion, Bytes)]) -> TransferRequest {
        let signer = self.alice.identity().clone();
        TransferRequest::new(signer, from, to, edeks.to_vec(), SystemTime::now())
    }

    async fn carry(&self, signed: SignedTransfer) -> Result<TransferReply, Failure> {
        let call = TransferCall {
            signed,
            to: V1,
            left_out: Default::default(),
        };
        self.token.transfer(call).await
    }

    async fn moved(&self, request: &TransferRequest) -> TransferReply {
        let signed = request.sign(&self.alice).expect("signs");
        self.carry(signed).await.expect("carried out")
    }

    async fn refusal(&self, signed: SignedTransfer) -> Failure {
        self.carry(signed).await.expect_err("must be refused")
    }
}

fn place(key: &str, zone: ZoneId) -> Place {
    Place { key: name(key), zone }
}

/// What every result failed for, or nothing.
fn reasons(reply: &TransferReply) -> Vec<Option<Reason>> {
    let reason = |result: &Result<Bytes, Failure>| result.as_ref().err().map(|failure| failure.reason);
    reply.results.iter().map(reason).collect()
}

#[tokio::test]
async fn deks_survive_every_move_and_the_answer_says_where_they_were() {
    let scene = Scene::new(&[]).await;
    for (from, from_suite, from_bits) in KEYS {
        for (to, to_suite, _) in KEYS {
            let edeks = scene.mint(from, zone(1), 3).await;
            let request = scene.request(place(from, zone(1)), place(to, zone(2)), &edeks);
            let reply = scene.moved(&request).await;
            let what = format!("{from} to {to}");
            if from_bits != 256 && to_suite != EdekSuite::Hadoop {
                assert_eq!(
                    reasons(&reply),
                    [Some(Reason::InvalidArgument); 3],
                    "{what}: the DEK does not fit"
                );
                assert_eq!(reply.held_in, None);
                continue;
            }
            let inside = from_suite == EdekSuite::Kw && to_suite == EdekSuite::Kw;
            let expected = if inside { HeldIn::Token } else { HeldIn::Worker };
            assert_eq!(reply.held_in, Some(expected), "{what}");
            let before: Vec<_> = edeks
                .iter()
                .map(|(v, edek)| scene.edek(from, *v, zone(1), edek))
                .collect();
            let moved = reply.results.iter().map(|result| result.as_ref().expect("moved"));
            let after: Vec<_> = moved.map(|edek| scene.edek(to, V1, zone(2), edek)).collect();
            let deks = in_the_clear(&scene.token, &before).await;
            assert!(deks.iter().all(Result::is_ok));
            assert_eq!(in_the_clear(&scene.token, &after).await, deks, "{what}: the same DEKs");
            if to_suite != EdekSuite::Hadoop {
                let elsewhere: Vec<_> = after
                    .iter()
                    .map(|edek| Edek {
                        zone: zone(1),
                        ..edek.clone()
                    })
                    .collect();
                let opened = in_the_clear(&scene.token, &elsewhere).await;
                assert!(opened.iter().all(Result::is_err), "{what}: bound to the new zone");
            }
            let kept = edeks
                .iter()
                .zip(&after)
                .all(|(old, new)| old.1[..16] == new.wrapped[..16]);
            let hadoop = from_suite == EdekSuite::Hadoop && to_suite == EdekSuite::Hadoop;
            assert_eq!(kept, hadoop, "{what}: Hadoop keeps the IV, which its files use too");
        }
    }
    assert_eq!(scene.fixture.starts().len(), 1, "no worker was lost");
}

#[tokio::test]
async fn each_edek_has_its_own_result_and_what_is_left_out_stays_where_it_is() {
    let scene = Scene::new(&[]).await;
    let mut edeks = scene.mint("kw", zone(1), 200).await;
    let foreign = scene.mint("kw", zone(3), 1).await.remove(0).1;
    edeks[5].0 = V1;
    edeks[6].1 = edeks[6].1.slice(..32);
    edeks[7].1 = foreign;
    edeks[8].0 = KeyVersion(7);
    let request = scene.request(place("kw", zone(1)), place("gcm", zone(2)), &edeks);
    let call = TransferCall {
        signed: request.sign(&scene.alice).expect("signs"),
        to: V1,
        left_out: [9].into(),
    };
    let reply = scene.token.transfer(call).await.expect("carried out");
    for (at, reason) in reasons(&reply).into_iter().enumerate() {
        let expected = match at {
            5..=7 => Some(Reason::EdekInvalid),
            8 => Some(Reason::KeyVersionUnusable),
            9 => Some(Reason::PermissionDenied),
            _ => None,
        };
        assert_eq!(reason, expected, "item {at}");
    }
    let nowhere = scene.request(place("kw", zone(1)), place("absent", zone(2)), &edeks[..1]);
    assert_eq!(
        reasons(&scene.moved(&nowhere).await),
        [Some(Reason::KeyVersionUnusable)]
    );
}

/// What a key service does to a request that it carries.
type Swap<'a> = &'a dyn Fn(&mut TransferRequest);

#[tokio::test]
async fn a_lying_key_service_moves_nothing() {
    let scene = Scene::new(&[]).await;
    let edeks = scene.mint("kw", zone(1), 3).await;
    let request = || scene.request(place("kw", zone(1)), place("kw-b", zone(2)), &edeks[..2]);
    let kms = load(&scene.pki.issue("kms", "service/kms"));
    let swaps: [(&str, Swap<'_>); 13] = [
        ("an EDEK", &|r| r.edeks[0].1 = edeks[2].1.clone()),
        ("an EDEK's version", &|r| r.edeks[0].0 = V1),
        ("the number of EDEKs", &|r| r.edeks.push(edeks[2].clone())),
        ("the order", &|r| r.edeks.swap(0, 1)),
        ("the key they come from", &|r| r.from.key = name("gcm")),
        ("the zone they come from", &|r| r.from.zone = zone(5)),
        ("the key they go to", &|r| r.to.key = name("gcm")),
        ("the zone they go to", &|r| r.to.zone = zone(5)),
        ("both places", &|r| std::mem::swap(&mut r.from, &mut r.to)),
        ("the expiry", &|r| r.expires_ms += 20_000),
        ("the time of signing", &|r| r.issued_ms += 1),
        ("the nonce", &|r| r.nonce[0] ^= 1),
        ("the signer", &|r| r.signer = kms.identity().clone()),
    ];
    for (what, swap) in swaps {
        let mut lie = request();
        let signature = lie.sign(&scene.alice).expect("signs").signature;
        swap(&mut lie);
        let request = lie.encode().expect("still a sound request");
        let failure = scene.refusal(SignedTransfer { request, signature }).await;
        assert_eq!(
            failure.reason,
            Reason::PermissionDenied,
            "{what} was swapped: {failure}"
        );
    }

    let mut unsigned = request().sign(&scene.alice).expect("signs");
    unsigned.signature.signature = Bytes::new();
    assert_eq!(scene.refusal(unsigned).await.reason, Reason::PermissionDenied);
    let mut nobodys = request().sign(&scene.alice).expect("signs");
    nobodys.signature.chain.clear();
    assert_eq!(scene.refusal(nobodys).await.reason, Reason::PermissionDenied);

    // Its own signature, in its own name and in that of a user; a user's over something else; another CA's user.
    let mut own = request();
    own.signer = kms.identity().clone();
    let failure = scene.refusal(own.sign(&kms).expect("signs")).await;
    assert!(failure.message.contains("service kms is no user"), "{failure}");
    let failure = scene.refusal(request().sign(&kms).expect("signs")).await;
    assert!(
        failure
            .message
            .contains("service kms signed it, and it names user alice"),
        "{failure}"
    );
    let mut other_kind = request().sign(&scene.alice).expect("signs");
    let sealed = scene.alice.sign(REQUEST_DOMAIN, &other_kind.request);
    other_kind.signature = sealed.expect("signs");
    assert_eq!(scene.refusal(other_kind).await.reason, Reason::PermissionDenied);
    let foreign = load(&Pki::new().issue("alice", "user/alice"));
    let failure = scene.refusal(request().sign(&foreign).expect("signs")).await;
    assert_eq!(failure.reason, Reason::PermissionDenied, "{failure}");
}

#[tokio::test]
async fn a_request_is_carried_out_once_and_in_its_time_and_what_is_sealed_only_stays_so() {
    let scene = Scene::new(&["kw", "gcm"]).await;
    let edeks = scene.mint("kw", zone(1), 1).await;
    let request = || scene.request(place("kw", zone(1)), place("gcm", zone(2)), &edeks);
    let once = request().sign(&scene.alice).expect("signs");
    assert_eq!(
        reasons(&scene.carry(once.clone()).await.expect("the first time")),
        [None]
    );
    let failure = scene.refusal(once).await;
    assert!(failure.message.contains("answered before"), "{failure}");
    assert_eq!(failure.reason, Reason::PermissionDenied);

    let shifted = |back: Duration, ahead: Duration| {
        let mut request = request();
        let now = SystemTime::now() - back + ahead;
        let times = TransferRequest::new(
            request.signer.clone(),
            request.from.clone(),
            request.to.clone(),
            Vec::new(),
            now,
        );
        (request.issued_ms, request.expires_ms) = (times.issued_ms, times.issued_ms + 1);
        request.sign(&scene.alice).expect("signs")
    };
    let expired = scene.refusal(shifted(Duration::from_millis(500), Duration::ZERO)).await;
    assert_eq!(expired.reason, Reason::SignedTooEarly, "{expired}");
    let early = scene.refusal(shifted(Duration::ZERO, Duration::from_secs(10))).await;
    assert_eq!(early.reason, Reason::PermissionDenied, "{early}");

    for (from, to, moves) in [("kw", "kw-b", false), ("kw-b", "kw", true), ("kw-b", "hadoop", true)] {
        let edeks = scene.mint(from, zone(1), 1).await;
        let request = scene.request(place(from, zone(1)), place(to, zone(2)), &edeks);
        let outcome = scene.carry(request.sign(&scene.alice).expect("signs")).await;
        match outcome {
            Ok(reply) => assert!(moves && reasons(&reply) == [None], "{from} to {to}"),
            Err(failure) => assert_eq!(
                (moves, failure.reason),
                (false, Reason::SealedRequired),
                "{from} to {to}"
            ),
        }
    }
}
