use std::fmt;

/// A key for AES-CTR, borrowed from its owner until it is expanded. This type never holds a copy; the owner wipes the
/// bytes.
#[derive(Clone, Copy)]
pub enum CtrKey<'k> {
    /// 16 bytes: AES-128.
    Aes128(&'k [u8; 16]),
    /// 32 bytes: AES-256.
    Aes256(&'k [u8; 32]),
}

impl<'k> CtrKey<'k> {
    pub(crate) const fn bytes(self) -> &'k [u8] {
        match self {
            Self::Aes128(key) => key,
            Self::Aes256(key) => key,
        }
    }
}

/// A key that is neither of AES-128 nor of AES-256. Says nothing of the key but its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key of {bytes} bytes is for neither AES-128 (16 bytes) nor AES-256 (32 bytes)")]
pub struct CtrKeyLengthError {
    /// Bytes of the key.
    pub bytes: usize,
}

impl<'k> TryFrom<&'k [u8]> for CtrKey<'k> {
    type Error = CtrKeyLengthError;

    fn try_from(key: &'k [u8]) -> Result<Self, CtrKeyLengthError> {
        if let Ok(key) = key.try_into() {
            Ok(Self::Aes128(key))
        } else if let Ok(key) = key.try_into() {
            Ok(Self::Aes256(key))
        } else {
            Err(CtrKeyLengthError { bytes: key.len() })
        }
    }
}

impl fmt::Debug for CtrKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes128(_) => "CtrKey::Aes128(withheld)",
            Self::Aes256(_) => "CtrKey::Aes256(withheld)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_says_which_aes() {
        assert!(matches!(CtrKey::try_from([0; 16].as_slice()), Ok(CtrKey::Aes128(_))));
        assert!(matches!(CtrKey::try_from([0; 32].as_slice()), Ok(CtrKey::Aes256(_))));
        for bytes in [0, 15, 17, 24, 31, 33] {
            let error = CtrKey::try_from(vec![0; bytes].as_slice()).expect_err("no such AES-CTR key");
            assert_eq!(error, CtrKeyLengthError { bytes });
        }
        assert_eq!(format!("{:?}", CtrKey::Aes128(&[7; 16])), "CtrKey::Aes128(withheld)");
    }
}
