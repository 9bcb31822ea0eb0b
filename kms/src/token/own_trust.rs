//! Whether who holds a token's PIN can read what is wrappable under trusted keys only, and so every EZ key that can be
//! cloned: because the token wraps it under ordinary keys all the same, or because it lets its user have a key of his own
//! trusted. PKCS#11 leaves `CKA_TRUSTED` to the security officer, and has `C_WrapKey` refuse every other key for one with
//! `CKA_WRAP_WITH_TRUSTED` (3.1, sections 4.9 and 4.10).
//!
//! All of it is tried. Only a code by which the token refuses counts as "no": one by which it merely fails says nothing.

use cryptoki::{
    error::{Error, RvError},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use strongroom_proto::{Failure, Reason};

use super::{
    ClonePublicKey, clone_key,
    trust::{failed, trial},
    worker::refuses,
};

const DOING: &str = "to be tried for who can read what only trusted keys wrap";

/// Why who holds a token's user PIN can read every key that can be cloned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeysReadable {
    /// The token wraps under any key what is for trusted keys only (`CKA_WRAP_WITH_TRUSTED`).
    Unguarded,
    /// The token lets its user have a key of his own trusted (`CKA_TRUSTED`).
    UserTrusts,
}

type Answer = Result<ObjectHandle, Error>;

/// A way to a key that the token trusts, and how keys are wrapped under what it makes.
struct Way {
    wraps: Wraps,
    make: fn(&Session, &ClonePublicKey) -> Answer,
}

#[derive(Clone, Copy)]
enum Wraps {
    Aes,
    Rsa,
}

const WAYS: [Way; 7] = [
    Way {
        wraps: Wraps::Aes,
        make: |session, _| generate(session, &[trusted()]),
    },
    Way {
        wraps: Wraps::Aes,
        make: |session, _| declare(session, generate(session, &[Attribute::Modifiable(true)])?),
    },
    Way {
        wraps: Wraps::Aes,
        make: |session, _| copy(session, generate(session, &[])?),
    },
    Way {
        wraps: Wraps::Rsa,
        make: |session, key| public(session, key, &[trusted()]),
    },
    Way {
        wraps: Wraps::Rsa,
        make: |session, key| declare(session, public(session, key, &[Attribute::Modifiable(true)])?),
    },
    Way {
        wraps: Wraps::Rsa,
        make: |session, key| copy(session, public(session, key, &[])?),
    },
    Way {
        wraps: Wraps::Aes,
        make: |session, _| unwrap(session),
    },
];

/// Tries it in a session of the user; `key` is any RSA key. What it makes goes with the session.
///
/// # Errors
/// If the token fails in another way than by refusing, so that it is not known.
pub(super) fn keys_readable(session: &Session, key: &ClonePublicKey) -> Result<Option<KeysReadable>, Failure> {
    let trial = Trial::new(session)?;
    let ordinary = generate(session, &[]).map_err(failed(DOING))?;
    let ordinary_public = public(session, key, &[]).map_err(failed(DOING))?;
    if trial.wraps(Wraps::Rsa, ordinary_public)? || trial.wraps(Wraps::Aes, ordinary)? {
        return Ok(Some(KeysReadable::Unguarded));
    }
    for Way { wraps, make } in WAYS {
        let Some(made) = unless_refused(make(session, key))? else {
            continue;
        };
        let read = unless_refused(session.get_attributes(made, &[AttributeType::Trusted]))?;
        let says_so = read.is_some_and(|read| read.contains(&trusted()));
        if says_so || trial.wraps(wraps, made)? {
            return Ok(Some(KeysReadable::UserTrusts));
        }
    }
    Ok(None)
}

/// Two keys to be had by whoever can.
struct Trial<'s> {
    session: &'s Session,
    /// For trusted keys only.
    guarded: ObjectHandle,
    /// The same for any key: where this one cannot be wrapped either, that the guarded one cannot says nothing.
    free: ObjectHandle,
}

impl<'s> Trial<'s> {
    fn new(session: &'s Session) -> Result<Self, Failure> {
        let make = |trusted_only| {
            let template = trial(&[Attribute::ValueLen(32.into())], true, trusted_only);
            let made = session.generate_key(&Mechanism::AesKeyGen, &template);
            made.map_err(failed(DOING))
        };
        Ok(Self {
            session,
            guarded: make(true)?,
            free: make(false)?,
        })
    }

    /// Whether the guarded key leaves the token under that one.
    fn wraps(&self, wraps: Wraps, under: ObjectHandle) -> Result<bool, Failure> {
        let mechanisms = match wraps {
            Wraps::Aes => vec![
                Mechanism::AesKeyWrap,
                Mechanism::AesKeyWrapPad,
                Mechanism::AesCbcPad([0; 16]),
            ],
            Wraps::Rsa => vec![clone_key::mechanism()],
        };
        for mechanism in mechanisms {
            let wrap = |key| self.session.wrap_key(&mechanism, under, key);
            if unless_refused(wrap(self.free))?.is_none() {
                continue;
            }
            match wrap(self.guarded) {
                // The handle has just worked: so kryoptic says that what it names is not trusted.
                Err(Error::Pkcs11(RvError::WrappingKeyHandleInvalid, _)) => {}
                outcome => {
                    if unless_refused(outcome)?.is_some() {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }
}

/// What the token did, or nothing if it refused to. Its other errors may pass, and then it might do it.
fn unless_refused<T>(outcome: Result<T, Error>) -> Result<Option<T>, Failure> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(error) if refuses(&error) => Ok(None),
        Err(error) => {
            let failure = failed(DOING)(error);
            let text = format!(
                "{}; it is not known to be safe: link it again once it works",
                failure.message
            );
            Err(Failure::new(Reason::TokenUnavailable, text))
        }
    }
}

fn trusted() -> Attribute {
    Attribute::Trusted(true)
}

/// An AES key that wraps others.
fn generate(session: &Session, more: &[Attribute]) -> Answer {
    let mut template = secret();
    template.push(Attribute::ValueLen(32.into()));
    template.extend_from_slice(more);
    session.generate_key(&Mechanism::AesKeyGen, &template)
}

fn secret() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Extractable(true),
        Attribute::Wrap(true),
        Attribute::Unwrap(true),
    ]
}

/// The public half as an object of its own.
fn public(session: &Session, key: &ClonePublicKey, more: &[Attribute]) -> Answer {
    let mut template = vec![
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::RSA),
        Attribute::Token(false),
        Attribute::Wrap(true),
        Attribute::Modulus(key.modulus.clone()),
        Attribute::PublicExponent(key.exponent.clone()),
    ];
    template.extend_from_slice(more);
    session.create_object(&template)
}

fn declare(session: &Session, object: ObjectHandle) -> Answer {
    session.update_attributes(object, &[trusted()])?;
    Ok(object)
}

fn copy(session: &Session, object: ObjectHandle) -> Answer {
    session.copy_object(object, &[Attribute::Token(false), trusted()])
}

/// A key that comes in, wrapped under one of the user's.
fn unwrap(session: &Session) -> Answer {
    let (under, key) = (generate(session, &[])?, generate(session, &[])?);
    let wrapped = session.wrap_key(&Mechanism::AesKeyWrap, under, key)?;
    let mut template = secret();
    template.push(trusted());
    session.unwrap_key(&Mechanism::AesKeyWrap, under, &wrapped, &template)
}
