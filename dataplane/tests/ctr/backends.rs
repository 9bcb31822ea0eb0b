//! Every backend gives the bytes that the portable one gives, and that one those of the definition.

use rand::RngExt;
use strongroom_dataplane::{Ctr, CtrKey};

use crate::{
    naive::{backends, ctr, keys, keystream, pattern, xor},
    seed::seeded,
};

/// Four times what the widest kernel takes at once.
const LENGTH_MAX: usize = 4 * 16 * 64;
/// Ends in a run of 256 counters, so that groups straddle it.
const IV: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_66f0;

#[test]
fn the_portable_backend_is_the_definition() {
    let portable = "portable".parse().expect("always there");
    for key in keys() {
        for iv in [IV, u128::MAX - 3, 0, u128::from(u64::MAX) - 5] {
            let stream = keystream(key, iv, 0, 1000);
            let ctr = Ctr::with_backend(key, &iv.to_be_bytes(), portable);
            for start in 0..40 {
                for end in [start, start + 1, 47, 64, 200, 999, 1000] {
                    let mut bytes = vec![0; end - start];
                    ctr.apply(start as u64, &mut bytes).expect("a small position");
                    assert_eq!(bytes, stream[start..end], "{key:?} {iv:x} {start}..{end}");
                }
            }
        }
    }
}

#[test]
fn every_length_at_every_start_and_alignment() {
    let plain = pattern(LENGTH_MAX + 64);
    for key in keys() {
        let stream = keystream(key, IV, 0, LENGTH_MAX + 64);
        for backend in backends() {
            let warm = ctr(key, IV, backend, true);
            for length in 0..=LENGTH_MAX {
                for start in 0..17 {
                    // A new one each time: by itself it gets a table after a few texts.
                    let cold = ctr(key, IV, backend, false);
                    let plain = &plain[start..start + length];
                    let expected = xor(plain, &stream[start..start + length]);
                    for (ctr, kind) in [(&warm, "warm"), (&cold, "cold")] {
                        let what = || format!("{key:?} {backend} {kind} {length} bytes at {start}");
                        assert!(in_place(ctr, start, plain) == expected, "{}", what());
                        let across = across(ctr, start, plain, length % 64);
                        assert!(across == expected, "{}, across", what());
                    }
                }
            }
        }
    }
}

/// In place, in a buffer that starts `start * 5` bytes after a multiple of 64 and is the same around the text as before.
fn in_place(ctr: &Ctr, start: usize, plain: &[u8]) -> Vec<u8> {
    let mut aligned = Aligned([0xee; LENGTH_MAX + 256]);
    let place = 1 + start * 5..1 + start * 5 + plain.len();
    aligned.0[place.clone()].copy_from_slice(plain);
    ctr.apply(start as u64, &mut aligned.0[place.clone()])
        .expect("a small position");
    let around = aligned.0[..place.start].iter().chain(&aligned.0[place.end..]);
    assert!(around.copied().all(|byte| byte == 0xee), "written outside");
    aligned.0[place].to_vec()
}

/// Into another buffer, `shift` bytes after a multiple of 64.
fn across(ctr: &Ctr, start: usize, plain: &[u8], shift: usize) -> Vec<u8> {
    let mut aligned = Aligned([0xee; LENGTH_MAX + 256]);
    let place = shift..shift + plain.len();
    ctr.apply_to(start as u64, plain, &mut aligned.0[place.clone()])
        .expect("a small position");
    let around = aligned.0[..place.start].iter().chain(&aligned.0[place.end..]);
    assert!(around.copied().all(|byte| byte == 0xee), "written outside");
    aligned.0[place].to_vec()
}

#[repr(align(64))]
struct Aligned([u8; LENGTH_MAX + 256]);

#[test]
fn counters_carry_through_every_byte_and_wrap() {
    const BYTES: usize = 2100;
    let upper = 0x5a5a_5a5a_5a5a_5a5a_5a5a_5a5a_5a5a_5a5a_u128;
    for key in keys() {
        for carried in 1..=16 {
            let ones = u128::MAX >> (128 - 8 * carried);
            for before in 0..=70 {
                let iv = (upper & !ones) | (ones - before);
                let stream = keystream(key, iv, 0, BYTES);
                for backend in backends() {
                    for warm in [false, true] {
                        let ctr = ctr(key, iv, backend, warm);
                        let mut bytes = vec![0; BYTES];
                        ctr.apply(0, &mut bytes).expect("a small position");
                        assert!(bytes == stream, "{key:?} {backend} {iv:x} warm: {warm}");
                    }
                }
            }
        }
    }
}

#[test]
fn tables_follow_the_counter_through_runs_and_epochs() {
    // 2^40 blocks share a table: before, at and after that boundary, and where no table is kept.
    for key in keys() {
        for backend in backends() {
            let iv = (7 << 40) - 1000;
            let ctr = ctr(key, iv, backend, true);
            for block in [0, 1 << 10, 999, 1000, 1 << 30, (1 << 40) + 990, 2 << 40, u64::MAX >> 4] {
                let position = block * 16;
                let bytes = (u64::MAX - position).min(40_000) as usize;
                let mut text = vec![0; bytes];
                ctr.apply(position, &mut text).expect("within 2^64 bytes");
                assert!(text == keystream(key, iv, block, bytes), "{key:?} {backend} {block}");
            }
        }
    }
}

#[test]
fn random_ranges_of_random_streams() {
    let (seed, mut random) = seeded();
    let portable = "portable".parse().expect("always there");
    for _ in 0..300 {
        let (key, iv) = (random.random::<[u8; 32]>(), random.random::<[u8; 16]>());
        let key = if random.random() {
            CtrKey::Aes256(&key)
        } else {
            CtrKey::Aes128(key.first_chunk().expect("32 bytes"))
        };
        let reference = Ctr::with_backend(key, &iv, portable);
        let others: Vec<Ctr> = backends()
            .into_iter()
            .map(|backend| Ctr::with_backend(key, &iv, backend))
            .collect();
        for _ in 0..12 {
            let position = random.random::<u64>() >> random.random_range(1..60);
            let mut bytes = vec![0; random.random_range(0..30_000) >> random.random_range(0..10)];
            random.fill(bytes.as_mut_slice());
            let mut expected = bytes.clone();
            reference.apply(position, &mut expected).expect("below 2^63");
            for other in &others {
                let mut own = vec![0; bytes.len()];
                other.apply_to(position, &bytes, &mut own).expect("below 2^63");
                assert!(
                    own == expected,
                    "seed {seed}: {other:?} {key:?} {position} {}",
                    bytes.len()
                );
                other.apply(position, &mut own).expect("below 2^63");
                assert!(own == bytes, "seed {seed}: back again");
            }
        }
    }
}

#[test]
fn many_threads_share_a_keystream() {
    let key = keys()[1];
    let stream = keystream(key, IV, 0, 256 << 10);
    for backend in backends() {
        let ctr = Ctr::with_backend(key, &IV.to_be_bytes(), backend);
        std::thread::scope(|scope| {
            for (i, expected) in stream.chunks(3000).enumerate() {
                let ctr = &ctr;
                scope.spawn(move || {
                    let mut bytes = vec![0; expected.len()];
                    ctr.apply(i as u64 * 3000, &mut bytes).expect("a small position");
                    assert!(bytes == expected, "{backend} piece {i}");
                });
            }
        });
    }
}
