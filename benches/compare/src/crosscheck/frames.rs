//! Frames as `docs/formats/data-gcm.md` has them, made and opened by others: keys by ring's HKDF, AES-GCM by OpenSSL.

use openssl::symm::{self, Cipher};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use strongroom_dataplane::{DataKey, ExtentKey, Geometry, Seed, Suite};

use super::Random;

const ROUNDS: usize = 60;
const TAG: usize = 16;

/// A random extent's block and all that its frames are bound to.
struct Block {
    file: [u8; 16],
    salt: [u8; 16],
    frame: usize,
    index: u32,
    last: bool,
    plain: Vec<u8>,
    key: ExtentKey,
    their_key: [u8; 32],
}

/// # Panics
/// If others do not open what ours sealed, or ours does not open what others sealed.
pub(super) fn all(random: &mut Random) {
    for _ in 0..ROUNDS {
        let block = Block::random(random);
        let ours = block.sealed_by_ours();
        let theirs = block.sealed_by_openssl();
        assert!(ours == theirs, "{}", block.describe());
        block.open_by_openssl(&ours);
        block.open_by_ours(&theirs);
    }
}

impl Block {
    fn random(random: &mut Random) -> Self {
        let (mut dek, mut file, mut salt) = ([0; 32], [0; 16], [0; 16]);
        random.fill(&mut dek);
        random.fill(&mut file);
        random.fill(&mut salt);
        let frame = 4096 << random.below(9);
        let last = random.below(2) == 0;
        let length = if last {
            1 + random.below(3 * frame as u64) as usize
        } else {
            3 * frame
        };
        let mut plain = vec![0; length];
        random.fill(&mut plain);
        let geometry = Geometry::new(Suite::Gcm, frame as u32, 3 * frame as u32).expect("a valid geometry");
        Self {
            file,
            salt,
            frame,
            index: random.below(1 << 30) as u32,
            last,
            plain,
            key: ExtentKey::derive(&DataKey::new(&dek), &file, Seed::Salt(salt), geometry).expect("a DEK and a salt"),
            their_key: extent_key(&dek, &file, &salt),
        }
    }

    fn describe(&self) -> String {
        let (frame, bytes, index) = (self.frame, self.plain.len(), self.index);
        format!("block {index} of {bytes} bytes in frames of {frame}")
    }

    fn sealed_by_ours(&self) -> Vec<u8> {
        let frames = self.plain.chunks(self.frame);
        let mut block: Vec<u8> = frames.flat_map(|frame| [frame, &[0; TAG]].concat()).collect();
        self.key.seal_block(self.index, self.last, &mut block).expect("a block");
        block
    }

    fn sealed_by_openssl(&self) -> Vec<u8> {
        let frames = self.plain.chunks(self.frame).enumerate();
        let seal = |(i, frame): (usize, &[u8])| {
            let (nonce, additional) = self.bound_to(i);
            let mut tag = [0; TAG];
            let cipher = Cipher::aes_256_gcm();
            let text = symm::encrypt_aead(cipher, &self.their_key, Some(&nonce), &additional, frame, &mut tag);
            [text.expect("short enough").as_slice(), &tag].concat()
        };
        frames.flat_map(seal).collect()
    }

    fn open_by_openssl(&self, sealed: &[u8]) {
        let frames = sealed.chunks(self.frame + TAG).zip(self.plain.chunks(self.frame));
        for (i, (sealed, plain)) in frames.enumerate() {
            let (nonce, additional) = self.bound_to(i);
            let (text, tag) = sealed.split_at(sealed.len() - TAG);
            let cipher = Cipher::aes_256_gcm();
            let opened = symm::decrypt_aead(cipher, &self.their_key, Some(&nonce), &additional, text, tag);
            assert!(opened.expect("what ours sealed") == plain, "{}", self.describe());
        }
    }

    fn open_by_ours(&self, sealed: &[u8]) {
        let (first, frame) = (3 * self.index, self.frame as u64);
        let start = u64::from(first) * frame;
        let length = start + self.plain.len() as u64 + if self.last { 0 } else { 1 };
        let mut opened = vec![0; self.plain.len()];
        self.key
            .open_frames(length, first, sealed, &mut opened)
            .expect("what OpenSSL sealed");
        assert!(opened == self.plain, "{}", self.describe());
    }

    /// Nonce and additional data of the block's frame `i`.
    fn bound_to(&self, i: usize) -> ([u8; 12], Vec<u8>) {
        let number = (3 * self.index + i as u32).to_be_bytes();
        let is_last = self.last && (i + 1) * self.frame >= self.plain.len();
        let mut nonce = [0; 12];
        nonce[8..].copy_from_slice(&number);
        let additional = [&[1][..], &self.file, &self.salt, &number, &[u8::from(is_last)]].concat();
        (nonce, additional)
    }
}

fn extent_key(dek: &[u8; 32], file: &[u8; 16], salt: &[u8; 16]) -> [u8; 32] {
    let mut key = [0; 32];
    Salt::new(HKDF_SHA256, salt)
        .extract(dek)
        .expand(&[b"strongroom/extent/gcm/v1", file], Length)
        .and_then(|okm| okm.fill(&mut key))
        .expect("HKDF gives 32 bytes");
    key
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}
