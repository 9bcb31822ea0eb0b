//! The key pair under which clones travel to a token, as both ends see it.
//!
//! Each token that is to receive clones has an RSA key pair of its own. Its private half is PRIVATE, can unwrap and nothing
//! else, and makes what it unwraps SENSITIVE and wrappable under trusted keys only (`CKA_UNWRAP_TEMPLATE`). Its public
//! half is installed in every other token by the security officer as `CKA_TRUSTED`, and can wrap and nothing else. So a
//! clone in transit can be opened by its destination only, and never as a readable object.

use std::{ffi::c_ulong, fmt};

use aws_lc_rs::digest::{Context, SHA256};
use cryptoki::{
    mechanism::{
        Mechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass},
};

/// Size of the key pair in bits; NIST SP 800-57 rates it as strong as 128 bits until 2031 and beyond.
pub(super) const MODULUS_BITS: u64 = 3072;
/// Label of a token's own pair, both halves.
pub(super) const OWN_LABEL: &str = "strongroom:clone-key:1";
/// Labels of other tokens' public halves start so; the fingerprint follows.
const PEER_PREFIX: &str = "strongroom:clone-to:1:";
/// `CKA_UNWRAP_TEMPLATE` (PKCS#11 3.1, section 4.10), which the binding does not know by name.
const CKA_UNWRAP_TEMPLATE: u64 = 0x4000_0212;
const DOMAIN: &[u8] = b"strongroom/clone-key/v1\0";

/// The public half of a token's clone key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClonePublicKey {
    /// Big-endian, without leading zeros.
    pub modulus: Vec<u8>,
    /// Big-endian, without leading zeros.
    pub exponent: Vec<u8>,
}

/// What officers compare: SHA-256 of `strongroom/clone-key/v1`, a zero byte, and modulus and exponent, each after its
/// length as a 16-bit big-endian number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl ClonePublicKey {
    /// The key without leading zeros, which some tokens give and others do not.
    pub(super) fn new(modulus: &[u8], exponent: &[u8]) -> Self {
        Self {
            modulus: trimmed(modulus),
            exponent: trimmed(exponent),
        }
    }

    /// Modulus and exponent in hexadecimal with a blank between, as one process hands them to another.
    pub(super) fn to_line(&self) -> String {
        format!("{} {}", hex::encode(&self.modulus), hex::encode(&self.exponent))
    }

    /// What [`Self::to_line`] gives.
    pub(super) fn from_line(line: &str) -> Option<Self> {
        let (modulus, exponent) = line.trim_end().split_once(' ')?;
        Some(Self::new(&hex::decode(modulus).ok()?, &hex::decode(exponent).ok()?))
    }

    /// What officers compare.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut digest = Context::new(&SHA256);
        digest.update(DOMAIN);
        for part in [&self.modulus, &self.exponent] {
            let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
            digest.update(&length.to_be_bytes());
            digest.update(part);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.finish().as_ref());
        Fingerprint(bytes)
    }

    /// Label of the object that stands for this key in another token.
    pub(super) fn peer_label(&self) -> String {
        format!("{PEER_PREFIX}{}", hex::encode(self.fingerprint().0))
    }

    /// What the security officer of another token makes of it.
    pub(super) fn peer_template(&self) -> Vec<Attribute> {
        let mut template = self.peer_attributes();
        template.push(Attribute::Label(self.peer_label().into_bytes()));
        template.push(Attribute::Id(self.fingerprint().0[..16].to_vec()));
        template
    }

    /// What the object in another token must be.
    pub(super) fn peer_attributes(&self) -> Vec<Attribute> {
        vec![
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(KeyType::RSA),
            Attribute::Token(true),
            // Only a security officer's session can say TRUSTED, and it sees no private objects.
            Attribute::Private(false),
            Attribute::Modifiable(false),
            Attribute::Trusted(true),
            Attribute::Wrap(true),
            Attribute::Encrypt(false),
            Attribute::Verify(false),
            Attribute::Modulus(self.modulus.clone()),
            Attribute::PublicExponent(self.exponent.clone()),
        ]
    }
}

impl fmt::Display for Fingerprint {
    /// In groups of four digits, to be read aloud.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, pair) in self.0.chunks(2).enumerate() {
            let blank = if place == 0 { "" } else { " " };
            write!(f, "{blank}{}", hex::encode(pair))?;
        }
        Ok(())
    }
}

/// How clones are wrapped: RSA-OAEP (RFC 8017) with SHA-1, the one hash that every token offers. OAEP needs of it no
/// resistance to collisions.
pub(super) fn mechanism() -> Mechanism<'static> {
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(
        MechanismType::SHA1,
        PkcsMgfType::MGF1_SHA1,
        PkcsOaepSource::empty(),
    ))
}

/// What the private half must be.
pub(super) fn private_attributes() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(KeyType::RSA),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Modifiable(false),
        // A copy may be given another use, and on some tokens no template that it imposes.
        Attribute::Copyable(false),
        Attribute::Unwrap(true),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Derive(false),
    ]
}

/// The public half's template in the token that the pair is made in, where it serves for reading the key only.
pub(super) fn public_template() -> Vec<Attribute> {
    vec![
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Modifiable(false),
        Attribute::ModulusBits(MODULUS_BITS.into()),
        Attribute::PublicExponent(vec![1, 0, 1]),
        Attribute::Wrap(false),
        Attribute::Encrypt(false),
        Attribute::Verify(false),
        Attribute::Label(OWN_LABEL.as_bytes().to_vec()),
    ]
}

/// The template that a private half imposes on all it unwraps, in the form in which PKCS#11 takes it: an array of
/// `CK_ATTRIBUTE`, which point to their values.
pub(super) struct UnwrapTemplate {
    // The array points here, so this must live as long as the attribute is used.
    values: Box<[u8; 1]>,
}

impl UnwrapTemplate {
    pub(super) fn new() -> Self {
        Self { values: Box::new([1]) }
    }

    /// The attribute. The library reads the array during the call that it is passed to, and no longer.
    pub(super) fn attribute(&self) -> Attribute {
        let mut array = Vec::new();
        for kind in [
            AttributeType::Sensitive,
            AttributeType::Private,
            AttributeType::WrapWithTrusted,
        ] {
            let kind: c_ulong = kind.into();
            array.extend(kind.to_ne_bytes());
            array.extend(self.values.as_ptr().expose_provenance().to_ne_bytes());
            array.extend(c_ulong::try_from(self.values.len()).unwrap_or(1).to_ne_bytes());
        }
        Attribute::VendorDefined((AttributeType::VendorDefined(CKA_UNWRAP_TEMPLATE), array))
    }
}

fn trimmed(number: &[u8]) -> Vec<u8> {
    let start = number.iter().position(|&byte| byte != 0).unwrap_or(number.len());
    number[start..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_do_not_depend_on_leading_zeros_and_are_read_in_groups() {
        let key = ClonePublicKey::new(&[0, 0, 0xc5, 1], &[1, 0, 1]);
        assert_eq!(key, ClonePublicKey::new(&[0xc5, 1], &[0, 1, 0, 1]));
        let other = ClonePublicKey::new(&[0xc5, 1, 1], &[0, 1]);
        assert_ne!(key.fingerprint(), other.fingerprint());
        let text = key.fingerprint().to_string();
        assert_eq!(text.split(' ').map(str::len).collect::<Vec<_>>(), [4; 16]);
        let line = key.to_line();
        assert_eq!(ClonePublicKey::from_line(&line), Some(key));
        assert_eq!(ClonePublicKey::from_line("c501"), None);
    }
}
