//! Files that are not encrypted, and zones that are made of directories that hold some.

use std::collections::BTreeMap;

use strongroom_proto::{Reason, ZonePath};

use super::{Inode, Kind, Oracle, Outcome, Zone, trash::TRASH};

impl Oracle {
    /// Makes a zone of a directory whatever it holds, or goes on with that.
    pub(crate) fn adopt(&mut self, path: &ZonePath, key: Option<&str>) -> Outcome {
        let at = self.find(path)?;
        if let Kind::Directory { zone: Some(zone), .. } = &self.inodes[&at].kind {
            return match (zone.adopted, key == Some(zone.key.as_str())) {
                (false, _) => Err(Reason::AlreadyZone),
                (true, false) => Err(Reason::InvalidArgument),
                (true, true) => Ok(()),
            };
        }
        let key = key.ok_or(Reason::KeyNotFound)?.to_owned();
        let children = self.children(at).ok_or(Reason::NotADirectory)?;
        let is_in_the_way = children.get(TRASH).is_some_and(|trash| {
            let is_empty = self.children(*trash).is_some_and(BTreeMap::is_empty);
            !is_empty || self.is_zone(*trash)
        });
        if self.zone_root(at).is_some() {
            return Err(Reason::AlreadyZone);
        }
        if is_in_the_way {
            return Err(Reason::NotEmpty);
        }
        self.made += 1;
        let made = Zone {
            number: self.made,
            key,
            adopted: true,
            adopts: true,
        };
        if let Kind::Directory { zone, .. } = &mut self.node(at).kind {
            *zone = Some(made);
        }
        Ok(())
    }

    /// A zone says that it is through with adopting; or that it is wrong.
    pub(crate) fn through(&mut self, path: &ZonePath) -> Result<(), String> {
        let left = self.not_encrypted(path);
        let at = self.find(path).map_err(|reason| reason.as_str().to_owned())?;
        if let Kind::Directory { zone: Some(zone), .. } = &mut self.node(at).kind {
            zone.adopts = false;
        }
        match left.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "{path} is through with adopting, and {left:?} are not encrypted"
            )),
        }
    }

    /// Roots of zones that were made of directories that may have held something.
    pub(crate) fn adopted(&self) -> Vec<(ZonePath, String)> {
        let mut found = Vec::new();
        for path in self.paths() {
            let inode = self.find(&path).expect("it is there");
            if let Kind::Directory { zone: Some(zone), .. } = &self.inodes[&inode].kind
                && zone.adopted
            {
                found.push((path, zone.key.clone()));
            }
        }
        found
    }

    /// Files of the zone whose root is at a path that are not encrypted.
    pub(crate) fn not_encrypted(&self, root: &ZonePath) -> Vec<ZonePath> {
        let is_in = |path: &ZonePath| {
            self.zone(path)
                .is_ok_and(|zone| zone.is_some_and(|(at, _)| at == *root))
        };
        let is_plain = |path: &ZonePath| self.find(path).is_ok_and(|inode| self.is_plain(inode));
        let mut paths = self.paths();
        paths.retain(|path| is_plain(path) && is_in(path));
        paths
    }

    /// A file was put under a DEK that its zone gave, if it is in one.
    pub(crate) fn rewritten(&mut self, path: &ZonePath) {
        let Ok(inode) = self.find(path) else { return };
        let is_in_zone = self.zone_number(inode).is_some();
        if let Kind::File(file) = &mut self.node(inode).kind {
            file.plain &= !is_in_zone;
        }
    }

    /// Whether a file is not encrypted and in no zone, so that nothing gives it a DEK.
    pub(crate) fn has_no_dek(&self, path: &ZonePath) -> bool {
        let inode = self.find(path);
        inode.is_ok_and(|inode| self.is_plain(inode) && self.zone_number(inode).is_none())
    }

    pub(super) fn is_plain(&self, inode: Inode) -> bool {
        matches!(&self.inodes[&inode].kind, Kind::File(file) if file.plain)
    }

    /// Nothing leaves a zone by transfer that may not be encrypted.
    pub(super) fn check_encrypted(
        &self,
        source: Inode,
        moved: Inode,
        there: Option<Inode>,
        overwrite: bool,
    ) -> Outcome {
        let adopts = self.zone_root(source).is_some_and(|(_, zone)| zone.adopts);
        if adopts && self.children(moved).is_some() {
            return Err(Reason::InvalidMove);
        }
        if !self.is_plain(moved) {
            return Ok(());
        }
        if let Some(there) = there {
            self.check_room(moved, there, overwrite)?;
        }
        Err(Reason::InvalidMove)
    }
}
