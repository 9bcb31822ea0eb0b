//! Kernels of x86-64, and what chooses among them: the backend says which instructions, the number of bytes seen so far
//! whether the table of counter-mode caching pays.

mod aesni;
mod algorithm;
mod crc;
mod schedule;
mod table;
mod vaes256;
mod vaes512;
mod wipe;

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use schedule::{KEYS_128, KEYS_256, RoundKeys, expand_128, expand_256};
use table::Table;

use super::{Direction, Text, Tier, portable};
use crate::{Backend, CtrKey};

/// Bits of the counter that may change under one table: bytes 11 to 15.
const EPOCH_BITS: u32 = 40;
/// Bytes after which the table has paid for itself. Filling it takes as long as encrypting about 1 KiB, and it saves a
/// seventh of the rounds (AES-256); a stream that ends early should not have paid.
const WARM_BYTES: u64 = 16 << 10;
/// Shorter pieces are as fast without the table, as what leads into its use takes as long as the rounds that it saves.
const CACHED_BYTES_MIN: usize = 1 << 10;

/// Copies of this many bytes do not fit a core's share of any cache: reading what is overwritten would be in vain.
const AROUND_BYTES_MIN: usize = 16 << 20;

/// Of the widest vector.
const ALIGNMENT: usize = 64;

/// The fastest tier of this processor under this operating system. The standard library asks once and remembers.
pub(crate) fn detect() -> Tier {
    let aesni = is_x86_feature_detected!("aes") && is_x86_feature_detected!("ssse3");
    let vaes256 = aesni && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("vaes");
    // No processor has VAES on AVX-512 without these two, but the checksum beside it rests on them.
    let summing = is_x86_feature_detected!("pclmulqdq") && is_x86_feature_detected!("sse4.2");
    let avx512 = summing && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    match (aesni, vaes256, avx512) {
        (true, true, true) => Tier::Vaes512,
        (true, true, false) => Tier::Vaes256,
        (true, false, _) => Tier::AesNi,
        (false, ..) => portable::detect(),
    }
}

/// An expanded key and the first counter, for one tier.
pub(crate) enum Engine {
    Portable(portable::Engine),
    Aes128(Box<Keystream<KEYS_128>>),
    Aes256(Box<Keystream<KEYS_256>>),
}

impl Engine {
    /// The calls into kernels rest on `backend`, which cannot be had for instructions that are not there.
    pub(crate) fn new(key: CtrKey<'_>, iv: u128, backend: Backend) -> Self {
        match (backend.tier(), key) {
            (Tier::Portable, _) => Self::Portable(portable::Engine::new(key, iv, backend)),
            (_, CtrKey::Aes128(key)) => {
                let mut stream = Keystream::blank(iv, backend);
                // SAFETY: every backend but the portable one is the proof of AES-NI and SSSE3 (`detect`).
                unsafe { expand_128(key, &mut stream.keys) };
                Self::Aes128(stream)
            }
            (_, CtrKey::Aes256(key)) => {
                let mut stream = Keystream::blank(iv, backend);
                // SAFETY: as above.
                unsafe { expand_256(key, &mut stream.keys) };
                Self::Aes256(stream)
            }
        }
    }

    /// Transforms `text`, whose first byte is the first of the stream's block `block`.
    #[inline]
    pub(crate) fn apply(&self, block: u64, text: Text<'_>) {
        match self {
            Self::Portable(engine) => engine.apply(block, text),
            Self::Aes128(stream) => stream.apply(block, text),
            Self::Aes256(stream) => stream.apply(block, text),
        }
    }

    /// As [`Self::apply`], with the CRC-32C of the ciphertext of each `chunk_bytes`, each going on from what `sums` holds.
    /// If that cannot be done in one pass, nothing is, and the answer is false.
    #[inline]
    pub(crate) fn apply_summed(
        &self,
        block: u64,
        text: Text<'_>,
        by: Direction,
        chunk_bytes: usize,
        sums: &mut [u32],
    ) -> bool {
        match self {
            Self::Portable(engine) => engine.apply_summed(block, text, by, chunk_bytes, sums),
            Self::Aes128(stream) => stream.apply_summed(block, text, by, chunk_bytes, sums),
            Self::Aes256(stream) => stream.apply_summed(block, text, by, chunk_bytes, sums),
        }
    }
}

/// Blocks from `counter` to the end of its epoch.
const fn epoch_rest(counter: u128) -> u64 {
    (1 << EPOCH_BITS) - (counter as u64 & ((1 << EPOCH_BITS) - 1))
}

/// Round keys of one key, the first counter, and tables once they are worth it.
pub(crate) struct Keystream<const KEYS: usize> {
    keys: RoundKeys<KEYS>,
    backend: Backend,
    iv: u128,
    /// Of the epoch that the first counter is in and of the one after it, which together hold any file of up to 16 TiB.
    /// What lies beyond goes without.
    tables: [OnceLock<Box<Table>>; 2],
    /// Bytes transformed without a table; only a hint, so lost updates do not matter.
    cold_bytes: AtomicU64,
}

impl<const KEYS: usize> Keystream<KEYS> {
    /// On the heap before there is a key in it, so that moving it leaves no copy behind.
    fn blank(iv: u128, backend: Backend) -> Box<Self> {
        // Not `Box::new`, which would make it on the stack and copy it.
        Box::write(
            Box::new_uninit(),
            Self {
                keys: RoundKeys::blank(),
                backend,
                iv,
                tables: [const { OnceLock::new() }; 2],
                cold_bytes: AtomicU64::new(0),
            },
        )
    }

    #[inline]
    fn apply(&self, block: u64, mut text: Text<'_>) {
        let mut counter = self.iv.wrapping_add(block.into());
        loop {
            let blocks = epoch_rest(counter);
            match usize::try_from(16 * blocks) {
                Ok(room) if room < text.len() => self.apply_within_epoch(counter, text.take(room)),
                _ => return self.apply_within_epoch(counter, text),
            }
            counter = counter.wrapping_add(blocks.into());
        }
    }

    #[inline]
    fn apply_within_epoch(&self, counter: u128, text: Text<'_>) {
        match self.table(counter, text.len()) {
            Some(table) if text.is_copy() && text.len() >= AROUND_BYTES_MIN => self.cached_around(table, counter, text),
            Some(table) => self.cached(table, counter, text, false),
            None => self.plain(counter, text),
        }
    }

    /// The table for a piece of `bytes` bytes, if there should be one.
    #[inline]
    fn table(&self, counter: u128, bytes: usize) -> Option<&Table> {
        if bytes < CACHED_BYTES_MIN {
            return None;
        }
        let epoch = (counter >> EPOCH_BITS).wrapping_sub(self.iv >> EPOCH_BITS) & (u128::MAX >> EPOCH_BITS);
        let place = self.tables.get(usize::try_from(epoch).ok()?)?;
        if let Some(table) = place.get() {
            return Some(table);
        }
        let cold = self.cold_bytes.load(Ordering::Relaxed).saturating_add(bytes as u64);
        self.cold_bytes.store(cold, Ordering::Relaxed);
        (cold >= WARM_BYTES).then(|| place.get_or_init(|| self.fill(counter)).as_ref())
    }

    fn apply_summed(&self, block: u64, text: Text<'_>, by: Direction, chunk_bytes: usize, sums: &mut [u32]) -> bool {
        let counter = self.iv.wrapping_add(block.into());
        let within_epoch = text.len().div_ceil(16) as u64 <= epoch_rest(counter);
        let in_parts = sums.len() == 1 || chunk_bytes.is_multiple_of(crc::PART);
        if self.backend.tier() != Tier::Vaes512 || !within_epoch || !in_parts {
            return false;
        }
        let Some(table) = self.table(counter, text.len()) else {
            return false;
        };
        // SAFETY: the backend is the proof of its instructions.
        unsafe { vaes512::summed(&self.keys, table, counter, text, by, chunk_bytes, sums) };
        true
    }

    fn plain(&self, counter: u128, text: Text<'_>) {
        match self.backend.tier() {
            // SAFETY: the backend is the proof of its instructions.
            Tier::Vaes512 => unsafe { vaes512::plain(&self.keys, counter, text) },
            // SAFETY: as above.
            Tier::Vaes256 => unsafe { vaes256::plain(&self.keys, counter, text) },
            // SAFETY: as above; an engine of the portable tier has no keystream of this type.
            Tier::AesNi | Tier::Portable => unsafe { aesni::plain(&self.keys, counter, text) },
        }
    }

    /// A large copy: from where what is written is aligned, if that is at a block, it goes around the cache.
    fn cached_around(&self, table: &Table, counter: u128, mut text: Text<'_>) {
        let ahead = text.output().as_ptr().align_offset(ALIGNMENT);
        if !ahead.is_multiple_of(16) || ahead > text.len() {
            return self.cached(table, counter, text, false);
        }
        self.cached(table, counter, text.take(ahead), false);
        self.cached(table, counter.wrapping_add(ahead as u128 / 16), text, true);
    }

    fn cached(&self, table: &Table, counter: u128, text: Text<'_>, around: bool) {
        match self.backend.tier() {
            // SAFETY: the backend is the proof of its instructions.
            Tier::Vaes512 => unsafe { vaes512::cached(&self.keys, table, counter, text, around) },
            // SAFETY: as above.
            Tier::Vaes256 => unsafe { vaes256::cached(&self.keys, table, counter, text, around) },
            // SAFETY: as above; an engine of the portable tier has no keystream of this type.
            Tier::AesNi | Tier::Portable => unsafe { aesni::cached(&self.keys, table, counter, text, around) },
        }
    }

    #[cold]
    fn fill(&self, counter: u128) -> Box<Table> {
        let mut table = Box::new(Table::blank());
        match self.backend.tier() {
            // SAFETY: the backend is the proof of its instructions.
            Tier::Vaes512 => unsafe { vaes512::fill(&self.keys, counter, &mut table) },
            // SAFETY: as above.
            Tier::Vaes256 => unsafe { vaes256::fill(&self.keys, counter, &mut table) },
            // SAFETY: as above; an engine of the portable tier has no keystream of this type.
            Tier::AesNi | Tier::Portable => unsafe { aesni::fill(&self.keys, counter, &mut table) },
        }
        table
    }
}
