//! What the size of a frame costs: sealing and opening a block of 4 MiB, and reading 4 KiB somewhere in it, in frames of each
//! size. Held against frames of 64 KiB, the default.

use std::{hint::black_box, rc::Rc};

use strongroom_dataplane::{DataKey, ExtentKey, Geometry, Seed, Suite};

use super::{BLOCK, Case, KEY_256, Shared, with_tag_room};
use crate::measure::Contestant;

const READ: u32 = 4 << 10;
const DEFAULT: (u32, &str) = (64 << 10, "64KiB");
const SIZES: [(u32, &str); 9] = [
    (4 << 10, "4KiB"),
    (8 << 10, "8KiB"),
    (16 << 10, "16KiB"),
    (32 << 10, "32KiB"),
    DEFAULT,
    (128 << 10, "128KiB"),
    (256 << 10, "256KiB"),
    (512 << 10, "512KiB"),
    (1 << 20, "1MiB"),
];

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("frames/seal".into(), BLOCK as usize, || contestants(sealing)),
        Case::new("frames/open".into(), BLOCK as usize, || contestants(opening)),
        Case::new("frames/read4KiB".into(), 0, || contestants(reading)),
    ]
}

fn contestants(one: fn(u32, &Shared, Entrant) -> Contestant) -> Vec<Contestant> {
    let shared = Shared::new(2 * BLOCK as usize);
    let entrant = |name, is_ours| Entrant { name, is_ours };
    let sizes = SIZES.iter();
    sizes
        .map(|(frame, name)| one(*frame, &shared, entrant(name, true)))
        .chain([one(DEFAULT.0, &shared, entrant(DEFAULT.1, false))])
        .collect()
}

struct Entrant {
    name: &'static str,
    is_ours: bool,
}

fn sealing(frame: u32, shared: &Shared, entrant: Entrant) -> Contestant {
    let (key, block) = sealed(frame);
    let (bytes, shared) = (block.len(), Rc::clone(&shared.sealed));
    let seal = move || {
        let block = &mut shared.borrow_mut()[..bytes];
        _ = black_box(key.seal_block(0, true, block).expect("a whole block"));
    };
    Contestant::readied(entrant.name, entrant.is_ours, || (), seal)
}

fn opening(frame: u32, shared: &Shared, entrant: Entrant) -> Contestant {
    let (key, block) = sealed(frame);
    let (bytes, filler, shared) = (block.len(), shared.filler(block), shared.clone());
    let open = move || {
        let plain = &mut shared.plain.borrow_mut();
        key.open_frames(BLOCK.into(), 0, &shared.sealed.borrow()[..bytes], plain)
            .expect("what was sealed opens");
        black_box(plain);
    };
    Contestant::readied(entrant.name, entrant.is_ours, filler, open)
}

/// Reads as the client does once it has the frames that hold the wanted bytes.
fn reading(frame: u32, shared: &Shared, entrant: Entrant) -> Contestant {
    let (key, block) = sealed(frame);
    let (filler, shared) = (shared.filler(block), shared.clone());
    let mut place = 0_u32;
    let read = move || {
        // Visits all places that are multiples of 4 KiB in an order that no prefetcher knows.
        place = place.wrapping_mul(5).wrapping_add(3) % (BLOCK / READ);
        let start = u64::from(place * READ);
        let wanted = start..start + u64::from(READ);
        let mut runs = key.geometry().runs(BLOCK.into(), wanted).expect("within the block");
        let run = runs.next().expect("one run");
        let out = &mut shared.plain.borrow_mut()[..run.plain_bytes as usize];
        let from = &shared.sealed.borrow()[run.sealed_offset as usize..][..run.sealed_bytes as usize];
        key.open_frames(BLOCK.into(), run.first_frame, from, out)
            .expect("what was sealed opens");
        let read = &out[run.wanted_range()];
        assert_eq!(read[..4], place.to_be_bytes(), "what is at {start}");
        black_box(read);
    };
    Contestant::readied(entrant.name, entrant.is_ours, filler, read)
}

/// A sealed block in which every 4 KiB begin with their number.
///
/// # Panics
/// If it does not open to that.
fn sealed(frame: u32) -> (ExtentKey, Vec<u8>) {
    let key = key(frame);
    let geometry = key.geometry();
    let mut plain = vec![0x5a; BLOCK as usize];
    for (place, bytes) in plain.chunks_mut(READ as usize).enumerate() {
        bytes[..4].copy_from_slice(&(place as u32).to_be_bytes());
    }
    let mut block = with_tag_room(&plain, geometry);
    key.seal_block(0, true, &mut block).expect("a whole block");
    let mut opened = vec![0; BLOCK as usize];
    key.open_frames(BLOCK.into(), 0, &block, &mut opened)
        .expect("what was sealed opens");
    assert!(opened == plain, "frames of {frame} bytes open to what was sealed");
    (key, block)
}

fn key(frame: u32) -> ExtentKey {
    let geometry = Geometry::new(Suite::Gcm, frame, BLOCK).expect("a valid geometry");
    let dek = KEY_256.try_into().expect("32 bytes");
    ExtentKey::derive(&DataKey::new(dek), &[1; 16], Seed::Salt([2; 16]), geometry).expect("a DEK and a salt")
}
