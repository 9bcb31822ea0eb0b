//! What the store holds, byte for byte. Keys of the store are text with binary tails; values are the protobuf
//! messages below.
//!
//! | key | value |
//! |---|---|
//! | `key/` name | [`KeyRecord`] |
//! | `version/` name `0x00` version (big-endian u32) | [`VersionRecord`] |
//! | `intent/` name | [`IntentRecord`]: a version that is being generated in the token |
//! | `uses/` name `0x00` version (big-endian u32) | uses of a `gcm` version reserved so far: a big-endian u64 |
//! | `request/` request id (16 bytes) | [`RequestRecord`]: what the request was and what it was answered |
//! | `alias/` alias | the name of its key, text |
//! | `zone/` name `0x00` zone id (16 bytes) | [`ZoneRecord`]: a zone that minted with the key, and its last proof |
//! | `use/` name `0x00` version (big-endian u32) | when it was last used, milliseconds since 1970, big-endian u64 |
//!
//! What several instances of the service share besides is in [`super::ledger_shared`]. Names hold neither `/` nor `0x00`. A field that a reader does not know is ignored, so fields may be added.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use strongroom_proto::{EdekSuite, KeyName, KeyVersion, RequestId, kms::v1 as pb};

use super::{
    KeysError,
    attributes::Attributes,
    deletion::{Begun, Deletion, Target},
    key::{KEY_BITS, Key},
    rotation::Rotation,
    version::{Presence, Standing, Version},
};
use crate::token::{Kcv, NewVersion, Origin, TokenObjectId};

pub(super) const KEYS: &[u8] = b"key/";
pub(super) const VERSIONS: &[u8] = b"version/";
pub(super) const INTENTS: &[u8] = b"intent/";
pub(super) const REQUESTS: &[u8] = b"request/";
pub(super) const USES: &[u8] = b"uses/";

/// A key, without its versions.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct KeyRecord {
    #[prost(string, tag = "1")]
    pub(super) suite: String,
    #[prost(uint64, tag = "2")]
    pub(super) created_ms: u64,
    #[prost(bool, tag = "3")]
    pub(super) unconfirmed: bool,
    #[prost(bool, tag = "4")]
    pub(super) disabled: bool,
    #[prost(string, tag = "5")]
    pub(super) description: String,
    #[prost(btree_map = "string, string", tag = "6")]
    pub(super) tags: BTreeMap<String, String>,
    #[prost(bool, tag = "7")]
    pub(super) sealed_required: bool,
    #[prost(bool, tag = "8")]
    pub(super) outside_zones: bool,
    /// 0 if the key is not rolled by itself.
    #[prost(uint64, tag = "9")]
    pub(super) rotation_period_ms: u64,
    #[prost(uint64, tag = "10")]
    pub(super) rotation_due_ms: u64,
    #[prost(message, repeated, tag = "11")]
    pub(super) deletions: Vec<DeletionRecord>,
    #[prost(bool, tag = "12")]
    pub(super) zones_lost: bool,
    /// Bits of every new version; 0 for 256.
    #[prost(uint32, tag = "13")]
    pub(super) key_bits: u32,
}

/// A key or version that is being deleted.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct DeletionRecord {
    /// Absent for the whole key.
    #[prost(uint32, optional, tag = "1")]
    pub(super) version: Option<u32>,
    #[prost(string, tag = "2")]
    pub(super) requested_by: String,
    #[prost(uint64, tag = "3")]
    pub(super) pending_ms: u64,
    #[prost(uint64, tag = "4")]
    pub(super) retired_ms: u64,
    #[prost(uint64, optional, tag = "5")]
    pub(super) due_ms: Option<u64>,
    /// From when on it cannot be taken back: the intent of destroying, in the token and then here.
    #[prost(uint64, optional, tag = "6")]
    pub(super) begun_ms: Option<u64>,
    #[prost(uint32, optional, tag = "7")]
    pub(super) active_before: Option<u32>,
    /// Who agreed, and when, in milliseconds since 1970.
    #[prost(btree_map = "string, uint64", tag = "8")]
    pub(super) approvals: BTreeMap<String, u64>,
    /// Names the destruction, once it has begun: 16 bytes.
    #[prost(bytes = "bytes", tag = "9")]
    pub(super) begun_id: Bytes,
}

/// A version of a key.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct VersionRecord {
    /// ACTIVE, DECRYPT_ONLY or DESTROYED; whether it is missing is found out, not stored.
    #[prost(enumeration = "pb::KeyVersionState", tag = "1")]
    pub(super) state: i32,
    #[prost(uint64, tag = "2")]
    pub(super) created_ms: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) kcv: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) token_id: Bytes,
    /// When it was destroyed, in milliseconds since 1970.
    #[prost(uint64, tag = "5")]
    pub(super) destroyed_ms: u64,
    /// `generated` if empty, `cloned` or `imported`.
    #[prost(string, tag = "6")]
    pub(super) origin: String,
}

/// A version that is being generated.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct IntentRecord {
    #[prost(uint32, tag = "1")]
    pub(super) version: u32,
    #[prost(string, tag = "2")]
    pub(super) suite: String,
    #[prost(uint64, tag = "3")]
    pub(super) created_ms: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) request_id: Bytes,
    /// [`RequestRecord::what`] of the request that wants the version.
    #[prost(string, tag = "5")]
    pub(super) what: String,
    #[prost(uint32, tag = "6")]
    pub(super) key_bits: u32,
    /// The `CKA_ID` that the version's object gets.
    #[prost(bytes = "bytes", tag = "7")]
    pub(super) token_id: Bytes,
    /// The key that is being created; absent if it exists.
    #[prost(message, optional, tag = "8")]
    pub(super) new_key: Option<KeyRecord>,
    /// Brought in, together with all versions before it.
    #[prost(bool, tag = "9")]
    pub(super) imported: bool,
    /// `CKA_ID`s of the versions before it that are brought in with it, from version 0 on.
    #[prost(bytes = "bytes", repeated, tag = "10")]
    pub(super) earlier: Vec<Bytes>,
    /// What of it is in the token is to be destroyed.
    #[prost(bool, tag = "11")]
    pub(super) undone: bool,
}

/// A request that was carried out.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RequestRecord {
    /// The call and its arguments, in words: `create payroll kw`.
    #[prost(string, tag = "1")]
    pub(super) what: String,
    #[prost(uint64, tag = "2")]
    pub(super) created_ms: u64,
    #[prost(message, optional, tag = "3")]
    pub(super) answer: Option<pb::Key>,
}

/// An intent, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Intent {
    pub(super) key: KeyName,
    pub(super) version: KeyVersion,
    pub(super) suite: EdekSuite,
    pub(super) created_ms: u64,
    pub(super) request: RequestId,
    pub(super) what: String,
    pub(super) key_bits: u32,
    pub(super) token_id: TokenObjectId,
    /// The key that is being created, without versions; none if it exists.
    pub(super) new_key: Option<Key>,
    /// None if the version is generated. Otherwise the key is brought in, and these are the ids of the versions before.
    pub(super) imports: Option<Vec<TokenObjectId>>,
    /// Whether what of it is in the token is to be destroyed.
    pub(super) undone: bool,
}

impl Intent {
    /// Whether a version of the key is being made by it.
    pub(super) fn covers(&self, version: KeyVersion) -> bool {
        let earlier = self.imports.as_ref().map_or(0, Vec::len);
        version == self.version || (version.0 as usize) < earlier
    }

    /// Its versions, each with the id of its object.
    pub(super) fn objects(&self) -> impl Iterator<Item = (KeyVersion, TokenObjectId)> {
        let earlier = (0..).map(KeyVersion).zip(self.imports.iter().flatten().copied());
        earlier.chain([(self.version, self.token_id)])
    }

    /// Where its versions come to be.
    pub(super) fn places(&self) -> Vec<(KeyName, KeyVersion)> {
        let versions = self.objects().map(|(version, _)| version);
        versions.map(|version| (self.key.clone(), version)).collect()
    }

    /// What the token is asked for.
    pub(super) fn new_version(&self) -> NewVersion {
        NewVersion {
            key: self.key.clone(),
            version: self.version,
            suite: self.suite,
            key_bits: self.key_bits,
            id: self.token_id,
        }
    }
}

pub(super) fn key_key(name: &KeyName) -> Vec<u8> {
    [KEYS, name.as_str().as_bytes()].concat()
}

pub(super) fn version_key(name: &KeyName, version: KeyVersion) -> Vec<u8> {
    [VERSIONS, name.as_str().as_bytes(), &[0], &version.0.to_be_bytes()].concat()
}

pub(super) fn uses_key(name: &KeyName, version: KeyVersion) -> Vec<u8> {
    [USES, name.as_str().as_bytes(), &[0], &version.0.to_be_bytes()].concat()
}

pub(super) fn intent_key(name: &KeyName) -> Vec<u8> {
    [INTENTS, name.as_str().as_bytes()].concat()
}

pub(super) fn request_key(id: &RequestId) -> Vec<u8> {
    [REQUESTS, id.as_bytes()].concat()
}

impl KeyRecord {
    pub(super) fn of(key: &Key) -> Self {
        Self {
            suite: key.suite.as_str().to_owned(),
            created_ms: key.created_ms,
            unconfirmed: key.unconfirmed,
            disabled: key.disabled,
            zones_lost: key.zones_lost,
            key_bits: key.key_bits,
            description: key.attributes.description.clone(),
            tags: key.attributes.tags.clone(),
            sealed_required: key.attributes.sealed_required,
            outside_zones: key.attributes.outside_zones,
            rotation_period_ms: key.rotation.map_or(0, |rotation| rotation.period_ms),
            rotation_due_ms: key.rotation.map_or(0, |rotation| rotation.due_ms),
            deletions: key.deletions.iter().map(DeletionRecord::of).collect(),
        }
    }

    fn into_key(self, name: KeyName) -> Option<Key> {
        let period_ms = Some(self.rotation_period_ms).filter(|&period_ms| period_ms > 0);
        let deletions = self.deletions.into_iter().map(DeletionRecord::into_deletion);
        Some(Key {
            unconfirmed: self.unconfirmed,
            disabled: self.disabled,
            zones_lost: self.zones_lost,
            key_bits: if self.key_bits == 0 { KEY_BITS } else { self.key_bits },
            attributes: Attributes {
                description: self.description,
                tags: self.tags,
                sealed_required: self.sealed_required,
                outside_zones: self.outside_zones,
            },
            rotation: period_ms.map(|period_ms| Rotation {
                period_ms,
                due_ms: self.rotation_due_ms,
            }),
            deletions: deletions.collect::<Option<_>>()?,
            ..Key::new(name, self.suite.parse().ok()?, self.created_ms)
        })
    }
}

impl DeletionRecord {
    fn of((target, deletion): (&Target, &Deletion)) -> Self {
        Self {
            version: match target {
                Target::Key => None,
                Target::Version(number) => Some(number.0),
            },
            requested_by: deletion.requested_by.clone(),
            pending_ms: deletion.pending_ms,
            retired_ms: deletion.retired_ms,
            due_ms: deletion.due_ms,
            begun_ms: deletion.begun.map(|begun| begun.at_ms),
            active_before: deletion.active_before.map(|number| number.0),
            approvals: deletion.approvals.clone(),
            begun_id: deletion
                .begun
                .map_or_else(Bytes::new, |begun| Bytes::copy_from_slice(&begun.id)),
        }
    }

    fn into_deletion(self) -> Option<(Target, Deletion)> {
        let target = self
            .version
            .map_or(Target::Key, |number| Target::Version(KeyVersion(number)));
        let begun = match self.begun_ms {
            None => None,
            Some(at_ms) => Some(Begun {
                at_ms,
                id: self.begun_id.as_ref().try_into().ok()?,
            }),
        };
        let deletion = Deletion {
            requested_by: self.requested_by,
            pending_ms: self.pending_ms,
            retired_ms: self.retired_ms,
            due_ms: self.due_ms,
            begun,
            active_before: self.active_before.map(KeyVersion),
            approvals: self.approvals,
        };
        Some((target, deletion))
    }
}

impl VersionRecord {
    pub(super) fn of(version: &Version) -> Self {
        let (state, destroyed_ms) = match version.standing {
            Standing::Active => (pb::KeyVersionState::Active, 0),
            Standing::DecryptOnly => (pb::KeyVersionState::DecryptOnly, 0),
            Standing::Destroyed { at_ms } => (pb::KeyVersionState::Destroyed, at_ms),
        };
        Self {
            state: state.into(),
            created_ms: version.created_ms,
            kcv: version.kcv.into(),
            token_id: version.token_id.into(),
            destroyed_ms,
            origin: version.origin.as_str().to_owned(),
        }
    }
}

impl IntentRecord {
    pub(super) fn of(intent: &Intent) -> Self {
        Self {
            version: intent.version.0,
            suite: intent.suite.as_str().to_owned(),
            created_ms: intent.created_ms,
            request_id: intent.request.into(),
            what: intent.what.clone(),
            key_bits: intent.key_bits,
            token_id: intent.token_id.into(),
            new_key: intent.new_key.as_ref().map(KeyRecord::of),
            imported: intent.imports.is_some(),
            earlier: intent.imports.iter().flatten().map(|&id| id.into()).collect(),
            undone: intent.undone,
        }
    }
}

/// The key of one pair under [`KEYS`], without versions.
pub(super) fn read_key(key: &[u8], value: &[u8]) -> Result<Key, KeysError> {
    let damaged = || KeysError::damaged(key);
    let name = name_after(KEYS, key)?;
    let record = KeyRecord::decode(value).map_err(|_| damaged())?;
    record.into_key(name).ok_or_else(damaged)
}

fn origin(word: &str) -> Option<Origin> {
    if word.is_empty() {
        return Some(Origin::Generated);
    }
    Origin::ALL.into_iter().find(|origin| origin.as_str() == word)
}

/// The version of one pair under [`VERSIONS`].
pub(super) fn read_version(key: &[u8], value: &[u8]) -> Result<(KeyName, KeyVersion, Version), KeysError> {
    let damaged = || KeysError::damaged(key);
    let (front, number) = key.split_last_chunk::<4>().ok_or_else(damaged)?;
    let name = name_after(VERSIONS, front.strip_suffix(&[0]).ok_or_else(damaged)?)?;
    let record = VersionRecord::decode(value).map_err(|_| damaged())?;
    let kcv = record.kcv.as_ref().try_into().map_err(|_| damaged())?;
    let token_id = record.token_id.as_ref().try_into().map_err(|_| damaged())?;
    let version = Version {
        standing: match record.state() {
            pb::KeyVersionState::Active => Standing::Active,
            pb::KeyVersionState::Destroyed => Standing::Destroyed {
                at_ms: record.destroyed_ms,
            },
            _ => Standing::DecryptOnly,
        },
        created_ms: record.created_ms,
        kcv: Kcv::from_bytes(kcv),
        token_id: TokenObjectId::from_bytes(token_id),
        origin: origin(&record.origin).ok_or_else(damaged)?,
        presence: Presence::Unchecked,
        trouble: String::new(),
    };
    Ok((name, KeyVersion(u32::from_be_bytes(*number)), version))
}

/// Name and version of one pair under [`USES`].
pub(super) fn read_uses_key(key: &[u8]) -> Result<(KeyName, KeyVersion), KeysError> {
    let damaged = || KeysError::damaged(key);
    let (front, number) = key.split_last_chunk::<4>().ok_or_else(damaged)?;
    let name = name_after(USES, front.strip_suffix(&[0]).ok_or_else(damaged)?)?;
    Ok((name, KeyVersion(u32::from_be_bytes(*number))))
}

/// The value of one pair under [`USES`].
pub(super) fn read_uses(key: &[u8], value: &[u8]) -> Result<u64, KeysError> {
    let bytes = value.try_into().map_err(|_| KeysError::damaged(key))?;
    Ok(u64::from_be_bytes(bytes))
}

/// The intent of one pair under [`INTENTS`].
pub(super) fn read_intent(key: &[u8], value: &[u8]) -> Result<Intent, KeysError> {
    let damaged = || KeysError::damaged(key);
    let record = IntentRecord::decode(value).map_err(|_| damaged())?;
    let token_id = record.token_id.as_ref().try_into().map_err(|_| damaged())?;
    let name = name_after(INTENTS, key)?;
    let new_key = record.new_key.map(|new| new.into_key(name.clone()).ok_or_else(damaged));
    let earlier = record.earlier.iter().map(|id| id.as_ref().try_into());
    let earlier: Vec<_> = earlier
        .map(|id| id.map(TokenObjectId::from_bytes).map_err(|_| damaged()))
        .collect::<Result<_, _>>()?;
    Ok(Intent {
        key: name,
        new_key: new_key.transpose()?,
        version: KeyVersion(record.version),
        suite: record.suite.parse().map_err(|_| damaged())?,
        created_ms: record.created_ms,
        request: record.request_id.as_ref().try_into().map_err(|_| damaged())?,
        what: record.what,
        key_bits: record.key_bits,
        token_id: TokenObjectId::from_bytes(token_id),
        imports: record.imported.then_some(earlier),
        undone: record.undone,
    })
}

/// The request of one pair under [`REQUESTS`].
pub(super) fn read_request(key: &[u8], value: &[u8]) -> Result<RequestRecord, KeysError> {
    RequestRecord::decode(value).map_err(|_| KeysError::damaged(key))
}

pub(super) fn name_after(prefix: &[u8], key: &[u8]) -> Result<KeyName, KeysError> {
    key.strip_prefix(prefix)
        .and_then(|name| std::str::from_utf8(name).ok())
        .and_then(|name| name.parse().ok())
        .ok_or_else(|| KeysError::damaged(key))
}
