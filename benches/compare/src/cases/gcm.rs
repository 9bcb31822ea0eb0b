//! AES-256-GCM: a block of 4 MiB in our frames, with its CRC-32C, against the same frames as bare messages of others.

use std::{cell::RefCell, hint::black_box, rc::Rc};

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use crc_fast::{CrcAlgorithm, checksum};
use openssl::symm::{self, Cipher};
use strongroom_dataplane::{DataKey, ExtentKey, Geometry, Seed, Suite};

use super::{BLOCK, Case, KEY_256, Shared, TAG, pattern};
use crate::{limit, measure::Contestant};

const NONCE: [u8; 12] = *b"one for each";
/// As many as ours authenticates with a frame.
const ADDITIONAL: [u8; 38] = [7; 38];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (frame, size) in [
        (4 << 10, "4KiB"),
        (16 << 10, "16KiB"),
        (64 << 10, "64KiB"),
        (256 << 10, "256KiB"),
        (1 << 20, "1MiB"),
    ] {
        cases.push(Case::new(
            format!("gcm/aes256/{size}/seal"),
            BLOCK as usize,
            move || sealing(frame),
        ));
        cases.push(Case::new(
            format!("gcm/aes256/{size}/open"),
            BLOCK as usize,
            move || opening(frame),
        ));
    }
    cases
}

fn sealing(frame: u32) -> Vec<Contestant> {
    let (key, block) = sealed(frame);
    verify(frame as usize);
    let shared = Rc::new(RefCell::new(block));
    let own = Rc::clone(&shared);
    let mut contestants = vec![
        Contestant::own("frames", move |count| {
            let block = &mut own.borrow_mut();
            for _ in 0..count {
                _ = black_box(key.seal_block(0, true, block).expect("a whole block"));
            }
        }),
        limit::aes_contestant(KEY_256.len(), BLOCK as usize),
    ];
    for (name, seal) in SEALERS {
        let shared = Rc::clone(&shared);
        contestants.push(Contestant::other(name, move |count| {
            let text = &mut shared.borrow_mut()[..BLOCK as usize];
            for _ in 0..count {
                text.chunks_mut(frame as usize)
                    .for_each(|message| _ = black_box(seal(message)));
                // Ours answers with the checksum of what it sealed, so the bare side makes it too.
                black_box(checksum(CrcAlgorithm::Crc32Iscsi, text));
            }
        }));
    }
    contestants
}

fn opening(frame: u32) -> Vec<Contestant> {
    let (key, block) = sealed(frame);
    let mut plain = vec![0; BLOCK as usize];
    key.open_frames(BLOCK.into(), 0, &block, &mut plain)
        .expect("what was sealed opens");
    assert!(plain.iter().all(|byte| *byte == 0x5a), "opened to what was sealed");
    let mut text = pattern(BLOCK as usize);
    let tags: Vec<[u8; TAG]> = text.chunks_mut(frame as usize).map(seal_aws_lc).collect();
    let shared = Shared::new(block.len());
    let (own, theirs) = (shared.clone(), shared.clone());
    let open_own = move || {
        key.open_frames(BLOCK.into(), 0, &own.sealed.borrow(), &mut own.plain.borrow_mut())
            .expect("what was sealed opens");
    };
    let open_theirs = move || {
        let (text, opened) = (theirs.sealed.borrow(), &mut theirs.plain.borrow_mut());
        let messages = text[..BLOCK as usize].chunks(frame as usize);
        let messages = messages.zip(opened.chunks_mut(frame as usize)).zip(&tags);
        messages.for_each(|((message, opened), tag)| open_aws_lc(message, tag, opened));
    };
    let mut fill_theirs = shared.filler(text);
    fill_theirs();
    open_theirs();
    assert!(*shared.plain.borrow() == pattern(BLOCK as usize), "opened by AWS-LC");
    vec![
        Contestant::readied("frames", true, shared.filler(block), open_own),
        limit::aes_contestant(KEY_256.len(), BLOCK as usize),
        Contestant::readied("aws-lc", false, fill_theirs, open_theirs),
    ]
}

/// A full, sealed block of 0x5a.
fn sealed(frame: u32) -> (ExtentKey, Vec<u8>) {
    let geometry = Geometry::new(Suite::Gcm, frame, BLOCK).expect("a valid geometry");
    let dek = KEY_256.try_into().expect("32 bytes");
    let key = ExtentKey::derive(&DataKey::new(dek), &[1; 16], Seed::Salt([2; 16]), geometry).expect("a DEK and a salt");
    let mut block = vec![0x5a; geometry.sealed_bytes(BLOCK) as usize];
    key.seal_block(0, true, &mut block).expect("a whole block");
    (key, block)
}

type Sealer = fn(&mut [u8]) -> [u8; TAG];

const SEALERS: [(&str, Sealer); 4] = [
    ("aws-lc", seal_aws_lc),
    ("openssl", seal_openssl),
    ("rustcrypto", seal_rustcrypto),
    ("ring", seal_ring),
];

/// # Panics
/// If two of them disagree.
fn verify(bytes: usize) {
    let mut expected = pattern(bytes);
    let tag = seal_aws_lc(&mut expected);
    for (name, seal) in SEALERS {
        let mut text = pattern(bytes);
        assert_eq!(seal(&mut text), tag, "{name}'s tag");
        assert!(text == expected, "{name}'s ciphertext");
    }
}

fn seal_aws_lc(text: &mut [u8]) -> [u8; TAG] {
    use aws_lc_rs::aead::{Aad, Nonce};
    let tag = aws_lc_key().seal_in_place_separate_tag(Nonce::from(&NONCE), Aad::from(ADDITIONAL), text);
    tag.expect("short enough").as_ref().try_into().expect("16 bytes")
}

fn open_aws_lc(text: &[u8], tag: &[u8; TAG], opened: &mut [u8]) {
    use aws_lc_rs::aead::{Aad, Nonce};
    aws_lc_key()
        .open_separate_gather(Nonce::from(&NONCE), Aad::from(ADDITIONAL), text, tag, opened)
        .expect("what was sealed opens");
}

fn aws_lc_key() -> &'static aws_lc_rs::aead::LessSafeKey {
    use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
    static KEY: std::sync::OnceLock<LessSafeKey> = std::sync::OnceLock::new();
    KEY.get_or_init(|| LessSafeKey::new(UnboundKey::new(&AES_256_GCM, KEY_256).expect("32 bytes")))
}

fn seal_ring(text: &mut [u8]) -> [u8; TAG] {
    use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    static KEY: std::sync::OnceLock<LessSafeKey> = std::sync::OnceLock::new();
    let key = KEY.get_or_init(|| LessSafeKey::new(UnboundKey::new(&AES_256_GCM, KEY_256).expect("32 bytes")));
    let nonce = Nonce::assume_unique_for_key(NONCE);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(ADDITIONAL), text);
    tag.expect("short enough").as_ref().try_into().expect("16 bytes")
}

fn seal_rustcrypto(text: &mut [u8]) -> [u8; TAG] {
    static KEY: std::sync::OnceLock<Aes256Gcm> = std::sync::OnceLock::new();
    let key = KEY.get_or_init(|| Aes256Gcm::new_from_slice(KEY_256).expect("32 bytes"));
    let tag = key.encrypt_inout_detached(&NONCE.into(), &ADDITIONAL, text.into());
    tag.expect("short enough").into()
}

/// OpenSSL's interface writes elsewhere, so what it wrote is copied back: 2 % of its time.
fn seal_openssl(text: &mut [u8]) -> [u8; TAG] {
    let mut tag = [0; TAG];
    let sealed = symm::encrypt_aead(
        Cipher::aes_256_gcm(),
        KEY_256,
        Some(&NONCE),
        &ADDITIONAL,
        text,
        &mut tag,
    );
    text.copy_from_slice(&sealed.expect("short enough"));
    tag
}
