//! The attributes of an EZ key object: what it is generated with, and what it must read back as.

use std::mem::discriminant;

use cryptoki::{
    error::Error,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
    types::Ulong,
};

use super::{
    label::KeyLabel,
    suite::{Suite, suite},
};
use crate::token::{Origin, TokenObjectId};

/// Whether a key can leave its token wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extraction {
    /// In no way.
    Never,
    /// Only under a key that the security officer has declared trusted.
    UnderTrusted,
}

impl Extraction {
    pub(super) const fn of(clonable: bool) -> Self {
        if clonable { Self::UnderTrusted } else { Self::Never }
    }

    fn attributes(self) -> Vec<Attribute> {
        match self {
            Self::Never => vec![Attribute::Extractable(false)],
            Self::UnderTrusted => vec![Attribute::Extractable(true), Attribute::WrapWithTrusted(true)],
        }
    }
}

/// What an EZ key is generated with: it does what its suite needs, by its suite's mechanisms, and nothing else.
pub(super) fn template(
    suite: &dyn Suite,
    label: &KeyLabel,
    id: TokenObjectId,
    key_bits: u32,
    extraction: Extraction,
) -> Vec<Attribute> {
    let mut template = named(suite, label, id, extraction);
    template.push(Attribute::ValueLen(Ulong::new(u64::from(key_bits / 8))));
    template
}

/// What an EZ key is unwrapped with, be it a clone or one that comes from elsewhere; its length follows from what was wrapped.
pub(super) fn unwrap_template(label: &KeyLabel, id: TokenObjectId, extraction: Extraction) -> Vec<Attribute> {
    let mut template = named(suite(label.suite), label, id, extraction);
    template.retain(|attribute| attribute.attribute_type() != AttributeType::Modifiable);
    if extraction == Extraction::Never {
        // Without effect on what is not extractable; but the import key imposes it.
        template.push(Attribute::WrapWithTrusted(true));
    }
    // Last: SoftHSM2 sets one attribute after the other, and none any more once this one is.
    template.push(Attribute::Modifiable(false));
    template
}

fn named(suite: &dyn Suite, label: &KeyLabel, id: TokenObjectId, extraction: Extraction) -> Vec<Attribute> {
    let mut template = fixed(suite);
    template.extend(extraction.attributes());
    template.push(Attribute::Label(label.to_string().into_bytes()));
    template.push(Attribute::Id(id.as_bytes().to_vec()));
    template
}

/// The same for a key that is only tried, and gone with the session.
pub(super) fn trial(suite: &dyn Suite, key_bits: u32) -> Vec<Attribute> {
    let mut template = fixed(suite);
    template.extend(Extraction::Never.attributes());
    template.retain(|attribute| attribute.attribute_type() != AttributeType::Token);
    template.push(Attribute::Token(false));
    template.push(Attribute::ValueLen(Ulong::new(u64::from(key_bits / 8))));
    template
}

/// What was read back of an EZ key object.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadBack {
    /// The first attribute that is not what it must be; `None` when all are right.
    pub(super) wrong: Option<AttributeType>,
    /// Bytes of the key.
    pub(super) key_bytes: usize,
    /// Whether the token vouches that the key was made in it and was never outside.
    pub(super) origin: Origin,
}

/// Reads an EZ key object back.
///
/// # Errors
/// If the token cannot say.
pub(super) fn read_back(session: &Session, handle: ObjectHandle, label: &KeyLabel) -> Result<ReadBack, Error> {
    let suite = suite(label.suite);
    let mut expected = fixed(suite);
    let found = session.get_attributes(handle, &[AttributeType::Extractable, AttributeType::Local])?;
    let clonable = found.contains(&Attribute::Extractable(true));
    let local = found.contains(&Attribute::Local(true));
    let origin = match (clonable, local) {
        (false, true) => {
            // What the token itself vouches for: made in it, and never outside it.
            expected.extend([Attribute::NeverExtractable(true), Attribute::AlwaysSensitive(true)]);
            Origin::Generated
        }
        (true, true) => {
            expected.push(Attribute::AlwaysSensitive(true));
            Origin::Generated
        }
        // Of a key from elsewhere it can vouch for neither; that it was meant to be there is for the store to say.
        (true, false) => Origin::Cloned,
        (false, false) => Origin::Imported,
    };
    expected.extend(
        if clonable {
            Extraction::UnderTrusted
        } else {
            Extraction::Never
        }
        .attributes(),
    );
    let mut types: Vec<_> = expected.iter().map(Attribute::attribute_type).collect();
    types.push(AttributeType::ValueLen);
    let found = session.get_attributes(handle, &types)?;
    let wrong = expected.iter().find(|expected| {
        let found = found
            .iter()
            .find(|found| discriminant(*found) == discriminant(*expected));
        found != Some(expected)
    });
    let key_bytes = found.iter().find_map(|found| match found {
        Attribute::ValueLen(bytes) => usize::try_from(**bytes).ok(),
        _ => None,
    });
    let key_bytes = size(label, key_bytes.unwrap_or_default());
    let wrong = wrong.map(Attribute::attribute_type);
    Ok(ReadBack {
        wrong: wrong.or(key_bytes.is_none().then_some(AttributeType::ValueLen)),
        key_bytes: key_bytes.unwrap_or_default(),
        origin,
    })
}

/// Bytes of a key whose `CKA_VALUE_LEN` is `told`, or 0 where the token does not know: then its label says it, or there is one
/// size only. [`None`] if that cannot be.
fn size(label: &KeyLabel, told: usize) -> Option<usize> {
    let sizes = suite(label.suite).key_bits().iter().map(|&bits| bits as usize / 8);
    let said = match (label.bits, sizes.len()) {
        (Some(bits), _) => Some(bits as usize / 8),
        (None, 1) => sizes.clone().next(),
        (None, _) => None,
    };
    let bytes = if told == 0 { said? } else { told };
    let agrees = label.bits.is_none() || said == Some(bytes);
    sizes.clone().find(|&size| size == bytes && agrees)
}

/// What all EZ keys of a suite have in common.
fn fixed(suite: &dyn Suite) -> Vec<Attribute> {
    let mut fixed = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Modifiable(false),
        Attribute::AllowedMechanisms(suite.key_mechanisms().to_vec()),
    ];
    fixed.extend(usage(suite));
    fixed
}

/// What an EZ key may be used for, and that it may not be used for anything else.
pub(super) fn usage(suite: &dyn Suite) -> Vec<Attribute> {
    let all = [
        Attribute::Derive(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
    ];
    let granted = suite.key_usage();
    let choose = |forbidden: Attribute| {
        let granted = granted
            .iter()
            .find(|granted| discriminant(*granted) == discriminant(&forbidden));
        granted.cloned().unwrap_or(forbidden)
    };
    all.into_iter().map(choose).collect()
}
