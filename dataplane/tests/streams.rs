//! Streams, spills and cores against the plain operation, under random use.

mod seed;

use std::num::NonZeroUsize;

use rand::RngExt;
use seed::seeded;
use strongroom_dataplane::{Backend, Ctr, CtrError, CtrKey, CtrStream, Spill, SpillRangeError};

const KEY: [u8; 32] = *b"a key of thirty-two bytes, AES-2";
const IV: [u8; 16] = [0xfe; 16];

fn ctr(backend: Backend) -> Ctr {
    Ctr::with_backend(CtrKey::Aes256(&KEY), &IV, backend)
}

/// RustCrypto's keystream in one go.
fn keystream(bytes: usize) -> Vec<u8> {
    let mut stream = vec![0; bytes];
    ctr("portable".parse().expect("always there"))
        .apply(0, &mut stream)
        .expect("a small position");
    stream
}

#[test]
fn any_chunking_and_any_jumps_give_the_same_bytes() {
    let (seed, mut random) = seeded();
    let whole = keystream(1 << 20);
    for backend in Backend::all() {
        for _ in 0..40 {
            let mut stream = CtrStream::new(ctr(backend));
            for _ in 0..60 {
                if random.random_range(0..4) == 0 {
                    stream.seek(random.random_range(0..whole.len() as u64));
                }
                let start = stream.position() as usize;
                let bytes = random.random_range(0..70_000_usize) >> random.random_range(0..17);
                let expected = &whole[start..whole.len().min(start + bytes)];
                let mut own = vec![0; expected.len()];
                if random.random() {
                    stream.apply(&mut own).expect("a small position");
                } else {
                    stream
                        .apply_to(&vec![0; expected.len()], &mut own)
                        .expect("a small position");
                }
                assert!(own == expected, "seed {seed}: {stream:?} from {start}");
                assert_eq!(stream.position() as usize, start + expected.len(), "seed {seed}");
            }
        }
    }
}

#[test]
fn a_refused_piece_leaves_the_stream_where_it_was() {
    let mut stream = CtrStream::new(ctr(Backend::best()));
    stream.seek(u64::MAX - 4);
    let mut bytes = [3; 5];
    let refused = CtrError::Position {
        position: u64::MAX - 4,
        bytes: 5,
    };
    assert_eq!(stream.apply(&mut bytes), Err(refused));
    assert_eq!((stream.position(), bytes), (u64::MAX - 4, [3; 5]));
    stream.apply(&mut bytes[..4]).expect("ends at the last position");
    assert_eq!(stream.position(), u64::MAX);
}

#[test]
fn several_cores_give_the_same_bytes() {
    const BYTES: usize = (97 << 20) + 5;
    let whole = keystream(BYTES + 33);
    for backend in Backend::all() {
        for (position, threads) in [(0, 1), (0, 2), (16, 3), (33, 7), (1, 1000)] {
            let ctr = ctr(backend);
            let threads = NonZeroUsize::new(threads).expect("not 0");
            let mut bytes = vec![0; BYTES];
            ctr.apply_on_cores(position, &mut bytes, threads)
                .expect("a small position");
            let expected = &whole[position as usize..][..BYTES];
            assert!(bytes == expected, "{backend}: {threads} threads from {position}");
            let mut stream = CtrStream::new(ctr).with_threads(threads);
            stream.seek(position);
            stream.apply(&mut bytes).expect("a small position");
            assert!(bytes.iter().all(|byte| *byte == 0), "{backend}: back again");
        }
    }
}

/// Pieces that are written past the cache, side by side, between bytes that are not theirs.
#[test]
fn several_cores_copy_between_buffers() {
    const BYTES: usize = (49 << 20) + 7;
    let whole = keystream(BYTES + 33);
    let from = vec![0; BYTES];
    for backend in Backend::all() {
        for (position, threads, start) in [(0, 2, 64), (16, 3, 1), (33, 7, 64)] {
            let threads = NonZeroUsize::new(threads).expect("not 0");
            let mut around = vec![0xa5; BYTES + 128];
            ctr(backend)
                .apply_to_on_cores(position, &from, &mut around[start..start + BYTES], threads)
                .expect("a small position");
            let expected = &whole[position as usize..][..BYTES];
            assert!(
                around[start..start + BYTES] == *expected,
                "{backend}: {threads} threads from {position}"
            );
            let outside = around[..start].iter().chain(&around[start + BYTES..]);
            assert!(outside.copied().all(|byte| byte == 0xa5), "{backend}: outside");
        }
    }
}

#[test]
fn large_copies_are_written_whole_wherever_they_start() {
    const BYTES: usize = (17 << 20) + 100;
    let (stream, mut to) = (keystream(BYTES), vec![7; BYTES + 128]);
    let from = vec![0; BYTES];
    for backend in Backend::all() {
        let start = to.as_ptr().align_offset(64);
        for start in [start, start + 1, start + 16, start + 32] {
            to.fill(7);
            ctr(backend)
                .apply_to(0, &from, &mut to[start..start + BYTES])
                .expect("a small position");
            assert!(to[start..start + BYTES] == stream, "{backend} from {start}");
            assert!(
                to[..start].iter().chain(&to[start + BYTES..]).all(|byte| *byte == 7),
                "written outside"
            );
        }
    }
}

#[test]
fn what_is_spilled_can_be_read_in_any_pieces_and_nothing_else_can() {
    let (seed, mut random) = seeded();
    let mut spill = Spill::begin(|bytes| random.fill(bytes.as_mut_slice()));
    let (mut plain, mut file) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        let mut piece = vec![0; random.random_range(0..5000)];
        random.fill(piece.as_mut_slice());
        plain.extend_from_slice(&piece);
        let position = spill.append(&mut piece).expect("a small position");
        assert_eq!(position as usize, file.len(), "seed {seed}");
        file.extend_from_slice(&piece);
    }
    assert!(file != plain);
    for _ in 0..500 {
        let start = random.random_range(0..=file.len());
        let end = random.random_range(start..=file.len());
        let mut piece = file[start..end].to_vec();
        spill.read(start as u64, &mut piece).expect("was spilled");
        assert!(piece == plain[start..end], "seed {seed}: {start}..{end}");
    }
    let end = file.len() as u64;
    for position in [end - 3, end, u64::MAX - 1] {
        let refused = SpillRangeError {
            position,
            bytes: 4,
            end,
        };
        let mut bytes = [9; 4];
        assert_eq!(spill.read(position, &mut bytes), Err(refused));
        assert_eq!(bytes, [9; 4]);
    }
}

#[test]
fn two_spills_share_nothing() {
    let mut drawn = 0;
    let mut spill = || {
        drawn += 1;
        let mut spill = Spill::begin(|bytes| bytes.fill(drawn));
        let mut bytes = [0; 64];
        spill.append(&mut bytes).expect("a small position");
        bytes
    };
    assert_ne!(spill(), spill());
}
