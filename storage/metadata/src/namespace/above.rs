//! What is above many inodes, read together: from all of them up to the root, one level after the other. Where each reading is a message to a
//! database, a page of files costs as many as the deepest of them has levels, and not as many as all of them have together.

use std::collections::{BTreeSet, HashMap};

use strongroom_kv::Reader;
use strongroom_proto::{FileId, ZoneId};

use super::{
    permission::{Rights, check},
    resolve::{DEPTH_MAX, Found, child, root},
};
use crate::{
    authority::Caller,
    error::MetadataError,
    schema::{ROOT, access, keys, records},
};

/// Some inodes and all directories above them, in one state of the store.
pub(crate) struct Above {
    root: Found,
    /// None of what is gone, or cut off from the root there.
    known: HashMap<FileId, Option<Step>>,
    /// Whose directory has another entry at their place, or none.
    misplaced: BTreeSet<FileId>,
}

/// How an inode hangs on its directory.
struct Step {
    parent: FileId,
    name: String,
    entry: records::Entry,
}

impl Above {
    /// Reads what is above up to 1000 inodes.
    pub(crate) async fn read(reader: &mut impl Reader, inodes: &[FileId]) -> Result<Self, MetadataError> {
        let mut above = Self {
            root: root(reader).await?,
            known: HashMap::new(),
            misplaced: BTreeSet::new(),
        };
        let mut level: BTreeSet<FileId> = inodes.iter().copied().collect();
        for _ in 0..DEPTH_MAX {
            level.retain(|inode| *inode != ROOT && !above.known.contains_key(inode));
            if level.is_empty() {
                break;
            }
            level = above.learn(reader, &level).await?;
        }
        Ok(above)
    }

    /// Reads one level, and says which directories are the next: no more than there were.
    async fn learn(
        &mut self,
        reader: &mut impl Reader,
        level: &BTreeSet<FileId>,
    ) -> Result<BTreeSet<FileId>, MetadataError> {
        let keys: Vec<_> = level.iter().map(|inode| keys::place(*inode)).collect();
        let places: Vec<Option<records::Place>> = access::records(reader, &keys, "inode").await?;
        let mut hung = Vec::new();
        for (inode, place) in level.iter().zip(places) {
            match place.filter(|place| !place.unlinked) {
                Some(place) => hung.push((*inode, access::file_id(&place.parent)?, place.name)),
                None => {
                    self.known.insert(*inode, None);
                }
            }
        }
        let keys: Vec<_> = hung
            .iter()
            .map(|(_, parent, name)| keys::dentry(*parent, name))
            .collect();
        let entries: Vec<Option<records::Entry>> = access::records(reader, &keys, "directory entry").await?;
        let mut next = BTreeSet::new();
        for ((inode, parent, name), entry) in hung.into_iter().zip(entries) {
            let entry = entry.filter(|entry| entry.id.as_ref() == inode.as_bytes());
            next.insert(parent);
            if entry.is_none() {
                self.misplaced.insert(inode);
            }
            self.known
                .insert(inode, entry.map(|entry| Step { parent, name, entry }));
        }
        Ok(next)
    }

    /// The zone that an inode is in. One that is cut off from the root further up may be told its zone there.
    ///
    /// # Errors
    /// [`MetadataError::TooDeep`] if it is further down than is looked; [`MetadataError::Corrupt`] if a directory does not know it, or one above it.
    pub(crate) fn zone(&self, inode: FileId) -> Result<Option<ZoneId>, MetadataError> {
        let (mut next, mut name) = (inode, String::new());
        for _ in 0..=DEPTH_MAX {
            if next == ROOT {
                return Ok(self.root.entry.zone()?);
            }
            if self.misplaced.contains(&next) {
                return Err(MetadataError::Corrupt {
                    what: "directory entry",
                });
            }
            let Some(known) = self.known.get(&next) else {
                break;
            };
            let Some(step) = known else { return Ok(None) };
            if let Some(zone) = step.entry.zone()? {
                return Ok(Some(zone));
            }
            name.clone_from(&step.name);
            next = step.parent;
        }
        Err(MetadataError::TooDeep(name))
    }

    /// An inode, as [`super::resolve::climb`] finds it, in a directory that `who` may list. None if it is gone or cut off.
    pub(crate) fn listed(&self, who: &Caller, inode: FileId) -> Result<Option<Found>, MetadataError> {
        let mut steps = Vec::new();
        let mut next = inode;
        while next != ROOT {
            let Some(Some(step)) = self.known.get(&next) else {
                return Ok(None);
            };
            if steps.len() == DEPTH_MAX {
                return Err(MetadataError::TooDeep(step.name.clone()));
            }
            steps.push(step);
            next = step.parent;
        }
        let mut at = self.root.clone();
        while let Some(step) = steps.pop() {
            let rights = if steps.is_empty() { Rights::LIST } else { Rights::PASS };
            check(who, &at, rights, &at.path.child(&step.name)?)?;
            at = child(&at, &step.name, step.entry.clone())?;
        }
        Ok(Some(at))
    }
}

#[cfg(test)]
mod tests {
    use strongroom_kv::{EmbeddedStore, Store, Txn};

    use super::*;
    use crate::planted::Planted;

    /// The zone of an inode that was found.
    async fn zone_of(store: &EmbeddedStore, inode: &Found) -> Result<Option<ZoneId>, MetadataError> {
        let mut view = store.snapshot().await.expect("a view");
        let above = Above::read(&mut view, &[inode.id]).await.expect("readable");
        above.zone(inode.id)
    }

    #[tokio::test]
    async fn what_is_too_deep_is_not_said_to_be_in_no_zone() {
        let planted = Planted::new().await;
        let top = planted.directory("/top", "alice", 0o755).await;
        let last = planted.chain(&top, DEPTH_MAX - 1).await;
        assert_eq!(zone_of(&planted.store, &last).await.expect("just not too deep"), None);
        let below = planted.chain(&last, 1).await;
        let outcome = zone_of(&planted.store, &below).await;
        assert!(
            matches!(&outcome, Err(MetadataError::TooDeep(name)) if name == "d"),
            "{outcome:?}"
        );
        // Together with what is above it: as many are known, and as few are gone up.
        let mut view = planted.store.snapshot().await.expect("a view");
        let above = Above::read(&mut view, &[below.id, top.id]).await.expect("readable");
        assert!(matches!(above.zone(below.id), Err(MetadataError::TooDeep(_))));
        assert_eq!(above.zone(top.id).expect("not deep"), None);
        // A zone on the way is one however deep.
        let zone = planted.adopting(&last).await;
        assert_eq!(zone_of(&planted.store, &below).await.expect("in a zone"), Some(zone));
    }

    #[tokio::test]
    async fn what_has_no_entry_at_its_place_is_a_defect() {
        let planted = Planted::new().await;
        planted.directory("/lost", "alice", 0o755).await;
        let lost = planted.directory("/lost/d", "alice", 0o755).await;
        let below = planted.chain(&lost, 2).await;
        let other = planted.directory("/other", "alice", 0o755).await;
        for entry in [None, Some(&other.entry)] {
            let mut txn = planted.store.begin().await.expect("a transaction");
            match entry {
                Some(entry) => access::put(&mut txn, &lost.key, entry),
                None => txn.delete(&lost.key),
            }
            txn.commit().await.expect("committed");
            for inode in [&lost, &below] {
                let outcome = zone_of(&planted.store, inode).await;
                assert!(
                    matches!(
                        outcome,
                        Err(MetadataError::Corrupt {
                            what: "directory entry"
                        })
                    ),
                    "{outcome:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn what_is_gone_is_in_no_zone() {
        let planted = Planted::new().await;
        let gone = planted.directory("/gone", "alice", 0o755).await;
        planted.adopting(&gone).await;
        let cut_off = planted.directory("/gone/d", "alice", 0o755).await;
        let below = planted.chain(&cut_off, 2).await;
        let mut txn = planted.store.begin().await.expect("a transaction");
        let place = access::place(&mut txn, cut_off.id).await.expect("readable");
        let mut place = place.expect("there");
        place.unlinked = true;
        access::put(&mut txn, &keys::place(cut_off.id), &place);
        txn.delete(&cut_off.key);
        txn.commit().await.expect("committed");
        for inode in [&cut_off, &below] {
            assert_eq!(zone_of(&planted.store, inode).await.expect("no defect"), None);
        }
    }
}
