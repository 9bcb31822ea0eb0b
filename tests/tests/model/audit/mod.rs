//! Looks at the metadata service's store as it lies there, and says what breaks a rule of `docs/formats/metadata-store.md`. It
//! shares no code with the service but the definition of the records.

mod blocks;
mod files;
mod quotas;
mod tables;
mod tree;

use std::collections::{BTreeMap, BTreeSet};

use strongroom_proto::BlockId;

use self::tables::Id;
pub(crate) use self::tables::Tables;
use crate::keys::Keys;

/// The stored records, from the same file that the service is built from.
#[allow(missing_docs, clippy::all, unreachable_pub, dead_code)]
pub(crate) mod records {
    include!(concat!(env!("OUT_DIR"), "/strongroom.metadata.records.v1.rs"));
}

/// What was seen of a store so far.
pub(crate) struct Audit {
    keys: Keys,
    last: Option<Tables>,
    /// Of every file the newest generation, and of every extent how much of it shows.
    generations: BTreeMap<Id, u64>,
    shown: BTreeMap<Id, u64>,
    broken: BTreeSet<String>,
}

impl Audit {
    pub(crate) fn new(keys: Keys) -> Self {
        Self {
            keys,
            last: None,
            generations: BTreeMap::new(),
            shown: BTreeMap::new(),
            broken: BTreeSet::new(),
        }
    }

    /// Looks at a store between two transactions.
    pub(crate) fn look_at(&mut self, tables: Tables) {
        if tables.is_empty() {
            return;
        }
        let mut broken = Broken::default();
        tree::check(&tables, &mut broken);
        files::check(&tables, &self.keys, &mut broken);
        blocks::check(&tables, &mut broken);
        quotas::check(&tables, &mut broken);
        self.follow(&tables, &mut broken);
        self.broken.extend(broken.0);
        self.last = Some(tables);
    }

    /// Holds what is on the nodes against the store as it was seen last.
    pub(crate) fn look_at_nodes(
        &mut self,
        stored: &BTreeMap<BlockId, BTreeMap<&'static str, bool>>,
        plain: &BTreeSet<BlockId>,
    ) {
        let mut broken = Broken::default();
        if let Some(tables) = &self.last {
            blocks::check_nodes(tables, stored, &mut broken);
            blocks::check_encrypted(tables, plain, &mut broken);
        }
        self.broken.extend(broken.0);
    }

    /// All that was broken at any time.
    pub(crate) fn broken(&self) -> Vec<String> {
        self.broken.iter().cloned().collect()
    }

    /// Generations only rise, and of an extent never more shows again.
    fn follow(&mut self, tables: &Tables, broken: &mut Broken) {
        for (file, body) in &tables.bodies {
            let known = self.generations.insert(*file, body.generation).unwrap_or(0);
            broken.unless(known <= body.generation, || {
                format!("file {file:?} went from generation {known} back to {}", body.generation)
            });
            for extent in &body.extents {
                let id = Id::of(&extent.extent_id);
                let known = self.shown.insert(id, extent.visible).unwrap_or(extent.visible);
                broken.unless(extent.visible <= known, || {
                    format!("{known} bytes of extent {id:?} showed, {} do now", extent.visible)
                });
            }
        }
    }
}

/// Rules that do not hold.
#[derive(Default)]
struct Broken(Vec<String>);

impl Broken {
    fn unless(&mut self, holds: bool, rule: impl FnOnce() -> String) {
        if !holds {
            self.0.push(format!("the store: {}", rule()));
        }
    }
}
