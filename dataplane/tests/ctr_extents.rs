//! Extents of suite `ctr-hdfs`: the test vectors of `docs/formats/data-ctr.md`, made by other implementations, and ranges anywhere.

use aws_lc_rs::digest::{SHA256, digest};
use strongroom_dataplane::{
    DataKey, ExtentKey, ExtentKeyError, ExtentSealer, Geometry, Manifest, ManifestExtent, ManifestKey, OpenError, Seed,
    Suite,
};

const DOCUMENT: &str = include_str!("../../docs/formats/data-ctr.md");
const FRAME: u32 = 4096;
const BLOCK: u32 = 2 * FRAME;
const FILE: [u8; 16] = counting(0x40);
const SALT: Seed = Seed::Salt(counting(0x80));
const IV: Seed = Seed::Iv([
    0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xff, 0xff, 0xff, 0xff, 0xff,
]);
const DEK: [u8; 32] = counting(0);

#[test]
fn blocks_are_as_documented() {
    let rows = rows("vectors-ctr-extents");
    assert_eq!(rows.len(), 8);
    for row in rows {
        let number = |i: usize| row[i].parse::<u32>().expect("a number");
        let key = key(number(0), if row[1] == "iv" { IV } else { SALT });
        let plain: Vec<u8> = (number(3)..number(4)).map(|p| (7 * p + p / 256) as u8).collect();
        let mut block = plain.clone();
        let last = number(4) % BLOCK != 0;
        let crc = key.seal_block(number(2), last, &mut block).expect("a block");
        assert_eq!(format!("{crc:08x}"), row[5], "{row:?}");
        assert_eq!(hex::encode(digest(&SHA256, &block)), row[6], "{row:?}");
        let mut opened = vec![0; plain.len()];
        let opening = key.open_frames(12289, number(2) * 2, &block, &mut opened);
        assert_eq!((opening, opened), (Ok(()), plain), "{row:?}");
    }
}

#[test]
fn manifests_are_as_documented() {
    let extent = |id: u8, seed, length, visible, blocks| ManifestExtent {
        id: counting(id),
        seed,
        length,
        visible,
        blocks,
    };
    let extents = vec![extent(0xa0, IV, 12289, 12000, 2), extent(0xb0, SALT, 10, 10, 1)];
    let manifest = Manifest::new(geometry(), 3, extents).expect("consistent");
    for row in rows("vectors-ctr-manifests") {
        let code = ManifestKey::derive(&dek(row[0].parse().expect("a number")), &FILE).authenticate(&manifest);
        assert_eq!(hex::encode(code), row[1], "{row:?}");
    }
}

#[test]
fn any_run_of_frames_opens_alone_and_no_other_length_does() {
    let key = key(256, SALT);
    let plain: Vec<u8> = (0..3 * BLOCK + 77).map(|p| (p % 251) as u8).collect();
    let length = plain.len() as u64;
    let mut sealer = ExtentSealer::new(key);
    let (mut rest, mut sealed) = (plain.as_slice(), Vec::new());
    while !rest.is_empty() {
        let block = sealer.append(&mut rest).expect("room");
        sealed.extend(block.into_iter().flat_map(|block| block.seal().bytes));
    }
    let last = sealer.finish().expect("room").expect("a last block");
    sealed.extend(last.seal().bytes);
    assert_eq!(sealed.len(), plain.len(), "as long as the plaintext");
    let key = self::key(256, SALT);
    for range in [0..1, 4095..4097, 8191..8193, 20_000..24_653] {
        for run in geometry().runs(length, range.clone()).expect("in range") {
            let start = run.block as usize * BLOCK as usize + run.sealed_offset as usize;
            let mut out = vec![0; run.plain_bytes as usize];
            let bytes = &sealed[start..][..run.sealed_bytes as usize];
            assert_eq!(key.open_frames(length, run.first_frame, bytes, &mut out), Ok(()));
            assert!(out == plain[start..][..out.len()], "{range:?}");
            let short = key.open_frames(length, run.first_frame, &bytes[1..], &mut out);
            assert!(matches!(short, Err(OpenError::Length { .. })), "{range:?}");
        }
    }
}

#[test]
fn suites_take_the_deks_and_seeds_that_they_have_extents_under() {
    let gcm = Geometry::new(Suite::Gcm, FRAME, BLOCK).expect("valid");
    let none = |dek: &DataKey<'_>, seed| ExtentKey::derive(dek, &FILE, seed, gcm).expect_err("no such extent");
    assert_eq!(none(&dek(256), IV), ExtentKeyError::Iv);
    assert_eq!(none(&dek(128), SALT), ExtentKeyError::Short { bytes: 16 });
    for bytes in [0, 15, 17, 24, 31] {
        let error = DataKey::try_from(&DEK[..bytes]).expect_err("no such DEK");
        assert_eq!(error.bytes, bytes);
    }
}

fn geometry() -> Geometry {
    Geometry::new(Suite::CtrHdfs, FRAME, BLOCK).expect("valid")
}

fn dek(bits: usize) -> DataKey<'static> {
    static BYTES: [u8; 32] = DEK;
    DataKey::try_from(&BYTES[..bits / 8]).expect("16 or 32 bytes")
}

fn key(bits: u32, seed: Seed) -> ExtentKey {
    ExtentKey::derive(&dek(bits as usize), &FILE, seed, geometry()).expect("a DEK and a seed")
}

const fn counting<const N: usize>(from: u8) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        bytes[i] = from + i as u8;
        i += 1;
    }
    bytes
}

/// The words of each line of one fenced block of the document.
fn rows(fence: &str) -> Vec<Vec<&'static str>> {
    let (_, rest) = DOCUMENT
        .split_once(&format!("```{fence}\n"))
        .expect("the document has the block");
    let (body, _) = rest.split_once("```").expect("the block ends");
    body.lines().map(|line| line.split_whitespace().collect()).collect()
}
