//! VAES on AVX-512: four blocks to a vector, sixteen vectors in flight (Zen 5 starts two a cycle and takes four for each), masks for what is less than a vector.

use std::arch::{
    asm,
    x86_64::{
        __m128i, __m512i, __mmask64, _mm_set_epi8, _mm512_add_epi64, _mm512_aesenclast_epi128, _mm512_and_si512,
        _mm512_broadcast_i32x4, _mm512_loadu_si512, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8, _mm512_set_epi64,
        _mm512_shuffle_epi8, _mm512_storeu_si512, _mm512_stream_si512, _mm512_xor_si512,
    },
};

use super::{
    aesni,
    algorithm::{counter_mode, rounds},
    crc::{GROUP, Sum, extend},
    schedule::RoundKeys,
    table::{GROUP_BLOCKS_MAX, RUN_BLOCKS, Table, beyond},
};
use crate::kernel::text::{Direction, Text, Vectors};

type Vector = __m512i;
const BLOCKS: usize = 4;
const WIDE: usize = 16;
/// Vectors in flight beside a checksum.
const SUMMED: usize = GROUP;

counter_mode!("aes,avx512f,avx512bw,vaes");

/// As `cached`, with the CRC-32C of the ciphertext of each `chunk_bytes` of the text, whole vectors unless
/// there is only one. Each of `sums` goes on from what it holds. One pass: what was just encrypted is folded while the next rounds are under way.
#[target_feature(enable = "aes,avx512f,avx512bw,vaes,vpclmulqdq,sse4.2")]
pub(super) fn summed<const KEYS: usize>(
    keys: &RoundKeys<KEYS>,
    table: &Table,
    counter: u128,
    mut text: Text<'_>,
    direction: Direction,
    chunk_bytes: usize,
    sums: &mut [u32],
) {
    let mut run = Run::at(keys, counter);
    for sum in sums {
        let chunk = text.take(chunk_bytes.min(text.len()));
        *sum = match direction {
            Direction::Encrypt => summed_chunk::<KEYS, true>(keys, table, &mut run, chunk, *sum),
            Direction::Decrypt => summed_chunk::<KEYS, false>(keys, table, &mut run, chunk, *sum),
        };
    }
}

#[inline]
#[target_feature(enable = "aes,avx512f,avx512bw,vaes,vpclmulqdq,sse4.2")]
fn summed_chunk<const KEYS: usize, const ENCRYPT: bool>(
    keys: &RoundKeys<KEYS>,
    table: &Table,
    run: &mut Run,
    mut text: Text<'_>,
    crc: u32,
) -> u32 {
    let mut state = !crc;
    if let Some(group) = text.take_vectors() {
        let mut sum = Sum::start(crc, ciphertext::<KEYS, ENCRYPT>(keys, table, run, group));
        while let Some(group) = text.take_vectors() {
            sum.fold(ciphertext::<KEYS, ENCRYPT>(keys, table, run, group));
        }
        state = sum.state();
    }
    if !ENCRYPT {
        state = extend(state, text.input());
    }
    cached_from::<KEYS, false>(keys, table, run, text.again());
    if ENCRYPT {
        state = extend(state, text.output());
    }
    !state
}

/// Transforms a group, and gives back what of it is ciphertext.
#[inline]
#[target_feature(enable = "aes,avx512f,avx512bw,vaes")]
fn ciphertext<const KEYS: usize, const ENCRYPT: bool>(
    keys: &RoundKeys<KEYS>,
    table: &Table,
    run: &mut Run,
    mut group: Vectors<'_, SUMMED, WIDTH>,
) -> [Vector; SUMMED] {
    let mut states = cached_states::<SUMMED, KEYS>(keys, table, run);
    // A loop here: written out, this would be too long to be inlined twice.
    for round in 3..KEYS - 1 {
        let key = key(keys, round);
        for state in &mut states {
            *state = encrypt(*state, key);
        }
    }
    let last = key(keys, KEYS - 1);
    for (i, state) in states.iter_mut().enumerate() {
        let data = load(&group.input()[i]);
        let done = encrypt_last(*state, xor(data, last));
        store(&mut group.output()[i], done);
        *state = if ENCRYPT { done } else { data };
    }
    states
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; 64]) -> Vector {
    // SAFETY: the array has the 64 bytes that are read, and the instruction asks for no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(bytes: &mut [u8; 64], vector: Vector) {
    // SAFETY: the array has the 64 bytes that are written, and the instruction asks for no alignment.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), vector) }
}

/// As `store`, around the cache if the place is aligned as that asks for; `finish_stores` follows the last.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_around(bytes: &mut [u8; 64], vector: Vector) {
    let place = bytes.as_mut_ptr().cast::<Vector>();
    if place.is_aligned() {
        // SAFETY: the array has the 64 bytes that are written, and they are aligned.
        unsafe { _mm512_stream_si512(place, vector) }
    } else {
        store(bytes, vector);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_part(bytes: &[u8]) -> Vector {
    // SAFETY: only bytes whose bit is set are read, which are those of the slice; the others do not fault.
    unsafe { _mm512_maskz_loadu_epi8(mask(bytes.len()), bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn store_part(bytes: &mut [u8], vector: Vector) {
    let mask = mask(bytes.len());
    // SAFETY: only bytes whose bit is set are written, which are those of the slice; the others do not fault.
    unsafe { _mm512_mask_storeu_epi8(bytes.as_mut_ptr().cast(), mask, vector) }
}

/// A bit for each of the first `count` bytes of a vector; not for a whole one.
#[inline]
fn mask(count: usize) -> __mmask64 {
    assert!(count < WIDTH, "a whole vector needs no mask");
    (1 << count) - 1
}

#[inline]
#[target_feature(enable = "avx512f")]
fn xor(a: Vector, b: Vector) -> Vector {
    _mm512_xor_si512(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn and(a: Vector, b: Vector) -> Vector {
    _mm512_and_si512(a, b)
}

/// One round. In assembly, because that keeps its place: of the intrinsic, the compiler strings together all rounds of one
/// state before it turns to the next, and the processor cannot look far enough ahead to make up for it.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
fn encrypt(state: Vector, key: Vector) -> Vector {
    let mut state = state;
    // SAFETY: the instruction is one of this function's features; it changes the named register and nothing else.
    unsafe {
        asm!("vaesenc {state}, {state}, {key}", state = inout(zmm_reg) state, key = in(zmm_reg) key, options(nomem, nostack, preserves_flags));
    }
    state
}

#[inline]
#[target_feature(enable = "avx512f,vaes")]
fn encrypt_last(state: Vector, key: Vector) -> Vector {
    _mm512_aesenclast_epi128(state, key)
}

/// The same block in each place.
#[inline]
#[target_feature(enable = "avx512f")]
fn spread(block: __m128i) -> Vector {
    _mm512_broadcast_i32x4(block)
}

/// Consecutive counters, as little-endian numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn counters(first: u128) -> Vector {
    let (high, low) = ((first >> 64) as i64, first as i64);
    let first = _mm512_set_epi64(high, low, high, low, high, low, high, low);
    _mm512_add_epi64(first, _mm512_set_epi64(0, 3, 0, 2, 0, 1, 0, 0))
}

/// Counters plus `count`, without carry into the high half.
#[inline]
#[target_feature(enable = "avx512f")]
fn advance(counters: Vector, count: u64) -> Vector {
    let count = count as i64;
    _mm512_add_epi64(counters, _mm512_set_epi64(0, count, 0, count, 0, count, 0, count))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn big_endian(counters: Vector) -> Vector {
    let reversed = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_shuffle_epi8(counters, spread(reversed))
}
