//! The trash: where what is removed goes, and what is left when it is expunged.

use std::collections::BTreeMap;

use strongroom_proto::{Reason, ZonePath};

use super::{Inode, Kind, Oracle, Outcome};
use crate::world::USER;

pub(super) const TRASH: &str = ".Trash";
const CURRENT: &str = "Current";
const HOMES: &str = "user";
/// Modes of the directories of the trash that are made.
const PRIVATE: u32 = 0o700;
const SHARED: u32 = 0o1777;
/// Digits that a checkpoint's name begins with.
const DIGITS: usize = 12;

impl Oracle {
    /// Whether what is at a path goes to the trash, or is gone for good.
    pub(crate) fn goes_to_trash(&self, path: &ZonePath, recursive: bool) -> Outcome<bool> {
        let (parent, _, there) = self.slot(path)?;
        let there = there.ok_or(Reason::NotFound)?;
        if !recursive && self.children(there).is_some_and(|children| !children.is_empty()) {
            return Err(Reason::NotEmpty);
        }
        if self.is_in_trash(path) {
            return Ok(false);
        }
        let trash = self.trash_for(parent);
        if trash.is_within(path) {
            return Err(Reason::InvalidMove);
        }
        let current = self.last_on(&trash.child(CURRENT).expect("a name"));
        let number = |at| self.zone_root(at).map(|(_, zone)| zone.number);
        match number(current) == number(parent) {
            true => Ok(true),
            false => Err(Reason::CrossZone),
        }
    }

    /// Moves what is at a path into the trash, to where the service says, if that is where it may have gone.
    pub(crate) fn move_to_trash(&mut self, path: &ZonePath, to: &ZonePath) -> Result<(), String> {
        let (parent, name, moved) = self.slot(path).expect("it goes to the trash");
        let moved = moved.expect("it goes to the trash");
        let trash = self.trash_for(parent);
        let current = trash.child(CURRENT).expect("a name");
        if !self.may_be_at(path, &current, to) {
            return Err(format!("{path} went to {to}, which is no place for it in {current}"));
        }
        let (room, new_name) = to.split_last().expect("below the trash");
        let room = self.make_room(&room);
        self.trashes.insert(self.find(&trash).expect("just made"));
        let done = self.relink((parent, &name), moved, (room, new_name.to_owned(), None), false);
        done.map_err(|reason| reason.as_str().to_owned())
    }

    /// What became of a trash.
    pub(crate) fn expunged(
        &mut self,
        trash: &ZonePath,
        checkpoint: Option<&str>,
        removed: &[String],
    ) -> Result<(), String> {
        let told = |reason: Reason| {
            format!(
                "{trash} with {checkpoint:?} made, {removed:?} removed: {}",
                reason.as_str()
            )
        };
        if !is_place_of_trash(trash) {
            return Err(format!("{trash} is no trash"));
        }
        let below = |name: &str| trash.child(name).expect("a name");
        if let Some(name) = checkpoint {
            self.rename(&below(CURRENT), &below(name), false).map_err(told)?;
        }
        for name in removed {
            self.remove(&below(name), true).map_err(told)?;
        }
        Ok(())
    }

    /// A trash of which all was expunged and something is left.
    pub(crate) fn left_in_trash(&mut self) -> Option<ZonePath> {
        let trashes = std::mem::take(&mut self.trashes);
        let there = trashes.into_iter().filter(|trash| self.inodes.contains_key(trash));
        let mut places = there
            .map(|trash| (self.path(trash), trash))
            .filter(|(path, _)| is_place_of_trash(path));
        let is_left = |name: &str| name == CURRENT || is_checkpoint(name);
        let full = places.find(|(_, trash)| {
            let mut below = self.children(*trash).into_iter().flatten();
            below.any(|(name, child)| is_left(name) && self.children(*child).is_some())
        });
        full.map(|(path, _)| path)
    }

    /// Whether a directory has nothing in it, or a trash with nothing in it, which keeps nobody from making it a zone.
    pub(super) fn holds_no_more_than_a_trash(&self, directory: Inode) -> bool {
        let Some(children) = self.children(directory) else {
            return false;
        };
        let is_trash = |(name, child): (&String, &Inode)| {
            let is_empty = self.children(*child).is_some_and(BTreeMap::is_empty);
            name == TRASH && is_empty && !self.is_zone(*child)
        };
        children.len() <= 1 && children.iter().all(is_trash)
    }

    /// The trash for what is in a directory.
    fn trash_for(&self, directory: Inode) -> ZonePath {
        match self.zone_root(directory) {
            Some((root, _)) => below(&self.path(root), &[TRASH, USER]),
            None => below(&ZonePath::root(), &[HOMES, USER, TRASH]),
        }
    }

    fn is_in_trash(&self, path: &ZonePath) -> bool {
        let Some((mut at, _)) = path.split_last() else {
            return false;
        };
        while let Some((above, name)) = at.split_last() {
            let is_root = self.find(&above).is_ok_and(|inode| self.is_zone(inode));
            if name == TRASH && (is_root || is_home(&above)) {
                return true;
            }
            at = above;
        }
        false
    }

    /// The last directory on a way that is there.
    fn last_on(&self, path: &ZonePath) -> Inode {
        let mut at = path.clone();
        loop {
            match (self.find(&at), at.split_last()) {
                (Ok(inode), _) => return inode,
                (Err(_), Some((above, _))) => at = above,
                (Err(_), None) => unreachable!("the root is there"),
            }
        }
    }

    /// Whether the path `from` is one below the trash as the service lays it out: a name that is taken has a time behind it, be it that of
    /// what was removed or of a directory on the way where none of that name can be used.
    fn may_be_at(&self, from: &ZonePath, current: &ZonePath, to: &ZonePath) -> bool {
        let (before, last) = (current.names().count(), from.names().count() - 1);
        if !to.is_within(current) || to.names().count() != before + last + 1 {
            return false;
        }
        let mut at = self.find(current).ok();
        for (position, (wanted, found)) in from.names().zip(to.names().skip(before)).enumerate() {
            let child = |name: &str| self.children(at?)?.get(name).copied();
            let is_room = |there: Inode| position < last && self.children(there).is_some() && !self.is_zone(there);
            let fits = match child(wanted) {
                Some(there) if !is_room(there) => has_time_behind(found, wanted) && child(found).is_none(),
                _ => found == wanted,
            };
            if !fits {
                return false;
            }
            at = child(found);
        }
        true
    }

    fn make_room(&mut self, path: &ZonePath) -> Inode {
        let (mut at, mut way) = (super::ROOT, ZonePath::root());
        for name in path.names() {
            let mode = match name {
                TRASH if self.is_zone(at) => SHARED,
                HOMES if at == super::ROOT => super::DIRECTORY,
                _ => PRIVATE,
            };
            way = way.child(name).expect("a name");
            at = match self.find(&way) {
                Ok(there) => there,
                Err(_) => {
                    let made = self.add(at, name, super::directory());
                    self.node(made).mode = mode;
                    made
                }
            };
        }
        debug_assert!(matches!(self.inodes[&at].kind, Kind::Directory { .. }), "a directory");
        at
    }
}

fn below(path: &ZonePath, names: &[&str]) -> ZonePath {
    let child = |path: ZonePath, name: &&str| path.child(name).expect("a name");
    names.iter().fold(path.clone(), child)
}

fn is_home(path: &ZonePath) -> bool {
    let names: Vec<_> = path.names().collect();
    names.len() == 2 && names[0] == HOMES
}

fn is_place_of_trash(path: &ZonePath) -> bool {
    let names: Vec<_> = path.names().collect();
    names.ends_with(&[TRASH, USER]) || names == [HOMES, USER, TRASH]
}

fn is_checkpoint(name: &str) -> bool {
    let time = name.split('-').next().unwrap_or_default();
    time.len() == DIGITS && time.bytes().all(|byte| byte.is_ascii_digit())
}

fn has_time_behind(name: &str, wanted: &str) -> bool {
    let time = name.strip_prefix(wanted).unwrap_or_default();
    !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit())
}
