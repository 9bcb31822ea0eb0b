//! EDEKs as they come over the wire.

use prost::Message;
use strongroom_proto::{Edek, kms::v1 as pb};

use crate::{
    corpus::Corpus,
    mutate::{Random, Run, mutate},
};

const WORDS: [&[u8]; 6] = [
    b"kw",
    b"gcm",
    b"hadoop",
    b"payroll",
    b"\xff\xff\xff\xff\x0f",
    b"\x12\x10",
];

fn good(random: &mut Random) -> pb::Edek {
    let wrapped: Vec<u8> = (0..random.below(140)).map(|at| at as u8).collect();
    pb::Edek {
        key_name: (*random.of(&["payroll.eu-1", "p", "", "-", "ä"])).to_owned(),
        key_version: *random.of(&[0, 1, u32::MAX]),
        zone_id: vec![7; *random.of(&[16, 16, 16, 15, 17, 0])].into(),
        suite: (*random.of(&["kw", "gcm", "hadoop", "", "KW"])).to_owned(),
        wrapped: wrapped.into(),
    }
}

/// What came of some bytes.
fn parse(bytes: &[u8], seed: u64) -> String {
    let Ok(wire) = pb::Edek::decode(bytes) else {
        return "no message".to_owned();
    };
    match Edek::try_from(wire.clone()) {
        Ok(edek) => {
            let length = edek.wrapped.len();
            assert!((1..=Edek::WRAPPED_BYTES_MAX).contains(&length), "seed {seed}");
            let outcome = format!("an EDEK of suite {}", edek.suite);
            assert_eq!(
                pb::Edek::from(edek),
                wire,
                "seed {seed}: what was parsed is what was sent"
            );
            outcome
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < 1000, "seed {seed}: an error stays a line");
            text
        }
    }
}

#[test]
fn parsing_an_edek_never_panics() {
    let mut run = Run::start();
    let seeds = (0..64).map(|_| good(&mut run.random).encode_to_vec()).collect();
    let mut corpus = Corpus::new("edek", seeds);
    for input in corpus.inputs().to_vec() {
        corpus.offer(&input, &parse(&input, run.seed));
    }
    let (mut runs, mut parsed) = (0_u64, 0_u64);
    while run.goes_on() {
        let mut bytes = if run.random.below(4) == 0 {
            good(&mut run.random).encode_to_vec()
        } else {
            corpus.pick(&mut run.random).to_vec()
        };
        for _ in 0..run.random.below(5) {
            let other = corpus.pick(&mut run.random).to_vec();
            mutate(&mut bytes, &mut run.random, &WORDS, &other);
        }
        let outcome = parse(&bytes, run.seed);
        runs += 1;
        parsed += u64::from(outcome.starts_with("an EDEK"));
        corpus.offer(&bytes, &outcome);
    }
    let seed = run.seed;
    assert!(
        parsed > 0 && parsed < runs,
        "seed {seed}: {parsed} of {runs} are EDEKs, so that both ways are gone"
    );
}
