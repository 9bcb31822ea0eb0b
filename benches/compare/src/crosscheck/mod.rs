//! Ours against others on random inputs, before anything is timed: AES-CTR against OpenSSL's and AWS-LC's, frames against
//! OpenSSL's AES-GCM and ring's HKDF.

mod frames;

use std::{
    env,
    hash::{BuildHasher, RandomState},
};

use aws_lc_rs::{
    cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey},
    iv::FixedLength,
};
use openssl::symm::{self, Cipher};
use strongroom_dataplane::{Backend, Ctr, CtrKey};

const ROUNDS: usize = 300;
const COPIES: usize = 4;
const LARGE: usize = 17 << 20;
const BYTES_MAX: u64 = 70_000;

/// # Panics
/// If any of ours differs from any of theirs. What it was given follows from the seed that is printed.
pub(crate) fn all() {
    let seed = env::var("TEST_SEED").map_or_else(
        |_| RandomState::new().hash_one("compare"),
        |seed| seed.parse().expect("TEST_SEED is a number"),
    );
    eprintln!("TEST_SEED={seed}");
    let mut random = Random(seed);
    for _ in 0..ROUNDS {
        one_text(&mut random);
    }
    for _ in 0..COPIES {
        one_large_copy(&mut random);
    }
    frames::all(&mut random);
}

fn one_text(random: &mut Random) {
    let mut key = vec![0; if random.below(2) == 0 { 16 } else { 32 }];
    random.fill(&mut key);
    let iv = random.counter();
    let mut plain = vec![0; random.below(BYTES_MAX) as usize >> random.below(12)];
    random.fill(&mut plain);
    let start = random.below(plain.len() as u64 + 1) as usize;
    let expected = openssl(&key, &iv, &plain);
    assert!(aws_lc(&key, &iv, &plain) == expected, "OpenSSL and AWS-LC differ");
    for backend in Backend::all() {
        let ctr = Ctr::with_backend(CtrKey::try_from(key.as_slice()).expect("16 or 32 bytes"), &iv, backend);
        let mut own = plain.clone();
        ctr.apply(0, &mut own[..start]).expect("a position");
        ctr.apply_to(start as u64, &plain[start..], &mut own[start..])
            .expect("a position");
        assert!(own == expected, "{backend}, {} bytes cut at {start}", plain.len());
    }
}

/// So large that it is written past the cache, at any position and alignment.
fn one_large_copy(random: &mut Random) {
    let (mut key, mut text) = (vec![0; 32], vec![0; LARGE + random.below(100_000) as usize]);
    random.fill(&mut key);
    random.fill(&mut text);
    let (iv, start) = (random.counter(), random.below(1000) as usize);
    let shift = random.below(130) as usize;
    let expected = openssl(&key, &iv, &text);
    assert!(aws_lc(&key, &iv, &text) == expected, "OpenSSL and AWS-LC differ");
    for backend in Backend::all() {
        let ctr = Ctr::with_backend(CtrKey::try_from(key.as_slice()).expect("32 bytes"), &iv, backend);
        let mut room = vec![0; text.len() - start + shift];
        ctr.apply_to(start as u64, &text[start..], &mut room[shift..])
            .expect("a position");
        let what = "bytes copied to an address of";
        assert!(
            room[shift..] == expected[start..],
            "{backend}, {} {what} {shift}",
            text.len() - start
        );
    }
}

fn openssl(key: &[u8], iv: &[u8; 16], plain: &[u8]) -> Vec<u8> {
    let cipher = if key.len() == 16 {
        Cipher::aes_128_ctr()
    } else {
        Cipher::aes_256_ctr()
    };
    symm::encrypt(cipher, key, Some(iv), plain).expect("key and IV fit")
}

fn aws_lc(key: &[u8], iv: &[u8; 16], plain: &[u8]) -> Vec<u8> {
    let algorithm = if key.len() == 16 { &AES_128 } else { &AES_256 };
    let key = EncryptingKey::ctr(UnboundCipherKey::new(algorithm, key).expect("16 or 32 bytes")).expect("AES has CTR");
    let mut text = plain.to_vec();
    key.less_safe_encrypt(&mut text, EncryptionContext::Iv128(FixedLength::from(iv)))
        .expect("a short message");
    text
}

/// SplitMix64 (Steele, Lea and Flood, 2014): no secret, and the same again from the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.next() as u8);
    }

    /// Every second one is about to carry through some of its bytes.
    fn counter(&mut self) -> [u8; 16] {
        let any = (u128::from(self.next()) << 64) | u128::from(self.next());
        match u128::MAX.checked_shr(8 * self.below(32) as u32) {
            Some(ones) => ((any & !ones) | (ones - (ones & u128::from(self.below(0x1000))))).to_be_bytes(),
            None => any.to_be_bytes(),
        }
    }
}
