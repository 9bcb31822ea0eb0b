//! Transport keys: what sealed DEKs travel under, one for each public key and place.
//!
//! A transport key is sealed to a user's public key by RSA-OAEP once and wraps every DEK for it by AES key wrap (RFC
//! 3394): the hybrid that `CKM_RSA_AES_KEY_WRAP` is too. Where the token offers OAEP it makes the key, and DEKs of suite
//! `kw` go from one SENSITIVE session object to the other without leaving it. All others are sealed in the worker, by
//! aws-lc-rs.

use std::collections::HashMap;

use aws_lc_rs::{
    key_wrap::{AES_256, AesKek, KeyWrap as _},
    rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey},
};
use bytes::Bytes;
use cryptoki::{
    error::{Error, RvError},
    mechanism::{
        Mechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use strongroom_proto::{
    Failure, Reason,
    sealed::{HeldIn, OaepHash, RecipientKey, TransportKey},
};
use zeroize::Zeroizing;

use super::{
    kw::{self, KEY_BYTES},
    object::{self, SessionObject},
    remedy::{Remedy, Trouble, remedy_of, while_doing},
};

/// Public keys whose transport keys are kept; the one unused for longest makes room.
const RECIPIENTS_MAX: usize = 64;
/// How a token is asked for OAEP, best first. SoftHSM2 takes SHA-1 only, which OAEP is as safe with.
const HASHES: [OaepHash; 2] = [OaepHash::Sha256, OaepHash::Sha1];

/// The transport keys of a session.
#[derive(Default)]
pub(super) struct TransportKeys {
    kept: HashMap<RecipientKey, Kept>,
    uses: u64,
}

#[derive(Default)]
struct Kept {
    in_token: InToken,
    in_worker: Option<(WorkerKey, TransportKey)>,
    last_use: u64,
}

/// What the token made for one public key. What it refused of one says nothing of the others: users choose their keys.
#[derive(Default)]
enum InToken {
    #[default]
    Untried,
    Made(ObjectHandle, TransportKey),
    Refused,
}

/// A transport key in this process' memory.
pub(super) struct WorkerKey(Box<Zeroizing<[u8; KEY_BYTES]>>);

impl WorkerKey {
    /// Wraps a DEK of 16, 24 or 32 bytes.
    pub(super) fn wrap(&self, dek: &[u8]) -> Result<Bytes, Failure> {
        let mut wrapped = vec![0; dek.len() + 8];
        let wrapped = AesKek::new(&AES_256, &self.0[..])
            .and_then(|key| key.wrap(dek, &mut wrapped))
            .map_err(|_| broken("wrap a DEK"))?;
        Ok(Bytes::copy_from_slice(wrapped))
    }
}

impl TransportKeys {
    /// A transport key in the token; `None` if the token has no OAEP, or none for this public key.
    pub(super) fn in_token(
        &mut self,
        session: &Session,
        recipient: &RecipientKey,
    ) -> Result<Option<(ObjectHandle, TransportKey)>, Trouble> {
        let kept = self.kept(session, recipient);
        if let InToken::Untried = kept.in_token {
            kept.in_token = make_in_token(session, recipient)?;
        }
        Ok(match &kept.in_token {
            InToken::Made(handle, key) => Some((*handle, key.clone())),
            InToken::Untried | InToken::Refused => None,
        })
    }

    /// A transport key in the worker.
    pub(super) fn in_worker(
        &mut self,
        session: &Session,
        recipient: &RecipientKey,
    ) -> Result<(&WorkerKey, TransportKey), Failure> {
        let kept = self.kept(session, recipient);
        if kept.in_worker.is_none() {
            kept.in_worker = Some(make_in_worker(recipient)?);
        }
        let (worker_key, key) = kept.in_worker.as_ref().ok_or_else(|| broken("keep a transport key"))?;
        Ok((worker_key, key.clone()))
    }

    fn kept(&mut self, session: &Session, recipient: &RecipientKey) -> &mut Kept {
        self.uses += 1;
        if self.kept.len() >= RECIPIENTS_MAX && !self.kept.contains_key(recipient) {
            self.evict(session);
        }
        let kept = self.kept.entry(recipient.clone()).or_default();
        kept.last_use = self.uses;
        kept
    }

    fn evict(&mut self, session: &Session) {
        let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.last_use);
        let oldest = oldest.map(|(recipient, _)| recipient.clone());
        let kept = oldest.and_then(|recipient| self.kept.remove(&recipient));
        if let Some(InToken::Made(handle, _)) = kept.map(|kept| kept.in_token) {
            object::destroy(session, handle);
        }
    }
}

fn make_in_token(session: &Session, recipient: &RecipientKey) -> Result<InToken, Trouble> {
    let public = match session.create_object(&public_template(recipient)) {
        Ok(handle) => SessionObject::new(session, handle),
        Err(error) if refuses(&error) => return Ok(InToken::Refused),
        Err(error) => return Err(Trouble::new("to take a user's public key", &error)),
    };
    let key = kw::transport_key(session).map_err(while_doing("to generate a transport key"))?;
    for hash in HASHES {
        match session.wrap_key(&oaep(hash), public.handle(), key.handle()) {
            Ok(sealed) => {
                let made = TransportKey {
                    made_in: HeldIn::Token,
                    hash,
                    sealed: sealed.into(),
                };
                return Ok(InToken::Made(key.keep(), made));
            }
            Err(error) if refuses(&error) => {}
            Err(error) => return Err(Trouble::new("to seal a transport key", &error)),
        }
    }
    Ok(InToken::Refused)
}

fn make_in_worker(recipient: &RecipientKey) -> Result<(WorkerKey, TransportKey), Failure> {
    let mut bytes = Box::new(Zeroizing::new([0; KEY_BYTES]));
    aws_lc_rs::rand::fill(&mut bytes[..]).map_err(|_| broken("draw a transport key"))?;
    let public = PublicEncryptingKey::from_der(recipient.der())
        .ok()
        .and_then(|key| OaepPublicEncryptingKey::new(key).ok())
        .ok_or_else(|| broken("take the user's public key"))?;
    let mut sealed = vec![0; public.ciphertext_size()];
    let sealed = public
        .encrypt(&OAEP_SHA256_MGF1SHA256, &bytes[..], &mut sealed, None)
        .map_err(|_| broken("seal a transport key"))?;
    let key = TransportKey {
        made_in: HeldIn::Worker,
        hash: OaepHash::Sha256,
        sealed: Bytes::copy_from_slice(sealed),
    };
    Ok((WorkerKey(bytes), key))
}

/// A user's public key as a session object that wraps and does nothing else.
fn public_template(recipient: &RecipientKey) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::RSA),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Modulus(recipient.modulus().to_vec()),
        Attribute::PublicExponent(recipient.exponent().to_vec()),
        Attribute::Wrap(true),
        Attribute::Encrypt(false),
        Attribute::Verify(false),
    ]
}

fn oaep(hash: OaepHash) -> Mechanism<'static> {
    let (hash, mask) = match hash {
        OaepHash::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        OaepHash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
    };
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mask, PkcsOaepSource::empty()))
}

/// Whether the token says that it does not do this at all. Tokens choose all sorts of codes for it.
fn refuses(error: &Error) -> bool {
    matches!(error, Error::Pkcs11(value, _) if remedy_of(*value) == Remedy::Refuse && *value != RvError::KeyNotWrappable)
}

fn broken(what: &str) -> Failure {
    Failure::new(Reason::Internal, format!("the token worker cannot {what}"))
}
