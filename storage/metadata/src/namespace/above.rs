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
