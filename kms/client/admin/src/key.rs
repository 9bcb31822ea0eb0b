//! Keys as administrators see them, parsed from the wire.

use std::collections::BTreeMap;

use strongroom_proto::{EdekSuite, Failure, KeyName, KeyVersion, Reason, ZoneId, kms::v1 as pb};

/// An EZ key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: KeyName,
    /// How its EDEKs are wrapped.
    pub suite: EdekSuite,
    /// The version that mints; none while no version may.
    pub current: Option<KeyVersion>,
    /// The newest 1000, oldest first; none in a page of keys.
    pub versions: Vec<KeyVersionInfo>,
    /// How many there are.
    pub version_count: u32,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Nothing is done with it.
    pub disabled: bool,
    /// It was found in the token with versions that the store did not know, and waits for a confirmation or a roll.
    pub unconfirmed: bool,
    /// What administrators say of it.
    pub description: String,
    /// Labels by name.
    pub tags: BTreeMap<String, String>,
    /// DEKs are given out only by sealed delivery.
    pub sealed_required: bool,
    /// EDEKs are kept by others than the metadata service.
    pub outside_zones: bool,
    /// From one roll that the service makes by itself to the next, in milliseconds; none if it makes none.
    pub rotation_period_ms: Option<u64>,
    /// When it makes the next, in milliseconds since 1970.
    pub next_rotation_ms: Option<u64>,
    /// The first 100 of its other names; none in a page of keys.
    pub aliases: Vec<KeyName>,
    /// Its way to be destroyed, if it is on it.
    pub deletion: Option<Deletion>,
}

/// A version of an EZ key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyVersionInfo {
    /// Its number.
    pub version: KeyVersion,
    /// What it may do.
    pub state: VersionState,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// The key check value.
    pub kcv: [u8; 3],
    /// `CKA_ID` of the token object.
    pub token_id: [u8; 16],
    /// Why it is not as it should be; empty if it is.
    pub detail: String,
    /// When it was last used, to a minute, in milliseconds since 1970.
    pub last_used_ms: Option<u64>,
    /// When it was destroyed, in milliseconds since 1970.
    pub destroyed_ms: Option<u64>,
    /// Its own way to be destroyed, if it is on it.
    pub deletion: Option<Deletion>,
    /// How it came into the token: `generated`, `cloned` or `imported`.
    pub origin: String,
}

/// A key or version on its way to be destroyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// `user keyadmin`.
    pub requested_by: String,
    /// Since when nothing is made under it, in milliseconds since 1970.
    pub retired_ms: u64,
    /// When it is destroyed, in milliseconds since 1970; none while proofs are missing.
    pub due_ms: Option<u64>,
    /// It cannot be taken back any more.
    pub begun: bool,
    /// Who agreed.
    pub approved_by: Vec<String>,
    /// How many still have to.
    pub approvals_missing: u32,
    /// The first 100 zones whose proof is missing.
    pub zones_without_proof: Vec<ZoneId>,
    /// How many there are.
    pub zones_without_proof_count: u32,
}

/// What a version may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VersionState {
    /// Mints, unwraps and is the target of re-wrapping.
    Active,
    /// Unwraps only.
    DecryptOnly,
    /// Nothing: the token does not hold it.
    Missing,
    /// Nothing, for ever.
    Destroyed,
}

impl VersionState {
    /// The state's word for people and `--json`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::DecryptOnly => "decrypt-only",
            Self::Missing => "missing",
            Self::Destroyed => "destroyed",
        }
    }
}

/// A page of keys, in order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPage {
    /// The keys.
    pub keys: Vec<Key>,
    /// Where the next page goes on, if there is one.
    pub next: Option<KeyName>,
}

/// Another name of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The other name.
    pub alias: KeyName,
    /// The key's own.
    pub key: KeyName,
}

/// A page of aliases, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasPage {
    /// The aliases.
    pub aliases: Vec<Alias>,
    /// Where the next page goes on, if there is one.
    pub next: Option<KeyName>,
}

/// What a key is made with, besides its name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewKey {
    /// How its EDEKs are wrapped; the service's default if absent.
    pub suite: Option<EdekSuite>,
    /// Size of the key; 256 if absent.
    pub key_bits: Option<u32>,
    /// One line of up to 1024 bytes.
    pub description: String,
    /// Up to 32 labels.
    pub tags: BTreeMap<String, String>,
    /// Whether DEKs are given out only by sealed delivery.
    pub sealed_required: bool,
    /// Whether EDEKs are kept by others than the metadata service.
    pub outside_zones: bool,
    /// From one roll that the service makes by itself to the next, in milliseconds; none if absent.
    pub rotation_period_ms: Option<u64>,
}

/// What changes of a key; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyChange {
    /// Whether nothing may be done with it.
    pub disabled: Option<bool>,
    /// One line of up to 1024 bytes.
    pub description: Option<String>,
    /// Labels to set.
    pub set_tags: BTreeMap<String, String>,
    /// Labels to remove.
    pub remove_tags: Vec<String>,
    /// Whether DEKs are given out only by sealed delivery.
    pub sealed_required: Option<bool>,
    /// Whether EDEKs are kept by others than the metadata service: only no.
    pub outside_zones: Option<bool>,
    /// From one roll that the service makes by itself to the next, in milliseconds; 0 stops that.
    pub rotation_period_ms: Option<u64>,
}

impl TryFrom<&pb::Key> for Key {
    type Error = Failure;

    fn try_from(wire: &pb::Key) -> Result<Self, Failure> {
        Ok(Self {
            name: wire.name.parse()?,
            suite: wire.suite.parse()?,
            current: wire.current_version.map(KeyVersion),
            versions: wire.versions.iter().map(TryFrom::try_from).collect::<Result<_, _>>()?,
            version_count: wire.version_count,
            created_ms: wire.created_ms,
            disabled: wire.disabled,
            unconfirmed: wire.unconfirmed,
            description: wire.description.clone(),
            tags: wire
                .tags
                .iter()
                .map(|tag| (tag.name.clone(), tag.value.clone()))
                .collect(),
            sealed_required: wire.sealed_required,
            outside_zones: wire.outside_zones,
            rotation_period_ms: Some(wire.rotation_period_ms).filter(|&period_ms| period_ms > 0),
            next_rotation_ms: wire.next_rotation_ms,
            aliases: wire
                .aliases
                .iter()
                .map(|alias| alias.parse())
                .collect::<Result<_, _>>()?,
            deletion: wire.deletion.as_ref().map(TryFrom::try_from).transpose()?,
        })
    }
}

impl TryFrom<&pb::KeyVersion> for KeyVersionInfo {
    type Error = Failure;

    fn try_from(wire: &pb::KeyVersion) -> Result<Self, Failure> {
        let malformed = |_| {
            Failure::new(
                Reason::Internal,
                "the key service answered with a malformed key version",
            )
        };
        Ok(Self {
            version: KeyVersion(wire.version),
            state: state(wire.state())?,
            created_ms: wire.created_ms,
            kcv: wire.kcv.as_ref().try_into().map_err(malformed)?,
            token_id: wire.token_id.as_ref().try_into().map_err(malformed)?,
            detail: wire.detail.clone(),
            last_used_ms: wire.last_used_ms,
            destroyed_ms: wire.destroyed_ms,
            deletion: wire.deletion.as_ref().map(TryFrom::try_from).transpose()?,
            origin: wire.origin.clone(),
        })
    }
}

impl TryFrom<&pb::Deletion> for Deletion {
    type Error = Failure;

    fn try_from(wire: &pb::Deletion) -> Result<Self, Failure> {
        let zones = wire.zones_without_proof.iter();
        Ok(Self {
            requested_by: wire.requested_by.clone(),
            retired_ms: wire.retired_ms,
            due_ms: wire.due_ms,
            begun: wire.begun,
            approved_by: wire.approved_by.clone(),
            approvals_missing: wire.approvals_missing,
            zones_without_proof: zones.map(|zone| zone.as_ref().try_into()).collect::<Result<_, _>>()?,
            zones_without_proof_count: wire.zones_without_proof_count,
        })
    }
}

impl TryFrom<&pb::Alias> for Alias {
    type Error = Failure;

    fn try_from(wire: &pb::Alias) -> Result<Self, Failure> {
        Ok(Self {
            alias: wire.alias.parse()?,
            key: wire.key_name.parse()?,
        })
    }
}

fn state(wire: pb::KeyVersionState) -> Result<VersionState, Failure> {
    match wire {
        pb::KeyVersionState::Active => Ok(VersionState::Active),
        pb::KeyVersionState::DecryptOnly => Ok(VersionState::DecryptOnly),
        pb::KeyVersionState::Missing => Ok(VersionState::Missing),
        pb::KeyVersionState::Destroyed => Ok(VersionState::Destroyed),
        pb::KeyVersionState::Unspecified => Err(Failure::new(
            Reason::Internal,
            "the key service answered with a state of a key version that this program does not know; update it",
        )),
    }
}
