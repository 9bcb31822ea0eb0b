//! Suite `kw`, one PKCS#11 operation after the other.
//!
//! The EZ key only derives. Per zone the token derives a wrapping key from it (`CKM_AES_CBC_ENCRYPT_DATA`, PKCS#11 3.1
//! section 6.27.2) over a digest of name, version and zone, so an EDEK opens under exactly those. DEKs are wrapped by AES
//! key wrap (RFC 3394): 32 bytes become 40, and a check of 8 bytes follows that the token computed with the DEK itself when it
//! was minted. A DEK is SENSITIVE in the token while it is minted and re-wrapped, and is readable only when it is unwrapped for
//! a client. The check finds a token that hands out another key's object or reads it wrongly, at no further call: a file that
//! is written under another key than its EDEK holds could never be read again.

use aws_lc_rs::{cmac, digest};
use cryptoki::{
    error::Error,
    mechanism::{Mechanism, MechanismType, ekdf::AesCbcDeriveParams},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
    types::Ulong,
};
use strongroom_proto::{KeyName, KeyVersion, ZoneId};
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    dek::{CHECK_BYTES, Dek},
    derived::DerivedKeys,
    object::SessionObject,
    suite::{OpenError, Spot, Suite, ZoneKey, check_context, context, holding},
};
use crate::token::Kcv;

/// Bytes of a DEK and of every key here: AES-256.
pub(super) const KEY_BYTES: usize = 32;
/// Bytes of a wrapped key: RFC 3394 adds one block of 8.
const KEY_WRAP_BYTES: usize = KEY_BYTES + 8;
/// Bytes of an EDEK.
const EDEK_BYTES: usize = KEY_WRAP_BYTES + CHECK_BYTES;

const WRAP_DOMAIN: &str = "strongroom/kw/v1";
/// What the check of a DEK is computed over.
const CHECK_MESSAGE: &[u8] = b"strongroom/kw-check/v1";

/// The first 8 bytes of AES-CMAC (NIST SP 800-38B) under a DEK over [`CHECK_MESSAGE`].
type Check = [u8; CHECK_BYTES];

/// The suite.
pub(super) struct Kw;

impl Suite for Kw {
    fn mechanisms(&self) -> &'static [MechanismType] {
        &[
            MechanismType::AES_KEY_GEN,
            MechanismType::AES_CBC_ENCRYPT_DATA,
            MechanismType::AES_KEY_WRAP,
            MechanismType::AES_CMAC,
        ]
    }

    fn key_mechanisms(&self) -> &'static [MechanismType] {
        &[MechanismType::AES_CBC_ENCRYPT_DATA]
    }

    fn key_usage(&self) -> &'static [Attribute] {
        &[Attribute::Derive(true)]
    }

    fn key_bits(&self) -> &'static [u32] {
        &[256]
    }

    fn binds_zone(&self) -> bool {
        true
    }

    fn rewraps_inside(&self) -> bool {
        true
    }

    fn has_length(&self, wrapped_bytes: usize) -> bool {
        wrapped_bytes == EDEK_BYTES
    }

    fn has_dek_length(&self, bytes: usize) -> bool {
        bytes == KEY_BYTES
    }

    /// By way of a check key that is derived from the EZ key, which itself can do nothing but derive.
    fn check_value(
        &self,
        session: &Session,
        base: ObjectHandle,
        name: &KeyName,
        version: KeyVersion,
    ) -> Result<Kcv, Error> {
        let context = Context(check_context(name, version));
        let key = derive(session, base, &context, &[Attribute::Sign(true)])?;
        let mac = session.sign(&Mechanism::AesCMac, key.handle(), &[0; 16])?;
        let first = mac.first_chunk::<3>().ok_or(Error::InvalidValue)?;
        Ok(Kcv::from_bytes(*first))
    }

    fn zone_key(&self, session: &Session, derived: &mut DerivedKeys, spot: &Spot<'_>) -> Result<ZoneKey, Error> {
        let context = Context::wrapping(spot.name, spot.version, spot.zone);
        let handle = derived.wrapping_key(session, spot.id, spot.base, context)?;
        Ok(ready(handle))
    }

    fn mint(&self, session: &Session, key: &ZoneKey, count: usize) -> Result<Vec<Vec<u8>>, Error> {
        (0..count).map(|_| mint(session, key.handle)).collect()
    }

    fn open(&self, session: &Session, key: &ZoneKey, wrapped: &[u8]) -> Result<Dek, OpenError> {
        let (wrapped, check) = parse(wrapped)?;
        let first = unwrap_readable(session, key.handle, wrapped)?;
        if check_of(&first) == Some(check) {
            return Ok(first);
        }
        // What the token says again is what the EDEK holds.
        if unwrap_readable(session, key.handle, wrapped)?.equals(&first) {
            Err(OpenError::Unsound)
        } else {
            Err(OpenError::Wrong("an EDEK was unwrapped to two different keys"))
        }
    }

    fn open_afresh(&self, session: &Session, spot: &Spot<'_>, wrapped: &[u8]) -> Result<Dek, OpenError> {
        let context = Context::wrapping(spot.name, spot.version, spot.zone);
        let key = derive_wrapping_key(session, spot.base, &context)?;
        self.open(session, &ready(key.handle()), wrapped)
    }

    fn wrap(&self, session: &Session, to: &ZoneKey, dek: &Dek) -> Result<Vec<u8>, OpenError> {
        let object = bring_in(session, dek)?;
        let again = wrap(session, to.handle, object.handle())?;
        let again = [again.as_slice(), &check_inside(session, &object)?].concat();
        let opened = self.open(session, to, &again);
        holding(again, opened, dek)
    }

    /// The DEK stays in the token. AES key wrap has no random part, so that wrapping twice must give the same bytes.
    fn rewrap(&self, session: &Session, from: &ZoneKey, to: &ZoneKey, wrapped: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (wrapped, check) = parse(wrapped)?;
        let dek = unwrap_sensitive(session, from.handle, wrapped, check)?;
        let again = wrap(session, to.handle, dek.handle())?;
        if wrap(session, to.handle, dek.handle())? == again {
            Ok([again.as_slice(), &check].concat())
        } else {
            Err(OpenError::Wrong("a DEK was wrapped to two different EDEKs"))
        }
    }
}

/// The wrapped key of an EDEK, without its check: all that sealed delivery needs.
pub(super) fn without_check(mut edek: Vec<u8>) -> Vec<u8> {
    edek.truncate(KEY_WRAP_BYTES);
    edek
}

/// The bytes that a key is derived over: a SHA-256 digest of its purpose, key name, version and zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Context([u8; 32]);

impl Context {
    /// For the wrapping key of a zone.
    pub(super) fn wrapping(name: &KeyName, version: KeyVersion, zone: &ZoneId) -> Self {
        let bytes = context(WRAP_DOMAIN, name, version, zone.as_bytes());
        let digest = digest::digest(&digest::SHA256, &bytes);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
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

/// A fresh DEK, wrapped. It exists in the token only, and only during this call.
fn mint(session: &Session, wrapping: ObjectHandle) -> Result<Vec<u8>, Error> {
    let mut template = dek_template(true);
    template.push(Attribute::ValueLen(Ulong::new(KEY_BYTES as u64)));
    let handle = session.generate_key(&Mechanism::AesKeyGen, &template)?;
    let dek = SessionObject::new(session, handle);
    let wrapped = wrap(session, wrapping, dek.handle())?;
    let check = check_inside(session, &dek)?;
    // An EDEK with a wrong check never opens, and the batch's canary says nothing of the others' checks.
    if check_inside(session, &dek)? != check {
        return Err(Error::InvalidValue);
    }
    Ok([wrapped.as_slice(), &check].concat())
}

/// A key for the session's life that wraps DEKs and can itself be wrapped. It exists in the token only.
pub(super) fn transport_key(session: &Session) -> Result<SessionObject<'_>, Error> {
    let mut template = key_template(true, true);
    template.push(Attribute::ValueLen(Ulong::new(KEY_BYTES as u64)));
    grant(&mut template, &[Attribute::Wrap(true)]);
    let handle = session.generate_key(&Mechanism::AesKeyGen, &template)?;
    Ok(SessionObject::new(session, handle))
}

/// Wraps a DEK that is in the token.
pub(super) fn wrap(session: &Session, wrapping: ObjectHandle, dek: ObjectHandle) -> Result<Vec<u8>, Error> {
    let wrapped = session.wrap_key(&Mechanism::AesKeyWrap, wrapping, dek)?;
    if wrapped.len() == KEY_WRAP_BYTES {
        Ok(wrapped)
    } else {
        Err(Error::InvalidValue)
    }
}

/// A DEK that came from another suite as a SENSITIVE object of the session. The binding's own copy is out of reach.
fn bring_in<'s>(session: &'s Session, dek: &Dek) -> Result<SessionObject<'s>, Error> {
    let mut template = dek_template(true);
    template.push(Attribute::Value(dek.bytes().to_vec()));
    let made = session.create_object(&template);
    if let Some(Attribute::Value(value)) = template.last_mut() {
        value.zeroize();
    }
    Ok(SessionObject::new(session, made?))
}

/// Splits an EDEK.
fn parse(edek: &[u8]) -> Result<(&[u8], Check), OpenError> {
    match edek.split_last_chunk::<CHECK_BYTES>() {
        Some((wrapped, check)) if wrapped.len() == KEY_WRAP_BYTES => Ok((wrapped, *check)),
        _ => Err(OpenError::Unsound),
    }
}

/// Unwraps a DEK to an object whose value nobody can read, and sees that it is the one with that check.
fn unwrap_sensitive<'s>(
    session: &'s Session,
    wrapping: ObjectHandle,
    wrapped: &[u8],
    check: Check,
) -> Result<SessionObject<'s>, OpenError> {
    let first = unwrap(session, wrapping, wrapped, true)?;
    let found = check_inside(session, &first)?;
    if found == check {
        return Ok(first);
    }
    let second = unwrap(session, wrapping, wrapped, true)?;
    if check_inside(session, &second)? == found {
        Err(OpenError::Unsound)
    } else {
        Err(OpenError::Wrong("an EDEK was unwrapped to two different keys"))
    }
}

/// Unwraps a DEK and reads it. The binding's own intermediate buffer is out of reach and not zeroed.
fn unwrap_readable(session: &Session, wrapping: ObjectHandle, wrapped: &[u8]) -> Result<Dek, OpenError> {
    let object = unwrap(session, wrapping, wrapped, false)?;
    match session.get_attributes(object.handle(), &[AttributeType::Value])?.pop() {
        Some(Attribute::Value(value)) => Ok(Dek::new(Zeroizing::new(value))),
        _ => Err(OpenError::Token(Error::InvalidValue)),
    }
}

/// Unwraps a DEK to a private session object.
fn unwrap<'s>(
    session: &'s Session,
    wrapping: ObjectHandle,
    wrapped: &[u8],
    sensitive: bool,
) -> Result<SessionObject<'s>, OpenError> {
    let handle = session
        .unwrap_key(&Mechanism::AesKeyWrap, wrapping, wrapped, &dek_template(sensitive))
        .map_err(OpenError::Refused)?;
    Ok(SessionObject::new(session, handle))
}

/// The check of a DEK in the token.
fn check_inside(session: &Session, dek: &SessionObject<'_>) -> Result<Check, Error> {
    let mac = session.sign(&Mechanism::AesCMac, dek.handle(), CHECK_MESSAGE)?;
    mac.first_chunk().copied().ok_or(Error::InvalidValue)
}

/// The check of a DEK that was read; none if it is no AES-256 key.
fn check_of(dek: &Dek) -> Option<Check> {
    let key = cmac::Key::new(cmac::AES_256, dek.bytes()).ok()?;
    let mac = cmac::sign(&key, CHECK_MESSAGE).ok()?;
    mac.as_ref().first_chunk().copied()
}

/// A key of the token as one that DEKs are wrapped with.
pub(super) const fn ready(handle: ObjectHandle) -> ZoneKey {
    ZoneKey {
        handle,
        bound: Vec::new(),
        key_bytes: KEY_BYTES,
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
    grant(&mut template, usage);
    let handle = session.derive_key(&mechanism, base, &template)?;
    Ok(SessionObject::new(session, handle))
}

/// A DEK as a private session object that lives for one operation. What it may be used for is left to the token, but for its
/// check: every attribute that is set costs time, and nobody else can reach the object.
fn dek_template(sensitive: bool) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(sensitive),
        Attribute::Extractable(true),
        Attribute::Sign(true),
    ]
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

/// Puts what a key may be used for in the place of the prohibitions.
fn grant(template: &mut Vec<Attribute>, usage: &[Attribute]) {
    template.retain(|attribute| {
        usage
            .iter()
            .all(|used| used.attribute_type() != attribute.attribute_type())
    });
    template.extend_from_slice(usage);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_contexts_are_digests_of_the_documented_bytes() {
        let (name, zone) = (
            "payroll".parse::<KeyName>().expect("valid"),
            ZoneId::from_bytes([7; 16]),
        );
        let mut bytes = b"strongroom/kw/v1\0\0\x07payroll\0\0\x01\x02".to_vec();
        bytes.extend([7; 16]);
        let expected = digest::digest(&digest::SHA256, &bytes);
        let context = Context::wrapping(&name, KeyVersion(0x0102), &zone);
        assert_eq!(context.0.as_slice(), expected.as_ref());
    }
}
