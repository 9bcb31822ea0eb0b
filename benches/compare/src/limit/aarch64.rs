//! ARMv8's instructions for AES, sixteen bytes at a time.

use std::{
    arch::aarch64::{uint8x16_t, vaeseq_u8, vaesmcq_u8, vdupq_n_u8, veorq_u8},
    hint::black_box,
};

/// As many AES instructions as `bytes` bytes take at `ROUNDS` a block, sixteen blocks in flight.
///
/// # Panics
/// If the processor has none.
pub(super) fn aes<const ROUNDS: usize>(bytes: usize) {
    assert!(
        std::arch::is_aarch64_feature_detected!("aes"),
        "there is nothing to compare"
    );
    // SAFETY: the processor was just asked.
    unsafe { rounds::<ROUNDS>(bytes.div_ceil(256)) }
}

#[target_feature(enable = "aes")]
fn rounds<const ROUNDS: usize>(groups: usize) {
    let key = vdupq_n_u8(black_box(0x5b));
    let mut states: [uint8x16_t; 16] = std::array::from_fn(|i| vdupq_n_u8(i as u8));
    for _ in 0..groups {
        for _ in 1..ROUNDS {
            for state in &mut states {
                *state = vaesmcq_u8(vaeseq_u8(*state, key));
            }
        }
        for state in &mut states {
            *state = veorq_u8(vaeseq_u8(*state, key), key);
        }
    }
    black_box(states);
}

/// There is one width.
pub(super) fn narrower() -> &'static [(&'static str, usize)] {
    &[]
}

/// As [`aes`].
pub(super) fn aes_in<const ROUNDS: usize>(_width: usize, bytes: usize) {
    aes::<ROUNDS>(bytes);
}

pub(super) fn update(bytes: &mut [u8]) {
    super::flip(bytes);
}
