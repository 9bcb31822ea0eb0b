//! VAES on AVX2: two blocks to a vector, eight vectors in flight.

use std::arch::{
    asm,
    x86_64::{
        __m128i, __m256i, _mm256_add_epi64, _mm256_aesenclast_epi128, _mm256_and_si256, _mm256_broadcastsi128_si256,
        _mm256_loadu_si256, _mm256_set_epi8, _mm256_set_epi64x, _mm256_shuffle_epi8, _mm256_storeu_si256,
        _mm256_stream_si256, _mm256_xor_si256,
    },
};

use zeroize::Zeroizing;

use super::{
    aesni,
    algorithm::{counter_mode, rounds},
    schedule::RoundKeys,
    table::{GROUP_BLOCKS_MAX, RUN_BLOCKS, Table, beyond},
};
use crate::kernel::text::{Text, Vectors};

type Vector = __m256i;
const BLOCKS: usize = 2;
const WIDE: usize = 8;

counter_mode!("aes,avx2,vaes");

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> Vector {
    // SAFETY: the array has the 32 bytes that are read, and the instruction asks for no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(bytes: &mut [u8; 32], vector: Vector) {
    // SAFETY: the array has the 32 bytes that are written, and the instruction asks for no alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), vector) }
}

/// As `store`, around the cache if the place is aligned as that asks for; `finish_stores` follows the last.
#[inline]
#[target_feature(enable = "avx2")]
fn store_around(bytes: &mut [u8; 32], vector: Vector) {
    let place = bytes.as_mut_ptr().cast::<Vector>();
    if place.is_aligned() {
        // SAFETY: the array has the 32 bytes that are written, and they are aligned.
        unsafe { _mm256_stream_si256(place, vector) }
    } else {
        store(bytes, vector);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_part(bytes: &[u8]) -> Vector {
    let mut padded = Zeroizing::new([0; 32]);
    padded[..bytes.len()].copy_from_slice(bytes);
    load(&padded)
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_part(bytes: &mut [u8], vector: Vector) {
    // Past the end of the text this is key stream of bytes that are not written yet.
    let mut padded = Zeroizing::new([0; 32]);
    store(&mut padded, vector);
    bytes.copy_from_slice(&padded[..bytes.len()]);
}

#[inline]
#[target_feature(enable = "avx2")]
fn xor(a: Vector, b: Vector) -> Vector {
    _mm256_xor_si256(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
fn and(a: Vector, b: Vector) -> Vector {
    _mm256_and_si256(a, b)
}

/// One round. In assembly, because that keeps its place: of the intrinsic, the compiler strings together all rounds of one
/// state before it turns to the next, and the processor cannot look far enough ahead to make up for it.
#[inline]
#[target_feature(enable = "avx2,vaes")]
fn encrypt(state: Vector, key: Vector) -> Vector {
    let mut state = state;
    // SAFETY: the instruction is one of this function's features; it changes the named register and nothing else.
    unsafe {
        asm!("vaesenc {state}, {state}, {key}", state = inout(ymm_reg) state, key = in(ymm_reg) key, options(nomem, nostack, preserves_flags));
    }
    state
}

#[inline]
#[target_feature(enable = "avx2,vaes")]
fn encrypt_last(state: Vector, key: Vector) -> Vector {
    _mm256_aesenclast_epi128(state, key)
}

/// The same block in each place.
#[inline]
#[target_feature(enable = "avx2")]
fn spread(block: __m128i) -> Vector {
    _mm256_broadcastsi128_si256(block)
}

/// Consecutive counters, as little-endian numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn counters(first: u128) -> Vector {
    let (high, low) = ((first >> 64) as i64, first as i64);
    _mm256_add_epi64(_mm256_set_epi64x(high, low, high, low), _mm256_set_epi64x(0, 1, 0, 0))
}

/// Counters plus `count`, without carry into the high half.
#[inline]
#[target_feature(enable = "avx2")]
fn advance(counters: Vector, count: u64) -> Vector {
    let count = count as i64;
    _mm256_add_epi64(counters, _mm256_set_epi64x(0, count, 0, count))
}

#[inline]
#[target_feature(enable = "avx2")]
fn big_endian(counters: Vector) -> Vector {
    let reversed = _mm256_set_epi8(
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, //
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
    );
    _mm256_shuffle_epi8(counters, reversed)
}
