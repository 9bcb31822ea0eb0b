use std::fmt;

use strongroom_proto::{Failure, Reason};
use zeroize::Zeroizing;

/// A data encryption key: 16, 24 or 32 bytes that can be neither copied nor printed and are overwritten when dropped.
///
/// Suites `kw` and `gcm` make DEKs of 32 bytes, `hadoop` those of its EZ key's length.
pub struct Dek(Zeroizing<Vec<u8>>);

impl Dek {
    /// Copies the key out of an answer into memory of its own. The connection's receive buffer, of which the
    /// answer is a part, is not this type's to clear.
    pub(crate) fn from_wire(bytes: &[u8]) -> Result<Self, Failure> {
        if !matches!(bytes.len(), 16 | 24 | 32) {
            return Err(Failure::new(
                Reason::Internal,
                format!(
                    "the key service answered with a DEK of {} bytes, not 16, 24 or 32",
                    bytes.len()
                ),
            ));
        }
        Ok(Self(Zeroizing::new(bytes.to_vec())))
    }

    /// The key itself. It leaves this type here and in [`Dek::expose_256`] only.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The key itself, for ciphers that take 32 bytes.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`] if it is shorter.
    pub fn expose_256(&self) -> Result<&[u8; 32], Failure> {
        self.0.as_slice().try_into().map_err(|_| {
            Failure::new(
                Reason::InvalidArgument,
                format!(
                    "the DEK has {} bytes and 32 are needed; use an EZ key of 256 bits",
                    self.0.len()
                ),
            )
        })
    }
}

impl fmt::Debug for Dek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dek(withheld)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dek_has_the_length_of_an_aes_key_and_does_not_show() {
        for length in [16, 24, 32] {
            let dek = Dek::from_wire(&vec![0x5a; length]).expect("an AES key's length");
            assert_eq!(dek.expose(), vec![0x5a; length]);
            assert_eq!(dek.expose_256().is_ok(), length == 32);
            assert_eq!(format!("{dek:?}"), "Dek(withheld)");
        }
        for length in [0, 15, 17, 31, 33, 64] {
            assert_eq!(
                Dek::from_wire(&vec![1; length]).expect_err("not a DEK").reason,
                Reason::Internal
            );
        }
    }
}
