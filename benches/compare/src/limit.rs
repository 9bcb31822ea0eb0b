//! What the machine can do at best: AES rounds on registers alone, and memory.
#![allow(
    unsafe_code,
    reason = "instructions are called for what they cost, not for what they compute"
)]

use std::arch::x86_64::{
    _mm_aesenc_si128, _mm_aesenclast_si128, _mm_set1_epi32, _mm256_aesenc_epi128, _mm256_aesenclast_epi128,
    _mm256_set1_epi32, _mm512_aesenc_epi128, _mm512_aesenclast_epi128, _mm512_set1_epi32,
};
use std::hint::black_box;

use crate::measure::Contestant;

/// Widest vectors that this machine's AES works on, in bytes.
fn width() -> usize {
    if is_x86_feature_detected!("vaes") && is_x86_feature_detected!("avx512f") {
        64
    } else if is_x86_feature_detected!("vaes") && is_x86_feature_detected!("avx2") {
        32
    } else {
        16
    }
}

/// The limit of AES with a key of `key_bytes` over `bytes` bytes.
pub(crate) fn aes_contestant(key_bytes: usize, bytes: usize) -> Contestant {
    let width = width();
    Contestant::other("aes-limit", move |count| match key_bytes {
        16 => aes::<10>(width, bytes * count),
        _ => aes::<14>(width, bytes * count),
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
                update(black_box(&mut to));
            }
        }
    })
}

/// As many AES instructions as `bytes` bytes take at `ROUNDS` a block, on vectors of `width` bytes, sixteen in flight.
fn aes<const ROUNDS: usize>(width: usize, bytes: usize) {
    let groups = bytes.div_ceil(16 * width);
    match width {
        // SAFETY: `width` says so only if the processor has them.
        64 => unsafe { zmm::<ROUNDS>(groups) },
        // SAFETY: as above.
        32 => unsafe { ymm::<ROUNDS>(groups) },
        // SAFETY: there is nothing to compare without AES-NI.
        _ => unsafe { xmm::<ROUNDS>(groups) },
    }
}

macro_rules! register_loop {
    ($name:ident, $features:literal, $set:ident, $round:ident, $last:ident) => {
        #[target_feature(enable = $features)]
        fn $name<const ROUNDS: usize>(groups: usize) {
            let key = $set(black_box(0x5bd1_e995));
            let mut states: [_; 16] = std::array::from_fn(|i| $set(i as i32));
            for _ in 0..groups {
                for _ in 1..ROUNDS {
                    for state in &mut states {
                        *state = $round(*state, key);
                    }
                }
                for state in &mut states {
                    *state = $last(*state, key);
                }
            }
            black_box(states);
        }
    };
}

register_loop!(xmm, "aes", _mm_set1_epi32, _mm_aesenc_si128, _mm_aesenclast_si128);
register_loop!(
    ymm,
    "avx2,vaes",
    _mm256_set1_epi32,
    _mm256_aesenc_epi128,
    _mm256_aesenclast_epi128
);
register_loop!(
    zmm,
    "avx512f,vaes",
    _mm512_set1_epi32,
    _mm512_aesenc_epi128,
    _mm512_aesenclast_epi128
);

/// Reads and writes every byte where it is.
fn update(bytes: &mut [u8]) {
    if width() == 64 {
        // SAFETY: the processor was just asked.
        unsafe { update_wide(bytes) }
    } else {
        flip(bytes);
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn update_wide(bytes: &mut [u8]) {
    flip(bytes);
}

#[inline]
fn flip(bytes: &mut [u8]) {
    for byte in bytes {
        *byte ^= 0x55;
    }
}
