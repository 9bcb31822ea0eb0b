//! Which versions a token holds, and which are expected. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Deref,
    time::Instant,
};

use strongroom_proto::{KeyName, KeyVersion};

use crate::token::{Kcv, TokenKeyVersion};

/// Key versions by key.
#[derive(Debug, Clone, Default)]
pub(super) struct Inventory(HashMap<KeyName, BTreeMap<KeyVersion, TokenKeyVersion>>);

/// What a token is known to hold, by listings, which take their time, and by what was learnt of single versions meanwhile.
#[derive(Debug, Clone, Default)]
pub(super) struct Holdings {
    held: Inventory,
    /// Where something was learnt since the listing began that was taken in last, and when.
    learnt: HashMap<(KeyName, KeyVersion), Instant>,
    /// When that listing began.
    listed: Option<Instant>,
}

/// What a listing found.
#[derive(Debug)]
pub(super) struct Listed {
    begun: Instant,
    found: Inventory,
}

/// The check values that the key service's store knows.
#[derive(Debug, Default)]
pub(super) struct Expected(HashMap<KeyName, BTreeMap<KeyVersion, Kcv>>);

impl Inventory {
    pub(super) fn of(versions: Vec<TokenKeyVersion>) -> Self {
        let mut inventory = Self::default();
        for version in versions {
            inventory.add(version);
        }
        inventory
    }

    pub(super) fn add(&mut self, version: TokenKeyVersion) {
        self.0
            .entry(version.key.clone())
            .or_default()
            .insert(version.version, version);
    }

    pub(super) fn remove(&mut self, key: &KeyName, version: KeyVersion) {
        if let Some(versions) = self.0.get_mut(key) {
            versions.remove(&version);
        }
    }

    pub(super) fn get(&self, key: &KeyName, version: KeyVersion) -> Option<&TokenKeyVersion> {
        self.0.get(key)?.get(&version)
    }

    pub(super) fn has(&self, key: &KeyName, version: KeyVersion) -> bool {
        self.get(key, version).is_some()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &TokenKeyVersion> {
        self.0.values().flat_map(BTreeMap::values)
    }

    pub(super) fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }
}

impl Deref for Holdings {
    type Target = Inventory;

    fn deref(&self) -> &Inventory {
        &self.held
    }
}

impl Holdings {
    /// Takes in that a version is there now.
    pub(super) fn add(&mut self, version: TokenKeyVersion) {
        let place = (version.key.clone(), version.version);
        self.learn(place, Some(version), Instant::now());
    }

    /// Takes in that a version is not there any more.
    pub(super) fn remove(&mut self, key: &KeyName, version: KeyVersion) {
        self.learn((key.clone(), version), None, Instant::now());
    }

    /// Takes in what was in a place at `at`, unless something younger is known of it.
    pub(super) fn learn(&mut self, place: (KeyName, KeyVersion), found: Option<TokenKeyVersion>, at: Instant) {
        if self.listed.is_some_and(|listed| listed > at) || self.learnt.get(&place).is_some_and(|last| *last > at) {
            return;
        }
        match found {
            Some(version) => self.held.add(version),
            None => self.held.remove(&place.0, place.1),
        }
        self.learnt.insert(place, at);
    }

    /// Takes in a listing, unless one that began later was taken in before.
    pub(super) fn take_in(&mut self, listed: &Listed) {
        if self.listed.is_some_and(|last| last > listed.begun) {
            return;
        }
        self.held = self.after(listed);
        self.learnt.retain(|_, at| *at >= listed.begun);
        self.listed = Some(listed.begun);
    }

    /// What a listing found, with what was learnt since it began: versions may have been made and destroyed.
    pub(super) fn after(&self, listed: &Listed) -> Inventory {
        let mut held = listed.found.clone();
        let younger = self.learnt.iter().filter(|(_, at)| **at >= listed.begun);
        for ((key, version), _) in younger {
            match self.held.get(key, *version) {
                Some(version) => held.add(version.clone()),
                None => held.remove(key, *version),
            }
        }
        held
    }
}

impl Listed {
    pub(super) const fn new(begun: Instant, found: Inventory) -> Self {
        Self { begun, found }
    }

    pub(super) const fn found(&self) -> &Inventory {
        &self.found
    }
}

impl Expected {
    /// Replaces what is expected of one key.
    pub(super) fn set(&mut self, key: &KeyName, versions: &[(KeyVersion, Kcv)]) {
        if versions.is_empty() {
            self.0.remove(key);
        } else {
            self.0.insert(key.clone(), versions.iter().copied().collect());
        }
    }

    pub(super) fn get(&self, key: &KeyName, version: KeyVersion) -> Option<Kcv> {
        self.0.get(key)?.get(&version).copied()
    }

    /// How many of a key's versions are not in `held`, or not as expected.
    pub(super) fn lacking_of(&self, key: &KeyName, held: &Inventory) -> usize {
        let versions = self.0.get(key).into_iter().flatten();
        let lacking = versions.filter(|(version, kcv)| held.get(key, **version).is_none_or(|held| held.kcv != **kcv));
        lacking.count()
    }

    /// The same of all keys.
    pub(super) fn lacking(&self, held: &Inventory) -> usize {
        self.0.keys().map(|key| self.lacking_of(key, held)).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&KeyName, KeyVersion, Kcv)> {
        let versions = |(key, versions)| {
            let versions: &BTreeMap<KeyVersion, Kcv> = versions;
            versions.iter().map(move |(&version, &kcv)| (key, version, kcv))
        };
        self.0.iter().flat_map(versions)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use strongroom_proto::EdekSuite;

    use super::*;
    use crate::token::{Origin, TokenObjectId};

    fn version(key: &str, version: u32) -> TokenKeyVersion {
        TokenKeyVersion {
            key: key.parse().expect("a key name"),
            version: KeyVersion(version),
            suite: EdekSuite::Kw,
            kcv: Kcv::from_bytes([7; 3]),
            token_id: TokenObjectId::from_bytes([7; 16]),
            origin: Origin::Generated,
        }
    }

    fn names(held: &Inventory) -> Vec<&str> {
        let mut names: Vec<_> = held.iter().map(|held| held.key.as_str()).collect();
        names.sort_unstable();
        names
    }

    fn place(name: &str) -> (KeyName, KeyVersion) {
        let version = version(name, 0);
        (version.key, version.version)
    }

    #[test]
    fn a_listing_undoes_nothing_that_happened_since_it_began() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut holdings = Holdings::default();
        for name in ["a", "b", "lost"] {
            holdings.learn(place(name), Some(version(name, 0)), at(1));
        }
        holdings.learn(place("b"), None, at(3));
        holdings.learn(place("made"), Some(version("made", 0)), at(4));
        let found = Inventory::of(vec![version("a", 0), version("b", 0), version("planted", 0)]);
        holdings.take_in(&Listed::new(at(2), found));
        assert_eq!(
            names(&holdings),
            ["a", "made", "planted"],
            "b was destroyed meanwhile, and lost is not there"
        );
        holdings.learn(place("a"), None, at(1));
        assert!(holdings.has(&place("a").0, KeyVersion(0)), "a look from before");
    }

    #[test]
    fn of_two_listings_the_one_that_began_later_counts_whichever_is_taken_in_first() {
        let start = Instant::now();
        let listed = |s, found: &[&str]| {
            let found = found.iter().map(|name| version(name, 0)).collect();
            Listed::new(start + Duration::from_secs(s), Inventory::of(found))
        };
        for order in [[0, 1], [1, 0]] {
            let both = [listed(1, &["a", "gone"]), listed(2, &["a", "new"])];
            let mut holdings = Holdings::default();
            for place in order {
                holdings.take_in(&both[place]);
            }
            assert_eq!(names(&holdings), ["a", "new"], "{order:?}");
        }
    }

    #[test]
    fn what_is_lacking_is_counted_by_key() {
        let held = Inventory::of(vec![version("a", 0), version("b", 0)]);
        let (a, b): (KeyName, KeyName) = (version("a", 0).key, version("b", 0).key);
        let mut expected = Expected::default();
        expected.set(
            &a,
            &[
                (KeyVersion(0), Kcv::from_bytes([7; 3])),
                (KeyVersion(1), Kcv::from_bytes([7; 3])),
            ],
        );
        expected.set(&b, &[(KeyVersion(0), Kcv::from_bytes([8; 3]))]);
        assert_eq!((expected.lacking_of(&a, &held), expected.lacking_of(&b, &held)), (1, 1));
        assert_eq!(expected.lacking(&held), 2);
        expected.set(&b, &[]);
        assert_eq!(expected.lacking(&held), 1);
    }
}
