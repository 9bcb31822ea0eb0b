//! One EZ key: its versions, which of them may do what, and how it changes. Pure: no token, no store.

use std::collections::BTreeMap;

use strongroom_proto::{EdekSuite, Failure, KeyName, KeyVersion, Reason, kms::v1 as pb};

use crate::token::{Kcv, TokenKeyVersion, TokenObjectId};

/// An EZ key as the service knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) name: KeyName,
    pub(crate) suite: EdekSuite,
    pub(crate) created_ms: u64,
    /// A version of it was found in the token that the store did not know: nothing is made under the key
    /// until an administrator says which version counts.
    pub(crate) unconfirmed: bool,
    pub(crate) versions: BTreeMap<KeyVersion, Version>,
    /// The store's revision at its last change, 0 if it was never stored.
    pub(crate) revision: u64,
}

/// One version of an EZ key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    /// The version that mints; at most one of a key is.
    pub(crate) active: bool,
    pub(crate) created_ms: u64,
    pub(crate) kcv: Kcv,
    pub(crate) token_id: TokenObjectId,
    pub(crate) presence: Presence,
}

/// How the token's object compares with what the store says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Not compared since the service started.
    Unchecked,
    /// There, with the same check value.
    Present,
    /// Not in the token.
    Missing,
    /// Another key is in its place: the check value or the suite differs.
    Different,
}

impl Key {
    /// A key that is about to get its first version.
    pub(crate) fn new(name: KeyName, suite: EdekSuite, created_ms: u64) -> Self {
        Self {
            name,
            suite,
            created_ms,
            unconfirmed: false,
            versions: BTreeMap::new(),
            revision: 0,
        }
    }

    /// Whether a version was not compared with the token.
    pub(crate) fn has_unchecked(&self) -> bool {
        let mut versions = self.versions.values();
        versions.any(|version| version.presence == Presence::Unchecked)
    }

    /// Takes over what `known`, an older state of the key, found out about the token.
    pub(crate) fn keep_presence(&mut self, known: &Self) {
        for (number, version) in &mut self.versions {
            let same = known.versions.get(number);
            let same = same.filter(|same| same.kcv == version.kcv && same.token_id == version.token_id);
            version.presence = same.map_or(version.presence, |same| same.presence);
        }
    }

    /// The version that mints, if the key has one that can.
    pub(crate) fn current(&self) -> Option<KeyVersion> {
        self.minting().ok()
    }

    /// The version that mints.
    pub(crate) fn minting(&self) -> Result<KeyVersion, Failure> {
        let name = &self.name;
        if self.unconfirmed {
            return Err(unusable(format!(
                "key {name} was found in the token with versions that the key service's store did not know, so nothing is \
                 made under it until a key administrator has looked at it; confirm its newest version with: strongroom \
                 key confirm {name}"
            )));
        }
        let active = self.versions.iter().find(|(_, version)| version.active);
        let (&number, version) = active.ok_or_else(|| {
            unusable(format!(
                "key {name} has no active version; confirm its newest one with: strongroom key confirm {name}"
            ))
        })?;
        version.usable(name, number)?;
        Ok(number)
    }

    /// Whether EDEKs under `number` may be opened.
    pub(crate) fn opening(&self, number: KeyVersion) -> Result<(), Failure> {
        let name = &self.name;
        let version = self.versions.get(&number).ok_or_else(|| {
            unusable(format!(
                "key {name} has no version {number}; see its versions with: strongroom key show {name}"
            ))
        })?;
        version.usable(name, number)
    }

    /// The version that the next roll makes. Versions that are missing keep their numbers.
    pub(crate) fn next_version(&self) -> Result<KeyVersion, Failure> {
        match self.versions.last_key_value() {
            None => Ok(KeyVersion(0)),
            Some((newest, _)) => newest
                .next()
                .ok_or_else(|| unusable(format!("key {} has used up its version numbers", self.name))),
        }
    }

    /// Takes in a version that was generated and proved: it mints from now on, the others only open.
    pub(crate) fn activate(&mut self, made: &TokenKeyVersion, created_ms: u64) {
        self.add(made, created_ms);
        self.make_current(made.version);
    }

    /// Takes in a version that only opens.
    pub(crate) fn add(&mut self, found: &TokenKeyVersion, created_ms: u64) {
        let version = Version {
            active: false,
            created_ms,
            kcv: found.kcv,
            token_id: found.token_id,
            presence: Presence::Present,
        };
        self.versions.insert(found.version, version);
    }

    /// Makes the newest usable version the one that mints, if the key is unconfirmed or has none that could. Answers
    /// whether anything changed.
    pub(crate) fn confirm(&mut self) -> Result<bool, Failure> {
        if !self.unconfirmed && self.versions.values().any(|version| version.active) {
            return Ok(false);
        }
        let mut newest_first = self.versions.iter().rev();
        let usable = newest_first.find(|(_, version)| version.presence == Presence::Present);
        let (&number, _) = usable.ok_or_else(|| {
            unusable(format!(
                "key {} has no version in the token that could be confirmed; restore the token first",
                self.name
            ))
        })?;
        self.unconfirmed = false;
        self.make_current(number);
        Ok(true)
    }

    fn make_current(&mut self, current: KeyVersion) {
        for (&number, version) in &mut self.versions {
            version.active = number == current;
        }
    }

    /// The key as clients see it.
    pub(crate) fn to_wire(&self) -> pb::Key {
        pb::Key {
            name: self.name.as_str().to_owned(),
            suite: self.suite.as_str().to_owned(),
            current_version: self.current().map(|version| version.0),
            versions: self
                .versions
                .iter()
                .map(|(&number, v)| v.to_wire(number, self.unconfirmed))
                .collect(),
            created_ms: self.created_ms,
        }
    }
}

impl Version {
    /// Whether the token can be asked to use this version.
    fn usable(&self, name: &KeyName, number: KeyVersion) -> Result<(), Failure> {
        match self.presence {
            Presence::Present | Presence::Unchecked => Ok(()),
            Presence::Missing => Err(unusable(format!(
                "version {number} of key {name} is missing from the token, or there twice or unfit (the key service's log \
                 says which); restore the token from its backup{}",
                self.way_on(name)
            ))),
            Presence::Different => Err(unusable(format!(
                "the token holds another key in the place of version {number} of key {name} (its check value differs), so it \
                 is not used; connect the right token or restore it from its backup{}",
                self.way_on(name)
            ))),
        }
    }

    /// What an administrator can do about the version that mints, besides mending the token.
    fn way_on(&self, name: &KeyName) -> String {
        if self.active {
            format!(", or make a new version with: strongroom key roll {name}")
        } else {
            String::new()
        }
    }

    fn to_wire(&self, number: KeyVersion, unconfirmed: bool) -> pb::KeyVersion {
        let state = match self.presence {
            // A version whose place another key has taken is as absent as one that is gone.
            Presence::Missing | Presence::Different => pb::KeyVersionState::Missing,
            Presence::Present | Presence::Unchecked if self.active && !unconfirmed => pb::KeyVersionState::Active,
            Presence::Present | Presence::Unchecked => pb::KeyVersionState::DecryptOnly,
        };
        pb::KeyVersion {
            version: number.0,
            state: state.into(),
            created_ms: self.created_ms,
            kcv: self.kcv.into(),
            token_id: self.token_id.into(),
        }
    }
}

fn unusable(message: String) -> Failure {
    Failure::new(Reason::KeyVersionUnusable, message)
}
