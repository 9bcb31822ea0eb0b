//! The attributes of an EZ key object: what it is generated with, and what it must read back as.

use std::mem::discriminant;

use cryptoki::{
    error::Error,
    mechanism::MechanismType,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
    types::Ulong,
};

use super::{kw::KEY_BYTES, label::KeyLabel};
use crate::token::TokenObjectId;

/// What an EZ key is generated with: it derives wrapping keys, by one mechanism, and does nothing else.
pub(super) fn template(label: &KeyLabel, id: TokenObjectId) -> Vec<Attribute> {
    let mut template = fixed();
    template.push(Attribute::Label(label.to_string().into_bytes()));
    template.push(Attribute::Id(id.as_bytes().to_vec()));
    template
}

/// The first attribute of an object that is not what it must be, by name; `None` when all are right.
///
/// # Errors
/// If the token cannot say.
pub(super) fn first_wrong(session: &Session, handle: ObjectHandle) -> Result<Option<AttributeType>, Error> {
    let mut expected = fixed();
    // What the token itself vouches for: made in it, and never outside it.
    expected.extend([
        Attribute::Local(true),
        Attribute::NeverExtractable(true),
        Attribute::AlwaysSensitive(true),
    ]);
    let types: Vec<_> = expected.iter().map(Attribute::attribute_type).collect();
    let found = session.get_attributes(handle, &types)?;
    let wrong = expected.iter().find(|expected| {
        let found = found
            .iter()
            .find(|found| discriminant(*found) == discriminant(*expected));
        found != Some(expected)
    });
    Ok(wrong.map(Attribute::attribute_type))
}

/// What all EZ keys have in common.
fn fixed() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::ValueLen(Ulong::new(KEY_BYTES as u64)),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Modifiable(false),
        Attribute::Derive(true),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::AllowedMechanisms(vec![MechanismType::AES_CBC_ENCRYPT_DATA]),
    ]
}
