//! The test vectors of `docs/formats/data-gcm.md`, made by another implementation.

use aws_lc_rs::digest::{SHA256, digest};
use strongroom_dataplane::{DataKey, ExtentKey, Geometry, Manifest, ManifestExtent, ManifestKey, Seed, Suite};

const DOCUMENT: &str = include_str!("../../docs/formats/data-gcm.md");

#[test]
fn the_short_extent_is_as_documented() {
    let common = Common::read();
    let rows = rows("vector-short");
    let key = common.extent_key(Geometry::new(Suite::Gcm, 65536, 4 << 20).expect("the default"));
    let mut block = [b"Strongroom".as_slice(), &[0; 16]].concat();
    let crc = key.seal_block(0, true, &mut block).expect("one short frame");
    assert_eq!(hex::encode(&block), rows[0][1]);
    assert_eq!(format!("{crc:08x}"), rows[1][1]);
}

#[test]
fn blocks_are_as_documented() {
    let key = Common::read().extent_key(small());
    let rows = rows("vectors-blocks");
    assert_eq!(rows.len(), 4);
    for row in rows {
        let number = |i: usize| row[i].parse::<u32>().expect("a number");
        let plain: Vec<u8> = (number(1)..number(2)).map(|p| (7 * p + p / 256) as u8).collect();
        let mut block = spread(&plain);
        let crc = key.seal_block(number(0), row[3] == "yes", &mut block).expect("a block");
        assert_eq!(format!("{crc:08x}"), row[4], "{row:?}");
        assert_eq!(hex::encode(digest(&SHA256, &block)), row[5], "{row:?}");
    }
}

#[test]
fn manifests_are_as_documented() {
    let common = Common::read();
    let extents = rows("vectors-extents").into_iter().map(|row| ManifestExtent {
        id: bytes(row[0]),
        seed: Seed::Salt(bytes(row[1])),
        length: row[2].parse().expect("a number"),
        visible: row[3].parse().expect("a number"),
        blocks: row[4].parse().expect("a number"),
    });
    let empty = Manifest::new(
        Geometry::new(Suite::Gcm, 65536, 4 << 20).expect("the default"),
        1,
        Vec::new(),
    );
    let two = Manifest::new(small(), 3, extents.collect());
    for (row, manifest) in rows("vectors-manifests").into_iter().zip([empty, two]) {
        let manifest = manifest.expect("consistent");
        let key = ManifestKey::derive(&DataKey::new(&common.dek), &common.file);
        let code = key.authenticate(&manifest);
        assert_eq!(hex::encode(code), row[1], "{}", row[0]);
    }
}

struct Common {
    dek: [u8; 32],
    file: [u8; 16],
    salt: [u8; 16],
}

impl Common {
    fn read() -> Self {
        let rows = rows("vectors-common");
        Self {
            dek: bytes(rows[0][1]),
            file: bytes(rows[1][1]),
            salt: bytes(rows[2][1]),
        }
    }

    fn extent_key(&self, geometry: Geometry) -> ExtentKey {
        ExtentKey::derive(&DataKey::new(&self.dek), &self.file, Seed::Salt(self.salt), geometry)
            .expect("a DEK and a salt")
    }
}

fn small() -> Geometry {
    Geometry::new(Suite::Gcm, 4096, 8192).expect("valid")
}

/// Plaintext with room for a tag after each frame.
fn spread(plain: &[u8]) -> Vec<u8> {
    plain
        .chunks(4096)
        .flat_map(|frame| [frame, &[0; 16]].concat())
        .collect()
}

/// The words of each line of one fenced block of the document.
fn rows(fence: &str) -> Vec<Vec<&'static str>> {
    let (_, rest) = DOCUMENT
        .split_once(&format!("```{fence}\n"))
        .expect("the document has the block");
    let (body, _) = rest.split_once("```").expect("the block ends");
    body.lines().map(|line| line.split_whitespace().collect()).collect()
}

fn bytes<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).expect("hexadecimal of that length");
    bytes
}
