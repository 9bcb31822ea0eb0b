use std::fmt;

use strongroom_proto::{Failure, Reason};
use zeroize::Zeroizing;

/// A data encryption key: 32 bytes that can be neither copied nor printed and are overwritten when dropped.
pub struct Dek(Box<Zeroizing<[u8; 32]>>);

impl Dek {
    /// Copies the key out of an answer into memory of its own. The connection's receive buffer, of which the
    /// answer is a part, is not this type's to clear.
    pub(crate) fn from_wire(bytes: &[u8]) -> Result<Self, Failure> {
        let mut dek = Box::new(Zeroizing::new([0; 32]));
        if bytes.len() != dek.len() {
            return Err(Failure::new(
                Reason::Internal,
                format!("the key service answered with a DEK of {} bytes, not 32", bytes.len()),
            ));
        }
        dek.copy_from_slice(bytes);
        Ok(Self(dek))
    }

    /// The key itself: the one place where it leaves this type.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
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
    fn a_dek_has_32_bytes_and_does_not_show() {
        let dek = Dek::from_wire(&[0x5a; 32]).expect("32 bytes");
        assert_eq!(dek.expose(), &[0x5a; 32]);
        assert_eq!(format!("{dek:?}"), "Dek(withheld)");
        for length in [0, 16, 31, 33] {
            assert_eq!(
                Dek::from_wire(&vec![1; length]).expect_err("not a DEK").reason,
                Reason::Internal
            );
        }
    }
}
