//! CRC-32C (RFC 3720, B.4) over groups of 512 bytes, by folding with carry-less multiplication (Gopal et al., "Fast CRC
//! Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel, 2009): few enough instructions to fit between
//! AES rounds.
//!
//! Four lanes take vectors in turn, so that none waits for the fold just before it; in the end each lane is moved to the last
//! one's place by its own distance. A chunk of HDFS is one group, and its checksum must not take longer than the next chunk's
//! encryption.

use std::arch::x86_64::{
    __m128i, __m512i, _mm_crc32_u8, _mm_crc32_u64, _mm_cvtsi128_si64, _mm_extract_epi64, _mm_xor_si128,
    _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_xor_si256, _mm512_castsi512_si256,
    _mm512_clmulepi64_epi128, _mm512_extracti64x4_epi64, _mm512_mask_mov_epi64, _mm512_set_epi64, _mm512_setzero_si512,
    _mm512_ternarylogic_epi64, _mm512_xor_si512,
};

/// x^32 modulo the polynomial, with the highest power in the lowest bit, as all polynomials here.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Vectors of a group: 512 bytes, the chunk that HDFS keeps checksums of.
pub(super) const GROUP: usize = 8;
const VECTOR_BITS: u32 = 8 * 64;
const LANES: usize = 4;
/// Moves a lane to where its next vector is.
const OVER_LANES: Shift = Shift::by(VECTOR_BITS * LANES as u32);
/// Moves each lane but the last to the last one's place.
const TO_LAST: [Shift; LANES - 1] = [
    Shift::by(3 * VECTOR_BITS),
    Shift::by(2 * VECTOR_BITS),
    Shift::by(VECTOR_BITS),
];

/// A checksum under way: 256 bytes that have the same remainder as everything folded in so far.
pub(super) struct Sum([__m512i; LANES]);

impl Sum {
    /// The first 512 bytes after those that `crc` is of, 0 at the start.
    #[inline]
    #[target_feature(enable = "avx512f,vpclmulqdq")]
    pub(super) fn start(crc: u32, group: [__m512i; GROUP]) -> Self {
        let [mut first, second, third, fourth, rest @ ..] = group;
        first = _mm512_xor_si512(first, _mm512_set_epi64(0, 0, 0, 0, 0, 0, 0, i64::from(!crc)));
        let mut sum = Self([first, second, third, fourth]);
        sum.fold_lanes(rest);
        sum
    }

    /// The next 512 bytes.
    #[inline]
    #[target_feature(enable = "avx512f,vpclmulqdq")]
    pub(super) fn fold(&mut self, group: [__m512i; GROUP]) {
        let [first, second, third, fourth, rest @ ..] = group;
        self.fold_lanes([first, second, third, fourth]);
        self.fold_lanes(rest);
    }

    #[inline]
    #[target_feature(enable = "avx512f,vpclmulqdq")]
    fn fold_lanes(&mut self, vectors: [__m512i; LANES]) {
        for (lane, vector) in self.0.iter_mut().zip(vectors) {
            *lane = shift(*lane, OVER_LANES, vector);
        }
    }

    /// The checksum so far, complemented as it is inside.
    #[inline]
    #[target_feature(enable = "avx512f,vpclmulqdq,sse4.2")]
    pub(super) fn state(self) -> u32 {
        let [rest @ .., mut folded] = self.0;
        for (lane, over) in rest.into_iter().zip(TO_LAST) {
            folded = shift(lane, over, folded);
        }
        let narrow = narrow(folded);
        let first = _mm_crc32_u64(0, _mm_cvtsi128_si64(narrow) as u64);
        _mm_crc32_u64(first, _mm_extract_epi64::<1>(narrow) as u64) as u32
    }
}

/// Sixteen bytes with the remainder of those 64.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn narrow(vector: __m512i) -> __m128i {
    let [first, second, third] = const { [Shift::by(3 * 128), Shift::by(2 * 128), Shift::by(128)] };
    let powers = _mm512_set_epi64(
        0,
        0,
        third.second,
        third.first,
        second.second,
        second.first,
        first.second,
        first.first,
    );
    // The last sixteen bytes are where they belong.
    let last = _mm512_mask_mov_epi64(_mm512_setzero_si512(), 0b1100_0000, vector);
    let moved = multiply_add(vector, powers, last);
    let half = _mm256_xor_si256(_mm512_castsi512_si256(moved), _mm512_extracti64x4_epi64::<1>(moved));
    _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
}

/// The complemented checksum `state` after more bytes, eight at a time.
#[inline]
#[target_feature(enable = "sse4.2")]
pub(super) fn extend(state: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut wide = u64::from(state);
    for word in words {
        wide = _mm_crc32_u64(wide, u64::from_le_bytes(*word));
    }
    let mut state = wide as u32;
    for byte in rest {
        state = _mm_crc32_u8(state, *byte);
    }
    state
}

/// Each sixteen bytes of `vector` moved up by `over`, plus `addend`.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn shift(vector: __m512i, over: Shift, addend: __m512i) -> __m512i {
    let Shift { first, second } = over;
    let powers = _mm512_set_epi64(second, first, second, first, second, first, second, first);
    multiply_add(vector, powers, addend)
}

/// Sums of the products of both halves of each sixteen bytes, plus `addend`.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn multiply_add(vector: __m512i, powers: __m512i, addend: __m512i) -> __m512i {
    let low = _mm512_clmulepi64_epi128::<0x00>(vector, powers);
    let high = _mm512_clmulepi64_epi128::<0x11>(vector, powers);
    _mm512_ternarylogic_epi64::<0x96>(low, high, addend)
}

/// What the two halves of sixteen bytes are multiplied by to move them up.
#[derive(Clone, Copy)]
struct Shift {
    first: i64,
    second: i64,
}

impl Shift {
    /// The half that comes first in memory holds the higher powers. A product of such mirrored numbers comes out multiplied
    /// by x, so the powers are one less.
    const fn by(bits: u32) -> Self {
        Self {
            first: power(bits + 63),
            second: power(bits - 1),
        }
    }
}

/// x^exponent modulo the polynomial, in the upper half.
const fn power(exponent: u32) -> i64 {
    let mut power = 1_u32 << 31;
    let mut done = 0;
    while done < exponent {
        let carry = power & 1;
        power >>= 1;
        if carry == 1 {
            power ^= POLYNOMIAL;
        }
        done += 1;
    }
    ((power as u64) << 32) as i64
}
