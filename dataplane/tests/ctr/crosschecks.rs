//! Against aws-lc-rs, another implementation altogether.

use aws_lc_rs::{
    cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey},
    iv::FixedLength,
};
use rand::RngExt;
use strongroom_dataplane::{Ctr, CtrKey};

use crate::{naive::backends, seed::seeded};

#[test]
fn random_inputs_against_aws_lc() {
    let (seed, mut random) = seeded();
    for _ in 0..500 {
        let (key, iv) = (random.random::<[u8; 32]>(), random.random::<[u8; 16]>());
        let key = if random.random() { &key[..] } else { &key[..16] };
        let mut plain = vec![0; random.random_range(0..100_000) >> random.random_range(0..8)];
        random.fill(plain.as_mut_slice());
        let expected = aws_lc(key, &iv, &plain);
        for backend in backends() {
            let key = CtrKey::try_from(key).expect("16 or 32 bytes");
            let mut own = plain.clone();
            Ctr::with_backend(key, &iv, backend)
                .apply(0, &mut own)
                .expect("a small position");
            assert!(own == expected, "seed {seed}: {backend} {key:?} {} bytes", plain.len());
        }
    }
}

fn aws_lc(key: &[u8], iv: &[u8; 16], plain: &[u8]) -> Vec<u8> {
    let algorithm = if key.len() == 16 { &AES_128 } else { &AES_256 };
    let key = UnboundCipherKey::new(algorithm, key).expect("a key of that length");
    let mut bytes = plain.to_vec();
    EncryptingKey::ctr(key)
        .expect("AES has CTR")
        .less_safe_encrypt(&mut bytes, EncryptionContext::Iv128(FixedLength::from(iv)))
        .expect("a short message");
    bytes
}
