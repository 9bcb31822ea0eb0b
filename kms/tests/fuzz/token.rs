//! EDEKs of every suite, as the token worker gets them: its own parsing, and what a real token makes of the rest. What is
//! expected follows from the formats alone (`docs/formats/edek.md`).

use std::{collections::HashSet, time::SystemTime};

use bytes::Bytes;
use strongroom_kms::token::{NewVersion, Token, TransferCall};
use strongroom_proto::{
    Edek, EdekSuite, Failure, KeyVersion, Reason,
    transfer::{Place, TransferRequest},
    transport::TlsIdentity,
};

use crate::{
    corpus::Corpus,
    fixture::{Fixture, fresh, name, zone},
    mutate::{Random, Run, mutate},
    pki::{Pki, load},
};

const BATCH: usize = 100;
const SUITES: [(&str, EdekSuite, u32); 5] = [
    ("kw", EdekSuite::Kw, 256),
    ("gcm", EdekSuite::Gcm, 256),
    ("hadoop-128", EdekSuite::Hadoop, 128),
    ("hadoop-192", EdekSuite::Hadoop, 192),
    ("hadoop-256", EdekSuite::Hadoop, 256),
];

/// A token with a key of each kind, in two versions, and EDEKs that it made.
struct Target {
    fixture: Fixture,
    token: Token,
    alice: TlsIdentity,
    /// By the key that made them.
    minted: HashSet<(&'static str, Vec<u8>)>,
}

impl Target {
    async fn start() -> Self {
        let (fixture, pki) = (Fixture::new(), Pki::new());
        let own = pki.issue("token-worker", "service/token-worker");
        let mut config = fixture.config();
        config.sealed = Some(strongroom_kms::token::SealedConfig {
            certificate: own.certificate,
            key: own.key,
            only: Vec::new(),
            client_ca: own.ca,
        });
        let token = fixture.try_start(config).await.expect("module and PIN file are there");
        let mut minted = HashSet::new();
        for (key, suite, key_bits) in SUITES {
            for version in [0, 1] {
                let new = NewVersion {
                    suite,
                    key_bits,
                    ..fresh(key, version)
                };
                token.generate(&new).await.expect("a fresh version");
            }
            let edeks = token
                .mint(&name(key), KeyVersion(0), &zone(1), 4)
                .await
                .expect("minted");
            minted.extend(edeks.into_iter().map(|edek| (key, edek.to_vec())));
        }
        let alice = load(&pki.issue("alice", "user/alice"));
        Self {
            fixture,
            token,
            alice,
            minted,
        }
    }

    /// What must come of an EDEK: the length of its DEK, or why there is none.
    fn expected(&self, edek: &Edek) -> Result<usize, Reason> {
        let known = SUITES.iter().any(|(key, ..)| *key == edek.key.as_str()) && edek.version.0 < 2;
        if !known {
            return Err(Reason::KeyVersionUnusable);
        }
        if edek.suite == EdekSuite::Hadoop {
            // Every string of bytes of a length that can be is an EDEK, of any zone and version.
            return match edek.wrapped.len() {
                length @ (32 | 40 | 48) => Ok(length - 16),
                _ => Err(Reason::EdekInvalid),
            };
        }
        let is_it = |(key, wrapped): &(&str, Vec<u8>)| *key == edek.key.as_str() && edek.wrapped == wrapped;
        if edek.version == KeyVersion(0) && edek.zone == zone(1) && self.minted.iter().any(is_it) {
            Ok(32)
        } else {
            Err(Reason::EdekInvalid)
        }
    }

    async fn try_out(&self, edeks: &[Edek], seed: u64) -> Vec<Result<usize, Failure>> {
        let opened = self.token.unwrap(edeks).await.expect("the worker lives");
        let opened: Vec<_> = opened
            .into_iter()
            .map(|dek| dek.map(|dek| dek.into_wire().len()))
            .collect();
        for (result, edek) in opened.iter().zip(edeks) {
            assert_eq!(
                result.as_ref().copied().map_err(|failure| failure.reason),
                self.expected(edek),
                "seed {seed}: {edek:?} {}",
                hex::encode(&edek.wrapped)
            );
        }
        opened
    }

    /// What does not open is not moved either, to a key of whichever suite; and what opens is, if it fits.
    async fn try_moving(&self, edeks: &[Edek], random: &mut Random, seed: u64) {
        let (key, from_zone) = (edeks[0].key.clone(), edeks[0].zone);
        let (to, to_suite, _) = *random.of(&SUITES);
        let alike: Vec<_> = edeks
            .iter()
            .filter(|edek| (&edek.key, edek.zone) == (&key, from_zone))
            .collect();
        let items = alike.iter().map(|edek| (edek.version, edek.wrapped.clone())).collect();
        let from = Place { key, zone: from_zone };
        let to = Place {
            key: name(to),
            zone: zone(77),
        };
        let signer = self.alice.identity().clone();
        let request = TransferRequest::new(signer, from, to, items, SystemTime::now());
        let call = TransferCall {
            signed: request.sign(&self.alice).expect("signs"),
            to: KeyVersion(1),
            left_out: Default::default(),
        };
        let results = match self.token.transfer(call).await {
            Ok(reply) => reply.results,
            // For a while after its start the worker takes no request.
            Err(failure) if failure.reason == Reason::SignedTooEarly => return,
            Err(failure) => panic!("seed {seed}: {failure}"),
        };
        for (result, edek) in results.iter().zip(alike) {
            let fits = |bytes: usize| to_suite == EdekSuite::Hadoop || bytes == 32;
            let expected = match self.expected(edek) {
                Ok(bytes) if fits(bytes) => Ok(()),
                Ok(_) => Err(Reason::InvalidArgument),
                Err(reason) => Err(reason),
            };
            assert_eq!(
                result.as_ref().map(drop).map_err(|failure| failure.reason),
                expected,
                "seed {seed}: {edek:?} {}",
                hex::encode(&edek.wrapped)
            );
        }
    }
}

/// An EDEK that is mostly one of the corpus, with something about it changed.
fn arrange(run: &mut Run, corpus: &Corpus) -> Edek {
    let random = &mut run.random;
    let (key, suite, _) = *random.of(&SUITES);
    let mut wrapped = corpus.pick(random).to_vec();
    for _ in 0..random.below(3) {
        let other = corpus.pick(random).to_vec();
        mutate(&mut wrapped, random, &[], &other);
    }
    if random.below(8) == 0 {
        let length = *random.of(&[1, 15, 16, 17, 31, 32, 33, 39, 40, 41, 47, 48, 49, 67, 68, 69, 127, 128]);
        wrapped.resize(length, 0xa5);
    }
    wrapped.truncate(Edek::WRAPPED_BYTES_MAX);
    if wrapped.is_empty() {
        wrapped.push(0);
    }
    let unknown = random.below(64) == 0;
    Edek {
        key: name(if unknown { "absent" } else { key }),
        version: KeyVersion(*random.of(&[0, 0, 0, 1, 2])),
        zone: zone(*random.of(&[1, 1, 1, 2])),
        suite,
        wrapped: Bytes::from(wrapped),
    }
}

#[tokio::test]
async fn an_edek_opens_in_the_token_exactly_if_its_format_says_so_and_no_worker_is_lost() {
    // Keys are made on the run's time.
    let mut run = Run::start();
    let target = Target::start().await;
    let mut corpus = Corpus::new("wrapped", target.minted.iter().map(|(_, edek)| edek.clone()).collect());
    let (mut opened, mut refused) = (0_usize, 0_usize);
    loop {
        let edeks: Vec<_> = (0..BATCH).map(|_| arrange(&mut run, &corpus)).collect();
        for (result, edek) in target.try_out(&edeks, run.seed).await.iter().zip(&edeks) {
            *(if result.is_ok() { &mut opened } else { &mut refused }) += 1;
            let outcome = match result {
                Ok(_) => format!("opens {}", edek.key),
                Err(failure) => format!("{} {} {}", failure.reason, edek.key, edek.wrapped.len() / 8),
            };
            corpus.offer(&edek.wrapped, &outcome);
        }
        target.try_moving(&edeks, &mut run.random, run.seed).await;
        if !run.goes_on() {
            break;
        }
    }
    assert!(opened > 0 && refused > 0, "seed {}: {opened} and {refused}", run.seed);
    assert_eq!(target.fixture.starts().len(), 1, "seed {}: a worker was lost", run.seed);
}
