//! Whether who holds a token's PIN can have it trust a key of his own. PKCS#11 leaves `CKA_TRUSTED` to the security officer
//! (3.1, section 4.9); where a token does not, whatever is wrappable under trusted keys only is wrappable under his, and
//! every EZ key that can be cloned is readable for him.

use cryptoki::{
    error::{Error, RvError},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use strongroom_proto::Failure;

use super::{ClonePublicKey, trust::failed};

type Answer = Result<ObjectHandle, Error>;

/// Tries each way in a session of the user; `key` is any RSA key. What it makes goes with the session.
///
/// # Errors
/// If the token is lost on the way.
pub(super) fn user_trusts(session: &Session, key: &ClonePublicKey) -> Result<bool, Failure> {
    let ways: [fn(&Session, &ClonePublicKey) -> Answer; 7] = [
        |session, _| generate(session, &[trusted()]),
        |session, _| declare(session, generate(session, &[Attribute::Modifiable(true)])?),
        |session, _| copy(session, generate(session, &[])?),
        |session, key| public(session, key, &[trusted()]),
        |session, key| declare(session, public(session, key, &[Attribute::Modifiable(true)])?),
        |session, key| copy(session, public(session, key, &[])?),
        |session, _| unwrap(session),
    ];
    for way in ways {
        let made = way(session, key).and_then(|made| session.get_attributes(made, &[AttributeType::Trusted]));
        match made {
            Ok(read) if read.contains(&trusted()) => return Ok(true),
            Err(error) if is_lost(&error) => {
                return Err(failed("to be tried for whom it lets say what is trusted")(error));
            }
            _ => {}
        }
    }
    Ok(false)
}

fn trusted() -> Attribute {
    Attribute::Trusted(true)
}

/// Whether an answer says nothing of what was tried.
const fn is_lost(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::DeviceRemoved
                | RvError::TokenNotPresent
                | RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::UserNotLoggedIn
                | RvError::CryptokiNotInitialized,
            _
        )
    )
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
