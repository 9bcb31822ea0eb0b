//! Mutations: of bytes, and of the numbers and words that formats are made of.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A generator that is small and repeatable (xorshift64*, Vigna 2016).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("below a usize")
    }

    pub(crate) fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// Every target has its share of the time: of five, two run at once on two cores.
const SHARES: u32 = 3;

/// How long to run, and from which seed.
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) random: Random,
    deadline: Instant,
}

impl Run {
    pub(crate) fn start() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let seed = number("FUZZ_SEED").unwrap_or(since.as_nanos() as u64) | 1;
        Self {
            seed,
            random: Random(seed),
            deadline: Instant::now() + Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(1)) / SHARES,
        }
    }

    pub(crate) fn goes_on(&self) -> bool {
        Instant::now() < self.deadline
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Numbers at which something changes.
const EDGES: [u64; 12] = [0, 1, 15, 16, 17, 127, 128, 129, 200, 201, 0xffff, u64::MAX];

/// One of: a bit over, a byte anew, a number at an edge or beside what it was, a piece out, a piece twice, cut off, a word put
/// in, the rest of `other`.
pub(crate) fn mutate(bytes: &mut Vec<u8>, random: &mut Random, words: &[&[u8]], other: &[u8]) {
    let (at, length) = (random.below(bytes.len()), random.below(24));
    let end = (at + length).min(bytes.len());
    match random.below(9) {
        0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        2 if !bytes.is_empty() => bytes[at] = random.next() as u8,
        3 => set_number(bytes, at, random),
        4 => drop(bytes.drain(at..end)),
        5 => {
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        6 if !words.is_empty() => {
            let word = random.of(words).to_vec();
            bytes.splice(at..end, word);
        }
        7 => {
            let from = at.min(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        _ => bytes.truncate(at),
    }
}

/// Puts another number, big-endian and 1, 2, 4 or 8 bytes wide, in the place of what is there.
fn set_number(bytes: &mut [u8], at: usize, random: &mut Random) {
    let width = *random.of(&[1, 2, 4, 8]);
    let Some(place) = bytes.get_mut(at..at + width) else {
        return;
    };
    let was = place.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let number = match random.below(3) {
        0 => was.wrapping_add(1),
        1 => was.wrapping_sub(1),
        _ => *random.of(&EDGES),
    };
    place.copy_from_slice(&number.to_be_bytes()[8 - width..]);
}
