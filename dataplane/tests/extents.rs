//! Extents round trip at every size, read at random, and refuse every change.

use proptest::prelude::*;
use strongroom_dataplane::{DataKey, ExtentKey, ExtentKeyError, Geometry, OpenError, SealError, Seed, Suite};

const FRAME: u32 = 4096;
const BLOCK: u32 = 3 * FRAME;
const SEALED_FRAME: usize = FRAME as usize + 16;
const DEK: [u8; 32] = [3; 32];

fn geometry() -> Geometry {
    Geometry::new(Suite::Gcm, FRAME, BLOCK).expect("valid")
}

fn key(file: u8, salt: u8) -> ExtentKey {
    ExtentKey::derive(&DataKey::new(&DEK), &[file; 16], Seed::Salt([salt; 16]), geometry()).expect("a DEK and a salt")
}

fn plain(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// The sealed blocks of an extent.
fn seal(key: &ExtentKey, plain: &[u8]) -> Vec<Vec<u8>> {
    let blocks = plain.chunks(BLOCK as usize);
    let count = blocks.len();
    blocks
        .enumerate()
        .map(|(i, part)| {
            let mut block: Vec<u8> = part
                .chunks(FRAME as usize)
                .flat_map(|frame| [frame, &[0; 16]].concat())
                .collect();
            let crc = key.seal_block(i as u32, i + 1 == count, &mut block).expect("a block");
            assert_eq!(
                u64::from(crc),
                crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &block)
            );
            block
        })
        .collect()
}

fn open(key: &ExtentKey, length: u64, first: u32, sealed: &[u8], plain_bytes: usize) -> Result<Vec<u8>, OpenError> {
    let mut out = vec![0xee; plain_bytes];
    let opened = key.open_frames(length, first, sealed, &mut out);
    if opened.is_err() {
        assert!(out.iter().all(|&byte| byte == 0), "a failed run leaves bytes behind");
    }
    opened.map(|()| out)
}

/// Reads a range the way a client does: only the frames needed, run by run.
fn read(key: &ExtentKey, blocks: &[Vec<u8>], length: u64, range: std::ops::Range<u64>) -> Vec<u8> {
    let mut found = Vec::new();
    for run in geometry().runs(length, range).expect("in range") {
        let start = run.sealed_offset as usize;
        let sealed = &blocks[run.block as usize][start..start + run.sealed_bytes as usize];
        let out = open(key, length, run.first_frame, sealed, run.plain_bytes as usize).expect("untouched");
        found.extend_from_slice(&out[run.wanted_range()]);
    }
    found
}

#[test]
fn every_size_round_trips() {
    let key = key(1, 1);
    let (frame, block) = (FRAME as usize, BLOCK as usize);
    for length in [
        0,
        1,
        15,
        16,
        17,
        frame - 1,
        frame,
        frame + 1,
        block - 1,
        block,
        block + 1,
        2 * block,
        2 * block + frame + 5,
    ] {
        let text = plain(length);
        let blocks = seal(&key, &text);
        let sealed: usize = blocks.iter().map(Vec::len).sum();
        assert_eq!(
            geometry().sealed_extent_bytes(length as u64),
            Ok(sealed as u64),
            "{length}"
        );
        assert_eq!(geometry().blocks(length as u64), Ok(blocks.len() as u32), "{length}");
        assert_eq!(read(&key, &blocks, length as u64, 0..length as u64), text, "{length}");
    }
}

proptest! {
    // A failure prints its smallest case, which is all that is needed to repeat it.
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_range_reads_as_the_slice_of_the_original(length in 0_usize..40_000, a in 0_usize..40_000, b in 0_usize..40_000) {
        let (from, to) = (a.min(b).min(length), a.max(b).min(length));
        let key = key(1, 2);
        let text = plain(length);
        let blocks = seal(&key, &text);
        prop_assert_eq!(read(&key, &blocks, length as u64, from as u64..to as u64), &text[from..to]);
    }

    #[test]
    fn runs_touch_only_the_frames_they_need(length in 1_u64..1 << 40, at in 0.0..1.0_f64, span in 1_u64..100_000) {
        let start = ((length - 1) as f64 * at) as u64;
        let end = (start + span).min(length);
        let mut next = start;
        for run in geometry().runs(length, start..end).expect("in range") {
            let first_byte = u64::from(run.first_frame) * u64::from(FRAME);
            prop_assert_eq!(first_byte + u64::from(run.wanted.0), next);
            prop_assert!(run.wanted.0 < FRAME);
            prop_assert!(run.wanted.0 < run.wanted.1 && run.wanted.1 <= run.plain_bytes);
            prop_assert!(run.plain_bytes - run.wanted.1 < FRAME);
            prop_assert_eq!(run.sealed_bytes, geometry().sealed_bytes(run.plain_bytes));
            prop_assert_eq!(u64::from(run.block), next / u64::from(BLOCK));
            let sealed_block = geometry().sealed_bytes(geometry().block_plain_bytes(length, run.block).expect("in range"));
            prop_assert!(run.sealed_offset + run.sealed_bytes <= sealed_block);
            next += u64::from(run.wanted.1 - run.wanted.0);
        }
        prop_assert_eq!(next, end);
    }
}

#[test]
fn every_flipped_bit_of_a_frame_is_refused() {
    let key = key(1, 3);
    let sealed = seal(&key, &plain(40)).remove(0);
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            open(&key, 40, 0, &changed, 40),
            Err(OpenError::Tampered { frame: 0 }),
            "bit {bit}"
        );
    }
}

#[test]
fn a_bad_frame_takes_its_whole_run_with_it_and_is_named() {
    let key = key(1, 3);
    let sealed = seal(&key, &plain(BLOCK as usize)).remove(0);
    for frame in 0..3 {
        let mut changed = sealed.clone();
        changed[frame * SEALED_FRAME] ^= 1;
        let refused = OpenError::Tampered { frame: frame as u32 };
        assert_eq!(open(&key, BLOCK.into(), 0, &changed, BLOCK as usize), Err(refused));
    }
}

#[test]
fn swapped_dropped_and_repeated_frames_are_refused() {
    let key = key(1, 4);
    let sealed = seal(&key, &plain(BLOCK as usize)).remove(0);
    let frames: Vec<&[u8]> = sealed.chunks(SEALED_FRAME).collect();
    for (what, order) in [
        ("swapped", [1, 0, 2]),
        ("first repeated", [0, 0, 2]),
        ("last repeated", [0, 2, 2]),
        ("rotated", [1, 2, 0]),
    ] {
        let changed = order.map(|i| frames[i]).concat();
        let verdict = open(&key, BLOCK.into(), 0, &changed, BLOCK as usize);
        assert!(
            matches!(verdict, Err(OpenError::Tampered { .. })),
            "{what}: {verdict:?}"
        );
    }
}

#[test]
fn an_extent_cut_at_a_frame_is_refused_whatever_length_is_claimed() {
    let key = key(1, 5);
    let sealed = seal(&key, &plain(BLOCK as usize)).remove(0);
    for frames in 1..3_u32 {
        let cut = &sealed[..frames as usize * SEALED_FRAME];
        let length = frames * FRAME;
        let verdict = open(&key, length.into(), 0, cut, length as usize);
        assert_eq!(verdict, Err(OpenError::Tampered { frame: frames - 1 }));
    }
    let longer = open(&key, u64::from(BLOCK) + 1, 0, &sealed, BLOCK as usize);
    assert_eq!(
        longer,
        Err(OpenError::Tampered { frame: 2 }),
        "a last frame passes as a middle one"
    );
}

#[test]
fn frames_of_other_places_are_refused() {
    let text = plain(2 * BLOCK as usize);
    let length = text.len() as u64;
    let blocks = seal(&key(1, 6), &text);
    let first = &blocks[0][..SEALED_FRAME];
    let refused = |key: &ExtentKey, frame| open(key, length, frame, first, FRAME as usize).is_err();
    assert!(!refused(&key(1, 6), 0));
    assert!(refused(&key(2, 6), 0), "another file");
    assert!(refused(&key(1, 7), 0), "another salt");
    assert!(refused(&key(1, 6), 1), "another index");
    let swapped = open(&key(1, 6), length, 3, &blocks[0], BLOCK as usize);
    assert_eq!(swapped, Err(OpenError::Tampered { frame: 3 }), "another block");
    let other_dek = ExtentKey::derive(&DataKey::new(&[4; 32]), &[1; 16], Seed::Salt([6; 16]), geometry())
        .expect("a DEK and a salt");
    assert!(refused(&other_dek, 0), "another DEK");
}

#[test]
fn runs_of_wrong_length_are_refused() {
    let key = key(1, 8);
    let sealed = seal(&key, &plain(BLOCK as usize)).remove(0);
    let length = u64::from(BLOCK);
    let full = FRAME as usize;
    for (sealed_bytes, out, first) in [
        (SEALED_FRAME - 1, full, 0),
        (SEALED_FRAME + 1, full, 0),
        (SEALED_FRAME, full - 1, 0),
        (SEALED_FRAME, full + 1, 0),
        (0, 0, 0),
        (SEALED_FRAME, full, 3),
        (SEALED_FRAME, full, u32::MAX),
    ] {
        let verdict = open(&key, length, first, &sealed[..sealed_bytes], out);
        let refused = matches!(verdict, Err(OpenError::Length { .. } | OpenError::Range(_)));
        assert!(refused, "{sealed_bytes} {out} {first}: {verdict:?}");
    }
    assert!(open(&key, u64::MAX, 0, &sealed, BLOCK as usize).is_err());
}

#[test]
fn what_is_no_block_is_refused_before_it_is_touched() {
    let key = key(1, 9);
    let full = 3 * SEALED_FRAME;
    for (index, last, sealed_bytes) in [
        (0, true, 0),
        (0, true, 16),
        (0, true, SEALED_FRAME + 16),
        (0, true, SEALED_FRAME + 1),
        (0, true, full + 17),
        (0, false, 17),
        (0, false, 2 * SEALED_FRAME),
        (0, false, full - 1),
        (u32::MAX, true, full),
        (1_431_655_766, true, 17),
        (1_431_655_765, true, SEALED_FRAME + 17),
    ] {
        let mut buffer = vec![0x77; sealed_bytes];
        let verdict = key.seal_block(index, last, &mut buffer);
        assert!(
            matches!(verdict, Err(SealError::BlockBytes { .. } | SealError::Full(_))),
            "{index} {last} {sealed_bytes}"
        );
        assert!(buffer.iter().all(|&byte| byte == 0x77));
    }
    // 1431655765 * 3 is 2^32 - 1, the last frame there can be.
    assert!(key.seal_block(1_431_655_765, true, &mut [0; 17]).is_ok());
}

#[test]
fn frames_beyond_five_gib_and_the_last_there_can_be() {
    let key = key(1, 10);
    // Of the last two frames, the second is short.
    for index in
        [5 << 30, (5 << 30) + u64::from(FRAME), u64::from(FRAME) << 32].map(|end| (end / u64::from(BLOCK)) as u32)
    {
        let start = u64::from(index) * u64::from(BLOCK);
        let frames = ((u64::from(FRAME) << 32) - start).div_ceil(FRAME.into()).min(2);
        let text = plain(frames as usize * FRAME as usize - 100);
        let mut sealed: Vec<u8> = text
            .chunks(FRAME as usize)
            .flat_map(|frame| [frame, &[0; 16]].concat())
            .collect();
        key.seal_block(index, true, &mut sealed).expect("there is such a block");
        let (length, first) = (start + text.len() as u64, index * 3);
        assert_eq!(
            open(&key, length, first, &sealed, text.len()),
            Ok(text.clone()),
            "block {index}"
        );
        let moved = open(&key, length - u64::from(BLOCK), first - 3, &sealed, text.len());
        assert_eq!(moved, Err(OpenError::Tampered { frame: first - 3 }), "block {index}");
    }
}

#[test]
fn debug_shows_no_key() {
    assert_eq!(format!("{:?}", key(1, 1)), "ExtentKey(withheld)");
    assert_eq!(format!("{:?}", DataKey::new(&DEK)), "DataKey(withheld)");
}

#[test]
fn nothing_is_encrypted_without_a_key_and_nothing_left_plain_with_one() {
    let suites = [Suite::Gcm, Suite::CtrHdfs, Suite::Plain];
    for suite in suites {
        let geometry = Geometry::new(suite, FRAME, BLOCK).expect("valid");
        let refused = Err(ExtentKeyError::Keyless { suite });
        let derived = ExtentKey::derive(&DataKey::new(&DEK), &[1; 16], Seed::Salt([2; 16]), geometry);
        assert_eq!(derived.map(|_| ()).is_err(), suite == Suite::Plain, "{suite}");
        let plain = ExtentKey::plain(geometry).map(|_| ());
        assert_eq!(plain, if suite == Suite::Plain { Ok(()) } else { refused });
    }
    let geometry = Geometry::new(Suite::Plain, FRAME, BLOCK).expect("valid");
    let key = ExtentKey::plain(geometry).expect("of its suite");
    let text = plain(BLOCK as usize);
    let mut block = text.clone();
    let crc = key.seal_block(0, false, &mut block).expect("a block");
    assert!(block == text);
    assert_eq!(
        u64::from(crc),
        crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &text)
    );
    let (first, run) = (1, &text[FRAME as usize..2 * FRAME as usize]);
    assert!(open(&key, text.len() as u64, first, run, run.len()).expect("as it is") == run);
    open(&key, text.len() as u64, first, &run[1..], run.len()).expect_err("a byte is missing");
}
