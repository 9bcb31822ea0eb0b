use x509_parser::{prelude::FromDer as _, public_key::PublicKey, x509::SubjectPublicKeyInfo};

use crate::{Failure, signed::malformed};

/// Bits of a recipient's RSA modulus.
const MODULUS_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// The one public exponent (FIPS 186-5, appendix A.1.1 allows greater ones; nobody makes them).
const EXPONENT: [u8; 3] = [1, 0, 1];
/// Bytes of an encoded key: RSA-4096 has 550.
const DER_BYTES_MAX: usize = 600;

/// The RSA public key that DEKs are sealed to: 2048 to 4096 bits, exponent 65537.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecipientKey {
    der: Vec<u8>,
    modulus: Vec<u8>,
}

impl RecipientKey {
    /// Reads a SubjectPublicKeyInfo (RFC 5280, 4.1) in DER.
    ///
    /// # Errors
    /// If it is no such key.
    pub fn from_der(der: &[u8]) -> Result<Self, Failure> {
        let bad = || malformed("a public key that is not RSA of 2048 to 4096 bits with exponent 65537");
        if der.len() > DER_BYTES_MAX {
            return Err(bad());
        }
        let (rest, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| bad())?;
        let Ok(PublicKey::RSA(key)) = info.parsed() else {
            return Err(bad());
        };
        let modulus = trimmed(key.modulus);
        let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if rest.is_empty() && MODULUS_BITS.contains(&bits) && trimmed(key.exponent) == EXPONENT {
            Ok(Self {
                der: der.to_vec(),
                modulus: modulus.to_vec(),
            })
        } else {
            Err(bad())
        }
    }

    /// The SubjectPublicKeyInfo.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The modulus, big-endian, without leading zeros.
    #[must_use]
    pub fn modulus(&self) -> &[u8] {
        &self.modulus
    }

    /// The public exponent, big-endian.
    #[must_use]
    pub const fn exponent(&self) -> &[u8] {
        &EXPONENT
    }
}

/// Without the zero that DER puts before a number whose first bit is set.
fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    &number[zeros..]
}
