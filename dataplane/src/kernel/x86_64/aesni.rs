//! AES-NI: one block to a vector, eight in flight.

use std::arch::{
    asm,
    x86_64::{
        __m128i, _mm_add_epi64, _mm_aesenclast_si128, _mm_and_si128, _mm_loadu_si128, _mm_set_epi8, _mm_set_epi64x,
        _mm_sfence, _mm_shuffle_epi8, _mm_storeu_si128, _mm_stream_si128, _mm_xor_si128,
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

type Vector = __m128i;
const BLOCKS: usize = 1;
const WIDE: usize = 8;

counter_mode!("aes,ssse3");

#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn load(bytes: &[u8; 16]) -> Vector {
    // SAFETY: the array has the 16 bytes that are read, and the instruction asks for no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn store(bytes: &mut [u8; 16], vector: Vector) {
    // SAFETY: the array has the 16 bytes that are written, and the instruction asks for no alignment.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), vector) }
}

/// As `store`, around the cache if the place is aligned as that asks for; `finish_stores` follows the last.
#[inline]
#[target_feature(enable = "sse2")]
fn store_around(bytes: &mut [u8; 16], vector: Vector) {
    let place = bytes.as_mut_ptr().cast::<Vector>();
    if place.is_aligned() {
        // SAFETY: the array has the 16 bytes that are written, and they are aligned.
        unsafe { _mm_stream_si128(place, vector) }
    } else {
        store(bytes, vector);
    }
}

/// Stores around the cache are not in order with others until this.
pub(super) fn finish_stores() {
    // SAFETY: the instruction is part of x86-64.
    unsafe { _mm_sfence() }
}

#[inline]
#[target_feature(enable = "sse2")]
fn load_part(bytes: &[u8]) -> Vector {
    let mut padded = Zeroizing::new([0; 16]);
    padded[..bytes.len()].copy_from_slice(bytes);
    load(&padded)
}

#[inline]
#[target_feature(enable = "sse2")]
fn store_part(bytes: &mut [u8], vector: Vector) {
    // Past the end of the text this is key stream of bytes that are not written yet.
    let mut padded = Zeroizing::new([0; 16]);
    store(&mut padded, vector);
    bytes.copy_from_slice(&padded[..bytes.len()]);
}

#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn xor(a: Vector, b: Vector) -> Vector {
    _mm_xor_si128(a, b)
}

#[inline]
#[target_feature(enable = "sse2")]
fn and(a: Vector, b: Vector) -> Vector {
    _mm_and_si128(a, b)
}

/// One round. In assembly, because that keeps its place: of the intrinsic, the compiler strings together all rounds of one
/// state before it turns to the next, and the processor cannot look far enough ahead to make up for it.
#[inline]
#[target_feature(enable = "aes")]
pub(super) fn encrypt(state: Vector, key: Vector) -> Vector {
    let mut state = state;
    // SAFETY: the instruction is one of this function's features; it changes the named register and nothing else.
    unsafe {
        asm!("aesenc {state}, {key}", state = inout(xmm_reg) state, key = in(xmm_reg) key, options(nomem, nostack, preserves_flags));
    }
    state
}

#[inline]
#[target_feature(enable = "aes")]
fn encrypt_last(state: Vector, key: Vector) -> Vector {
    _mm_aesenclast_si128(state, key)
}

/// The same block in each place.
#[inline]
#[target_feature(enable = "sse2")]
fn spread(block: __m128i) -> Vector {
    block
}

/// Consecutive counters, as little-endian numbers.
#[inline]
#[target_feature(enable = "sse2")]
fn counters(first: u128) -> Vector {
    _mm_set_epi64x((first >> 64) as i64, first as i64)
}

/// Counters plus `count`, without carry into the high half.
#[inline]
#[target_feature(enable = "sse2")]
fn advance(counters: Vector, count: u64) -> Vector {
    _mm_add_epi64(counters, _mm_set_epi64x(0, count as i64))
}

#[inline]
#[target_feature(enable = "ssse3")]
fn big_endian(counters: Vector) -> Vector {
    _mm_shuffle_epi8(
        counters,
        _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    )
}
