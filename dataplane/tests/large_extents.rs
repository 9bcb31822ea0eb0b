//! Extents written in pieces, and sealed and opened on several cores, are those that are sealed block by block.

mod seed;

use std::num::NonZeroUsize;

use rand::RngExt;
use seed::seeded;
use strongroom_dataplane::{
    DataKey, ExtentKey, ExtentSealer, Geometry, OpenError, SealError, SealedBlock, Seed, Suite, UnsealedBlock,
};

const TAG: usize = 16;

fn key(geometry: Geometry) -> ExtentKey {
    ExtentKey::derive(&DataKey::new(&[3; 32]), &[1; 16], Seed::Salt([2; 16]), geometry).expect("a DEK and a salt")
}

fn geometry(frame: u32, block: u32) -> Geometry {
    Geometry::new(Suite::Gcm, frame, block).expect("valid")
}

fn threads(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("not 0")
}

/// Plaintext with room for each frame's tag.
fn laid_out(plain: &[u8], geometry: Geometry) -> Vec<u8> {
    let frames = plain.chunks(geometry.frame_bytes() as usize);
    frames.flat_map(|frame| [frame, &[0; TAG]].concat()).collect()
}

/// The extent as one block after another gives it.
fn block_by_block(plain: &[u8], geometry: Geometry) -> Vec<SealedBlock> {
    let key = key(geometry);
    let blocks = plain.chunks(geometry.block_bytes() as usize);
    let count = blocks.len();
    let seal = |(index, part): (usize, &[u8])| {
        let mut bytes = laid_out(part, geometry);
        let crc32c = key.seal_block(index as u32, index + 1 == count, &mut bytes);
        SealedBlock {
            index: index as u32,
            bytes,
            crc32c: crc32c.expect("a block"),
        }
    };
    blocks.enumerate().map(seal).collect()
}

#[test]
fn pieces_of_any_length_give_the_same_blocks() {
    let (seed, mut random) = seeded();
    for _ in 0..60 {
        let frame = 4096_u32 << random.random_range(0..3);
        let geometry = geometry(frame, frame * random.random_range(1..5));
        let block = geometry.block_bytes() as usize;
        let length = match random.random_range(0..4) {
            0 => random.random_range(0..3) * block,
            1 => random.random_range(0..12) * frame as usize,
            _ => random.random_range(0..4 * block),
        };
        let mut plain = vec![0; length];
        random.fill(plain.as_mut_slice());
        let most = 1 + (random.random_range(0..2 * block) >> random.random_range(0..8));
        let mut sealer = ExtentSealer::new(key(geometry));
        let mut blocks = Vec::new();
        let mut rest = plain.as_slice();
        while !rest.is_empty() {
            let mut piece;
            (piece, rest) = rest.split_at(random.random_range(0..=most.min(rest.len())));
            while !piece.is_empty() {
                blocks.extend(sealer.append(&mut piece).expect("room"));
            }
            assert_eq!(sealer.length(), (length - rest.len()) as u64, "seed {seed}");
        }
        blocks.extend(sealer.finish().expect("room"));
        assert_eq!(geometry.blocks(length as u64), Ok(sealer.blocks()), "seed {seed}");
        assert_eq!(sealer.append(&mut &[1][..]).err(), Some(SealError::Ended));
        assert!(sealer.finish().expect("nothing to do").is_none());
        // In any order.
        let mut sealed: Vec<SealedBlock> = blocks.into_iter().rev().map(UnsealedBlock::seal).collect();
        sealed.reverse();
        assert!(
            sealed == block_by_block(&plain, geometry),
            "seed {seed}: {length} bytes"
        );
    }
}

#[test]
fn several_cores_seal_and_open_what_one_does() {
    const LENGTH: usize = (36 << 20) + 12_345;
    let plain: Vec<u8> = (0..LENGTH).map(|i| (i * 31 + i / 251) as u8).collect();
    for (frame, block) in [
        (4 << 10, 4 << 20),
        (64 << 10, 4 << 20),
        (1 << 20, 1 << 20),
        (64 << 10, 192 << 10),
    ] {
        let geometry = geometry(frame, block);
        let key = key(geometry);
        let expected = block_by_block(&plain, geometry);
        let sums: Vec<u32> = expected.iter().map(|block| block.crc32c).collect();
        let expected: Vec<u8> = expected.into_iter().flat_map(|block| block.bytes).collect();
        for cores in [1, 2, 1000] {
            let what = format!("{frame} {block} on {cores}");
            let (mut sealed, mut crcs) = (laid_out(&plain, geometry), vec![0; sums.len()]);
            key.seal_blocks_on_cores(0, true, &mut sealed, &mut crcs, threads(cores))
                .expect("an extent");
            assert!(sealed == expected && crcs == sums, "{what}");
            let mut opened = vec![0; LENGTH];
            key.open_frames_on_cores(LENGTH as u64, 0, &sealed, &mut opened, threads(cores))
                .expect("what was sealed");
            assert!(opened == plain, "{what}");
        }
    }
}

/// From the middle, whole blocks; at the end, less than that too.
#[test]
fn several_cores_seal_and_open_any_part() {
    let (seed, mut random) = seeded();
    for _ in 0..3 {
        let frame = 4096_u32 << random.random_range(0..9);
        let geometry = geometry(frame, frame * random.random_range(1..=(4 << 20) / frame));
        let (first, last) = (random.random_range(0..1000_u32), random.random());
        let block = geometry.block_bytes() as usize;
        let count = random.random_range(34 << 20..50 << 20) / block;
        let missing = if last { random.random_range(0..block) } else { 0 };
        let cores = threads(random.random_range(2..9));
        let what = format!("seed {seed}: {geometry:?}, {count} from {first}, last {last}, on {cores}");

        let key = key(geometry);
        let plain: Vec<u8> = (0..count * block - missing).map(|i| (i * 31 + i / 251) as u8).collect();
        let mut sealed = laid_out(&plain, geometry);
        let (mut apart, mut crcs) = (sealed.clone(), vec![0; count]);
        key.seal_blocks_on_cores(first, last, &mut sealed, &mut crcs, cores)
            .expect("blocks of an extent");
        let each = apart.chunks_mut(geometry.sealed_bytes(geometry.block_bytes()) as usize);
        for (i, (part, crc)) in each.zip(&crcs).enumerate() {
            let sum = key.seal_block(first + i as u32, last && i + 1 == count, part);
            assert_eq!(sum, Ok(*crc), "{what}, block {i}");
        }
        assert!(sealed == apart, "{what}");

        let end = first as usize * block + plain.len();
        let length = if last { end } else { end + 1 } as u64;
        let mut opened = vec![0; plain.len()];
        key.open_frames_on_cores(length, first * geometry.block_frames(), &sealed, &mut opened, cores)
            .expect("what was sealed");
        assert!(opened == plain, "{what}, opened");
    }
}

#[test]
fn of_bad_frames_the_first_is_named_and_nothing_gets_out() {
    let geometry = geometry(4 << 10, 4 << 20);
    let (length, key) = (64 << 20, key(geometry));
    let mut sealed = vec![7; geometry.sealed_extent_bytes(length).expect("short enough") as usize];
    key.seal_blocks_on_cores(0, true, &mut sealed, &mut [0; 16], threads(4))
        .expect("an extent");
    for bad in [&[0, 16_383][..], &[1023, 1024], &[5000, 9000, 9001], &[16_383]] {
        let mut changed = sealed.clone();
        for frame in bad {
            changed[frame * 4112 + 100] ^= 1;
        }
        let mut out = vec![0xee; length as usize];
        let refused = key.open_frames_on_cores(length, 0, &changed, &mut out, threads(4));
        let frame = bad[0] as u32;
        assert_eq!(refused, Err(OpenError::Tampered { frame }));
        assert!(out.iter().all(|byte| *byte == 0), "a failed run leaves bytes behind");
    }
}

#[test]
fn what_are_no_blocks_is_refused_before_it_is_touched() {
    let geometry = geometry(4096, 8192);
    let (key, block) = (key(geometry), 8192 + 2 * TAG);
    for (first, last, bytes, sums) in [
        (0, true, 0, 0),
        (0, true, block, 0),
        (0, true, block, 2),
        (0, true, block + 17, 1),
        (0, true, block + TAG, 2),
        (0, false, block + 17, 2),
        (0, true, 3 * block - 4096, 3),
        (u32::MAX, true, 2 * block, 2),
        (u32::MAX, false, block, 1),
        (0x7fff_ffff, false, 2 * block, 2),
    ] {
        let (mut blocks, mut crcs) = (vec![0x77; bytes], vec![9; sums]);
        let refused = key.seal_blocks_on_cores(first, last, &mut blocks, &mut crcs, threads(2));
        assert!(refused.is_err(), "{first} {last} {bytes} {sums}");
        assert!(blocks.iter().all(|byte| *byte == 0x77) && crcs.iter().all(|crc| *crc == 9));
    }
    let highest = key.seal_blocks_on_cores(0x7fff_fffe, true, &mut vec![0; 2 * block], &mut [0; 2], threads(2));
    assert_eq!(highest, Ok(()), "the last two blocks there can be");
}
