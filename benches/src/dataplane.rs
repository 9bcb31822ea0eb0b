//! What the frame format costs: whole blocks through our keys against bare AES-256-GCM of aws-lc-rs over the same
//! bytes in one message.

use std::hint::black_box;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use crc_fast::CrcAlgorithm;
use strongroom_dataplane::{DataKey, ExtentKey, Geometry};

use crate::report::{Figure, throughput};

const KEY: [u8; 32] = [7; 32];
const BLOCK_BYTES: u32 = 4 << 20;

pub(crate) fn run() -> Vec<Figure> {
    [4 << 10, 16 << 10, 64 << 10, 256 << 10]
        .into_iter()
        .flat_map(|frame_bytes| [seal(frame_bytes), open(frame_bytes)])
        .collect()
}

fn seal(frame_bytes: u32) -> Figure {
    let (key, mut block) = sealed(frame_bytes);
    let bare = bare_key();
    let mut text = vec![0x5a; BLOCK_BYTES as usize];
    throughput(
        format!("gcm/seal/aes256/{}KiB", frame_bytes >> 10),
        "aws-lc",
        BLOCK_BYTES as usize,
        || _ = black_box(key.seal_block(0, true, &mut block).expect("a whole block")),
        || {
            let tag = bare.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut text);
            _ = black_box(tag.expect("short enough"));
            // Ours answers with the checksum of what it sealed, so the bare side makes it too.
            black_box(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &text));
        },
    )
}

fn open(frame_bytes: u32) -> Figure {
    let (key, block) = sealed(frame_bytes);
    let mut plain = vec![0; BLOCK_BYTES as usize];
    key.open_frames(u64::from(BLOCK_BYTES), 0, &block, &mut plain)
        .expect("what was sealed opens");
    assert!(plain.iter().all(|byte| *byte == 0x5a), "opened to what was sealed");

    let bare = bare_key();
    let mut text = vec![0x5a; BLOCK_BYTES as usize];
    let tag = bare
        .seal_in_place_separate_tag(nonce(), Aad::empty(), &mut text)
        .expect("short enough");
    let mut bare_plain = vec![0; BLOCK_BYTES as usize];
    throughput(
        format!("gcm/open/aes256/{}KiB", frame_bytes >> 10),
        "aws-lc",
        BLOCK_BYTES as usize,
        || {
            key.open_frames(u64::from(BLOCK_BYTES), 0, &block, &mut plain)
                .expect("what was sealed opens");
        },
        || {
            bare.open_separate_gather(nonce(), Aad::empty(), &text, tag.as_ref(), &mut bare_plain)
                .expect("what was sealed opens");
        },
    )
}

/// A full, sealed block of 0x5a.
fn sealed(frame_bytes: u32) -> (ExtentKey, Vec<u8>) {
    let geometry = Geometry::new(frame_bytes, BLOCK_BYTES).expect("a valid geometry");
    let key = ExtentKey::derive(&DataKey::new(&KEY), &[1; 16], &[2; 16], geometry);
    let mut block = vec![0x5a; geometry.sealed_bytes(BLOCK_BYTES) as usize];
    key.seal_block(0, true, &mut block).expect("a whole block");
    (key, block)
}

fn bare_key() -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &KEY).expect("32 bytes"))
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}
