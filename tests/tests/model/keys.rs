//! A stand-in for the key service and its token: versions, EDEKs bound to key, version and zone, and DEKs that never change when
//! an EDEK is wrapped again. It serves both the metadata service, which mints and re-wraps, and the client, which unwraps.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use strongroom_metadata::{EdekSource, Minted, Rewrapped, Transferred};
use strongroom_proto::{
    EdekSuite, Failure, KeyName, KeyVersion, Reason, ZoneId,
    kms::v1::{
        self as pb, ItemFailure, UnwrapRequest, UnwrapResponse, UnwrapResult, UnwrapSealedRequest,
        UnwrapSealedResponse, unwrap_result::Result as Outcome, unwrap_server::Unwrap,
    },
    transfer::{SignedTransfer, TransferRequest},
};
use tonic::{Request, Response, Status};

/// The keys that there are, and one that is not.
pub(crate) const KEYS: [&str; 2] = ["payroll", "hadoop"];
pub(crate) const NO_KEY: &str = "missing";

/// How the EDEKs of a key are wrapped.
pub(crate) fn suite_of(key: &str) -> EdekSuite {
    match key {
        "hadoop" => EdekSuite::Hadoop,
        _ => EdekSuite::Kw,
    }
}

/// A DEK, and what an EDEK of it begins with where Hadoop has an initial counter.
#[derive(Clone, Copy)]
struct Dek {
    iv: [u8; 16],
    bytes: [u8; 32],
}

#[derive(Clone)]
pub(crate) struct Keys(Arc<Mutex<State>>);

struct State {
    versions: BTreeMap<KeyName, u32>,
    deks: Vec<Dek>,
    /// Every zone and version that an EDEK was made for.
    given: BTreeSet<(ZoneId, u32)>,
    /// Gives every EDEK out twice.
    repeats: bool,
}

impl Keys {
    pub(crate) fn new() -> Self {
        let versions = KEYS.iter().map(|key| (key.parse().expect("a name"), 0)).collect();
        Self(Arc::new(Mutex::new(State {
            versions,
            deks: Vec::new(),
            given: BTreeSet::new(),
            repeats: false,
        })))
    }

    pub(crate) fn roll(&self, key: &str) {
        let key: KeyName = key.parse().expect("a name");
        *self.lock().versions.get_mut(&key).expect("a known key") += 1;
    }

    /// The newest version of a key, by name.
    pub(crate) fn newest(&self, key: &str) -> String {
        let key: KeyName = key.parse().expect("a name");
        format!("{key}@{}", self.lock().versions[&key])
    }

    /// From now on makes every second EDEK of a batch the one before, as no key service may.
    pub(crate) fn repeat(&self) {
        self.lock().repeats = true;
    }

    /// Whether it does.
    pub(crate) fn repeats(&self) -> bool {
        self.lock().repeats
    }

    /// Says what is wrong with an EDEK as a record has it.
    pub(crate) fn check(&self, key: &str, version: u32, zone: &[u8], wrapped: &[u8]) -> Result<(), String> {
        let zone = ZoneId::try_from(zone).map_err(|error| error.to_string())?;
        let state = self.lock();
        if !state.given.contains(&(zone, version)) {
            return Err(format!("zone {zone} never had an EDEK of version {version}"));
        }
        let key = key.parse().map_err(|_| "no name of a key")?;
        match state.number(&key, version, &zone, wrapped) {
            Some(_) => Ok(()),
            None => Err(format!("the EDEK is not one of {key}@{version} for zone {zone}")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn version(&self, key: &KeyName) -> Result<u32, Failure> {
        let version = self.versions.get(key).copied();
        version.ok_or_else(|| Failure::new(Reason::KeyNotFound, format!("key {key} does not exist")))
    }

    fn unwrap(&self, edek: &pb::Edek) -> Option<Bytes> {
        let zone = ZoneId::try_from(edek.zone_id.as_ref()).ok()?;
        let key: KeyName = edek.key_name.parse().ok()?;
        let number = self.number(&key, edek.key_version, &zone, &edek.wrapped)?;
        Some(Bytes::copy_from_slice(&self.deks[number].bytes))
    }

    /// Which DEK is in an EDEK, if it was made for this key, version and zone.
    fn number(&self, key: &KeyName, version: u32, zone: &ZoneId, wrapped: &[u8]) -> Option<usize> {
        let number = wrapped.last_chunk().map(|number| u64::from_be_bytes(*number))?;
        let number = usize::try_from(number)
            .ok()
            .filter(|number| *number < self.deks.len())?;
        (self.wrap(key, version, zone, number) == wrapped).then_some(number)
    }

    fn wrap(&self, key: &KeyName, version: u32, zone: &ZoneId, number: usize) -> Bytes {
        let (version, last) = (version.to_be_bytes(), (number as u64).to_be_bytes());
        let iv = match suite_of(key.as_str()) {
            EdekSuite::Hadoop => self.deks[number].iv.as_slice(),
            _ => &[],
        };
        let parts = [iv, key.as_str().as_bytes(), &version, zone.as_bytes(), &last];
        parts.concat().into()
    }
}

impl EdekSource for Keys {
    async fn mint(&self, key: &KeyName, zone: &ZoneId, count: usize) -> Result<Minted, Failure> {
        let mut state = self.lock();
        let version = state.version(key)?;
        if count > 0 {
            state.given.insert((*zone, version));
        }
        let mut edeks = Vec::with_capacity(count);
        for position in 0..count {
            if !state.repeats || position % 2 == 0 {
                let (iv, bytes) = (rand::random(), rand::random());
                state.deks.push(Dek { iv, bytes });
            }
            edeks.push(state.wrap(key, version, zone, state.deks.len() - 1));
        }
        Ok(Minted {
            key: key.clone(),
            version: KeyVersion(version),
            suite: suite_of(key.as_str()),
            edeks,
        })
    }

    async fn rewrap(&self, key: &KeyName, zone: &ZoneId, edeks: &[(KeyVersion, Bytes)]) -> Result<Rewrapped, Failure> {
        let mut state = self.lock();
        let version = state.version(key)?;
        state.given.insert((*zone, version));
        let again = |(old, wrapped): &(KeyVersion, Bytes)| {
            let number = state.number(key, old.0, zone, wrapped);
            let number = number.ok_or_else(|| Failure::new(Reason::EdekInvalid, "the EDEK does not open"))?;
            Ok(state.wrap(key, version, zone, number))
        };
        Ok(Rewrapped {
            version: KeyVersion(version),
            results: edeks.iter().map(again).collect(),
        })
    }

    async fn transfer(&self, signed: &SignedTransfer) -> Result<Transferred, Failure> {
        let TransferRequest { from, to, edeks, .. } = TransferRequest::decode(&signed.request)?;
        let mut state = self.lock();
        let version = state.version(&to.key)?;
        state.given.insert((to.zone, version));
        let moved = |(old, wrapped): &(KeyVersion, Bytes)| {
            let number = state.number(&from.key, old.0, &from.zone, wrapped);
            let number = number.ok_or_else(|| Failure::new(Reason::EdekInvalid, "the EDEK does not open"))?;
            Ok(state.wrap(&to.key, version, &to.zone, number))
        };
        Ok(Transferred {
            version: KeyVersion(version),
            suite: suite_of(to.key.as_str()),
            results: edeks.iter().map(moved).collect(),
        })
    }
}

#[tonic::async_trait]
impl Unwrap for Keys {
    async fn unwrap(&self, request: Request<UnwrapRequest>) -> Result<Response<UnwrapResponse>, Status> {
        let state = self.lock();
        let edeks = request.into_inner().edeks;
        let results = edeks.iter().map(|edek| {
            let failure = || ItemFailure {
                reason: Reason::EdekInvalid.as_str().to_owned(),
                message: "the EDEK does not open".to_owned(),
            };
            let dek = state.unwrap(edek).map(Outcome::Dek);
            let result = Some(dek.unwrap_or_else(|| Outcome::Failure(failure())));
            UnwrapResult { result }
        });
        let results = results.collect();
        Ok(Response::new(UnwrapResponse { results }))
    }

    async fn unwrap_sealed(&self, _: Request<UnwrapSealedRequest>) -> Result<Response<UnwrapSealedResponse>, Status> {
        Err(Failure::new(Reason::TokenRefused, "the stand-in seals nothing").into())
    }
}
