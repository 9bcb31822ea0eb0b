//! No byte outside a buffer is read or written: buffers begin and end at pages that are not there.
#![allow(unsafe_code, reason = "pages are mapped and unmapped by hand")]

use std::{ptr, slice};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use strongroom_dataplane::Ctr;

use crate::naive::{backends, ctr, keys, keystream};

const PAGE: usize = 4096;
const IV: u128 = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_01f8;

#[test]
fn buffers_at_the_edge_of_memory() {
    let (mut first, mut second) = (Pages::new(), Pages::new());
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
    }
}

/// A page between two that cannot be touched.
struct Pages(*mut u8);

impl Pages {
    fn new() -> Self {
        // SAFETY: an address of the system's choice overlaps nothing.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), 3 * PAGE, ProtFlags::empty(), MapFlags::PRIVATE) };
        let start = start.expect("three pages").cast::<u8>();
        let middle = start.wrapping_add(PAGE);
        // SAFETY: this is the second of the three pages just mapped, which nothing refers to.
        unsafe { mprotect(middle.cast(), PAGE, MprotectFlags::READ | MprotectFlags::WRITE) }.expect("a page");
        Self(start)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the second page is readable and writable until this value is dropped, and lent to one borrower.
        unsafe { slice::from_raw_parts_mut(self.0.wrapping_add(PAGE), PAGE) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the three pages were mapped by `new`, and what `bytes` lent has ended.
        unsafe { munmap(self.0.cast(), 3 * PAGE) }.expect("three pages");
    }
}
