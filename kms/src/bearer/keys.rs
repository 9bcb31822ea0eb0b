//! The keys of an issuer (JSON Web Key Set, RFC 7517), and how they are kept fresh. Keys that were read stay in use
//! while their place cannot be read.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Header,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use tokio::sync::Mutex;

use super::{
    BearerError,
    source::{Source, read_file},
};

/// Keys in one set.
const KEYS_MAX: usize = 100;

/// The issuer: where its keys are, and those that were last read there.
pub(super) struct Issuer {
    source: Source,
    keys: RwLock<Arc<KeySet>>,
    /// When the place was last read for the sake of a token with an unknown key. Held while it is read.
    asked: Mutex<Option<Instant>>,
}

/// The keys of one reading, and its text.
#[derive(Default)]
struct KeySet {
    text: String,
    keys: Vec<Key>,
}

/// A public key and what it may verify.
#[derive(Clone)]
pub(super) struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

impl Issuer {
    /// An issuer whose file is read at once: a service that cannot ever accept a token should not start.
    pub(super) fn open(source: Source) -> Result<Self, BearerError> {
        let keys = match &source {
            Source::Url { .. } => KeySet::default(),
            Source::File(path) => {
                let place = source.to_string();
                let text = read_file(path).map_err(|error| BearerError::Read {
                    place: place.clone(),
                    source: error,
                })?;
                KeySet::parse(&place, text)?
            }
        };
        Ok(Self {
            source,
            keys: RwLock::new(Arc::new(keys)),
            asked: Mutex::new(None),
        })
    }

    /// The key that a token says it was signed with, if it may be used with the token's algorithm. A token that names
    /// none is the only such key's.
    pub(super) fn find(&self, header: &Header) -> Option<Key> {
        let keys = self.keys();
        let mut fit = keys.keys.iter().filter(|key| key.algorithms.contains(&header.alg));
        match &header.kid {
            Some(id) => fit.find(|key| key.id.as_ref() == Some(id)).cloned(),
            None => {
                let first = fit.next();
                first.filter(|_| fit.next().is_none()).cloned()
            }
        }
    }

    /// Reads the keys again for a token with an unknown key, at a bounded rate.
    pub(super) async fn refresh_for_stranger(&self) {
        let mut asked = self.asked.lock().await;
        if asked.is_none_or(|at| at.elapsed() >= self.source.pause()) {
            self.refresh().await;
            *asked = Some(Instant::now());
        }
    }

    /// Looks at the place again and again.
    pub(super) async fn follow(&self) {
        loop {
            self.refresh().await;
            tokio::time::sleep(self.source.interval()).await;
        }
    }

    async fn refresh(&self) {
        let read = self.source.read().await;
        let place = self.source.to_string();
        match read.and_then(|text| self.changed(&place, text)) {
            Ok(None) => {}
            Ok(Some(keys)) => {
                tracing::info!(%place, keys = keys.keys.len(), "the keys of the issuer of bearer tokens were read");
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
            }
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, source, "the keys of the issuer of bearer tokens cannot be read: those read before stay in use");
            }
        }
    }

    fn changed(&self, place: &str, text: String) -> Result<Option<KeySet>, BearerError> {
        if text == self.keys().text {
            return Ok(None);
        }
        KeySet::parse(place, text).map(Some)
    }

    fn keys(&self) -> Arc<KeySet> {
        // Sets are swapped whole, so that a panic elsewhere leaves nothing half done.
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl KeySet {
    fn parse(place: &str, text: String) -> Result<Self, BearerError> {
        let refused = |reason: String| BearerError::Keys {
            place: place.to_owned(),
            reason,
        };
        let set: serde_json::Value = serde_json::from_str(&text).map_err(|error| refused(error.to_string()))?;
        let found = set.get("keys").and_then(serde_json::Value::as_array);
        let found = found.ok_or_else(|| refused("it has no list \"keys\"".to_owned()))?;
        if found.len() > KEYS_MAX {
            return Err(refused(format!("it has over {KEYS_MAX} keys")));
        }
        // Keys of other kinds, and those for other uses, are no concern of ours (RFC 7517, section 5).
        let keys: Vec<_> = found.iter().filter_map(Key::parse).collect();
        if keys.is_empty() {
            return Err(refused(
                "it has no RSA, P-256, P-384 or Ed25519 key for signatures".to_owned(),
            ));
        }
        Ok(Self { text, keys })
    }
}

impl Key {
    fn parse(value: &serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        let mut algorithms = algorithms(&jwk.algorithm);
        if let Some(only) = jwk.common.key_algorithm {
            let only = only.to_string().parse().ok()?;
            algorithms.retain(|algorithm| *algorithm == only);
        }
        if algorithms.is_empty() {
            return None;
        }
        Some(Self {
            id: jwk.common.key_id.clone(),
            algorithms,
            key: DecodingKey::from_jwk(&jwk).ok()?,
        })
    }
}

/// What a key may verify: signatures of public keys alone, each kind of key with its own algorithms. So a public key
/// can never be taken for the secret of an HMAC, and a token without signature has no key.
fn algorithms(key: &AlgorithmParameters) -> Vec<Algorithm> {
    match key {
        AlgorithmParameters::RSA(_) => vec![
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => Vec::new(),
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
        _ => Vec::new(),
    }
}
