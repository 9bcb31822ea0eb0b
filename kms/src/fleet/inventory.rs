//! Which versions a token holds, and which are expected. Pure.

use std::collections::{BTreeMap, HashMap};

use strongroom_proto::{KeyName, KeyVersion};

use crate::token::{Kcv, TokenKeyVersion};

/// Key versions by key.
#[derive(Debug, Clone, Default)]
pub(super) struct Inventory(HashMap<KeyName, BTreeMap<KeyVersion, TokenKeyVersion>>);

/// What a listing found, which took its time.
#[derive(Debug)]
pub(super) struct Listed {
    /// What was known of the token when it began.
    before: Inventory,
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

impl Listed {
    pub(super) const fn new(before: Inventory, found: Inventory) -> Self {
        Self { before, found }
    }

    pub(super) const fn found(&self) -> &Inventory {
        &self.found
    }

    /// What was found, with what became known since the listing began, up to `now`: versions may have been made and destroyed.
    pub(super) fn brought_up_to(&self, now: &Inventory) -> Inventory {
        let mut held = self.found.clone();
        let made = now
            .iter()
            .filter(|version| self.before.get(&version.key, version.version) != Some(*version));
        for version in made {
            held.add(version.clone());
        }
        for gone in self
            .before
            .iter()
            .filter(|version| !now.has(&version.key, version.version))
        {
            held.remove(&gone.key, gone.version);
        }
        held
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

    #[test]
    fn a_listing_undoes_nothing_that_happened_since_it_began() {
        let before = Inventory::of(vec![version("a", 0), version("b", 0), version("lost", 0)]);
        let found = Inventory::of(vec![version("a", 0), version("b", 0), version("planted", 0)]);
        let now = Inventory::of(vec![version("a", 0), version("lost", 0), version("made", 0)]);
        let held = Listed::new(before, found).brought_up_to(&now);
        let mut names: Vec<_> = held.iter().map(|held| held.key.as_str()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["a", "made", "planted"],
            "b was destroyed meanwhile, and lost is not there"
        );
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
