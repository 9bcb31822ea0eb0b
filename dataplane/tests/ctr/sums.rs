//! Checksums made along with the ciphertext are those of the ciphertext.

use std::num::NonZeroUsize;

use rand::RngExt;
use strongroom_dataplane::{Ctr, CtrError, CtrKey, Direction};

use crate::{
    naive::{KEY_256, backends, ctr, keys, keystream, pattern, xor},
    seed::seeded,
};

const IV: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_66f0;

/// CRC-32C a bit at a time.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
    !bytes
        .iter()
        .fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[test]
fn the_naive_checksum_is_the_standards() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of CRC-32/ISCSI");
    // RFC 3720, B.4.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
}

/// Behind the last block there is no other to align to.
#[test]
fn one_checksum_at_the_last_positions() {
    for key in keys() {
        for backend in backends() {
            let ctr = ctr(key, IV, backend, false);
            for length in 0..40_usize {
                let position = u64::MAX - length as u64;
                let mut expected = vec![7; length];
                ctr.apply(position, &mut expected).expect("ends at the last position");
                check_one(&ctr, position, &vec![7; length], &expected);
            }
        }
    }
}

#[test]
fn one_checksum_at_every_length() {
    let plain = pattern(2200);
    for key in keys() {
        let stream = keystream(key, IV, 0, 2200);
        for backend in backends() {
            for warm in [false, true] {
                let ctr = ctr(key, IV, backend, warm);
                for length in (0..600).chain((600..2150).step_by(61)).chain([512, 1024, 1536, 2048]) {
                    let start = length % 35;
                    let cipher = xor(&plain[start..start + length], &stream[start..start + length]);
                    check_one(&ctr, start as u64, &plain[start..start + length], &cipher);
                }
            }
        }
    }
}

/// Four times what the widest kernel takes at once, where there is a table: it makes checksums one group late, so that every
/// number of groups and every rest is a case of its own.
#[test]
fn one_checksum_at_every_length_and_start_of_the_widest() {
    const LENGTH: usize = 4 << 10;
    let plain = pattern(LENGTH + 17);
    let widest = backends().into_iter().filter(|backend| backend.name() == "vaes512");
    for (key, backend) in widest.flat_map(|backend| keys().map(|key| (key, backend))) {
        let stream = keystream(key, IV, 0, plain.len());
        let ctr = ctr(key, IV, backend, true);
        let check = |start: usize, length: usize| {
            let (plain, stream) = (&plain[start..start + length], &stream[start..start + length]);
            check_one(&ctr, start as u64, plain, &xor(plain, stream));
        };
        for length in 0..=LENGTH {
            check(length % 3 * 8, length);
        }
        for length in (0..=LENGTH).step_by(97).chain([LENGTH]) {
            (0..17).for_each(|start| check(start, length));
        }
    }
}

/// Both directions, in place and across, from the start and going on from a part.
fn check_one(ctr: &Ctr, position: u64, plain: &[u8], cipher: &[u8]) {
    let expected = crc32c(cipher);
    let what = format!("{ctr:?} {} bytes at {position}", plain.len());
    let mut bytes = plain.to_vec();
    let encrypted = ctr.apply_summed(position, &mut bytes, Direction::Encrypt, 0);
    assert_eq!(encrypted, Ok(expected), "{what}");
    assert!(bytes == cipher, "{what}");
    let decrypted = ctr.apply_summed(position, &mut bytes, Direction::Decrypt, 0);
    assert_eq!(decrypted, Ok(expected), "{what}, back");
    assert!(bytes == plain, "{what}, back");

    let part = plain.len() / 3;
    let first = ctr.apply_to_summed(position, &plain[..part], &mut bytes[..part], Direction::Encrypt, 0);
    let rest = position + part as u64;
    let whole =
        first.and_then(|crc| ctr.apply_to_summed(rest, &plain[part..], &mut bytes[part..], Direction::Encrypt, crc));
    assert_eq!(whole, Ok(expected), "{what}, in two");
    assert!(bytes == cipher, "{what}, in two");
}

#[test]
fn a_checksum_for_each_chunk() {
    let (seed, mut random) = seeded();
    for _ in 0..200 {
        let iv = random.random::<u128>() | if random.random() { 0xff_ffff_f000 } else { 0 };
        let position = random.random_range(0..50_000_u64) / if random.random() { 1 } else { 16 } * 16;
        let mut plain = vec![0; random.random_range(0..9000)];
        random.fill(plain.as_mut_slice());
        let stream = keystream(CtrKey::Aes256(&KEY_256), iv, position / 16, plain.len());
        let cipher = xor(&plain, &stream);
        let chunk = [512, 512, 512, 4096, 1000, 16, 1][random.random_range(0..7)];
        let expected: Vec<u32> = cipher.chunks(chunk).map(crc32c).collect();
        for backend in backends() {
            let ctr = ctr(CtrKey::Aes256(&KEY_256), iv, backend, random.random());
            let chunk_bytes = NonZeroUsize::new(chunk).expect("not 0");
            let mut sums = vec![7; expected.len()];
            let mut bytes = plain.clone();
            ctr.apply_chunk_sums(position, &mut bytes, Direction::Encrypt, chunk_bytes, &mut sums)
                .expect("fits");
            assert!(
                bytes == cipher && sums == expected,
                "seed {seed}: {ctr:?} {position} {chunk}"
            );
            sums.fill(7);
            ctr.apply_to_chunk_sums(
                position,
                &cipher,
                &mut bytes,
                Direction::Decrypt,
                chunk_bytes,
                &mut sums,
            )
            .expect("fits");
            assert!(
                bytes == plain && sums == expected,
                "seed {seed}: {ctr:?} {position} {chunk}, back"
            );
        }
    }
}

#[test]
fn as_many_checksums_as_chunks() {
    let ctr = Ctr::new(keys()[0], &[0; 16]);
    let mut bytes = [9; 1025];
    let chunk_bytes = NonZeroUsize::new(512).expect("not 0");
    let refused = ctr.apply_chunk_sums(0, &mut bytes, Direction::Encrypt, chunk_bytes, &mut [0; 2]);
    assert_eq!(refused, Err(CtrError::Sums { sums: 2, chunks: 3 }));
    assert_eq!(bytes, [9; 1025]);
    let position = CtrError::Position {
        position: u64::MAX,
        bytes: 1025,
    };
    assert_eq!(
        ctr.apply_summed(u64::MAX, &mut bytes, Direction::Encrypt, 0),
        Err(position)
    );
}
