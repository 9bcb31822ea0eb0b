//! Private keys: made, read and written, and never shown.

use std::{fmt, fs, io, path::Path};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{PkiError, file};

/// A private key, wiped when dropped.
pub struct PrivateKey(KeyPair);

impl PrivateKey {
    /// A new ECDSA P-256 key.
    ///
    /// # Errors
    ///
    /// [`PkiError::Generate`] without random numbers.
    pub fn generate() -> Result<Self, PkiError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(|source| PkiError::Generate { source })
    }

    /// A key from PEM (PKCS#8, RFC 5958).
    ///
    /// # Errors
    ///
    /// [`PkiError::Key`] for anything else.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        KeyPair::from_pem(pem)
            .map(Self)
            .map_err(|source| PkiError::Key { source })
    }

    /// The key in the file at `path`. If there is no such file, it is made, with a new key.
    ///
    /// # Errors
    ///
    /// [`PkiError::KeyFile`] if the file holds anything else, [`PkiError::File`] if it cannot be read or made,
    /// [`PkiError::Generate`] without random numbers.
    pub fn open_or_make(path: &Path) -> Result<Self, PkiError> {
        match fs::read_to_string(path).map(Zeroizing::new) {
            Ok(pem) => KeyPair::from_pem(&pem).map(Self).map_err(|source| PkiError::KeyFile {
                path: path.to_owned(),
                source,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate()?;
                key.write(path)?;
                Ok(key)
            }
            Err(error) => Err(PkiError::file("cannot read", path)(error)),
        }
    }

    /// Writes the key as PEM (PKCS#8) to a file of mode 0600, atomically and durably.
    ///
    /// # Errors
    ///
    /// [`PkiError::File`].
    pub fn write(&self, path: &Path) -> Result<(), PkiError> {
        file::write(path, &Zeroizing::new(self.0.serialize_pem()), file::OWNER)
    }

    pub(crate) const fn pair(&self) -> &KeyPair {
        &self.0
    }

    /// The public half, as a certificate holds it (SubjectPublicKeyInfo, RFC 5280 section 4.1, DER).
    pub(crate) fn public(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}
