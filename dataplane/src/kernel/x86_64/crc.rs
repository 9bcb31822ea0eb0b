//! CRC-32C (RFC 3720, B.4) over vectors of 64 bytes, by folding with carry-less multiplication (Gopal et al., "Fast CRC
//! Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel, 2009): slow enough to fit between AES rounds.

use std::arch::x86_64::{
    __m512i, _mm_crc32_u8, _mm_crc32_u64, _mm512_clmulepi64_epi128, _mm512_set_epi64, _mm512_setzero_si512,
    _mm512_ternarylogic_epi64, _mm512_xor_si512,
};

/// x^32 modulo the polynomial, with the highest power in the lowest bit, as all polynomials here.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Accumulators. Each waits for its own last fold only.
pub(super) const LANES: usize = 4;
/// Moves a lane over the others, to where its next bytes are.
const OVER_ALL: Shift = Shift::by(8 * 64 * LANES as u32);
/// Moves a lane over one other.
const OVER_ONE: Shift = Shift::by(8 * 64);

/// A checksum under way. The 256 bytes of its lanes have the remainder of everything folded in so far.
pub(super) struct Sum {
    lanes: [__m512i; LANES],
    /// The checksum of what came before, until the first bytes come that it belongs to.
    before: __m512i,
}

impl Sum {
    /// Goes on from `crc`, 0 at the start.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn after(crc: u32) -> Self {
        Self {
            lanes: [_mm512_setzero_si512(); LANES],
            before: _mm512_set_epi64(0, 0, 0, 0, 0, 0, 0, i64::from(!crc)),
        }
    }

    /// The next 256 bytes.
    #[inline]
    #[target_feature(enable = "avx512f,vpclmulqdq")]
    pub(super) fn fold(&mut self, bytes: [__m512i; LANES]) {
        let [first, second, third, fourth] = bytes;
        let first = _mm512_xor_si512(first, self.before);
        self.before = _mm512_setzero_si512();
        for (lane, bytes) in self.lanes.iter_mut().zip([first, second, third, fourth]) {
            *lane = shift(*lane, OVER_ALL, bytes);
        }
    }

    /// The checksum so far, complemented as it is inside. At least one `fold` must have been.
    #[inline]
    #[target_feature(enable = "avx512f,vpclmulqdq,sse4.2")]
    pub(super) fn state(self) -> u32 {
        let [mut folded, rest @ ..] = self.lanes;
        for lane in rest {
            folded = shift(folded, OVER_ONE, lane);
        }
        let mut bytes = [0; 64];
        super::vaes512::store(&mut bytes, folded);
        extend(0, &bytes)
    }
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

/// `lane` moved up by `over`, plus `bytes`.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn shift(lane: __m512i, over: Shift, bytes: __m512i) -> __m512i {
    let Shift { first, second } = over;
    let powers = _mm512_set_epi64(second, first, second, first, second, first, second, first);
    let low = _mm512_clmulepi64_epi128::<0x00>(lane, powers);
    let high = _mm512_clmulepi64_epi128::<0x11>(lane, powers);
    _mm512_ternarylogic_epi64::<0x96>(low, high, bytes)
}

/// What the two halves of 128 bits are multiplied by to move them up.
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
