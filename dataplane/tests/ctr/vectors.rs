//! NIST's vectors, and those of `docs/formats/data-ctr.md`.

use aws_lc_rs::digest::{SHA256, digest};
use strongroom_dataplane::{Ctr, CtrKey, Direction};

use crate::naive::backends;

/// SP 800-38A, F.5: the plaintext and the initial counter of all its CTR examples.
const PLAIN: &str = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
                     30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710";
const COUNTER: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";

/// SP 800-38A, F.5.1 and F.5.5: key and ciphertext.
const EXAMPLES: [(&str, &str); 2] = [
    (
        "2b7e151628aed2a6abf7158809cf4f3c",
        "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff\
         5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee",
    ),
    (
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5\
         2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6",
    ),
];

#[test]
fn sp_800_38a() {
    let (plain, counter) = (bytes(PLAIN), bytes(COUNTER));
    let iv = counter.as_slice().try_into().expect("16 bytes");
    for (key, cipher) in EXAMPLES {
        let key = bytes(key);
        let key = CtrKey::try_from(key.as_slice()).expect("16 or 32 bytes");
        for backend in backends() {
            let mut text = plain.clone();
            Ctr::with_backend(key, iv, backend)
                .apply(0, &mut text)
                .expect("a small position");
            assert_eq!(hex::encode(&text), cipher, "{backend}");
            Ctr::with_backend(key, iv, backend)
                .apply(0, &mut text)
                .expect("a small position");
            assert_eq!(text, plain, "{backend}");
        }
    }
}

#[test]
fn known_answers_of_the_validation_suite() {
    let rows = include_str!("cavp.txt").lines().filter(|line| !line.starts_with('#'));
    let rows: Vec<Vec<&str>> = rows.map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 7 + 21 + 5 + 16);
    for row in rows {
        let (key, counter) = (bytes(row[0]), bytes(row[1]));
        let key = CtrKey::try_from(key.as_slice()).expect("16 or 32 bytes");
        let iv = counter.as_slice().try_into().expect("16 bytes");
        for backend in backends() {
            let ctr = Ctr::with_backend(key, iv, backend);
            // Alone, and as the first of many, which go through a table.
            for length in [16, 20_000] {
                let mut block = vec![0; length];
                ctr.apply(0, &mut block).expect("a small position");
                assert_eq!(hex::encode(&block[..16]), row[2], "{backend} {row:?}");
            }
        }
    }
}

#[test]
fn vectors_of_the_format() {
    let document = include_str!("../../../docs/formats/data-ctr.md");
    let (_, rest) = document.split_once("```vectors-ctr\n").expect("the document has them");
    let (rows, _) = rest.split_once("```").expect("the block ends");
    assert_eq!(rows.lines().count(), 16);
    for row in rows.lines() {
        let columns: Vec<&str> = row.split_whitespace().collect();
        let number = |column: usize| columns[column].parse::<u64>().expect("a number");
        let key: Vec<u8> = (0..(number(0) / 8) as u8).collect();
        let key = CtrKey::try_from(key.as_slice()).expect("16 or 32 bytes");
        let iv = bytes(columns[1]).try_into().expect("16 bytes");
        let start = number(2);
        let plain: Vec<u8> = (start..start + number(3)).map(|p| (7 * p + p / 256) as u8).collect();
        for backend in backends() {
            let mut text = plain.clone();
            let ctr = Ctr::with_backend(key, &iv, backend);
            let crc = ctr
                .apply_summed(start, &mut text, Direction::Encrypt, 0)
                .expect("a small position");
            assert_eq!(format!("{crc:08x}"), columns[4], "{backend} {row}");
            assert_eq!(hex::encode(digest(&SHA256, &text)), columns[5], "{backend} {row}");
        }
    }
}

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text).expect("hexadecimal")
}
