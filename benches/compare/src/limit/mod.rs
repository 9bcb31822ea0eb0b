//! What the machine can do at best: AES rounds on registers alone, and memory.
#![allow(
    unsafe_code,
    reason = "instructions are called for what they cost, not for what they compute"
)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::hint::black_box;

#[cfg(target_arch = "aarch64")]
use aarch64 as native;
#[cfg(target_arch = "x86_64")]
use x86_64 as native;

use crate::measure::Contestant;

/// The limit of AES with a key of `key_bytes` over `bytes` bytes.
pub(crate) fn aes_contestant(key_bytes: usize, bytes: usize) -> Contestant {
    Contestant::other("aes-limit", move |count| match key_bytes {
        16 => native::aes::<10>(bytes * count),
        _ => native::aes::<14>(bytes * count),
    })
}

/// The limit of memory: every byte read and written, where it is or (`across`) elsewhere.
pub(crate) fn memory_contestant(bytes: usize, across: bool) -> Contestant {
    let from = vec![0x5a; if across { bytes } else { 0 }];
    let mut to = vec![0x5a; bytes];
    Contestant::other("memory-limit", move |count| {
        for _ in 0..count {
            if across {
                to.copy_from_slice(black_box(&from));
            } else {
                native::update(black_box(&mut to));
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
