//! Whether bytes look like ciphertext: tests that good ciphertext fails about once in a thousand million blocks, and that text, tables,
//! programs, media and what was forgotten to be encrypted fail at once.
//!
//! They show what is not ciphertext. They prove of nothing that it is: compressed data without a known beginning passes, and so does
//! what was encrypted under a known key.

/// From this many bytes on a block is held against statistics.
pub(super) const STATISTICS_BYTES_MIN: usize = 4096;
/// From this many bytes on nothing but printable characters is no accident: 0.39 to the 64th.
const TEXT_BYTES_MIN: usize = 64;

/// Bounds of chi-square over the 256 byte values (255 degrees of freedom) that a uniform source leaves once in 10^9 on each side, by
/// the approximation of Wilson and Hilferty (1931) with z = 6.
const CHI_SQUARE: std::ops::Range<f64> = 141.0..416.0;
/// Standard deviations of the number of one bits from the half that a fair coin leaves once in 10^9 (two-sided).
const BITS_Z_MAX: f64 = 6.1;

/// Beginnings of files that people store, each of four bytes or more: one in 2^32 blocks of ciphertext has any of a kind.
const BEGINNINGS: [(&str, usize, &[u8]); 18] = [
    ("a PDF", 0, b"%PDF-"),
    ("a ZIP archive or office document", 0, b"PK\x03\x04"),
    ("a gzip file", 0, b"\x1f\x8b\x08\x00"),
    ("a gzip file", 0, b"\x1f\x8b\x08\x08"),
    ("a PNG picture", 0, b"\x89PNG\r\n\x1a\n"),
    ("a JPEG picture", 0, b"\xff\xd8\xff\xe0"),
    ("a JPEG picture", 0, b"\xff\xd8\xff\xe1"),
    ("an ELF program", 0, b"\x7fELF"),
    ("a Zstandard file", 0, b"\x28\xb5\x2f\xfd"),
    ("an xz file", 0, b"\xfd7zXZ\0"),
    ("a bzip2 file", 0, b"BZh91AY&SY"),
    ("a 7z archive", 0, b"7z\xbc\xaf\x27\x1c"),
    ("a Parquet file", 0, b"PAR1"),
    ("an Avro file", 0, b"Obj\x01"),
    ("a Hadoop sequence file", 0, b"SEQ\x06"),
    ("an SQLite database", 0, b"SQLite format 3\0"),
    ("a film or sound", 4, b"ftyp"),
    ("a tape archive", 257, b"ustar"),
];

/// Why bytes do not look like ciphertext; none if they do, as far as their number lets be told.
pub(super) fn problem(bytes: &[u8]) -> Option<String> {
    if let Some((name, ..)) = BEGINNINGS
        .iter()
        .find(|(_, at, magic)| bytes.get(*at..).is_some_and(|rest| rest.starts_with(magic)))
    {
        return Some(format!("it begins as {name} does"));
    }
    if bytes.len() >= TEXT_BYTES_MIN && bytes.iter().all(|byte| is_printable(*byte)) {
        return Some("it is nothing but printable characters".to_owned());
    }
    if bytes.len() < STATISTICS_BYTES_MIN {
        return None;
    }
    let chi_square = chi_square(bytes);
    if !CHI_SQUARE.contains(&chi_square) {
        return Some(format!(
            "its bytes are not evenly spread (chi-square {chi_square:.0}, 142 to 415 is usual)"
        ));
    }
    let z = ones_z(bytes);
    if z.abs() > BITS_Z_MAX {
        return Some(format!("its bits are not evenly spread ({z:.1} standard deviations)"));
    }
    repeated(bytes).then(|| "it has the same 16 bytes at two places".to_owned())
}

const fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t')
}

fn chi_square(bytes: &[u8]) -> f64 {
    let mut counts = [0_u64; 256];
    bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let expected = bytes.len() as f64 / 256.0;
    counts
        .iter()
        .map(|count| (*count as f64 - expected).powi(2) / expected)
        .sum()
}

/// How many standard deviations the number of one bits is above half of all.
fn ones_z(bytes: &[u8]) -> f64 {
    let ones: u64 = bytes.iter().map(|byte| u64::from(byte.count_ones())).sum();
    let bits = bytes.len() as f64 * 8.0;
    (ones as f64 - bits / 2.0) / (bits.sqrt() / 2.0)
}

/// Whether two aligned pieces of 16 bytes are the same: in 4 MiB of ciphertext once in 2^93 blocks.
fn repeated(bytes: &[u8]) -> bool {
    let mut pieces: Vec<&[u8]> = bytes.chunks_exact(16).collect();
    pieces.sort_unstable();
    pieces.windows(2).any(|two| two[0] == two[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As good as random: a generator with a seed (SplitMix64).
    fn random(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        (0..length.div_ceil(8))
            .flat_map(|_| next().to_le_bytes())
            .take(length)
            .collect()
    }

    #[test]
    fn random_bytes_of_every_length_pass() {
        for seed in 0..2000 {
            let length = 1 + (seed as usize * 37) % 20_000;
            assert_eq!(problem(&random(seed, length)), None, "seed {seed}, {length} bytes");
        }
    }

    #[test]
    fn what_is_not_ciphertext_is_named() {
        let text = "All happy families are alike. ".repeat(200).into_bytes();
        let zeros = vec![0; 5000];
        let counting: Vec<u8> = (0..=255).cycle().take(65_536).collect();
        let mut padded = random(1, 20_000);
        padded.extend([0; 64]);
        let low: Vec<u8> = random(2, 20_000).into_iter().map(|byte| byte & 0xfe).collect();
        let mut zip = random(3, 5000);
        zip[..4].copy_from_slice(b"PK\x03\x04");
        for (bytes, words) in [
            (text[..64].to_vec(), "printable"),
            (text, "printable"),
            (zeros, "not evenly spread"),
            (counting, "chi-square 0"),
            (padded, "the same 16 bytes"),
            (low, "not evenly spread"),
            (zip, "ZIP archive"),
        ] {
            let problem = problem(&bytes).expect(words);
            assert!(problem.contains(words), "{problem} lacks {words}");
        }
    }

    #[test]
    fn no_beginning_is_likely_by_accident() {
        assert!(BEGINNINGS.iter().all(|(.., magic)| magic.len() >= 4));
    }
}
