//! What the namespace has to be, as plainly as it can be said: inodes in a map, a file's bytes in a vector, and for every operation
//! the outcome that the documents promise. Nothing in here knows of stores, blocks or keys.

mod adoption;
mod trash;

use std::collections::{BTreeMap, BTreeSet};

use strongroom_proto::{Reason, ZonePath};

type Inode = u32;
const ROOT: Inode = 0;
/// Modes of what is made.
const DIRECTORY: u32 = 0o755;
const FILE: u32 = 0o644;

/// The namespace.
pub(crate) struct Oracle {
    inodes: BTreeMap<Inode, Node>,
    made: u32,
    /// Directories that something was removed into.
    trashes: BTreeSet<Inode>,
    /// Files may be in no zone, and are not encrypted there.
    plain: bool,
}

struct Node {
    parent: Inode,
    name: String,
    mode: u32,
    attributes: BTreeMap<String, Vec<u8>>,
    kind: Kind,
}

enum Kind {
    Directory {
        children: BTreeMap<String, Inode>,
        zone: Option<Zone>,
    },
    File(File),
}

/// A zone: a number that no other ever has, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Zone {
    number: u32,
    pub(crate) key: String,
    /// It was made of a directory that may have held something; and it is not known to be through with that.
    adopted: bool,
    adopts: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mtime_ms: u64,
    pub(crate) plain: bool,
    /// Who has it open.
    writer: Option<u32>,
}

/// What is at a path.
#[derive(Debug)]
pub(crate) enum Found<'o> {
    Directory {
        names: Vec<&'o str>,
        zone: Option<&'o Zone>,
    },
    File(&'o File),
}

/// A file on its way: what readers will see when it is published.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    number: u32,
    place: Place,
    /// What is kept of the bytes that were there, and what is added to them.
    base: Vec<u8>,
    added: Vec<u8>,
    /// Something is cut off, or the file is new.
    changed: bool,
}

#[derive(Debug, Clone)]
enum Place {
    New {
        parent: Inode,
        name: String,
        zone: Option<u32>,
        overwrite: bool,
    },
    File(Inode),
}

type Outcome<T = ()> = Result<T, Reason>;

impl Oracle {
    pub(crate) fn new(plain: bool) -> Self {
        let root = Node {
            parent: ROOT,
            name: String::new(),
            mode: DIRECTORY,
            attributes: BTreeMap::new(),
            kind: directory(),
        };
        Self {
            inodes: BTreeMap::from([(ROOT, root)]),
            made: ROOT,
            trashes: BTreeSet::new(),
            plain,
        }
    }

    /// All paths, directories before what they hold.
    pub(crate) fn paths(&self) -> Vec<ZonePath> {
        let mut paths = vec![(ZonePath::root(), ROOT)];
        let mut next = 0;
        while let Some((path, inode)) = paths.get(next).cloned() {
            next += 1;
            let below = self.children(inode).into_iter().flatten();
            let below = below.map(|(name, child)| (path.child(name).expect("a name"), *child));
            paths.extend(below.collect::<Vec<_>>());
        }
        paths.into_iter().map(|(path, _)| path).collect()
    }

    pub(crate) fn look(&self, path: &ZonePath) -> Outcome<Found<'_>> {
        Ok(match &self.inodes[&self.find(path)?].kind {
            Kind::Directory { children, zone } => Found::Directory {
                names: children.keys().map(String::as_str).collect(),
                zone: zone.as_ref(),
            },
            Kind::File(file) => Found::File(file),
        })
    }

    pub(crate) fn is_file(&self, path: &ZonePath) -> bool {
        matches!(self.look(path), Ok(Found::File(_)))
    }

    /// The zone that a path is in, and its root.
    pub(crate) fn zone(&self, path: &ZonePath) -> Outcome<Option<(ZonePath, &Zone)>> {
        let zone_root = self.zone_root(self.find(path)?);
        Ok(zone_root.map(|(inode, zone)| (self.path(inode), zone)))
    }

    pub(crate) fn make_directory(&mut self, path: &ZonePath, parents: bool) -> Outcome {
        let (mut at, mut made) = (ROOT, false);
        let depth = path.names().count();
        for (position, name) in path.names().enumerate() {
            made = false;
            at = match self.children(at).ok_or(Reason::NotADirectory)?.get(name) {
                Some(child) => *child,
                None if parents || position + 1 == depth => {
                    made = true;
                    self.add(at, name, directory())
                }
                None => return Err(Reason::NotFound),
            };
        }
        if self.children(at).is_none() || (!made && !parents) {
            return Err(Reason::AlreadyExists);
        }
        Ok(())
    }

    pub(crate) fn make_zone(&mut self, path: &ZonePath, key: &str) -> Outcome {
        let number = self.made + 1;
        let at = self.find(path)?;
        let is_free = self.holds_no_more_than_a_trash(at);
        let Kind::Directory { zone, .. } = &mut self.node(at).kind else {
            return Err(Reason::NotADirectory);
        };
        if zone.is_some() {
            return Err(Reason::AlreadyZone);
        }
        if !is_free {
            return Err(Reason::NotEmpty);
        }
        *zone = Some(Zone {
            number,
            key: key.to_owned(),
            adopted: false,
            adopts: false,
        });
        self.made = number;
        Ok(())
    }

    pub(crate) fn rename(&mut self, from: &ZonePath, to: &ZonePath, overwrite: bool) -> Outcome {
        let (source, name, moved) = self.slot(from)?;
        let moved = moved.ok_or(Reason::NotFound)?;
        if to.is_within(from) {
            return Err(Reason::InvalidMove);
        }
        let (target, new_name, there) = self.slot(to)?;
        let number = |oracle: &Self, at| oracle.zone_root(at).map(|(_, zone)| zone.number);
        if number(self, source) != number(self, target) {
            return Err(Reason::CrossZone);
        }
        self.relink((source, &name), moved, (target, new_name, there), overwrite)
    }

    /// A rename from one zone to another, which takes no zone along that is further down.
    pub(crate) fn transfer(&mut self, from: &ZonePath, to: &ZonePath, overwrite: bool) -> Outcome {
        let (source, name, moved) = self.slot(from)?;
        let moved = moved.ok_or(Reason::NotFound)?;
        if to.is_within(from) {
            return Err(Reason::InvalidMove);
        }
        let (target, new_name, there) = self.slot(to)?;
        let number = |at| self.zone_root(at).map(|(_, zone)| zone.number);
        let (here, other) = (number(source), number(target));
        let is_trash = name == trash::TRASH && self.is_zone(source);
        if here.is_none() || other.is_none() || here == other || self.is_zone(moved) || is_trash {
            return Err(Reason::InvalidMove);
        }
        self.check_encrypted(source, moved, there, overwrite)?;
        if let Some(there) = there {
            self.check_room(moved, there, overwrite)?;
        }
        if self.has_zones_below(moved) {
            return Err(Reason::InvalidMove);
        }
        self.relink((source, &name), moved, (target, new_name, there), overwrite)
    }

    fn has_zones_below(&self, inode: Inode) -> bool {
        let children = self.children(inode).into_iter().flatten();
        let mut children = children.map(|(_, child)| *child);
        children.any(|child| self.is_zone(child) || self.has_zones_below(child))
    }

    fn is_zone(&self, inode: Inode) -> bool {
        matches!(&self.inodes[&inode].kind, Kind::Directory { zone: Some(_), .. })
    }

    fn relink(
        &mut self,
        (source, name): (Inode, &str),
        moved: Inode,
        (target, new_name, there): (Inode, String, Option<Inode>),
        overwrite: bool,
    ) -> Outcome {
        if let Some(there) = there {
            self.check_room(moved, there, overwrite)?;
            self.drop(there);
        }
        self.unlink(source, name);
        let node = self.node(moved);
        node.parent = target;
        node.name.clone_from(&new_name);
        self.link(target, new_name, moved);
        Ok(())
    }

    fn check_room(&self, moved: Inode, there: Inode, overwrite: bool) -> Outcome {
        match (self.children(moved), self.children(there)) {
            _ if !overwrite => Err(Reason::AlreadyExists),
            (Some(_), None) => Err(Reason::NotADirectory),
            (None, Some(_)) => Err(Reason::IsADirectory),
            (Some(_), Some(children)) if !children.is_empty() => Err(Reason::NotEmpty),
            _ => Ok(()),
        }
    }

    pub(crate) fn remove(&mut self, path: &ZonePath, recursive: bool) -> Outcome {
        let (_, _, there) = self.slot(path)?;
        let there = there.ok_or(Reason::NotFound)?;
        if !recursive && self.children(there).is_some_and(|children| !children.is_empty()) {
            return Err(Reason::NotEmpty);
        }
        self.drop(there);
        Ok(())
    }

    /// A new file, to be written.
    pub(crate) fn create(&mut self, path: &ZonePath, overwrite: bool) -> Outcome<Draft> {
        let (parent, name, there) = self.slot(path)?;
        self.check_publishing(there, overwrite)?;
        let zone = self.zone_number(parent);
        if zone.is_none() && !self.plain {
            return Err(Reason::NotInZone);
        }
        self.made += 1;
        Ok(Draft {
            number: self.made,
            place: Place::New {
                parent,
                name,
                zone,
                overwrite,
            },
            base: Vec::new(),
            added: Vec::new(),
            changed: true,
        })
    }

    fn check_publishing(&self, there: Option<Inode>, overwrite: bool) -> Outcome {
        match there {
            Some(there) if self.children(there).is_some() => Err(Reason::IsADirectory),
            Some(_) if !overwrite => Err(Reason::AlreadyExists),
            _ => Ok(()),
        }
    }

    /// A file that is there, to go on with behind its `from`th byte or at its end.
    pub(crate) fn append(&mut self, path: &ZonePath, from: Option<u64>) -> Outcome<Draft> {
        let number = self.made + 1;
        let inode = self.find(path)?;
        let is_adopted = self.zone_number(inode).is_some();
        let Kind::File(file) = &mut self.node(inode).kind else {
            return Err(Reason::IsADirectory);
        };
        if file.plain && is_adopted {
            return Err(Reason::NotEncrypted);
        }
        if file.writer.is_some() {
            return Err(Reason::LeaseHeld);
        }
        let length = file.bytes.len();
        let from = from.map_or(Ok(length), usize::try_from);
        let from = from
            .ok()
            .filter(|from| *from <= length)
            .ok_or(Reason::InvalidArgument)?;
        file.writer = Some(number);
        let draft = Draft {
            number,
            place: Place::File(inode),
            base: file.bytes[..from].to_vec(),
            added: Vec::new(),
            changed: from != length,
        };
        self.made = number;
        Ok(draft)
    }

    /// The same bytes under another DEK.
    pub(crate) fn rewrite(&self, path: &ZonePath) -> Outcome {
        match &self.inodes[&self.find(path)?].kind {
            Kind::Directory { .. } => Err(Reason::IsADirectory),
            Kind::File(file) if file.writer.is_some() => Err(Reason::LeaseHeld),
            Kind::File(_) => Ok(()),
        }
    }

    /// Whether a writer has been cut off from a file that shows, so that nothing he adds will count.
    pub(crate) fn is_lost(&self, draft: &Draft) -> bool {
        match draft.place {
            // One that is not encrypted is lost as soon as a zone has its directory.
            Place::New { parent, zone: None, .. } => {
                !self.inodes.contains_key(&parent) || self.zone_number(parent).is_some()
            }
            Place::New { .. } => false,
            Place::File(inode) => self.writer(inode) != Some(draft.number),
        }
    }

    /// Shows a draft to readers. Its writer may go on with it.
    pub(crate) fn publish(&mut self, draft: &mut Draft, mtime_ms: u64) -> Outcome {
        if !draft.changes() {
            return Ok(());
        }
        let bytes = [draft.base.as_slice(), &draft.added].concat();
        let inode = match draft.place.clone() {
            Place::New {
                parent,
                name,
                zone,
                overwrite,
            } => self.publish_new(parent, &name, zone, overwrite)?,
            Place::File(_) if self.is_lost(draft) => return Err(Reason::LeaseLost),
            Place::File(inode) => inode,
        };
        draft.base.clone_from(&bytes);
        draft.added.clear();
        draft.changed = false;
        draft.place = Place::File(inode);
        let is_plain = self.is_plain(inode);
        // Nobody goes on with one that a zone is to encrypt first.
        let goes_on = !is_plain || self.zone_number(inode).is_none();
        self.node(inode).kind = Kind::File(File {
            bytes,
            mtime_ms,
            plain: is_plain,
            writer: goes_on.then_some(draft.number),
        });
        Ok(())
    }

    fn publish_new(&mut self, parent: Inode, name: &str, zone: Option<u32>, overwrite: bool) -> Outcome<Inode> {
        if !self.inodes.contains_key(&parent) {
            return Err(Reason::LeaseLost);
        }
        if self.zone_number(parent) != zone {
            return Err(Reason::LeaseLost);
        }
        let there = self.children(parent).and_then(|children| children.get(name)).copied();
        self.check_publishing(there, overwrite)?;
        if let Some(there) = there {
            self.drop(there);
        }
        let file = File {
            plain: zone.is_none(),
            ..File::default()
        };
        Ok(self.add(parent, name, Kind::File(file)))
    }

    /// Nobody writes a draft any more.
    pub(crate) fn let_go(&mut self, draft: &Draft) {
        if let Place::File(inode) = draft.place
            && !self.is_lost(draft)
            && let Kind::File(file) = &mut self.node(inode).kind
        {
            file.writer = None;
        }
    }

    /// Takes a file from its writer. Says whether there was one.
    pub(crate) fn recover(&mut self, path: &ZonePath) -> Outcome<bool> {
        let inode = self.find(path)?;
        match &mut self.node(inode).kind {
            Kind::File(file) => Ok(file.writer.take().is_some()),
            Kind::Directory { .. } => Err(Reason::IsADirectory),
        }
    }

    /// Sets an attribute, or removes it if there is no value.
    pub(crate) fn set_xattr(&mut self, path: &ZonePath, name: &str, value: Option<&[u8]>) -> Outcome {
        let inode = self.find(path)?;
        let attributes = &mut self.node(inode).attributes;
        match value {
            Some(value) => _ = attributes.insert(name.to_owned(), value.to_vec()),
            None => _ = attributes.remove(name).ok_or(Reason::NotFound)?,
        }
        Ok(())
    }

    pub(crate) fn set_mode(&mut self, path: &ZonePath, mode: u32) -> Outcome {
        let inode = self.find(path)?;
        self.node(inode).mode = mode;
        Ok(())
    }

    /// Permission bits and attributes of what is at a path.
    pub(crate) fn attributes(&self, path: &ZonePath) -> Outcome<(u32, &BTreeMap<String, Vec<u8>>)> {
        let node = &self.inodes[&self.find(path)?];
        Ok((node.mode, &node.attributes))
    }

    fn find(&self, path: &ZonePath) -> Outcome<Inode> {
        let mut at = ROOT;
        for name in path.names() {
            let children = self.children(at).ok_or(Reason::NotADirectory)?;
            at = *children.get(name).ok_or(Reason::NotFound)?;
        }
        Ok(at)
    }

    /// A path's directory, its last name, and what is there.
    fn slot(&self, path: &ZonePath) -> Outcome<(Inode, String, Option<Inode>)> {
        let (parent, name) = path.split_last().ok_or(Reason::InvalidArgument)?;
        let parent = self.find(&parent)?;
        let children = self.children(parent).ok_or(Reason::NotADirectory)?;
        Ok((parent, name.to_owned(), children.get(name).copied()))
    }

    fn zone_root(&self, inode: Inode) -> Option<(Inode, &Zone)> {
        let mut at = inode;
        loop {
            let node = &self.inodes[&at];
            match &node.kind {
                Kind::Directory { zone: Some(zone), .. } => return Some((at, zone)),
                _ if at == ROOT => return None,
                _ => at = node.parent,
            }
        }
    }

    fn zone_number(&self, inode: Inode) -> Option<u32> {
        self.zone_root(inode).map(|(_, zone)| zone.number)
    }

    fn path(&self, inode: Inode) -> ZonePath {
        if inode == ROOT {
            return ZonePath::root();
        }
        let node = &self.inodes[&inode];
        self.path(node.parent).child(&node.name).expect("a name")
    }

    fn writer(&self, inode: Inode) -> Option<u32> {
        match &self.inodes.get(&inode)?.kind {
            Kind::File(file) => file.writer,
            Kind::Directory { .. } => None,
        }
    }

    fn children(&self, inode: Inode) -> Option<&BTreeMap<String, Inode>> {
        match &self.inodes[&inode].kind {
            Kind::Directory { children, .. } => Some(children),
            Kind::File(_) => None,
        }
    }

    fn node(&mut self, inode: Inode) -> &mut Node {
        self.inodes.get_mut(&inode).expect("an inode that is there")
    }

    fn add(&mut self, parent: Inode, name: &str, kind: Kind) -> Inode {
        self.made += 1;
        let inode = self.made;
        let name = name.to_owned();
        let mode = match kind {
            Kind::Directory { .. } => DIRECTORY,
            Kind::File(_) => FILE,
        };
        let node = Node {
            parent,
            name: name.clone(),
            mode,
            attributes: BTreeMap::new(),
            kind,
        };
        self.inodes.insert(inode, node);
        self.link(parent, name, inode);
        inode
    }

    fn link(&mut self, parent: Inode, name: String, inode: Inode) {
        if let Kind::Directory { children, .. } = &mut self.node(parent).kind {
            children.insert(name, inode);
        }
    }

    fn unlink(&mut self, parent: Inode, name: &str) {
        if let Kind::Directory { children, .. } = &mut self.node(parent).kind {
            children.remove(name);
        }
    }

    /// Removes an inode with all that it holds.
    fn drop(&mut self, inode: Inode) {
        let (parent, name) = (self.inodes[&inode].parent, self.inodes[&inode].name.clone());
        self.unlink(parent, &name);
        let mut doomed = vec![inode];
        while let Some(next) = doomed.pop() {
            doomed.extend(self.children(next).into_iter().flatten().map(|(_, child)| *child));
            self.inodes.remove(&next);
        }
    }
}

impl Draft {
    /// Adds bytes behind all others.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.added.extend_from_slice(bytes);
    }

    /// Whether a publication would change anything.
    pub(crate) fn changes(&self) -> bool {
        self.changed || !self.added.is_empty()
    }
}

fn directory() -> Kind {
    Kind::Directory {
        children: BTreeMap::new(),
        zone: None,
    }
}
