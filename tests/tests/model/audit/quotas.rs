//! Quotas: a row for each that an entry has, and counters that say what is below.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Broken,
    records::{self, Quota},
    tables::{Id, Tables},
};

pub(super) fn check(tables: &Tables, broken: &mut Broken) {
    let reachable = Reachable::of(tables);
    let mut of_entries = BTreeMap::new();
    for entry in reachable.entries() {
        if let Some(quota) = &entry.quota {
            of_entries.insert(Id::of(&quota.id), Id::of(&entry.id));
            check_counters(tables, &reachable, quota, Id::of(&entry.id), broken);
        }
    }
    // In a directory that was removed, until its job comes to them: what their counters say is of no use any more.
    let going = tables.entries.values().filter_map(|entry| entry.quota.as_ref());
    let going: BTreeSet<Id> = going.map(|quota| Id::of(&quota.id)).collect();
    let mut recorded = tables.quotas.clone();
    recorded.retain(|quota, _| of_entries.contains_key(quota) || !going.contains(quota));
    broken.unless(of_entries == recorded, || {
        format!("entries have the quotas {of_entries:?}, recorded are {recorded:?}")
    });
    for key in tables.counters.keys().filter(|key| key[0] == b'q') {
        let quota = Id::of(&key[1..17]);
        broken.unless(of_entries.contains_key(&quota) || going.contains(&quota), || {
            format!("the counter of quota {quota:?} is nobody's")
        });
    }
}

/// What is on a way to the root.
struct Reachable<'t> {
    root: Option<&'t records::Entry>,
    below: BTreeMap<Id, Vec<&'t records::Entry>>,
}

impl<'t> Reachable<'t> {
    fn of(tables: &'t Tables) -> Self {
        let mut below = BTreeMap::<_, Vec<_>>::new();
        for ((parent, _), entry) in &tables.entries {
            below.entry(*parent).or_default().push(entry);
        }
        let root = tables.root.as_ref();
        Self { root, below }
    }

    fn entries(&self) -> impl Iterator<Item = &'t records::Entry> {
        self.root.into_iter().chain(self.below(Id::ROOT))
    }

    /// All entries below a directory.
    fn below(&self, directory: Id) -> Vec<&'t records::Entry> {
        let mut found = self.below.get(&directory).cloned().unwrap_or_default();
        let mut next = 0;
        while let Some(entry) = found.get(next) {
            next += 1;
            let more = self.below.get(&Id::of(&entry.id));
            found.extend(more.into_iter().flatten().copied());
        }
        found
    }
}

fn check_counters(tables: &Tables, reachable: &Reachable<'_>, quota: &Quota, directory: Id, broken: &mut Broken) {
    if !quota.counted {
        return;
    }
    let entries = reachable.below(directory);
    let names = 1 + entries.len() as u64;
    let sizes = entries.iter().filter_map(|entry| entry.file.as_ref());
    let bytes: u64 = sizes.map(|size| size.length).sum();
    for (measure, expected) in [(b'n', names), (b'b', bytes)] {
        let key = [b"q", quota.id.as_ref(), &[measure]].concat();
        let counted = tables.counters.get(&key).copied().unwrap_or(0);
        broken.unless(u64::try_from(counted) == Ok(expected), || {
            format!("{quota:?} of {directory:?} has counted {counted} where there are {expected}")
        });
    }
}
