//! One EZ key: its versions, which of them may do what, and how it changes. Pure: no token, no store, no clock.

use std::collections::BTreeMap;

use strongroom_proto::{EdekSuite, Failure, KeyName, KeyVersion, Reason};

use super::{
    attributes::Attributes,
    deletion::{Deletion, Demands, Obstacles, Quorum, Target, Zones, blocked, zones_text},
    rotation::Rotation,
    version::{Presence, Standing, Version, time_text, unusable},
};
use crate::token::{Kcv, Origin, TokenKeyVersion};

/// Bits of a version if nobody asked for another size.
pub(crate) const KEY_BITS: u32 = 256;

/// An EZ key as the service knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) name: KeyName,
    pub(crate) suite: EdekSuite,
    /// Bits of every new version.
    pub(crate) key_bits: u32,
    pub(crate) created_ms: u64,
    /// A version of it was found in the token that the store did not know: nothing is made under the key
    /// until an administrator says which version counts.
    pub(crate) unconfirmed: bool,
    /// Nothing is done with the key until an administrator enables it.
    pub(crate) disabled: bool,
    /// It was found in the token: zones may have minted with it that the store does not know.
    pub(crate) zones_lost: bool,
    pub(crate) attributes: Attributes,
    pub(crate) rotation: Option<Rotation>,
    pub(crate) versions: BTreeMap<KeyVersion, Version>,
    pub(crate) deletions: BTreeMap<Target, Deletion>,
    /// The store's revision at its last change, 0 if it was never stored.
    pub(crate) revision: u64,
}

impl Key {
    /// A key that is about to get its first version.
    pub(crate) fn new(name: KeyName, suite: EdekSuite, created_ms: u64) -> Self {
        Self {
            name,
            suite,
            key_bits: KEY_BITS,
            created_ms,
            unconfirmed: false,
            disabled: false,
            zones_lost: false,
            attributes: Attributes::default(),
            rotation: None,
            versions: BTreeMap::new(),
            deletions: BTreeMap::new(),
            revision: 0,
        }
    }

    /// Versions that were not compared with the token.
    pub(crate) fn unchecked(&self) -> impl Iterator<Item = KeyVersion> {
        let versions = self.versions.iter();
        let unchecked =
            versions.filter(|(_, version)| version.presence == Presence::Unchecked && !version.is_destroyed());
        unchecked.map(|(number, _)| *number)
    }

    /// Versions that were destroyed since `known`, an older state of the key.
    pub(crate) fn lost_since(&self, known: &Self) -> Vec<KeyVersion> {
        let destroyed = self.versions.iter().filter(|(_, version)| version.is_destroyed());
        let numbers = destroyed.map(|(number, _)| *number);
        let was_there = |number: &KeyVersion| known.versions.get(number).is_some_and(|known| !known.is_destroyed());
        numbers.filter(was_there).collect()
    }

    /// Whether it stands for the objects in the token that `before`, an older state of it, stood for: none was added, exchanged,
    /// or given up to destruction.
    pub(crate) fn has_objects_of(&self, before: &Self) -> bool {
        let objects = |key: &Self| {
            let kept = |number: &KeyVersion, version: &Version| !version.is_destroyed() && !key.is_begun(*number);
            let versions = key.versions.iter();
            let objects = versions.map(|(number, version)| (*number, version.token_id, kept(number, version)));
            objects.collect::<Vec<_>>()
        };
        objects(self) == objects(before)
    }

    /// Takes over what `known`, an older state of the key, found out about the token. A version destroyed since is in none:
    /// whoever destroyed it has seen to that.
    pub(crate) fn keep_presence(&mut self, known: &Self) {
        for (number, version) in &mut self.versions {
            let same = known.versions.get(number);
            let same = same.filter(|same| same.kcv == version.kcv && same.token_id == version.token_id);
            let Some(same) = same else { continue };
            if version.is_destroyed() && !same.is_destroyed() {
                version.presence = Presence::Missing;
            } else {
                version.presence = same.presence.clone();
                version.trouble.clone_from(&same.trouble);
            }
        }
    }

    /// The version that mints, if the key has one that can.
    pub(crate) fn current(&self) -> Option<KeyVersion> {
        self.minting().ok()
    }

    /// The version that mints.
    pub(crate) fn minting(&self) -> Result<KeyVersion, Failure> {
        let name = &self.name;
        self.enabled()?;
        self.staying()?;
        if self.unconfirmed {
            return Err(unusable(format!(
                "key {name} was found in the token with versions that the key service's store did not know, so nothing is \
                 made under it until a key administrator has looked at it; {}",
                self.confirmation()
            )));
        }
        let active = self.versions.iter().find(|(_, version)| version.is_active());
        let (&number, version) =
            active.ok_or_else(|| unusable(format!("key {name} has no active version; {}", self.confirmation())))?;
        version.usable(name, number)?;
        Ok(number)
    }

    /// Whether EDEKs under `number` may be opened.
    pub(crate) fn opening(&self, number: KeyVersion) -> Result<(), Failure> {
        let name = &self.name;
        self.enabled()?;
        let version = self.versions.get(&number).ok_or_else(|| self.no_version(number))?;
        version.usable(name, number)?;
        if self.is_begun(number) {
            return Err(unusable(format!("version {number} of key {name} is being destroyed")));
        }
        Ok(())
    }

    /// Whether a new version may be made.
    pub(crate) fn rolling(&self) -> Result<(), Failure> {
        self.enabled()?;
        self.staying()?;
        if self.unconfirmed && !self.rolls_unconfirmed() {
            // A roll would bring a key to life that nobody has looked at.
            self.minting()?;
        }
        Ok(())
    }

    /// Whether the way out of being unconfirmed is a new version: how often a `gcm` version was used is not known, and what
    /// was brought in never mints.
    fn rolls_unconfirmed(&self) -> bool {
        let newest = self.versions.values().rev().find(|version| !version.is_destroyed());
        self.suite == EdekSuite::Gcm || newest.is_some_and(|version| version.origin == Origin::Imported)
    }

    /// The version that the next roll makes. Versions that are missing or destroyed keep their numbers.
    pub(crate) fn next_version(&self) -> Result<KeyVersion, Failure> {
        match self.versions.last_key_value() {
            None => Ok(KeyVersion(0)),
            Some((newest, _)) => newest
                .next()
                .ok_or_else(|| unusable(format!("key {} has used up its version numbers", self.name))),
        }
    }

    /// Takes in a version that was generated and proved at `now_ms`: it mints from now on, the others only open. If the key came
    /// to be deleted while it was made, it does so once that is taken back.
    pub(crate) fn activate(&mut self, made: &TokenKeyVersion, clones: bool, now_ms: u64) {
        let rolled = self.rolls_unconfirmed();
        self.add(made, clones, now_ms);
        match self.deletions.get_mut(&Target::Key) {
            Some(deletion) => deletion.active_before = Some(made.version),
            None => self.make_current(made.version),
        }
        if rolled {
            // How often the others were used, or who has them too, is not known and does not matter any more.
            self.unconfirmed = false;
        }
        if let Some(rotation) = self.rotation {
            self.rotation = Some(Rotation::starting(rotation.period_ms, now_ms));
        }
    }

    /// Takes in a version that only opens.
    pub(crate) fn add(&mut self, found: &TokenKeyVersion, clones: bool, created_ms: u64) {
        self.versions
            .insert(found.version, Version::of(found, clones, created_ms));
    }

    /// What the check value of every version is that tokens are to hold. One whose destruction has begun is expected in none, or
    /// a token that came back from a backup would give it back to the others.
    pub(crate) fn check_values(&self) -> Vec<(KeyVersion, Kcv)> {
        self.versions
            .iter()
            .filter(|(number, version)| !version.is_destroyed() && !self.is_begun(**number))
            .map(|(&number, version)| (number, version.kcv))
            .collect()
    }

    /// Makes the version that the administrator looked at, and names with its check value, the one that mints. Answers
    /// whether anything changed.
    pub(crate) fn confirm(&mut self, number: KeyVersion, kcv: Kcv) -> Result<bool, Failure> {
        let name = &self.name;
        self.staying()?;
        let version = self.versions.get(&number).ok_or_else(|| self.no_version(number))?;
        if version.kcv != kcv {
            return Err(unusable(format!(
                "version {number} of key {name} has the check value {}, not {kcv}; hold it against what you wrote down \
                 before you confirm it",
                version.kcv
            )));
        }
        version.usable(name, number)?;
        let active = self.versions.iter().find(|(_, version)| version.is_active());
        match active {
            Some((&active, _)) if !self.unconfirmed && active == number => return Ok(false),
            Some((active, _)) if !self.unconfirmed => {
                return Err(unusable(format!(
                    "version {active} of key {name} mints already; make a new one with: strongroom key roll {name}"
                )));
            }
            _ => {}
        }
        if self.deletions.contains_key(&Target::Version(number)) {
            return Err(blocked(format!(
                "version {number} of key {name} is to be deleted; take that back first with: strongroom key cancel-delete \
                 {name} --version {number}"
            )));
        }
        if self.suite == EdekSuite::Gcm {
            return Err(unusable(format!(
                "how often version {number} of key {name} was used is not known, and a gcm key must not be used too often; \
                 make a new version instead with: strongroom key roll {name}"
            )));
        }
        if version.origin == Origin::Imported {
            return Err(unusable(format!(
                "version {number} of key {name} was not made in the token: somebody brought it in, has it too, and could \
                 open all that is made under it, so it never mints; make a new version with: strongroom key roll {name}. If \
                 nobody of yours brought it in, somebody else has the token's PIN"
            )));
        }
        self.unconfirmed = false;
        self.make_current(number);
        Ok(true)
    }

    /// Retires the target and starts its deletion, or changes how long one that waits is to be pending.
    pub(crate) fn schedule(&mut self, target: Target, who: &str, pending_ms: u64) -> Result<(), Failure> {
        if let Some(known) = self.deletions.get_mut(&target) {
            if known.due_ms.is_none() {
                known.pending_ms = pending_ms;
            }
            return Ok(());
        }
        self.deletable(target)?;
        // What is under way may still end: until `retired` is called, no proof is young enough.
        let mut deletion = Deletion::new(who.to_owned(), pending_ms, u64::MAX);
        if target == Target::Key {
            deletion.active_before = self.versions.iter().find(|(_, v)| v.is_active()).map(|(&n, _)| n);
            self.make_none_current();
        }
        self.deletions.insert(target, deletion);
        Ok(())
    }

    /// Notes since when nothing is made under the target any more, once all that was under way has ended.
    pub(crate) fn retired(&mut self, target: Target, now_ms: u64) {
        if let Some(deletion) = self.deletions.get_mut(&target) {
            deletion.retired_ms = deletion.retired_ms.min(now_ms);
        }
    }

    fn deletable(&self, target: Target) -> Result<(), Failure> {
        let name = &self.name;
        self.staying()?;
        let Target::Version(number) = target else {
            return Ok(());
        };
        let version = self.versions.get(&number).ok_or_else(|| self.no_version(number))?;
        if version.is_active() {
            return Err(blocked(format!(
                "version {number} of key {name} mints; make a new one first with: strongroom key roll {name}"
            )));
        }
        if version.is_destroyed() {
            return version.usable(name, number);
        }
        Ok(())
    }

    /// Starts the pending time of a deletion for which nothing but approvals is missing. Answers whether it did.
    pub(crate) fn make_pending(&mut self, target: Target, zones: &Zones, now_ms: u64) -> bool {
        let newest = self.newest_of(target);
        let demands = self.demands(Quorum::default());
        let Some(deletion) = self.deletions.get_mut(&target) else {
            return false;
        };
        let proofs_missing = !deletion.obstacles(newest, zones, demands).zones.is_empty();
        if proofs_missing || deletion.due_ms.is_some() {
            return false;
        }
        deletion.due_ms = Some(now_ms.saturating_add(deletion.pending_ms));
        true
    }

    /// What the deletion of `target` waits for, besides its time.
    pub(crate) fn obstacles(&self, target: Target, zones: &Zones, quorum: Quorum) -> Option<Obstacles> {
        let deletion = self.deletions.get(&target)?;
        Some(deletion.obstacles(self.newest_of(target), zones, self.demands(quorum)))
    }

    /// Takes a deletion back: the target opens, and mints if it did.
    pub(crate) fn cancel(&mut self, target: Target) -> Result<(), Failure> {
        let name = &self.name;
        let deletion = self.deletions.get(&target).ok_or_else(|| self.no_deletion(target))?;
        if deletion.begun.is_some() {
            return Err(blocked(format!(
                "the destruction of key {name} has begun; it cannot be taken back"
            )));
        }
        let active = deletion.active_before;
        self.deletions.remove(&target);
        if let Some(active) = active {
            self.make_current(active);
        }
        Ok(())
    }

    /// Records that `who` agrees to the deletion of `target`. Answers whether that is news.
    pub(crate) fn approve(&mut self, target: Target, who: &str, now_ms: u64) -> Result<bool, Failure> {
        match self.deletions.get_mut(&target) {
            Some(deletion) => deletion.approve(who, now_ms),
            None => Err(self.no_deletion(target)),
        }
    }

    /// Whether every version is destroyed: the name stays taken.
    pub(crate) fn is_destroyed(&self) -> bool {
        !self.versions.is_empty() && self.versions.values().all(Version::is_destroyed)
    }

    /// Whether its destruction has begun.
    pub(crate) fn is_begun(&self, number: KeyVersion) -> bool {
        let mut begun = self.deletions.iter().filter(|(_, deletion)| deletion.begun.is_some());
        begun.any(|(target, _)| target.covers(number))
    }

    fn demands(&self, quorum: Quorum) -> Demands {
        Demands {
            outside_zones: self.attributes.outside_zones,
            zones_lost: self.zones_lost,
            quorum,
        }
    }

    /// The newest version that the target covers.
    fn newest_of(&self, target: Target) -> KeyVersion {
        match target {
            Target::Version(number) => number,
            Target::Key => self
                .versions
                .last_key_value()
                .map_or(KeyVersion(0), |(&newest, _)| newest),
        }
    }

    fn make_current(&mut self, current: KeyVersion) {
        self.make_none_current();
        if let Some(version) = self
            .versions
            .get_mut(&current)
            .filter(|version| !version.is_destroyed())
        {
            version.standing = Standing::Active;
        }
    }

    fn make_none_current(&mut self) {
        for version in self.versions.values_mut().filter(|version| version.is_active()) {
            version.standing = Standing::DecryptOnly;
        }
    }

    fn enabled(&self) -> Result<(), Failure> {
        if self.disabled {
            let name = &self.name;
            return Err(Failure::new(
                Reason::KeyDisabled,
                format!("key {name} is disabled; a key administrator enables it with: strongroom key enable {name}"),
            ));
        }
        Ok(())
    }

    /// Whether the key is neither destroyed nor about to be.
    fn staying(&self) -> Result<(), Failure> {
        let name = &self.name;
        if self.is_destroyed() {
            return Err(unusable(format!(
                "key {name} was destroyed, and its name stays taken; make a key of another name"
            )));
        }
        if self.deletions.contains_key(&Target::Key) {
            return Err(unusable(format!(
                "key {name} is to be deleted and only opens; take that back with: strongroom key cancel-delete {name}"
            )));
        }
        Ok(())
    }

    /// How the key is let mint again.
    fn confirmation(&self) -> String {
        let name = &self.name;
        let mut newest_first = self.versions.iter().rev();
        let newest = newest_first.find(|(_, version)| version.presence == Presence::Present);
        match newest {
            _ if self.rolls_unconfirmed() => {
                format!("look at it, then make a new version with: strongroom key roll {name}")
            }
            Some((number, version)) => format!(
                "hold its check values against what you wrote down, then confirm its newest version with: strongroom key \
                 confirm {name} --version {number} --kcv {}",
                version.kcv
            ),
            None => "none of its versions is in the token; restore the token first".to_owned(),
        }
    }

    fn no_version(&self, number: KeyVersion) -> Failure {
        let name = &self.name;
        unusable(format!(
            "key {name} has no version {number}; see its versions with: strongroom key show {name}"
        ))
    }

    fn no_deletion(&self, target: Target) -> Failure {
        let name = &self.name;
        let what = match target {
            Target::Key => format!("key {name}"),
            Target::Version(number) => format!("version {number} of key {name}"),
        };
        blocked(format!(
            "{what} is not being deleted; see what is with: strongroom key show {name}"
        ))
    }

    /// Why a deletion that waits does not go on, and what to do about it.
    pub(crate) fn waits_for_proofs(&self, target: Target, obstacles: &Obstacles) -> Failure {
        let name = &self.name;
        let (what, option) = match target {
            Target::Key => (format!("key {name} mints no more"), String::new()),
            Target::Version(number) => (
                format!("version {number} of key {name} stays decrypt-only"),
                format!(" --version {number}"),
            ),
        };
        let newest = self.newest_of(target);
        let zone = obstacles.zones.first().map(ToString::to_string).unwrap_or_default();
        let since = self.deletions.get(&target).map_or(0, |deletion| deletion.retired_ms);
        let count = obstacles.zones.len();
        blocked(format!(
            "{what}, but its deletion is not pending yet: {count} {} minted with the key and have no proof made after {} that \
             nothing needs it any more: {}. Re-encrypt or remove each zone, have its proof made with: strongroom zone proof \
             --zone-id {zone} --key {name} --through-version {newest} --output FILE, and hand it in with: strongroom key \
             delete {name}{option} --proof FILE. Take the deletion back with: strongroom key cancel-delete {name}{option}",
            if count == 1 { "zone" } else { "zones" },
            time_text(since),
            zones_text(&obstacles.zones)
        ))
    }
}
