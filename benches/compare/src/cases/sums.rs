//! AES-CTR with the CRC-32C of the ciphertext, one for all or one for each 512 bytes: ours in one pass, against encryption
//! alone and against two passes, ours and others'.

use std::{hint::black_box, num::NonZeroUsize};

use crc_fast::{CrcAlgorithm, checksum};
use strongroom_dataplane::{Ctr, CtrKey, Direction};

use super::{Case, KEY_128, KEY_256, aligned, pattern};
use crate::{
    measure::Contestant,
    peers::{AwsLc, CtrCipher, IV},
};

const CHUNK: usize = 512;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (key, algorithm) in [(KEY_256, "ctr-crc32c/aes256"), (KEY_128, "ctr-crc32c/aes128")] {
        for (bytes, size) in [(4 << 10, "4KiB"), (64 << 10, "64KiB"), (1 << 20, "1MiB")] {
            cases.push(Case::new(format!("{algorithm}/{size}"), bytes, move || {
                contestants(key, bytes)
            }));
        }
    }
    cases
}

fn contestants(key: &'static [u8], bytes: usize) -> Vec<Contestant> {
    let aws_lc = AwsLc::new(key);
    verify(key, &aws_lc, &pattern(bytes));
    vec![
        one(warm(key), bytes, Direction::Encrypt, "one"),
        one(warm(key), bytes, Direction::Decrypt, "one-back"),
        chunked(warm(key), bytes, Direction::Encrypt, "each512"),
        chunked(warm(key), bytes, Direction::Decrypt, "each512-back"),
        Contestant::other("without", encrypt(warm(key), bytes, |_| ())),
        Contestant::other("two-passes", encrypt(warm(key), bytes, sum)),
        Contestant::other("two-passes/512", encrypt(warm(key), bytes, sum_chunks)),
        Contestant::other("aws-lc+crc-fast", peer(aws_lc, bytes, sum)),
        Contestant::other("aws-lc+crc-fast/512", peer(AwsLc::new(key), bytes, sum_chunks)),
    ]
}

fn warm(key: &[u8]) -> Ctr {
    let ctr = Ctr::new(CtrKey::try_from(key).expect("16 or 32 bytes"), &IV);
    ctr.apply(0, &mut [0; 32 << 10]).expect("a position");
    ctr
}

fn one(ctr: Ctr, bytes: usize, direction: Direction, name: &'static str) -> Contestant {
    let (from, mut to) = (aligned(bytes), aligned(bytes));
    Contestant::own(name, move |count| {
        for _ in 0..count {
            let crc = ctr.apply_to_summed(0, black_box(&from), &mut to, direction, 0);
            black_box(crc.expect("a position"));
        }
    })
}

fn chunked(ctr: Ctr, bytes: usize, direction: Direction, name: &'static str) -> Contestant {
    let (from, mut to, mut sums) = (aligned(bytes), aligned(bytes), vec![0; bytes / CHUNK]);
    let chunk = NonZeroUsize::new(CHUNK).expect("not 0");
    Contestant::own(name, move |count| {
        for _ in 0..count {
            ctr.apply_to_chunk_sums(0, black_box(&from), &mut to, direction, chunk, &mut sums)
                .expect("a position");
            black_box(&sums);
        }
    })
}

fn encrypt(ctr: Ctr, bytes: usize, after: fn(&[u8])) -> impl FnMut(usize) {
    let (from, mut to) = (aligned(bytes), aligned(bytes));
    move |count| {
        for _ in 0..count {
            ctr.apply_to(0, black_box(&from), &mut to).expect("a position");
            after(&to);
        }
    }
}

fn peer(mut aws_lc: AwsLc, bytes: usize, after: fn(&[u8])) -> impl FnMut(usize) {
    let (from, mut to) = (aligned(bytes), aligned(bytes));
    move |count| {
        for _ in 0..count {
            aws_lc.across(black_box(&from), &mut to);
            after(&to);
        }
    }
}

fn sum(bytes: &[u8]) {
    black_box(checksum(CrcAlgorithm::Crc32Iscsi, bytes));
}

fn sum_chunks(bytes: &[u8]) {
    bytes.chunks(CHUNK).for_each(sum);
}

/// # Panics
/// If ciphertext or checksums are not those of AWS-LC and crc-fast.
fn verify(key: &[u8], aws_lc: &AwsLc, plain: &[u8]) {
    let mut expected = plain.to_vec();
    aws_lc.encrypt(&mut expected);
    let (ctr, mut own) = (warm(key), plain.to_vec());
    let crc = ctr
        .apply_summed(0, &mut own, Direction::Encrypt, 0)
        .expect("a position");
    assert!(own == expected, "ciphertext beside a checksum");
    assert_eq!(
        u64::from(crc),
        checksum(CrcAlgorithm::Crc32Iscsi, &expected),
        "one checksum"
    );
    let mut sums = vec![0; plain.len() / CHUNK];
    let chunk = NonZeroUsize::new(CHUNK).expect("not 0");
    ctr.apply_chunk_sums(0, &mut own, Direction::Decrypt, chunk, &mut sums)
        .expect("a position");
    assert!(own == plain, "plaintext beside checksums");
    for (sum, bytes) in sums.iter().zip(expected.chunks(CHUNK)) {
        assert_eq!(
            u64::from(*sum),
            checksum(CrcAlgorithm::Crc32Iscsi, bytes),
            "a chunk's checksum"
        );
    }
}
