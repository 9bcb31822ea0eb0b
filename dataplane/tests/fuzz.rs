//! Random use for `FUZZ_SECONDS` (1 unless set) each: frames under random changes against what was sealed, extents in random
//! pieces, and AES-CTR in random pieces against a byte-by-byte oracle. `FUZZ_SEED` repeats a run.

use std::{
    env,
    io::{self, Write as _},
    num::NonZeroUsize,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    time::{Duration, Instant},
};

use aes::{
    Aes256,
    cipher::{BlockCipherEncrypt, KeyInit},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use strongroom_dataplane::{
    Backend, Ctr, CtrKey, CtrStream, DataKey, Direction, ExtentKey, ExtentSealer, FrameRun, Geometry, Seed, Suite,
};

/// Calls `round` with a generator of its own until the time is up.
fn fuzz(round: impl Fn(&mut StdRng)) {
    let seconds = env::var("FUZZ_SECONDS").map_or(1, |seconds| seconds.parse().expect("a number"));
    let first = env::var("FUZZ_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    // Past what a test's output is kept back by, which is lost if a kernel ends the process. Seeds count up from here.
    _ = io::stderr().write_all(format!("FUZZ_SEED={first}\n").as_bytes());
    let end = Instant::now() + Duration::from_secs(seconds);
    for seed in (0..).map(|i| u64::wrapping_add(first, i)) {
        if Instant::now() > end {
            break;
        }
        let failed = panic::catch_unwind(AssertUnwindSafe(|| round(&mut StdRng::seed_from_u64(seed))));
        if let Err(failure) = failed {
            _ = io::stderr().write_all(format!("FUZZ_SEED={seed} failed\n").as_bytes());
            panic::resume_unwind(failure);
        }
    }
}

fn random_bytes(random: &mut StdRng, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    random.fill(bytes.as_mut_slice());
    bytes
}

#[test]
fn changed_frames_never_open() {
    fuzz(|random| {
        let frame = 4096_usize << random.random_range(0..3);
        let frames = random.random_range(1..5);
        let geometry = Geometry::new(Suite::Gcm, frame as u32, (8 * frame) as u32).expect("valid");
        let key = ExtentKey::derive(
            &DataKey::new(&random.random()),
            &random.random(),
            Seed::Salt(random.random()),
            geometry,
        );
        let key = key.expect("a DEK and a salt");
        let last = random.random_range(1..=frame);
        let plain = random_bytes(random, (frames - 1) * frame + last);
        let mut sealed: Vec<u8> = plain
            .chunks(frame)
            .flat_map(|frame| [frame, &[0; 16]].concat())
            .collect();
        key.seal_block(0, true, &mut sealed).expect("a block");
        for _ in 0..20 {
            open_changed(random, &key, &plain, &sealed);
        }
    });
}

/// One change, or none, and what must come of it.
fn open_changed(random: &mut StdRng, key: &ExtentKey, plain: &[u8], sealed: &[u8]) {
    let (mut bytes, mut length, mut first, mut room) = (sealed.to_vec(), plain.len() as u64, 0, plain.len());
    match random.random_range(0..8) {
        0 => bytes.truncate(random.random_range(0..bytes.len())),
        1 => bytes.extend_from_slice(&sealed[..random.random_range(0..sealed.len())]),
        2 => length = random.random::<u64>() >> random.random_range(0..64),
        3 => first = random.random::<u32>() >> random.random_range(0..32),
        4 => room = random.random_range(0..2 * plain.len()),
        5 => {
            let (from, to) = (random.random_range(0..bytes.len()), random.random_range(0..bytes.len()));
            bytes.swap(from, to);
        }
        6 => {
            let place = random.random_range(0..bytes.len());
            bytes[place] ^= 1 << random.random_range(0..8);
        }
        _ => {}
    }
    let is_whole = bytes == sealed && length == plain.len() as u64 && first == 0 && room == plain.len();
    let mut out = vec![0xee; room];
    let opened = key.open_frames(length, first, &bytes, &mut out);
    assert_eq!(opened.is_ok(), is_whole, "{opened:?}");
    if is_whole {
        assert!(out == plain, "what was sealed");
    } else {
        assert!(out.iter().all(|byte| *byte == 0), "nothing of a bad run");
    }
}

#[test]
fn extents_written_and_read_in_any_pieces_come_back() {
    fuzz(|random| {
        let frame = 4096_u32 << random.random_range(0..3);
        let geometry = Geometry::new(Suite::Gcm, frame, frame * random.random_range(1..4)).expect("valid");
        let (dek, file, salt) = (random.random(), random.random(), random.random());
        let key =
            || ExtentKey::derive(&DataKey::new(&dek), &file, Seed::Salt(salt), geometry).expect("a DEK and a salt");
        let count = random.random_range(0..100_000) >> random.random_range(0..10);
        let plain = random_bytes(random, count);
        let mut sealer = ExtentSealer::new(key());
        let mut blocks = Vec::new();
        for mut piece in plain.chunks(random.random_range(1..30_000)) {
            while !piece.is_empty() {
                blocks.extend(sealer.append(&mut piece).expect("a short extent"));
            }
        }
        blocks.extend(sealer.finish().expect("a short extent"));
        let blocks: Vec<Vec<u8>> = blocks.into_iter().map(|block| block.seal().bytes).collect();
        for _ in 0..20 {
            let from = random.random_range(0..=count);
            let to = random.random_range(from..=count);
            assert!(
                read(&key(), &blocks, count, from..to) == plain[from..to],
                "{from}..{to} of {count}"
            );
        }
    });
}

/// A range as clients read it.
fn read(key: &ExtentKey, blocks: &[Vec<u8>], length: usize, range: Range<usize>) -> Vec<u8> {
    let wanted = range.start as u64..range.end as u64;
    let runs = key.geometry().runs(length as u64, wanted).expect("in range");
    let open = |run: FrameRun| {
        let sealed = &blocks[run.block as usize][run.sealed_offset as usize..][..run.sealed_bytes as usize];
        let mut out = vec![0; run.plain_bytes as usize];
        key.open_frames(length as u64, run.first_frame, sealed, &mut out)
            .expect("what was sealed");
        out[run.wanted_range()].to_vec()
    };
    runs.flat_map(open).collect()
}

#[test]
fn streams_agree_with_one_byte_at_a_time() {
    fuzz(|random| {
        let (key, iv) = (
            random.random::<[u8; 32]>(),
            random.random::<u128>() | random.random::<u128>(),
        );
        let cipher = Aes256::new(&key.into());
        let base = random.random::<u64>() >> random.random_range(2..64);
        for backend in Backend::all() {
            let mut stream = CtrStream::new(Ctr::with_backend(CtrKey::Aes256(&key), &iv.to_be_bytes(), backend));
            for _ in 0..12 {
                stream.seek(base + random.random_range(0..10_000));
                let start = stream.position();
                let count = random.random_range(0..9000) >> random.random_range(0..10);
                let plain = random_bytes(random, count);
                let mut pieces = plain.clone();
                for piece in pieces.chunks_mut(random.random_range(1..4000)) {
                    stream.apply(piece).expect("below 2^63");
                }
                let expected = naive(&cipher, iv, start, &plain);
                assert!(pieces == expected, "{backend} at {start}");
                let ctr = Ctr::with_backend(CtrKey::Aes256(&key), &iv.to_be_bytes(), backend);
                if random.random() {
                    // After so many bytes there is a table, and with it one pass for bytes and checksums.
                    ctr.apply(start, &mut [0; 16 << 10]).expect("below 2^63");
                }
                check_sums(random, &ctr, start, &plain, &expected);
            }
        }
    });
}

/// In one piece and in chunks, there and back.
fn check_sums(random: &mut StdRng, ctr: &Ctr, start: u64, plain: &[u8], cipher: &[u8]) {
    let crc32c = |bytes: &[u8]| crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32;
    let mut bytes = plain.to_vec();
    let chunk = random.random_range(1..=1024) << random.random_range(0..4);
    let chunk_bytes = NonZeroUsize::new(chunk).expect("not 0");
    let expected: Vec<u32> = cipher.chunks(chunk).map(crc32c).collect();
    let mut sums = vec![7; expected.len()];
    for (direction, after) in [(Direction::Encrypt, cipher), (Direction::Decrypt, plain)] {
        let before = bytes.clone();
        let whole = ctr.apply_summed(start, &mut bytes, direction, 0);
        assert_eq!(whole, Ok(crc32c(cipher)), "{ctr:?} at {start}, {direction:?}");
        assert!(bytes == after, "{ctr:?} at {start}, {direction:?}");
        bytes.fill(7);
        ctr.apply_to_chunk_sums(start, &before, &mut bytes, direction, chunk_bytes, &mut sums)
            .expect("below 2^63");
        let is_right = bytes == after && sums == expected;
        assert!(is_right, "{ctr:?} at {start}, {direction:?}, chunks of {chunk}");
    }
}

fn naive(cipher: &Aes256, iv: u128, start: u64, plain: &[u8]) -> Vec<u8> {
    let mut current = (None, [0; 16]);
    let bytes = plain.iter().zip(start..).map(|(byte, position)| {
        if current.0 != Some(position / 16) {
            let mut block = iv.wrapping_add((position / 16).into()).to_be_bytes().into();
            cipher.encrypt_block(&mut block);
            current = (Some(position / 16), block.into());
        }
        byte ^ current.1[position as usize % 16]
    });
    bytes.collect()
}
