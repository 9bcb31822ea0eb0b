//! Clones of EZ keys: out of this token for another one, and into it from another one. See `clone_key` for the keys that
//! they are wrapped under.

use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use strongroom_proto::{Failure, Reason};

use super::{
    object::SessionObject,
    remedy::{Trouble, while_doing},
};
use crate::token::{
    ClonePublicKey, TokenKeyVersion,
    clone_key::{self, OWN_LABEL},
};

/// This token's own clone key.
pub(super) fn own_key(session: &Session) -> Result<ClonePublicKey, Trouble> {
    let handle = own_private(session)?;
    public_of(session, handle).map_err(while_doing("to read its clone key"))
}

/// Wraps a throw-away key that goes under trusted keys only, as zone keys of several tokens do, for the token whose public half
/// `destination` is: not every token can be told whom to trust.
pub(super) fn try_export(session: &Session, destination: &ClonePublicKey) -> Result<(), Trouble> {
    let wrapping = trusted(session, destination)?;
    let trial = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::ValueLen(32.into()),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
        Attribute::WrapWithTrusted(true),
    ];
    let made = session.generate_key(&Mechanism::AesKeyGen, &trial);
    let made = SessionObject::new(session, made.map_err(while_doing("to make a trial key"))?);
    let wrapped = session.wrap_key(&clone_key::mechanism(), wrapping, made.handle());
    wrapped.map(drop).map_err(while_doing("to wrap a trial clone"))
}

/// Wraps `key` for the token whose trusted public half `destination` is.
pub(super) fn export(session: &Session, key: ObjectHandle, destination: &ClonePublicKey) -> Result<Vec<u8>, Trouble> {
    let wrapping = trusted(session, destination)?;
    session
        .wrap_key(&clone_key::mechanism(), wrapping, key)
        .map_err(|error| match &error {
            cryptoki::error::Error::Pkcs11(value, _) if is_not_clonable(*value) => not_clonable().into(),
            _ => Trouble::new("to wrap a clone", &error),
        })
}

/// Unwraps a clone into a token object with the attributes `template`.
pub(super) fn import<'s>(
    session: &'s Session,
    wrapped: &[u8],
    own: &ClonePublicKey,
    template: &[Attribute],
) -> Result<SessionObject<'s>, Trouble> {
    let private = own_private(session)?;
    let found = public_of(session, private).map_err(while_doing("to read its clone key"))?;
    if found != *own {
        return Err(refused(format!(
            "the clone was wrapped under clone key {}, and this token's is {} now; link the tokens again: strongroom token link",
            own.fingerprint(),
            found.fingerprint()
        )));
    }
    let handle = session
        .unwrap_key(&clone_key::mechanism(), private, wrapped, template)
        .map_err(while_doing("to unwrap a clone"))?;
    Ok(SessionObject::new(session, handle))
}

/// Says that a version is not the one to be cloned.
pub(super) fn another(version: &TokenKeyVersion) -> Trouble {
    refused(format!(
        "version {} of key {} in the token has another id, suite or check value than the one to be cloned",
        version.version, version.key
    ))
}

/// Says that a version which another token is to have did not come out as it should.
pub(super) fn unequal(version: &TokenKeyVersion, copy: &TokenKeyVersion) -> Trouble {
    refused(format!(
        "the clone of version {} of key {} has check value {} and not {}, so it was destroyed again",
        version.version, version.key, copy.kcv, version.kcv
    ))
}

fn trusted(session: &Session, destination: &ClonePublicKey) -> Result<ObjectHandle, Trouble> {
    let found = session
        .find_objects(&destination.peer_attributes())
        .map_err(while_doing("to find a clone key"))?;
    match found.as_slice() {
        &[wrapping] => Ok(wrapping),
        found => Err(untrusted(destination, found.len()).into()),
    }
}

fn own_private(session: &Session) -> Result<ObjectHandle, Trouble> {
    let mut search = clone_key::private_attributes();
    search.push(Attribute::Label(OWN_LABEL.as_bytes().to_vec()));
    let found = session
        .find_objects(&search)
        .map_err(while_doing("to find its clone key"))?;
    match found.as_slice() {
        &[handle] => Ok(handle),
        [] => Err(refused(
            "the token has no key that clones could be sent to it under; make one with: strongroom token link"
                .to_owned(),
        )),
        several => Err(refused(format!(
            "the token has {} private keys labelled {OWN_LABEL}; find out which one is right and destroy the others",
            several.len()
        ))),
    }
}

fn public_of(session: &Session, handle: ObjectHandle) -> Result<ClonePublicKey, cryptoki::error::Error> {
    let (mut modulus, mut exponent) = (Vec::new(), Vec::new());
    let types = [AttributeType::Modulus, AttributeType::PublicExponent];
    for attribute in session.get_attributes(handle, &types)? {
        match attribute {
            Attribute::Modulus(bytes) => modulus = bytes,
            Attribute::PublicExponent(bytes) => exponent = bytes,
            _ => {}
        }
    }
    Ok(ClonePublicKey::new(&modulus, &exponent))
}

const fn is_not_clonable(value: cryptoki::error::RvError) -> bool {
    use cryptoki::error::RvError;
    matches!(value, RvError::KeyUnextractable | RvError::KeyNotWrappable)
}

fn not_clonable() -> Failure {
    Failure::new(
        Reason::TokenRefused,
        "the version was made for one token and cannot be cloned; make one that can with: strongroom key roll",
    )
}

fn untrusted(destination: &ClonePublicKey, found: usize) -> Failure {
    Failure::new(
        Reason::TokenRefused,
        format!(
            "the token trusts {found} keys with the fingerprint {} where it must be one; its security officer installs it with: \
             strongroom token link, which also says so if this token cannot be told whom to trust",
            destination.fingerprint()
        ),
    )
}

fn refused(message: String) -> Trouble {
    Failure::new(Reason::TokenRefused, message).into()
}
