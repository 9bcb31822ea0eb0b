//! Signed requests and answers: what is read is written again as the same bytes, so that nobody can sign one thing in two ways.

use std::time::SystemTime;

use bytes::Bytes;
use strongroom_proto::{
    Edek, EdekSuite, Failure, KeyVersion, Reason, ZoneId,
    sealed::{HeldIn, OaepHash, RecipientKey, RequestDigest, SealedAnswer, SealedDek, SealedRequest, TransportKey},
    transfer::{Place, TransferRequest},
};

use crate::{
    corpus::Corpus,
    mutate::{Run, mutate},
    pki::{Pki, load},
    sealed_user::SealedUser,
};

const WORDS: [&[u8]; 7] = [
    b"\0\x02kw",
    b"\0\x03gcm",
    b"\0\x06hadoop",
    b"\0\x01a",
    b"spiffe://strongroom/user/",
    b"spiffe://strongroom/service/metadata",
    b"\0\0",
];

fn place(key: &str, zone: u8) -> Place {
    Place {
        key: key.parse().expect("a key name"),
        zone: ZoneId::from_bytes([zone; 16]),
    }
}

fn edek(suite: EdekSuite, bytes: usize) -> Edek {
    let Place { key, zone } = place("payroll", 1);
    Edek {
        key,
        version: KeyVersion(3),
        zone,
        suite,
        wrapped: Bytes::from(vec![9; bytes]),
    }
}

fn sealed_requests() -> Vec<Vec<u8>> {
    let pki = Pki::new();
    let user = SealedUser::new(load(&pki.issue("alice", "user/alice")));
    let edeks = [(EdekSuite::Kw, 48), (EdekSuite::Gcm, 68), (EdekSuite::Hadoop, 32)];
    let edeks: Vec<_> = edeks.into_iter().map(|(suite, bytes)| edek(suite, bytes)).collect();
    let requests = [user.request(&edeks[..1]), user.request(&edeks)];
    requests.map(|request| request.encode().expect("sound").to_vec()).into()
}

fn transfer_requests() -> Vec<Vec<u8>> {
    let signer = || "spiffe://strongroom/user/alice".parse().expect("an identity");
    let requests = [1, 3].map(|count| {
        let edeks = (0..count).map(|n| (KeyVersion(n), Bytes::from(vec![9; 48]))).collect();
        TransferRequest::new(
            signer(),
            place("payroll", 1),
            place("archive", 2),
            edeks,
            SystemTime::now(),
        )
    });
    requests.map(|request| request.encode().expect("sound").to_vec()).into()
}

fn answers() -> Vec<Vec<u8>> {
    let key = |made_in, hash| TransportKey {
        made_in,
        hash,
        sealed: Bytes::from_static(&[2; 256]),
    };
    let dek = |sealed_in| SealedDek {
        sealed_in,
        wrapped: Bytes::from_static(&[3; 40]),
    };
    let answer = SealedAnswer {
        request: RequestDigest::of(b"request"),
        transport_keys: vec![
            key(HeldIn::Token, OaepHash::Sha1),
            key(HeldIn::Worker, OaepHash::Sha256),
        ],
        results: vec![
            Ok(dek(HeldIn::Token)),
            Err(Failure::new(Reason::EdekInvalid, "it does not open")),
            Ok(dek(HeldIn::Worker)),
        ],
    };
    vec![answer.encode().expect("sound").to_vec()]
}

/// Runs a target: `read` gives what came of some bytes, and whether they are one.
fn fuzz(target: &'static str, seeds: Vec<Vec<u8>>, read: impl Fn(&[u8]) -> Result<(), Failure>) {
    let mut run = Run::start();
    let mut corpus = Corpus::new(target, seeds);
    let outcome = |bytes: &[u8]| read(bytes).map_or_else(|failure| failure.message, |()| "sound".to_owned());
    for input in corpus.inputs().to_vec() {
        corpus.offer(&input, &outcome(&input));
    }
    let (mut runs, mut sound) = (0_u64, 0_u64);
    while run.goes_on() {
        let mut bytes = corpus.pick(&mut run.random).to_vec();
        for _ in 0..=run.random.below(4) {
            let other = corpus.pick(&mut run.random).to_vec();
            mutate(&mut bytes, &mut run.random, &WORDS, &other);
        }
        let outcome = outcome(&bytes);
        assert!(outcome.len() < 1500, "seed {}: an error stays a line", run.seed);
        runs += 1;
        sound += u64::from(outcome == "sound");
        corpus.offer(&bytes, &outcome);
    }
    let seed = run.seed;
    assert!(
        sound > 0 && sound < runs,
        "seed {seed}: {sound} of {runs} {target}s are sound, so that both ways are gone"
    );
}

#[test]
fn a_sealed_request_is_read_as_it_was_written_or_not_at_all() {
    fuzz("sealed-request", sealed_requests(), |bytes| {
        let request = SealedRequest::decode(bytes)?;
        assert_eq!(request.encode().expect("it was read"), bytes, "{}", hex::encode(bytes));
        let again = RecipientKey::from_der(request.recipient.der()).expect("it was read");
        assert_eq!(again, request.recipient);
        Ok(())
    });
}

#[test]
fn a_transfer_request_is_read_as_it_was_written_or_not_at_all() {
    fuzz("transfer-request", transfer_requests(), |bytes| {
        let request = TransferRequest::decode(bytes)?;
        assert_eq!(request.encode().expect("it was read"), bytes, "{}", hex::encode(bytes));
        Ok(())
    });
}

/// The reason of a newer version is read as a defect, so that not every answer is written as it was read; but then always.
#[test]
fn a_sealed_answer_that_is_read_can_be_written_and_read_again() {
    fuzz("sealed-answer", answers(), |bytes| {
        let answer = SealedAnswer::decode(bytes)?;
        let written = answer.encode().expect("it was read");
        assert_eq!(SealedAnswer::decode(&written).expect("it was written"), answer);
        Ok(())
    });
}
