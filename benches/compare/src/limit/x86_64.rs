//! The widest vectors that this machine's AES works on.

use std::arch::x86_64::{
    _mm_aesenc_si128, _mm_aesenclast_si128, _mm_set1_epi32, _mm256_aesenc_epi128, _mm256_aesenclast_epi128,
    _mm256_set1_epi32, _mm512_aesenc_epi128, _mm512_aesenclast_epi128, _mm512_set1_epi32,
};
use std::hint::black_box;

/// Their bytes.
fn width() -> usize {
    if is_x86_feature_detected!("vaes") && is_x86_feature_detected!("avx512f") {
        64
    } else if is_x86_feature_detected!("vaes") && is_x86_feature_detected!("avx2") {
        32
    } else {
        16
    }
}

/// As many AES instructions as `bytes` bytes take at `ROUNDS` a block, as many vectors in flight as registers hold beside the
/// key: a processor that starts two instructions a cycle, each taking four, needs eight.
pub(super) fn aes<const ROUNDS: usize>(bytes: usize) {
    aes_in::<ROUNDS>(width(), bytes);
}

/// Names and widths of what is narrower than the widest.
pub(super) fn narrower() -> &'static [(&'static str, usize)] {
    match width() {
        64 => &[("aes-limit-256bit", 32), ("aes-limit-128bit", 16)],
        32 => &[("aes-limit-128bit", 16)],
        _ => &[],
    }
}

/// As [`aes`], in vectors of `width` bytes.
///
/// # Panics
/// If the processor has none as wide.
pub(super) fn aes_in<const ROUNDS: usize>(width: usize, bytes: usize) {
    assert!(width <= self::width(), "vectors of {width} bytes");
    match width {
        // SAFETY: the processor has vectors as wide for AES, as was just asked.
        64 => unsafe { zmm::<ROUNDS>(bytes) },
        // SAFETY: as above.
        32 => unsafe { ymm::<ROUNDS>(bytes) },
        // SAFETY: there is nothing to compare without AES-NI.
        _ => unsafe { xmm::<ROUNDS>(bytes) },
    }
}

macro_rules! register_loop {
    ($name:ident, $features:literal, $states:literal of $width:literal, $set:ident, $round:ident, $last:ident) => {
        #[target_feature(enable = $features)]
        fn $name<const ROUNDS: usize>(bytes: usize) {
            let key = $set(black_box(0x5bd1_e995));
            let mut states: [_; $states] = std::array::from_fn(|i| $set(i as i32));
            for _ in 0..bytes.div_ceil($states * $width) {
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

register_loop!(xmm, "aes", 12 of 16, _mm_set1_epi32, _mm_aesenc_si128, _mm_aesenclast_si128);
register_loop!(
    ymm,
    "avx2,vaes",
    12 of 32,
    _mm256_set1_epi32,
    _mm256_aesenc_epi128,
    _mm256_aesenclast_epi128
);
register_loop!(
    zmm,
    "avx512f,vaes",
    16 of 64,
    _mm512_set1_epi32,
    _mm512_aesenc_epi128,
    _mm512_aesenclast_epi128
);

/// Reads and writes every byte where it is.
pub(super) fn update(bytes: &mut [u8]) {
    if width() == 64 {
        // SAFETY: the processor was just asked.
        unsafe { update_wide(bytes) }
    } else {
        super::flip(bytes);
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn update_wide(bytes: &mut [u8]) {
    super::flip(bytes);
}
