//! No byte outside a buffer is read or written: buffers begin and end at pages that are not there.
#![allow(unsafe_code, reason = "pages are mapped and unmapped by hand")]

use std::{ptr, slice};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use strongroom_dataplane::{Ctr, Direction};

use crate::naive::{backends, ctr, keys, keystream};

const PAGE: usize = 4096;
/// From here on, copies go around the cache.
const LARGE: usize = 16 << 20;
const IV: u128 = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_01f8;

#[test]
fn buffers_at_the_edge_of_memory() {
    let (mut first, mut second) = (Pages::new(PAGE), Pages::new(PAGE));
    for key in keys() {
        let stream = keystream(key, IV, 0, PAGE + 16);
        for backend in backends() {
            for warm in [false, true] {
                let ctr = ctr(key, IV, backend, warm);
                let lengths = (0..=300).chain((301..=PAGE).step_by(37)).chain([512, 2048, PAGE]);
                for length in lengths {
                    check(&ctr, length, &stream, &mut first, &mut second);
                }
            }
        }
    }
}

/// In place and across, with the buffer at the start and at the end of the page.
fn check(ctr: &Ctr, length: usize, stream: &[u8], first: &mut Pages, second: &mut Pages) {
    let position = length % 16;
    let expected = &stream[position..position + length];
    for at_end in [false, true] {
        let place = if at_end { PAGE - length..PAGE } else { 0..length };
        let own = &mut first.bytes()[place.clone()];
        own.fill(0);
        ctr.apply(position as u64, own).expect("a small position");
        assert!(own == expected, "{ctr:?} {length}");
        own.fill(0);
        let other = &mut second.bytes()[place];
        ctr.apply_to(position as u64, own, other).expect("a small position");
        assert!(other == expected, "{ctr:?} {length}, across");
        summed(ctr, position as u64, own, other, expected);
    }
}

/// The same with checksums; `zeros` and `to` are where `check` put them.
fn summed(ctr: &Ctr, position: u64, zeros: &mut [u8], to: &mut [u8], expected: &[u8]) {
    let one = ctr.apply_to_summed(position, zeros, to, Direction::Encrypt, 0);
    assert!(to == expected, "{ctr:?} {} summed, across", expected.len());
    assert_eq!(ctr.apply_summed(position, zeros, Direction::Encrypt, 0), one);
    assert!(zeros == expected, "{ctr:?} {} summed", expected.len());
    assert_eq!(ctr.apply_to_summed(position, to, zeros, Direction::Decrypt, 0), one);
    assert_eq!(ctr.apply_summed(position, to, Direction::Decrypt, 0), one);
    assert!(zeros == to && to.iter().all(|byte| *byte == 0), "{ctr:?} back again");
}

#[test]
fn large_buffers_at_the_edge_of_memory() {
    let (mut first, mut second) = (Pages::new(LARGE + PAGE), Pages::new(LARGE + PAGE));
    let key = keys()[1];
    let stream = keystream(key, IV, 0, LARGE + PAGE);
    for backend in backends() {
        let ctr = ctr(key, IV, backend, true);
        for (start, length) in [
            (0, LARGE + PAGE),
            (PAGE - 64, LARGE + 64),
            (PAGE - 9, LARGE + 9),
            (0, LARGE + 1),
        ] {
            let place = start..start + length;
            let own = &mut first.bytes()[place.clone()];
            own.fill(0);
            let other = &mut second.bytes()[place];
            ctr.apply_to(0, own, other).expect("a small position");
            assert!(other == &stream[..length], "{backend} {start} {length}, across");
            ctr.apply(0, own).expect("a small position");
            assert!(own == &stream[..length], "{backend} {start} {length}");
        }
    }
}

/// Pages between two that cannot be touched.
struct Pages {
    start: *mut u8,
    bytes: usize,
}

impl Pages {
    /// As many pages as `bytes` are.
    fn new(bytes: usize) -> Self {
        assert!(bytes.is_multiple_of(PAGE), "whole pages");
        // SAFETY: an address of the system's choice overlaps nothing.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), bytes + 2 * PAGE, ProtFlags::empty(), MapFlags::PRIVATE) };
        let start = start.expect("pages").cast::<u8>();
        let middle = start.wrapping_add(PAGE);
        // SAFETY: these are all but the first and the last of the pages just mapped, which nothing refers to.
        unsafe { mprotect(middle.cast(), bytes, MprotectFlags::READ | MprotectFlags::WRITE) }.expect("pages");
        Self { start, bytes }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: all between the two pages is readable and writable until this value is dropped, and lent to one borrower.
        unsafe { slice::from_raw_parts_mut(self.start.wrapping_add(PAGE), self.bytes) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: `new` mapped this, and what `bytes` lent has ended.
        unsafe { munmap(self.start.cast(), self.bytes + 2 * PAGE) }.expect("what was mapped");
    }
}
