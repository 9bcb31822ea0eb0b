//! Derived keys are nowhere in the process's memory once their owners are dropped: not in Rust's heap, nor in that of the library
//! in C that computes with them, nor on a stack. Nor is plaintext that was to be sealed and was not.
#![cfg(target_os = "linux")]

use std::{
    cell::RefCell,
    fs::{self, File},
    hint::black_box,
    os::unix::fs::FileExt,
    sync::{Mutex, PoisonError},
};

use rand::RngExt;
use strongroom_dataplane::{DataKey, ExtentKey, ExtentSealer, Geometry, ManifestKey, Seed, Suite};

const CHUNK: usize = 1 << 20;
const HALF: usize = 16;

/// A search copies what it reads, which another one at the same time would find.
static SEARCH: Mutex<()> = Mutex::new(());

/// The first half of a key, or a piece of plaintext, every bit inverted: what looks for it must not be what is found.
struct Needle {
    inverted: [u8; HALF],
    /// Made before there is anything to look for: a later one would be where that was.
    room: RefCell<Vec<u8>>,
}

impl Needle {
    /// Of the key that `docs/formats/data-gcm.md` gives after `before`.
    fn documented(before: &str) -> Self {
        let document = include_str!("../../docs/formats/data-gcm.md");
        let (_, digits) = document.split_once(before).expect("the document has it");
        let byte = |i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).expect("hexadecimal");
        Self::new(std::array::from_fn(|i| !byte(i)))
    }

    fn new(inverted: [u8; HALF]) -> Self {
        let room = RefCell::new(vec![0; CHUNK]);
        Self { inverted, room }
    }

    /// Where in the process's memory it is.
    fn places(&self) -> Vec<String> {
        let memory = File::open("/proc/self/mem").expect("Linux has it");
        let maps = fs::read_to_string("/proc/self/maps").expect("Linux has it");
        let writable = maps.lines().filter(|line| line.contains(" rw"));
        writable
            .filter(|line| self.is_in(&memory, line))
            .map(ToOwned::to_owned)
            .collect()
    }

    fn is_in(&self, memory: &File, line: &str) -> bool {
        let (range, _) = line.split_once(' ').expect("columns");
        let (start, end) = range.split_once('-').expect("a range");
        let parse = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        let (start, end) = (parse(start), parse(end));
        let mut bytes = self.room.borrow_mut();
        let found = (start..end).step_by(CHUNK - HALF).any(|place| {
            let wanted = CHUNK.min((end - place) as usize);
            // Some mappings cannot be read, which nobody keeps keys in.
            let read = memory.read_at(&mut bytes[..wanted], place).unwrap_or(0);
            bytes[..read].windows(HALF).any(|window| self.matches(window))
        });
        // Or the next search would find it here.
        bytes.fill(0);
        found
    }

    fn matches(&self, window: &[u8]) -> bool {
        window[0] == !self.inverted[0]
            && window
                .iter()
                .zip(&self.inverted)
                .all(|(byte, inverted)| *byte == !inverted)
    }
}

/// Works so far down the stack that what is left there is not overwritten by the search for it.
#[inline(never)]
fn far_down<T>(work: impl FnOnce() -> T) -> T {
    let room = [0_u8; 256 << 10];
    black_box(&room);
    let made = work();
    black_box(&room);
    made
}

#[test]
fn derived_keys_go_with_their_owners() {
    let _alone = SEARCH.lock().unwrap_or_else(PoisonError::into_inner);
    let extent = Needle::documented("The extent key is `");
    let manifest = Needle::documented("the manifest key\n`");
    let geometry = Geometry::new(Suite::Gcm, 4096, 4096).expect("valid");
    let dek: [u8; 32] = std::array::from_fn(|i| i as u8);
    let (file, salt) = (
        std::array::from_fn(|i| 0x40 + i as u8),
        std::array::from_fn(|i| 0x80 + i as u8),
    );

    let key = far_down(|| {
        let key = ExtentKey::derive(&DataKey::new(&dek), &file, Seed::Salt(salt), geometry).expect("a DEK and a salt");
        let mut block = [7; 4096 + 16];
        key.seal_block(0, true, &mut block).expect("a block");
        key.open_frames(4096, 0, &block, &mut [0; 4096])
            .expect("what was sealed");
        key
    });
    assert_ne!(extent.places(), [""; 0], "what is in use is found");
    drop(key);
    assert_eq!(extent.places(), [""; 0], "the extent's key is gone");

    // In use, there is only what HMAC made of it.
    drop(far_down(|| ManifestKey::derive(&DataKey::new(&dek), &file)));
    assert_eq!(manifest.places(), [""; 0], "the manifest's key is gone");
}

#[test]
fn plaintext_goes_with_a_write_that_is_given_up() {
    const BLOCK: usize = 64 << 10;
    let _alone = SEARCH.lock().unwrap_or_else(PoisonError::into_inner);
    let needle = Needle::new(rand::rng().random());
    let geometry = Geometry::new(Suite::Gcm, 4096, BLOCK as u32).expect("valid");
    // In both blocks, and near the end, which the allocator hands out last.
    let mut plain = vec![7; 2 * BLOCK];
    for start in [BLOCK - 1000, 2 * BLOCK - 1000] {
        let bytes = plain[start..].iter_mut().zip(&needle.inverted);
        bytes.for_each(|(byte, inverted)| *byte = !*inverted);
    }
    let (sealer, block, _last) = far_down(|| {
        let mut sealer = ExtentSealer::new(
            ExtentKey::derive(&DataKey::new(&[1; 32]), &[2; 16], Seed::Salt([3; 16]), geometry)
                .expect("a DEK and a salt"),
        );
        let (mut rest, mut block) = (plain.as_slice(), None);
        while !rest.is_empty() {
            block = block.or(sealer.append(&mut rest).expect("room"));
        }
        // What is made last keeps memory from going back to the system.
        (sealer, block.expect("a full one, and one behind it"), vec![1_u8; 100])
    });
    plain.fill(0);
    black_box(&plain);
    assert_ne!(needle.places(), [""; 0], "what is in use is found");
    drop((sealer, block));
    assert_eq!(needle.places(), [""; 0], "what was not sealed is gone");
}
