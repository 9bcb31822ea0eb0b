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
    crc::{Lanes, Parts, Sums, WORDS},
    schedule::RoundKeys,
    table::{GROUP_BLOCKS_MAX, RUN_BLOCKS, Table, beyond},
};
use crate::kernel::text::{Direction, Text, Vectors};

type Vector = __m512i;
const BLOCKS: usize = 4;
const WIDE: usize = 16;

counter_mode!("aes,avx512f,avx512bw,vaes");

/// As `cached`, with the CRC-32C of the ciphertext of each `chunk_bytes` of the text, a multiple of 512 unless there is only one
/// chunk. Each of `sums` goes on from what it holds. One pass: checksums advance while rounds are under way.
#[target_feature(enable = "aes,avx512f,avx512bw,vaes,pclmulqdq,sse4.2")]
pub(super) fn summed<const KEYS: usize>(
    keys: &RoundKeys<KEYS>,
    table: &Table,
    counter: u128,
    text: Text<'_>,
    direction: Direction,
    chunk_bytes: usize,
    sums: &mut [u32],
) {
    let (mut run, sums) = (Run::at(keys, counter), Sums::new(chunk_bytes, sums));
    match direction {
        Direction::Encrypt => encrypted(keys, table, &mut run, text, sums),
        Direction::Decrypt => decrypted(keys, table, &mut run, text, sums),
    }
}

/// Sums each group a group later, when its ciphertext is there.
#[target_feature(enable = "aes,avx512f,avx512bw,vaes,pclmulqdq,sse4.2")]
fn encrypted<const KEYS: usize>(
    keys: &RoundKeys<KEYS>,
    table: &Table,
    run: &mut Run,
    mut text: Text<'_>,
    mut sums: Sums<'_>,
) {
    let mut first = text.take(text.len().min(WIDE * WIDTH));
    cached_from::<KEYS, false>(keys, table, run, first.again());
    let Some(mut behind) = first.take_vectors() else {
        return sums.finish(first.output());
    };
    while let Some(mut group) = text.take_vectors() {
        let ciphertext = words(behind.output());
        sums.add(group_beside::<KEYS, true>(
            keys,
            table,
            run,
            group.again(),
            Some(ciphertext),
        ));
        behind = group;
    }
    sums.add_group(words(behind.output()));
    cached_from::<KEYS, false>(keys, table, run, text.again());
    sums.finish(text.output());
}

#[target_feature(enable = "aes,avx512f,avx512bw,vaes,pclmulqdq,sse4.2")]
fn decrypted<const KEYS: usize>(
    keys: &RoundKeys<KEYS>,
    table: &Table,
    run: &mut Run,
    mut text: Text<'_>,
    mut sums: Sums<'_>,
) {
    while let Some(group) = text.take_vectors::<WIDE, WIDTH>() {
        sums.add(group_beside::<KEYS, false>(keys, table, run, group, None));
    }
    sums.finish(text.input());
    cached_from::<KEYS, false>(keys, table, run, text);
}

/// Transforms a group, and between its rounds takes the checksum of the group `behind` it, or of its own input. All in one
/// function, since vectors that pass from one to another would pass through memory; one for each direction, as the compiler
/// inlines what is called once.
#[inline]
#[target_feature(enable = "aes,avx512f,avx512bw,vaes,pclmulqdq,sse4.2")]
fn group_beside<const KEYS: usize, const ENCRYPT: bool>(
    keys: &RoundKeys<KEYS>,
    table: &Table,
    run: &mut Run,
    group: Vectors<'_, WIDE, WIDTH>,
    behind: Option<&[[u8; 8]; WORDS]>,
) -> Parts {
    let mut states: [Vector; WIDE] = cached_states(keys, table, run);
    let words = behind.unwrap_or_else(|| words(group.input()));
    let mut lanes = Lanes::blank();
    // Written out, as in `rounds!`: states and lanes stay in registers only if each is named by a constant.
    macro_rules! step {
        ($done:literal $key:ident $($i:literal)*) => {
            $(
                states[$i] = encrypt(states[$i], $key);
                let (at, all) = (WIDE * $done + $i, WIDE * (KEYS - 4));
                lanes.take(words, at * WORDS / all, (at + 1) * WORDS / all);
            )*
        };
    }
    macro_rules! round {
        ($($done:literal)*) => {
            $(
                if 3 + $done < KEYS - 1 {
                    let key = key(keys, 3 + $done);
                    step!($done key 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
                }
            )*
        };
    }
    round!(0 1 2 3 4 5 6 7 8 9 10);
    finish_last::<WIDE, KEYS, false>(keys, states, group);
    lanes.parts()
}

/// The bytes of a group, as its checksum takes them.
#[inline]
fn words(group: &[[u8; WIDTH]; WIDE]) -> &[[u8; 8]; WORDS] {
    let (words, _) = group.as_flattened().as_chunks();
    words.first_chunk().expect("1 KiB is 128 times 8 bytes")
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
