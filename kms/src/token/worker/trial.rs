//! What a token is seen to do. A mechanism in its list may still be refused, take its own parameters, or be lost on the way
//! (p11-kit 0.24 lists AES-GCM and does not carry its parameters), so each suite is tried on keys that live for a moment.

use cryptoki::{
    error::Error,
    mechanism::{
        Mechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use strongroom_proto::{EdekSuite, Failure, KeyName, KeyVersion, Reason, ZoneId};

use super::{
    attributes, canary, gcm,
    object::SessionObject,
    remedy::{Refusal, Trouble},
    suite::{OpenError, Spot, suite},
};
use crate::token::{IvSource, NewVersion, TokenObjectId};

/// The outcome of the trials.
#[derive(Debug, Clone, Default)]
pub(super) struct Abilities {
    /// Suites that work, the ones to be preferred first.
    pub(super) suites: Vec<EdekSuite>,
    /// Who makes the IVs of AES-GCM; `None` where the suite does not work.
    pub(super) gcm_iv: Option<IvSource>,
    /// Hashes that RSA-OAEP takes, each with MGF1 over the same hash.
    pub(super) oaep_hashes: Vec<MechanismType>,
}

impl Abilities {
    /// Tries what the token offers.
    ///
    /// # Errors
    /// If the session or the library is lost on the way.
    pub(super) fn try_out(session: &Session, offered: &[MechanismType]) -> Result<Self, Trouble> {
        let mut abilities = Self::default();
        for name in EdekSuite::ALL {
            let offers = |needed| offered.contains(needed);
            if suite(name).mechanisms().iter().all(offers) && verdict(name, works(session, name))? {
                abilities.suites.push(name);
            }
        }
        if abilities.suites.contains(&EdekSuite::Gcm) {
            abilities.gcm_iv = Some(iv_source(session).map_err(|error| Trouble::new("to try AES-GCM", &error))?);
        }
        if offered.contains(&MechanismType::RSA_PKCS_OAEP) {
            abilities.oaep_hashes = oaep_hashes(session);
        }
        Ok(abilities)
    }

    /// Whether the token can make and use what is asked for.
    pub(super) fn check_asked(&self, new: &NewVersion) -> Result<(), Failure> {
        let name = new.suite;
        if !self.suites.contains(&name) {
            return Err(Failure::new(
                Reason::TokenRefused,
                format!("this token does not serve suite {name}; see what it serves with: strongroom token inspect"),
            ));
        }
        let sizes = suite(name).key_bits();
        if sizes.contains(&new.key_bits) {
            return Ok(());
        }
        Err(Failure::new(
            Reason::InvalidArgument,
            format!("a key of suite {name} has {sizes:?} bits, not {}", new.key_bits),
        ))
    }
}

/// Takes a suite that does not work for one that the token does not serve.
fn verdict(name: EdekSuite, outcome: Result<bool, OpenError>) -> Result<bool, Trouble> {
    match outcome {
        Ok(works) => Ok(works),
        Err(OpenError::Token(error) | OpenError::Refused(error)) => match Refusal::of(&error) {
            Refusal::Trouble(trouble) => Err(trouble),
            Refusal::Invalid | Refusal::Unclear => {
                tracing::warn!(suite = %name, %error, "the token offers what the suite needs and fails at it");
                Ok(false)
            }
        },
        Err(OpenError::Wrong(what)) => {
            tracing::error!(suite = %name, what, "the token gave a wrong answer while the suite was tried");
            Ok(false)
        }
        Err(OpenError::Unsound) => Ok(false),
    }
}

fn works(session: &Session, name: EdekSuite) -> Result<bool, OpenError> {
    let key = session_key(session, name)?;
    let trial: KeyName = "trial".parse().expect("a key name");
    let version = KeyVersion(0);
    let kcv = suite(name).check_value(session, key.handle(), &trial, version)?;
    let spot = Spot {
        name: &trial,
        version,
        zone: &ZoneId::generate(),
        suite: name,
        base: key.handle(),
        id: TokenObjectId::generate(),
        kcv,
        key_bytes: largest_bits(name) as usize / 8,
    };
    canary::sings(session, &spot)
}

/// A token that makes its own IVs writes them over the caller's.
fn iv_source(session: &Session) -> Result<IvSource, Error> {
    let key = session_key(session, EdekSuite::Gcm)?;
    let mut iv = [0; gcm::IV_BYTES];
    session.generate_random_slice(&mut iv)?;
    let (used, _) = gcm::encrypt(session, key.handle(), iv, b"trial", &[0; 16])?;
    Ok(if used == iv { IvSource::Caller } else { IvSource::Token })
}

/// A key as an EZ key of the suite would be, but gone with the session.
fn session_key(session: &Session, name: EdekSuite) -> Result<SessionObject<'_>, Error> {
    let template = attributes::trial(suite(name), largest_bits(name));
    let handle = session.generate_key(&Mechanism::AesKeyGen, &template)?;
    Ok(SessionObject::new(session, handle))
}

fn largest_bits(name: EdekSuite) -> u32 {
    suite(name).key_bits().iter().copied().max().unwrap_or_default()
}

/// Encrypts under a public key that nobody has the private half of.
fn oaep_hashes(session: &Session) -> Vec<MechanismType> {
    let Ok(key) = public_key(session) else {
        return Vec::new();
    };
    let works = |&(hash, mgf): &(MechanismType, PkcsMgfType)| {
        let parameters = PkcsOaepParams::new(hash, mgf, PkcsOaepSource::empty());
        let mechanism = Mechanism::RsaPkcsOaep(parameters);
        session.encrypt(&mechanism, key.handle(), &[0; 32]).is_ok()
    };
    let candidates = [
        (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
        (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
        (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
    ];
    candidates.into_iter().filter(works).map(|(hash, _)| hash).collect()
}

fn public_key(session: &Session) -> Result<SessionObject<'_>, Error> {
    // Any odd number of 2048 bits will do.
    let modulus = vec![0xd5; 256];
    let handle: ObjectHandle = session.create_object(&[
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::RSA),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Encrypt(true),
        Attribute::Modulus(modulus),
        Attribute::PublicExponent(vec![1, 0, 1]),
    ])?;
    Ok(SessionObject::new(session, handle))
}
