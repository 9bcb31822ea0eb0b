//! Keys that come from elsewhere, and versions that go: the import key, what is unwrapped by it, and the end of a version.
//!
//! The import key is an RSA key pair made in the token. Its private half is a token object, so that what was wrapped to it
//! can be brought in by any worker and after any restart; it only unwraps, and makes what it unwraps SENSITIVE and wrappable
//! under trusted keys only, so that whoever has the PIN and a key in transit cannot read it either. Tokens that do not hold
//! to that take no imports. The public half is answered and not kept.

use cryptoki::{
    error::Error,
    mechanism::{
        Mechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
    types::Ulong,
};
use strongroom_proto::{Failure, Reason};

use super::{
    label::PREFIX,
    object::{SessionObject, destroy},
    remedy::{Refusal, Trouble, while_doing},
    trial::Abilities,
};
use crate::token::{ImportKey, OaepHash, TokenObjectId, clone_key::UnwrapTemplate};

/// Bits of the import key: good for 128 bits of security (NIST SP 800-57 part 1, table 2).
const RSA_BITS: u64 = 3072;
const IMPORT_LABEL: &str = "import";

/// The token's import key, made if there is none or another is asked for, which destroys the one before.
pub(super) fn import_key(session: &Session, abilities: &Abilities, renew: bool) -> Result<ImportKey, Trouble> {
    let hash = hash(abilities)?;
    let doing = "to make an import key";
    let mut found = find(session, None).map_err(while_doing(doing))?;
    if renew || found.is_empty() {
        let made = generate(session).map_err(while_doing(doing))?;
        if !is_confined(session, made, hash).map_err(while_doing("to try its import key"))? {
            destroy(session, made);
            return Err(unconfined().into());
        }
        for handle in std::mem::replace(&mut found, vec![made]) {
            destroy(session, handle);
        }
    }
    let handle = *found.first().ok_or_else(no_import_key)?;
    describe(session, handle, hash).map_err(while_doing("to read an import key"))
}

/// Unwraps an EZ key that was wrapped to the import key `id`.
pub(super) fn unwrap<'s>(
    session: &'s Session,
    abilities: &Abilities,
    id: TokenObjectId,
    wrapped: &[u8],
    template: &[Attribute],
) -> Result<SessionObject<'s>, Trouble> {
    let hash = hash(abilities)?;
    let found = find(session, Some(id)).map_err(while_doing("to find an import key"))?;
    let handle = *found.first().ok_or_else(no_import_key)?;
    let doing = "to import a key";
    let attempt = || session.unwrap_key(&oaep(hash), handle, wrapped, template);
    let key = match attempt() {
        Ok(key) => key,
        Err(error) => {
            if let Refusal::Trouble(_) = Refusal::of(&error) {
                return Err(Trouble::new(doing, &error));
            }
            // As with EDEKs: what was sent is blamed only when it is refused again after the key has opened one of its own.
            opens_its_own(session, handle, hash).map_err(while_doing("to open what it wrapped to its import key"))?;
            attempt().map_err(|error| match Refusal::of(&error) {
                Refusal::Trouble(_) => Trouble::new(doing, &error),
                Refusal::Invalid | Refusal::Unclear => not_wrapped(&error).into(),
            })?
        }
    };
    Ok(SessionObject::new(session, key))
}

/// A throw-away key, wrapped to an import key.
fn wrap_throw_away(session: &Session, private: ObjectHandle, hash: OaepHash) -> Result<Vec<u8>, Error> {
    let public = session.create_object(&public_template(session, private)?)?;
    let public = SessionObject::new(session, public);
    let mut template = throw_away(true, false);
    template.push(Attribute::ValueLen(32.into()));
    let key = SessionObject::new(session, session.generate_key(&Mechanism::AesKeyGen, &template)?);
    session.wrap_key(&oaep(hash), public.handle(), key.handle())
}

fn opens_its_own(session: &Session, private: ObjectHandle, hash: OaepHash) -> Result<(), Error> {
    let wrapped = wrap_throw_away(session, private, hash)?;
    let key = session.unwrap_key(&oaep(hash), private, &wrapped, &throw_away(true, true))?;
    drop(SessionObject::new(session, key));
    Ok(())
}

/// Sees that what the import key unwraps cannot be had readable, or be wrapped again under a key of anybody's making: a token
/// may take the template that says so and ignore it.
fn is_confined(session: &Session, private: ObjectHandle, hash: OaepHash) -> Result<bool, Error> {
    let wrapped = wrap_throw_away(session, private, hash)?;
    let unwraps = |sensitive, trusted_only| {
        let unwrapped = session.unwrap_key(&oaep(hash), private, &wrapped, &throw_away(sensitive, trusted_only));
        unwrapped.map(|key| drop(SessionObject::new(session, key)))
    };
    let confined = [(false, false), (false, true), (true, false)]
        .into_iter()
        .all(|(sensitive, trusted_only)| unwraps(sensitive, trusted_only).is_err());
    unwraps(true, true)?;
    Ok(confined)
}

fn throw_away(sensitive: bool, trusted_only: bool) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Extractable(true),
        Attribute::Sensitive(sensitive),
        Attribute::WrapWithTrusted(trusted_only),
    ]
}

/// The public half, for the session.
fn public_template(session: &Session, private: ObjectHandle) -> Result<Vec<Attribute>, Error> {
    let mut template = vec![
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::RSA),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Wrap(true),
    ];
    template.extend(session.get_attributes(private, &[AttributeType::Modulus, AttributeType::PublicExponent])?);
    Ok(template)
}

fn oaep(hash: OaepHash) -> Mechanism<'static> {
    let (mechanism, mgf) = mechanism_of(hash);
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(mechanism, mgf, PkcsOaepSource::empty()))
}

/// The import keys in the token: normally one.
fn find(session: &Session, id: Option<TokenObjectId>) -> Result<Vec<ObjectHandle>, Error> {
    let mut search = vec![
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::Token(true),
        Attribute::Label(label()),
    ];
    search.extend(id.map(|id| Attribute::Id(id.as_bytes().to_vec())));
    session.find_objects(&search)
}

fn generate(session: &Session) -> Result<ObjectHandle, Error> {
    let id = TokenObjectId::generate();
    let public = [
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::ModulusBits(Ulong::new(RSA_BITS)),
        Attribute::PublicExponent(vec![1, 0, 1]),
        Attribute::Encrypt(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
    ];
    let restriction = UnwrapTemplate::new();
    let private = [
        restriction.attribute(),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Modifiable(false),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Unwrap(true),
        Attribute::AllowedMechanisms(vec![MechanismType::RSA_PKCS_OAEP]),
        Attribute::Label(label()),
        Attribute::Id(id.as_bytes().to_vec()),
    ];
    let (public, private) = session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private)?;
    destroy(session, public);
    Ok(private)
}

fn describe(session: &Session, handle: ObjectHandle, hash: OaepHash) -> Result<ImportKey, Error> {
    let (mut modulus, mut exponent, mut id) = (None, None, None);
    let wanted = [AttributeType::Modulus, AttributeType::PublicExponent, AttributeType::Id];
    for attribute in session.get_attributes(handle, &wanted)? {
        match attribute {
            Attribute::Modulus(bytes) => modulus = Some(bytes),
            Attribute::PublicExponent(bytes) => exponent = Some(bytes),
            Attribute::Id(bytes) => id = <[u8; 16]>::try_from(bytes).ok(),
            _ => {}
        }
    }
    match (modulus, exponent, id) {
        (Some(modulus), Some(exponent), Some(id)) => Ok(ImportKey {
            spki: spki(&modulus, &exponent),
            id: TokenObjectId::from_bytes(id),
            hash,
        }),
        _ => Err(Error::InvalidValue),
    }
}

/// SubjectPublicKeyInfo of an RSA key (RFC 8017, appendix A.1.1, in RFC 5280, section 4.1), DER.
fn spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    /// AlgorithmIdentifier of rsaEncryption, 1.2.840.113549.1.1.1, with NULL.
    const RSA_ENCRYPTION: [u8; 15] = [
        0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    let key = der(0x30, &[integer(modulus), integer(exponent)].concat());
    let bits = der(0x03, &[&[0], key.as_slice()].concat());
    der(0x30, &[RSA_ENCRYPTION.as_slice(), &bits].concat())
}

/// A non-negative INTEGER.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let first = bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len());
    let digits = &bytes[first..];
    let sign: &[u8] = match digits.first() {
        Some(&byte) if byte < 0x80 => &[],
        _ => &[0],
    };
    der(0x02, &[sign, digits].concat())
}

/// Tag, length and content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let first = length
        .iter()
        .position(|&byte| byte != 0)
        .unwrap_or(length.len().saturating_sub(1));
    let short = &length[first..];
    let mut out = vec![tag];
    if content.len() >= 0x80 {
        out.push(0x80 | u8::try_from(short.len()).expect("a length has at most 8 bytes"));
    }
    out.extend_from_slice(short);
    out.extend_from_slice(content);
    out
}

fn hash(abilities: &Abilities) -> Result<OaepHash, Failure> {
    let offered = |hash: &OaepHash| abilities.oaep_hashes.contains(&mechanism_of(*hash).0);
    OaepHash::ALL.into_iter().find(offered).ok_or_else(|| {
        Failure::new(
            Reason::TokenRefused,
            "this token has no RSA-OAEP, so that no key can be brought into it; see: strongroom token inspect",
        )
    })
}

const fn mechanism_of(hash: OaepHash) -> (MechanismType, PkcsMgfType) {
    match hash {
        OaepHash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        OaepHash::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
    }
}

fn label() -> Vec<u8> {
    format!("{PREFIX}{IMPORT_LABEL}").into_bytes()
}

pub(super) fn another_size(key_bits: u32) -> Failure {
    Failure::new(
        Reason::InvalidArgument,
        format!("what was wrapped to the import key is no AES key of {key_bits} bits, as was said"),
    )
}

fn unconfined() -> Failure {
    Failure::new(
        Reason::TokenRefused,
        "the token ignores the unwrap template of its import key, so that a key on its way into it could be made readable \
         in it; no key is brought into this token",
    )
}

fn no_import_key() -> Failure {
    Failure::new(
        Reason::InvalidArgument,
        "the token does not hold that import key (any more); ask for the import key again and wrap the key to it",
    )
}

fn not_wrapped(error: &Error) -> Failure {
    Failure::new(
        Reason::InvalidArgument,
        format!(
            "the token does not open what was sent as a key wrapped to its import key ({error}); wrap the raw AES key by \
             RSA-OAEP with the hash that goes with the import key, for MGF1 too, and no label"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_are_written_as_der() {
        assert_eq!(integer(&[0, 0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[]), [2, 1, 0]);
        assert_eq!(der(4, &[1; 0x7f])[..2], [4, 0x7f]);
        assert_eq!(der(4, &[1; 0x80])[..3], [4, 0x81, 0x80]);
        assert_eq!(der(4, &[1; 0x1234])[..4], [4, 0x82, 0x12, 0x34]);
        let spki = spki(&[0xd5; 384], &[1, 0, 1]);
        assert_eq!(spki[..4], [0x30, 0x82, 0x01, 0xa2]);
        assert_eq!(spki.len(), 4 + 0x1a2);
    }
}
