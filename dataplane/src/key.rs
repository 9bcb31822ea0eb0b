use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

use crate::{CtrKey, CtrKeyLengthError};

/// A file's data encryption key of 16 or 32 bytes, borrowed from its owner for as long as keys are derived from it. This
/// type never holds a copy; the owner wipes the bytes.
pub struct DataKey<'k>(CtrKey<'k>);

impl<'k> DataKey<'k> {
    /// The DEK of 32 bytes whose bytes these are.
    #[must_use]
    pub const fn new(bytes: &'k [u8; 32]) -> Self {
        Self(CtrKey::Aes256(bytes))
    }

    /// The same bytes as a key for AES-CTR.
    pub(crate) const fn cipher_key(&self) -> CtrKey<'k> {
        self.0
    }

    /// HKDF-SHA-256 (RFC 5869): 32 bytes for one purpose. `context` has a fixed length per purpose, so that
    /// two pairs of context and file never give the same `info`.
    pub(crate) fn derive(&self, salt: &[u8], context: &[u8], file: &[u8; 16]) -> Derived {
        let mut derived = Derived(Zeroizing::new([0; 32]));
        Salt::new(HKDF_SHA256, salt)
            .extract(self.0.bytes())
            .expand(&[context, file], DerivedLength)
            .and_then(|okm| okm.fill(derived.0.as_mut_slice()))
            .expect("HKDF-SHA-256 gives 32 bytes for any input");
        derived
    }
}

impl<'k> TryFrom<&'k [u8]> for DataKey<'k> {
    type Error = CtrKeyLengthError;

    fn try_from(bytes: &'k [u8]) -> Result<Self, CtrKeyLengthError> {
        bytes.try_into().map(Self)
    }
}

impl fmt::Debug for DataKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(withheld)")
    }
}

/// A derived key on its way into an engine; wiped when dropped.
pub(crate) struct Derived(Zeroizing<[u8; 32]>);

impl Derived {
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

struct DerivedLength;

impl KeyType for DerivedLength {
    fn len(&self) -> usize {
        32
    }
}

#[cfg(test)]
mod tests {
    use zeroize::ZeroizeOnDrop;

    use super::*;

    /// The two keys that `docs/formats/data-gcm.md` gives, made by another implementation.
    #[test]
    fn derived_keys_are_as_documented() {
        let document = include_str!("../../docs/formats/data-gcm.md");
        let (dek, file) = (
            std::array::from_fn(|i| i as u8),
            std::array::from_fn(|i| 0x40 + i as u8),
        );
        let salt: [u8; 16] = std::array::from_fn(|i| 0x80 + i as u8);
        let purposes: [(&[u8], &[u8], &str); 2] = [
            (&salt, b"strongroom/extent/gcm/v1", "The extent key is `"),
            (&[], b"strongroom/manifest/v1", "the manifest key\n`"),
        ];
        for (salt, context, before) in purposes {
            let (_, rest) = document.split_once(before).expect("the document has it");
            let derived = DataKey::new(&dek).derive(salt, context, &file);
            assert_eq!(hex::encode(derived.expose()), rest[..64], "{before}");
        }
    }

    #[test]
    fn derived_bytes_are_wiped_by_their_type_and_debug_shows_nothing() {
        fn wiped_on_drop<T: ZeroizeOnDrop>(_: &T) {}
        let dek = [0x5a; 32];
        let derived = DataKey::new(&dek).derive(b"salt", b"context", &[1; 16]);
        wiped_on_drop(&derived.0);
        assert_eq!(format!("{:?}", DataKey::new(&dek)), "DataKey(withheld)");
    }
}
