//! Whatever bytes arrive in the place of an EDEK, parsing them ends in an EDEK or an error, never in a panic: a loop of
//! mutations for stable Rust. `FUZZ_SECONDS` says how long (1 if unset), `FUZZ_SEED` repeats a run.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prost::Message;
use strongroom_proto::{Edek, kms::v1 as pb};

/// A generator that is small and repeatable (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("below a usize")
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn good(random: &mut Random) -> pb::Edek {
    let suite = ["kw", "gcm", "hadoop"][random.below(3)];
    let wrapped: Vec<u8> = (0..random.below(140)).map(|at| at as u8).collect();
    pb::Edek {
        key_name: "payroll.eu-1".to_owned(),
        key_version: random.next() as u32,
        zone_id: vec![7; 16].into(),
        suite: suite.to_owned(),
        wrapped: wrapped.into(),
    }
}

/// One of: a bit over, a byte anew, a piece out, a piece twice, cut off.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let (at, length) = (random.below(bytes.len()), random.below(16));
    let end = (at + length).min(bytes.len());
    match random.below(5) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
        2 => drop(bytes.drain(at..end)),
        3 => {
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        _ => bytes.truncate(at),
    }
}

#[test]
fn parsing_an_edek_never_panics() {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let seed = number("FUZZ_SEED").unwrap_or(since.as_nanos() as u64) | 1;
    let seconds = number("FUZZ_SECONDS").unwrap_or(1);
    let mut random = Random(seed);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let (mut runs, mut parsed) = (0_u64, 0_u64);
    while Instant::now() < deadline {
        let mut bytes = good(&mut random).encode_to_vec();
        for _ in 0..random.below(4) {
            mutate(&mut bytes, &mut random);
        }
        runs += 1;
        let Ok(wire) = pb::Edek::decode(bytes.as_slice()) else {
            continue;
        };
        match Edek::try_from(wire.clone()) {
            Ok(edek) => {
                parsed += 1;
                assert!(
                    (1..=Edek::WRAPPED_BYTES_MAX).contains(&edek.wrapped.len()),
                    "seed {seed}"
                );
                assert_eq!(
                    pb::Edek::from(edek),
                    wire,
                    "seed {seed}: what was parsed is what was sent"
                );
            }
            Err(error) => assert!(error.to_string().len() < 1000, "seed {seed}: an error stays a line"),
        }
    }
    assert!(
        parsed > 0 && parsed < runs,
        "seed {seed}: {parsed} of {runs} are EDEKs, so that both ways are gone"
    );
}
