//! Suite `kw`, one PKCS#11 operation after the other.
//!
//! The EZ key only derives. Per zone the token derives a wrapping key from it (`CKM_AES_CBC_ENCRYPT_DATA`, PKCS#11 3.1
//! section 6.27.2) over a digest of name, version and zone, so an EDEK opens under exactly those. DEKs are wrapped by AES
//! key wrap (RFC 3394): 32 bytes become 40. A DEK is SENSITIVE in the token while it is minted and re-wrapped, and is
//! readable only when it is unwrapped for a client.

use aws_lc_rs::digest;
use cryptoki::{
    error::Error,
    mechanism::{Mechanism, MechanismType, ekdf::AesCbcDeriveParams},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
    types::Ulong,
};
use strongroom_proto::{KeyName, KeyVersion, ZoneId};
use zeroize::Zeroizing;

use super::object::SessionObject;
use crate::token::Kcv;

/// Bytes of a DEK and of every key here: AES-256.
pub(super) const KEY_BYTES: usize = 32;
/// Bytes of an EDEK: RFC 3394 adds one block of 8.
pub(super) const WRAPPED_BYTES: usize = KEY_BYTES + 8;

/// What the token must offer for this suite.
pub(super) const MECHANISMS: [MechanismType; 4] = [
    MechanismType::AES_KEY_GEN,
    MechanismType::AES_CBC_ENCRYPT_DATA,
    MechanismType::AES_KEY_WRAP,
    MechanismType::AES_CMAC,
];

const WRAP_DOMAIN: &str = "strongroom/kw/v1";
const CHECK_DOMAIN: &str = "strongroom/kcv/v1";

/// The bytes that a key is derived over: a SHA-256 digest of its purpose, key name, version and zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Context([u8; 32]);

impl Context {
    /// For the wrapping key of a zone.
    pub(super) fn wrapping(name: &KeyName, version: KeyVersion, zone: &ZoneId) -> Self {
        Self::digest(WRAP_DOMAIN, name, version, zone.as_bytes())
    }

    /// For the check key of a key version.
    pub(super) fn check(name: &KeyName, version: KeyVersion) -> Self {
        Self::digest(CHECK_DOMAIN, name, version, &[])
    }

    fn digest(domain: &str, name: &KeyName, version: KeyVersion, zone: &[u8]) -> Self {
        let name = name.as_str().as_bytes();
        let mut digest = digest::Context::new(&digest::SHA256);
        digest.update(domain.as_bytes());
        digest.update(&[0]);
        let length = u16::try_from(name.len()).expect("a key name has at most 128 bytes");
        digest.update(&length.to_be_bytes());
        digest.update(name);
        digest.update(&version.0.to_be_bytes());
        digest.update(zone);
        let digest = digest.finish();
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// A DEK in the clear. Zeroed when dropped.
pub(super) struct Dek(Zeroizing<Vec<u8>>);

impl Dek {
    /// For the answer to an unwrap call, and for nothing else.
    pub(super) fn into_wire(self) -> Zeroizing<Vec<u8>> {
        self.0
    }

    /// Whether two DEKs are equal, in time that does not depend on where they differ.
    pub(super) fn equals(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl std::fmt::Debug for Dek {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dek(withheld)")
    }
}

/// Derives a zone's wrapping key from an EZ key.
pub(super) fn derive_wrapping_key<'s>(
    session: &'s Session,
    base: ObjectHandle,
    context: &Context,
) -> Result<SessionObject<'s>, Error> {
    derive(
        session,
        base,
        context,
        &[Attribute::Wrap(true), Attribute::Unwrap(true)],
    )
}

/// The key check value of an EZ key.
pub(super) fn key_check_value(
    session: &Session,
    base: ObjectHandle,
    name: &KeyName,
    version: KeyVersion,
) -> Result<Kcv, Error> {
    let context = Context::check(name, version);
    let key = derive(session, base, &context, &[Attribute::Sign(true)])?;
    let mac = session.sign(&Mechanism::AesCMac, key.handle(), &[0; 16])?;
    let first = mac.first_chunk::<3>().ok_or(Error::InvalidValue)?;
    Ok(Kcv::from_bytes(*first))
}

/// A fresh DEK, wrapped. It exists in the token only, and only during this call.
pub(super) fn mint(session: &Session, wrapping: ObjectHandle) -> Result<Vec<u8>, Error> {
    let mut template = key_template(true, true);
    template.push(Attribute::ValueLen(Ulong::new(KEY_BYTES as u64)));
    let handle = session.generate_key(&Mechanism::AesKeyGen, &template)?;
    let dek = SessionObject::new(session, handle);
    wrap(session, wrapping, dek.handle())
}

/// Wraps a DEK that is in the token.
pub(super) fn wrap(session: &Session, wrapping: ObjectHandle, dek: ObjectHandle) -> Result<Vec<u8>, Error> {
    let wrapped = session.wrap_key(&Mechanism::AesKeyWrap, wrapping, dek)?;
    if wrapped.len() == WRAPPED_BYTES {
        Ok(wrapped)
    } else {
        Err(Error::InvalidValue)
    }
}

/// Unwraps an EDEK to an object whose value nobody can read.
pub(super) fn unwrap_sensitive<'s>(
    session: &'s Session,
    wrapping: ObjectHandle,
    wrapped: &[u8],
) -> Result<SessionObject<'s>, Error> {
    unwrap(session, wrapping, wrapped, true)
}

/// Unwraps an EDEK to an object whose value [`read`] can take.
pub(super) fn unwrap_readable<'s>(
    session: &'s Session,
    wrapping: ObjectHandle,
    wrapped: &[u8],
) -> Result<SessionObject<'s>, Error> {
    unwrap(session, wrapping, wrapped, false)
}

/// The value of a readable DEK. The binding's own intermediate buffer is out of reach and not zeroed.
pub(super) fn read(session: &Session, dek: &SessionObject<'_>) -> Result<Dek, Error> {
    let mut attributes = session.get_attributes(dek.handle(), &[AttributeType::Value])?;
    match attributes.pop() {
        Some(Attribute::Value(value)) => {
            let dek = Dek(Zeroizing::new(value));
            if dek.0.len() == KEY_BYTES {
                Ok(dek)
            } else {
                Err(Error::InvalidValue)
            }
        }
        _ => Err(Error::InvalidValue),
    }
}

fn derive<'s>(
    session: &'s Session,
    base: ObjectHandle,
    context: &Context,
    usage: &[Attribute],
) -> Result<SessionObject<'s>, Error> {
    let mechanism = Mechanism::AesCbcEncryptData(AesCbcDeriveParams::new([0; 16], &context.0));
    let mut template = key_template(true, false);
    template.push(Attribute::ValueLen(Ulong::new(KEY_BYTES as u64)));
    template.retain(|attribute| {
        usage
            .iter()
            .all(|used| used.attribute_type() != attribute.attribute_type())
    });
    template.extend_from_slice(usage);
    let handle = session.derive_key(&mechanism, base, &template)?;
    Ok(SessionObject::new(session, handle))
}

fn unwrap<'s>(
    session: &'s Session,
    wrapping: ObjectHandle,
    wrapped: &[u8],
    sensitive: bool,
) -> Result<SessionObject<'s>, Error> {
    let template = key_template(sensitive, true);
    let handle = session.unwrap_key(&Mechanism::AesKeyWrap, wrapping, wrapped, &template)?;
    Ok(SessionObject::new(session, handle))
}

/// An AES key as a private session object that can be used for nothing.
fn key_template(sensitive: bool, extractable: bool) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(sensitive),
        Attribute::Extractable(extractable),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_digests_of_the_documented_bytes() {
        let (name, zone) = (
            "payroll".parse::<KeyName>().expect("valid"),
            ZoneId::from_bytes([7; 16]),
        );
        let mut bytes = b"strongroom/kw/v1\0\0\x07payroll\0\0\x01\x02".to_vec();
        bytes.extend([7; 16]);
        let expected = digest::digest(&digest::SHA256, &bytes);
        let context = Context::wrapping(&name, KeyVersion(0x0102), &zone);
        assert_eq!(context.0.as_slice(), expected.as_ref());

        let expected = digest::digest(&digest::SHA256, b"strongroom/kcv/v1\0\0\x07payroll\0\0\x01\x02");
        assert_eq!(
            Context::check(&name, KeyVersion(0x0102)).0.as_slice(),
            expected.as_ref()
        );
    }

    #[test]
    fn a_dek_does_not_show() {
        let dek = Dek(Zeroizing::new(vec![0xa5; KEY_BYTES]));
        assert_eq!(format!("{dek:?}"), "Dek(withheld)");
    }
}
