//! What the machine can do at best: AES rounds on registers alone, and memory.
#![allow(
    unsafe_code,
    reason = "instructions are called for what they cost, not for what they compute"
)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::{hint::black_box, rc::Rc};

#[cfg(target_arch = "aarch64")]
use aarch64 as native;
#[cfg(target_arch = "x86_64")]
use x86_64 as native;

use crate::{cases::SharedBuffer, measure::Contestant};

/// The limit of AES with a key of `key_bytes` over `bytes` bytes.
pub(crate) fn aes_contestant(key_bytes: usize, bytes: usize) -> Contestant {
    Contestant::other("aes-limit", move |count| match key_bytes {
        16 => native::aes::<10>(bytes * count),
        _ => native::aes::<14>(bytes * count),
    })
}

/// The same limit for each kind of vectors that is narrower than the widest that there is.
pub(crate) fn narrower_contestants(key_bytes: usize, bytes: usize) -> impl Iterator<Item = Contestant> {
    native::narrower().iter().map(move |(name, width)| {
        Contestant::other(name, move |count| match key_bytes {
            16 => native::aes_in::<10>(*width, bytes * count),
            _ => native::aes_in::<14>(*width, bytes * count),
        })
    })
}

/// The limit of memory: every one of `bytes` bytes read and written, where it is or from elsewhere, in the buffers that the
/// others work on.
pub(crate) fn memory_contestant(bytes: usize, from: Option<&SharedBuffer>, to: &SharedBuffer) -> Contestant {
    let (from, to) = (from.map(Rc::clone), Rc::clone(to));
    Contestant::other("memory-limit", move |count| {
        let to = &mut to.borrow_mut()[..bytes];
        for _ in 0..count {
            match &from {
                Some(from) => to.copy_from_slice(black_box(&from.borrow()[..bytes])),
                None => native::update(black_box(&mut *to)),
            }
        }
    })
}

/// Reads and writes every byte where it is, in whatever vectors its caller is compiled for.
#[inline]
fn flip(bytes: &mut [u8]) {
    for byte in bytes {
        *byte ^= 0x55;
    }
}
