//! CRC-32C (RFC 3720, B.4) with the processor's instruction for it, eight bytes at a time in several lanes, since each step
//! waits three cycles for the one before it. It runs on general registers and so beside AES, which leaves those alone. Lanes
//! are put together by carry-less multiplication (Gopal et al., "Fast CRC Computation for iSCSI Polynomial Using CRC32
//! Instruction", Intel, 2011).

use std::arch::{
    asm,
    x86_64::{
        __m128i, _mm_clmulepi64_si128, _mm_crc32_u8, _mm_crc32_u64, _mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_xor_si128,
    },
};

/// x^32 modulo the polynomial, with the highest power in the lowest bit, as all polynomials here.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Bytes of a lane.
const LANE: usize = 128;
/// Bytes that are put together at a time: the chunk that HDFS keeps checksums of.
pub(super) const PART: usize = 512;
const PART_LANES: usize = PART / LANE;
/// Lanes of a group, which is two parts.
pub(super) const LANES: usize = 2 * PART_LANES;
const LANE_WORDS: usize = LANE / 8;
/// Eight bytes at a time of a group.
pub(super) const WORDS: usize = LANES * LANE_WORDS;
/// What moves a lane to the end of its part, by the lane's place; and what moves a state over a part.
const TO_END: [i64; PART_LANES - 1] = [over(3 * LANE), over(2 * LANE), over(LANE)];
const OVER_PART: i64 = over(PART);

/// The lanes of a group under way.
pub(super) struct Lanes([u64; LANES]);

impl Lanes {
    pub(super) const fn blank() -> Self {
        Self([0; LANES])
    }

    /// Takes in the words numbered `from` and up to but not including `to`, two at most; all lanes advance together.
    #[inline]
    #[target_feature(enable = "sse4.2")]
    pub(super) fn take(&mut self, words: &[[u8; 8]; WORDS], from: usize, to: usize) {
        if from < to {
            self.step(words, from % LANES, from / LANES);
        }
        if from + 1 < to {
            self.step(words, (from + 1) % LANES, (from + 1) / LANES);
        }
    }

    #[inline]
    #[target_feature(enable = "sse4.2")]
    fn step(&mut self, words: &[[u8; 8]; WORDS], lane: usize, place: usize) {
        let word = u64::from_le_bytes(words[lane * LANE_WORDS + place]);
        self.0[lane] = _mm_crc32_u64(self.0[lane], word);
    }

    /// The checksums of the group's parts, each as if it were alone. Here, since lanes that went through memory would have to
    /// arrive there before they could be read as vectors.
    #[inline]
    #[target_feature(enable = "avx,sse4.2,pclmulqdq")]
    pub(super) fn parts(self) -> Parts {
        let [a, b, c, d, e, f, g, h] = self.0;
        Parts(joined(a, b, c, d), joined(e, f, g, h))
    }
}

/// Checksums of the parts of a group, each as if it were alone.
pub(super) struct Parts(u32, u32);

impl Parts {
    #[inline]
    #[target_feature(enable = "avx,sse4.2,pclmulqdq")]
    fn of(words: &[[u8; 8]; WORDS]) -> Self {
        let mut lanes = Lanes::blank();
        for place in 0..LANE_WORDS {
            for lane in 0..LANES {
                lanes.step(words, lane, place);
            }
        }
        lanes.parts()
    }
}

/// The checksums of a text's chunks, which are given in order. Chunks but the only one consist of whole parts.
pub(super) struct Sums<'s> {
    rest: &'s mut [u32],
    chunk_bytes: usize,
    /// Bytes that the chunk under way still lacks.
    lacking: usize,
    /// The checksum under way, complemented.
    state: u32,
}

impl<'s> Sums<'s> {
    /// Each of `sums` goes on from what it holds.
    pub(super) fn new(chunk_bytes: usize, sums: &'s mut [u32]) -> Self {
        let state = !sums.first().copied().unwrap_or_default();
        Self {
            rest: sums,
            chunk_bytes,
            lacking: chunk_bytes,
            state,
        }
    }

    #[inline]
    #[target_feature(enable = "avx,sse4.2,pclmulqdq")]
    pub(super) fn add(&mut self, Parts(first, second): Parts) {
        self.add_part(first);
        self.add_part(second);
    }

    #[inline]
    #[target_feature(enable = "avx,sse4.2,pclmulqdq")]
    fn add_part(&mut self, part: u32) {
        self.state = reduced(multiplied(self.state.into(), OVER_PART)) ^ part;
        self.count(PART);
    }

    /// A group that was not taken in between other work.
    #[target_feature(enable = "avx,sse4.2,pclmulqdq")]
    pub(super) fn add_group(&mut self, words: &[[u8; 8]; WORDS]) {
        self.add(Parts::of(words));
    }

    /// What is left of the text, less than a group.
    #[target_feature(enable = "sse4.2")]
    pub(super) fn finish(mut self, bytes: &[u8]) {
        for part in bytes.chunks(PART) {
            self.state = extend(self.state, part);
            self.count(part.len());
        }
        if let Some(last) = self.rest.first_mut() {
            *last = !self.state;
        }
    }

    #[inline]
    fn count(&mut self, bytes: usize) {
        self.lacking -= bytes;
        if self.lacking > 0 {
            return;
        }
        if let Some((sum, rest)) = std::mem::take(&mut self.rest).split_first_mut() {
            *sum = !self.state;
            *self = Self::new(self.chunk_bytes, rest);
        }
    }
}

/// The checksum of a part from those of its lanes.
#[inline]
#[target_feature(enable = "avx,sse4.2,pclmulqdq")]
fn joined(first: u64, second: u64, third: u64, last: u64) -> u32 {
    let [over_three, over_two, over_one] = TO_END;
    let ahead = _mm_xor_si128(multiplied(first, over_three), multiplied(second, over_two));
    reduced(_mm_xor_si128(ahead, multiplied(third, over_one))) ^ last as u32
}

#[inline]
#[target_feature(enable = "sse4.2")]
fn reduced(product: __m128i) -> u32 {
    _mm_crc32_u64(0, _mm_cvtsi128_si64(product) as u64) as u32
}

#[inline]
#[target_feature(enable = "avx,pclmulqdq")]
fn multiplied(state: u64, power: i64) -> __m128i {
    _mm_clmulepi64_si128::<0>(vector(state), _mm_cvtsi64_si128(power))
}

/// `state` in a vector, from register to register. In assembly, because of the intrinsic the compiler makes a gathering in memory,
/// from which it then reads more at once than was written at once: that waits until all stores before it are done.
#[inline]
#[target_feature(enable = "avx")]
fn vector(state: u64) -> __m128i {
    let vector;
    // SAFETY: the instruction is one of this function's features; it changes the named register and nothing else.
    unsafe {
        asm!("vmovq {vector}, {state}", vector = out(xmm_reg) vector, state = in(reg) state, options(pure, nomem, nostack, preserves_flags));
    }
    vector
}

/// The complemented checksum `state` after more bytes, eight at a time.
#[inline]
#[target_feature(enable = "sse4.2")]
fn extend(state: u32, bytes: &[u8]) -> u32 {
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

/// What a state is multiplied by to move it over `bytes`. A product of such mirrored numbers comes out multiplied by x, and
/// the instruction that reduces it multiplies by x^32, so there are 33 powers less.
const fn over(bytes: usize) -> i64 {
    let mut power = 1_u32 << 31;
    let mut done = 0;
    while done < 8 * bytes - 33 {
        let carry = power & 1;
        power >>= 1;
        if carry == 1 {
            power ^= POLYNOMIAL;
        }
        done += 1;
    }
    power as i64
}
