//! AES-CTR with the CRC-32C of the ciphertext, one for all or one for each 512 bytes: ours in one pass, against encryption
//! alone and against two passes, ours and others'.

use std::{hint::black_box, num::NonZeroUsize, rc::Rc};

use crc_fast::{CrcAlgorithm, checksum};
use strongroom_dataplane::{Ctr, CtrKey, Direction};

use super::{Case, KEY_128, KEY_256, SharedBuffer, pattern, shared};
use crate::{
    limit,
    measure::Contestant,
    peers::{AwsLc, CtrCipher, IV},
};

const CHUNK: usize = 512;
const CHUNK_BYTES: NonZeroUsize = NonZeroUsize::new(CHUNK).expect("not 0");

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

/// What all contestants of a case share.
#[derive(Clone)]
struct Buffers {
    from: SharedBuffer,
    to: SharedBuffer,
}

fn contestants(key: &'static [u8], bytes: usize) -> Vec<Contestant> {
    verify(key, &pattern(bytes));
    let buffers = &Buffers {
        from: shared(bytes),
        to: shared(bytes),
    };
    vec![
        one(warm(key), buffers, Direction::Encrypt, "one"),
        one(warm(key), buffers, Direction::Decrypt, "one-back"),
        chunked(warm(key), buffers, Direction::Encrypt, "each512"),
        chunked(warm(key), buffers, Direction::Decrypt, "each512-back"),
        Contestant::other("without", encrypt(warm(key), buffers, |_| ())),
        Contestant::other("two-passes", encrypt(warm(key), buffers, sum)),
        Contestant::other("two-passes/512", encrypt(warm(key), buffers, sum_chunks)),
        Contestant::other("aws-lc+crc-fast", peer(AwsLc::new(key), buffers, sum)),
        Contestant::other("aws-lc+crc-fast/512", peer(AwsLc::new(key), buffers, sum_chunks)),
        limit::aes_contestant(key.len(), bytes),
    ]
}

fn warm(key: &[u8]) -> Ctr {
    let ctr = Ctr::new(CtrKey::try_from(key).expect("16 or 32 bytes"), &IV);
    ctr.apply(0, &mut [0; 32 << 10]).expect("a position");
    ctr
}

fn one(ctr: Ctr, buffers: &Buffers, direction: Direction, name: &'static str) -> Contestant {
    let run = repeated(buffers, move |from, to| {
        let crc = ctr.apply_to_summed(0, from, to, direction, 0);
        black_box(crc.expect("a position"));
    });
    Contestant::own(name, run)
}

fn chunked(ctr: Ctr, buffers: &Buffers, direction: Direction, name: &'static str) -> Contestant {
    let mut sums = vec![0; buffers.to.borrow().len() / CHUNK];
    let run = repeated(buffers, move |from, to| {
        ctr.apply_to_chunk_sums(0, from, to, direction, CHUNK_BYTES, &mut sums)
            .expect("a position");
        black_box(&sums);
    });
    Contestant::own(name, run)
}

fn encrypt(ctr: Ctr, buffers: &Buffers, after: fn(&[u8])) -> impl FnMut(usize) + use<> {
    repeated(buffers, move |from, to| {
        ctr.apply_to(0, from, to).expect("a position");
        after(to);
    })
}

fn peer(mut aws_lc: AwsLc, buffers: &Buffers, after: fn(&[u8])) -> impl FnMut(usize) + use<> {
    repeated(buffers, move |from, to| {
        aws_lc.across(from, to);
        after(to);
    })
}

fn repeated<W: FnMut(&[u8], &mut [u8])>(buffers: &Buffers, mut work: W) -> impl FnMut(usize) + use<W> {
    let (from, to) = (Rc::clone(&buffers.from), Rc::clone(&buffers.to));
    move |count| {
        for _ in 0..count {
            work(black_box(&from.borrow()), &mut to.borrow_mut());
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
/// If ciphertext, plaintext or checksums of anything timed are not those of AWS-LC and crc-fast.
fn verify(key: &[u8], plain: &[u8]) {
    let mut cipher = plain.to_vec();
    AwsLc::new(key).encrypt(&mut cipher);
    verify_one_way(key, plain, &cipher, Direction::Encrypt);
    verify_one_way(key, &cipher, plain, Direction::Decrypt);
    let mut to = vec![0; plain.len()];
    warm(key).apply_to(0, plain, &mut to).expect("a position");
    assert!(to == cipher, "ciphertext without a checksum");
    to.fill(0);
    AwsLc::new(key).across(plain, &mut to);
    assert!(to == cipher, "AWS-LC's in place and elsewhere");
}

fn verify_one_way(key: &[u8], from: &[u8], expected: &[u8], direction: Direction) {
    let cipher = match direction {
        Direction::Encrypt => expected,
        Direction::Decrypt => from,
    };
    let (ctr, mut to) = (warm(key), vec![0; from.len()]);
    let crc = ctr.apply_to_summed(0, from, &mut to, direction, 0);
    let whole = checksum(CrcAlgorithm::Crc32Iscsi, cipher);
    assert_eq!(crc.map(u64::from), Ok(whole), "one checksum, {direction:?}");
    assert!(to == expected, "bytes beside a checksum, {direction:?}");
    let mut sums = vec![0; from.len() / CHUNK];
    to.fill(0);
    ctr.apply_to_chunk_sums(0, from, &mut to, direction, CHUNK_BYTES, &mut sums)
        .expect("a position");
    assert!(to == expected, "bytes beside checksums, {direction:?}");
    for (sum, bytes) in sums.iter().zip(cipher.chunks(CHUNK)) {
        let expected = checksum(CrcAlgorithm::Crc32Iscsi, bytes);
        assert_eq!(u64::from(*sum), expected, "a chunk's checksum, {direction:?}");
    }
}
