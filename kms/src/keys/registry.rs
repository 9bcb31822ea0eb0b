//! What is known around the keys, in memory and in the store: aliases, the zones that minted with a key and what was
//! proved of them, and when each version was last used.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use strongroom_proto::{KeyName, KeyVersion, ZoneId};

use super::deletion::{Proven, Zones};

/// Uses are recorded to this grain.
const GRAIN_MS: u64 = 60_000;

/// Everything around the keys.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// Alias to key.
    pub(super) aliases: Shared<BTreeMap<KeyName, KeyName>>,
    zones: Shared<BTreeMap<KeyName, Zones>>,
    uses: Shared<BTreeMap<KeyName, BTreeMap<KeyVersion, LastUse>>>,
}

/// A value that is read often and written seldom.
#[derive(Debug, Default)]
pub(super) struct Shared<T>(RwLock<T>);

/// When a version was last used, and what of that the store knows.
#[derive(Debug, Default)]
struct LastUse {
    at_ms: AtomicU64,
    stored_ms: AtomicU64,
}

impl<T> Shared<T> {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, T> {
        // Writers only insert and remove whole values, so that a panic elsewhere leaves nothing half done.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// The aliases of a key, in order.
    pub(super) fn aliases_of(&self, key: &KeyName) -> Vec<String> {
        let aliases = self.aliases.read();
        let named = aliases.iter().filter(|(_, target)| *target == key);
        named.map(|(alias, _)| alias.to_string()).collect()
    }

    /// Whether the zone is known to have minted with the key.
    pub(super) fn knows_zone(&self, key: &KeyName, zone: &ZoneId) -> bool {
        self.zones.read().get(key).is_some_and(|zones| zones.contains_key(zone))
    }

    /// How many zones are known to have minted with the key.
    pub(super) fn zone_count(&self, key: &KeyName) -> usize {
        self.zones.read().get(key).map_or(0, Zones::len)
    }

    /// Takes in a zone that nothing is proved of; one that is known stays as it is.
    pub(super) fn add_zone(&self, key: &KeyName, zone: ZoneId) {
        self.zones
            .write()
            .entry(key.clone())
            .or_default()
            .entry(zone)
            .or_default();
    }

    /// Takes in aliases that name another key now, or none.
    pub(super) fn change_aliases(&self, changes: BTreeMap<KeyName, Option<KeyName>>) {
        let mut aliases = self.aliases.write();
        for (alias, target) in changes {
            match target {
                Some(key) => _ = aliases.insert(alias, key),
                None => _ = aliases.remove(&alias),
            }
        }
    }

    /// Takes in what the store knows of a key's zones.
    pub(super) fn put_zones(&self, key: &KeyName, zones: &Zones) {
        let mut all = self.zones.write();
        let known = all.entry(key.clone()).or_default();
        known.extend(zones.iter().map(|(zone, proven)| (*zone, proven.clone())));
    }

    pub(super) fn put_zone(&self, key: &KeyName, zone: ZoneId, proven: Option<Proven>) {
        self.zones.write().entry(key.clone()).or_default().insert(zone, proven);
    }

    pub(super) fn zones_of(&self, key: &KeyName) -> Zones {
        self.zones.read().get(key).cloned().unwrap_or_default()
    }

    /// Notes that versions of a key were used.
    pub(super) fn note_use(&self, key: &KeyName, version: KeyVersion, now_ms: u64) {
        if let Some(last) = self.uses.read().get(key).and_then(|versions| versions.get(&version)) {
            last.at_ms.fetch_max(now_ms, Ordering::Relaxed);
            return;
        }
        let mut uses = self.uses.write();
        let last = uses.entry(key.clone()).or_default().entry(version).or_default();
        last.at_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    /// Takes in what the store knows of a version's last use.
    pub(super) fn load_use(&self, key: KeyName, version: KeyVersion, at_ms: u64) {
        let mut uses = self.uses.write();
        let last = uses.entry(key).or_default().entry(version).or_default();
        last.at_ms.fetch_max(at_ms, Ordering::Relaxed);
        last.stored_ms.fetch_max(at_ms, Ordering::Relaxed);
    }

    pub(super) fn uses_of(&self, key: &KeyName) -> BTreeMap<KeyVersion, u64> {
        let uses = self.uses.read();
        let versions = uses.get(key).into_iter().flatten();
        versions
            .map(|(&version, last)| (version, last.at_ms.load(Ordering::Relaxed)))
            .collect()
    }

    /// At most `limit` last uses that the store does not know, or knows as over a minute older.
    pub(super) fn unstored_uses(&self, limit: usize) -> Vec<(KeyName, KeyVersion, u64)> {
        let uses = self.uses.read();
        let all = uses
            .iter()
            .flat_map(|(key, versions)| versions.iter().map(move |(version, last)| (key, version, last)));
        let fresh = all.filter_map(|(key, &version, last)| {
            let (at_ms, stored_ms) = (
                last.at_ms.load(Ordering::Relaxed),
                last.stored_ms.load(Ordering::Relaxed),
            );
            (at_ms >= stored_ms.saturating_add(GRAIN_MS)).then(|| (key.clone(), version, at_ms))
        });
        fresh.take(limit).collect()
    }

    /// Notes that the store knows these uses now.
    pub(super) fn uses_stored(&self, stored: &[(KeyName, KeyVersion, u64)]) {
        let uses = self.uses.read();
        for (key, version, at_ms) in stored {
            if let Some(last) = uses.get(key).and_then(|versions| versions.get(version)) {
                last.stored_ms.fetch_max(*at_ms, Ordering::Relaxed);
            }
        }
    }
}

/// Each key version of a batch once.
pub(super) fn distinct<'a>(
    versions: impl IntoIterator<Item = (&'a KeyName, KeyVersion)>,
) -> BTreeSet<(&'a KeyName, KeyVersion)> {
    versions.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_stored_once_a_minute() {
        let registry = Registry::default();
        let key: KeyName = "payroll".parse().expect("a key name");
        let version = KeyVersion(0);
        registry.note_use(&key, version, 100_000);
        let unstored = registry.unstored_uses(10);
        assert_eq!(unstored, [(key.clone(), version, 100_000)]);
        registry.uses_stored(&unstored);
        registry.note_use(&key, version, 130_000);
        assert_eq!(registry.unstored_uses(10), []);
        assert_eq!(registry.uses_of(&key), BTreeMap::from([(version, 130_000)]));
        registry.note_use(&key, version, 160_000);
        assert_eq!(registry.unstored_uses(10).len(), 1);
    }
}
