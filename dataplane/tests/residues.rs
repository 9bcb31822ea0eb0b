//! Derived keys are nowhere in the process's memory once their owners are dropped: not in Rust's heap, nor in that of the library
//! in C that computes with them, nor on a stack.
#![cfg(target_os = "linux")]

use std::{
    fs::{self, File},
    hint::black_box,
    os::unix::fs::FileExt,
};

use strongroom_dataplane::{DataKey, ExtentKey, Geometry, ManifestKey};

const CHUNK: usize = 1 << 20;
const HALF: usize = 16;

/// The first half of a key, every bit inverted: what looks for it must not be what is found.
struct Needle([u8; HALF]);

impl Needle {
    /// Of the key that `docs/formats/data-gcm.md` gives after `before`.
    fn documented(before: &str) -> Self {
        let document = include_str!("../../docs/formats/data-gcm.md");
        let (_, digits) = document.split_once(before).expect("the document has it");
        let byte = |i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).expect("hexadecimal");
        Self(std::array::from_fn(|i| !byte(i)))
    }

    /// Where in the process's memory the key is.
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
        let mut bytes = vec![0; CHUNK];
        (start..end).step_by(CHUNK - HALF).any(|place| {
            let wanted = CHUNK.min((end - place) as usize);
            // Some mappings cannot be read, which nobody keeps keys in.
            let read = memory.read_at(&mut bytes[..wanted], place).unwrap_or(0);
            bytes[..read].windows(HALF).any(|window| self.matches(window))
        })
    }

    fn matches(&self, window: &[u8]) -> bool {
        window[0] == !self.0[0] && window.iter().zip(&self.0).all(|(byte, inverted)| *byte == !inverted)
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
    let extent = Needle::documented("The extent key is `");
    let manifest = Needle::documented("the manifest key\n`");
    let geometry = Geometry::new(4096, 4096).expect("valid");
    let dek: [u8; 32] = std::array::from_fn(|i| i as u8);
    let (file, salt) = (
        std::array::from_fn(|i| 0x40 + i as u8),
        std::array::from_fn(|i| 0x80 + i as u8),
    );

    let key = far_down(|| ExtentKey::derive(&DataKey::new(&dek), &file, &salt, geometry));
    assert_ne!(extent.places(), [""; 0], "what is in use is found");
    drop(key);
    assert_eq!(extent.places(), [""; 0], "the extent's key is gone");

    // In use, there is only what HMAC made of it.
    drop(far_down(|| ManifestKey::derive(&DataKey::new(&dek), &file)));
    assert_eq!(manifest.places(), [""; 0], "the manifest's key is gone");
}
