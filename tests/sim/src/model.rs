//! The namespace as it should be: one directory tree in which each call takes place at once.

use std::collections::BTreeMap;

use crate::{
    chunk::{self, Content},
    history::{Call, Path, Told},
};

/// The zone's root.
const ROOT: u32 = 0;

/// A state of the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Model {
    directories: BTreeMap<u32, BTreeMap<&'static str, Node>>,
    /// The chunks of each file and how many bytes are left of them, by the number of its first writer.
    files: BTreeMap<u32, Vec<(u32, u32)>>,
    writers: BTreeMap<u32, Writer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Node {
    Directory(u32),
    File(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Writer {
    /// Of a file that shows under this name once it is published.
    New {
        directory: u32,
        name: &'static str,
        overwrite: bool,
    },
    Of(u32),
    /// Who cuts a file to its first bytes when he publishes.
    Cutting {
        file: u32,
        cut: u64,
    },
}

impl Default for Model {
    fn default() -> Self {
        Self {
            directories: [(ROOT, BTreeMap::new())].into(),
            files: BTreeMap::new(),
            writers: BTreeMap::new(),
        }
    }
}

impl Model {
    /// The state after a call, and what it is told; none if the namespace does not allow it. `id` is the call's number, by
    /// which a new directory goes.
    pub(crate) fn after(&self, id: usize, call: &Call) -> Option<(Self, Told)> {
        match call {
            Call::Stat(path) => Some((self.clone(), Told::Stat(self.length(self.find(path)?)))),
            Call::List(path) => Some((self.clone(), Told::Names(self.names(path)?))),
            Call::Read(path) => Some((self.clone(), Told::Content(content(self.file(path)?.1)))),
            _ => {
                let mut next = self.clone();
                next.change(id, call)?;
                Some((next, Told::Nothing))
            }
        }
    }

    fn change(&mut self, id: usize, call: &Call) -> Option<()> {
        match call {
            Call::MakeDirectory(path) => self.make_directory(id, path),
            Call::Create {
                path,
                writer,
                overwrite,
            } => self.create(path, *writer, *overwrite),
            Call::Append { path, writer, cut } => self.reopen(path, *writer, *cut),
            Call::Recover(path) => self.file(path).map(|_| ()),
            Call::Publish { writer, chunk } => self.publish(*writer, *chunk),
            Call::Rename { from, to, overwrite } => self.rename(from, to, *overwrite),
            Call::Remove { path, recursive } => self.remove(path, *recursive),
            Call::Stat(_) | Call::List(_) | Call::Read(_) => Some(()),
        }
    }

    fn make_directory(&mut self, id: usize, path: &Path) -> Option<()> {
        let (parent, name) = self.place(path)?;
        let directory = u32::try_from(id).ok()? + 1;
        if self.entry(parent, name).is_some() {
            return None;
        }
        self.directories.insert(directory, BTreeMap::new());
        self.link(parent, name, Node::Directory(directory))
    }

    fn create(&mut self, path: &Path, writer: u32, overwrite: bool) -> Option<()> {
        let (directory, name) = self.place(path)?;
        self.check_room(directory, name, overwrite)?;
        let new = Writer::New {
            directory,
            name,
            overwrite,
        };
        self.writers.insert(writer, new);
        Some(())
    }

    fn check_room(&self, directory: u32, name: &str, overwrite: bool) -> Option<()> {
        match self.entry(directory, name) {
            None => Some(()),
            Some(Node::File(_)) if overwrite => Some(()),
            Some(_) => None,
        }
    }

    fn reopen(&mut self, path: &Path, writer: u32, cut: Option<u64>) -> Option<()> {
        let (file, chunks) = self.file(path)?;
        let length = length(chunks);
        let role = match cut {
            Some(cut) if cut > length => return None,
            Some(cut) if cut < length => Writer::Cutting { file, cut },
            _ => Writer::Of(file),
        };
        self.writers.insert(writer, role);
        Some(())
    }

    fn publish(&mut self, writer: u32, chunk: Option<u32>) -> Option<()> {
        let whole = chunk.map(|chunk| (chunk, chunk::length(chunk)));
        match *self.writers.get(&writer)? {
            // A file that was removed takes what nobody will see.
            Writer::Of(file) => {
                if let Some(chunks) = self.files.get_mut(&file) {
                    chunks.extend(whole);
                }
            }
            Writer::Cutting { file, cut } => {
                self.writers.insert(writer, Writer::Of(file));
                if let Some(chunks) = self.files.get_mut(&file) {
                    shorten(chunks, cut);
                    chunks.extend(whole);
                }
            }
            Writer::New {
                directory,
                name,
                overwrite,
            } => {
                self.writers.insert(writer, Writer::Of(writer));
                if !self.directories.contains_key(&directory) {
                    return Some(());
                }
                self.check_room(directory, name, overwrite)?;
                self.unlink_file(directory, name);
                self.files.insert(writer, whole.into_iter().collect());
                self.link(directory, name, Node::File(writer))?;
            }
        }
        Some(())
    }

    fn rename(&mut self, from: &Path, to: &Path, overwrite: bool) -> Option<()> {
        let (from_parent, from_name) = self.place(from)?;
        let moved = self.entry(from_parent, from_name)?;
        if to.0.starts_with(&from.0) {
            return None;
        }
        let (to_parent, to_name) = self.place(to)?;
        match (moved, self.entry(to_parent, to_name)) {
            (_, None) => {}
            (Node::File(_), Some(Node::File(_))) if overwrite => self.unlink_file(to_parent, to_name),
            (Node::Directory(_), Some(Node::Directory(there))) if overwrite => {
                if !self.directories.get(&there)?.is_empty() {
                    return None;
                }
                self.directories.remove(&there);
            }
            _ => return None,
        }
        self.directories.get_mut(&from_parent)?.remove(from_name);
        self.link(to_parent, to_name, moved)
    }

    fn remove(&mut self, path: &Path, recursive: bool) -> Option<()> {
        let (parent, name) = self.place(path)?;
        match self.entry(parent, name)? {
            Node::File(_) => self.unlink_file(parent, name),
            Node::Directory(directory) => {
                if !recursive && !self.directories.get(&directory)?.is_empty() {
                    return None;
                }
                self.drop_tree(directory);
                self.directories.get_mut(&parent)?.remove(name);
            }
        }
        Some(())
    }

    fn drop_tree(&mut self, directory: u32) {
        for node in self.directories.remove(&directory).unwrap_or_default().into_values() {
            match node {
                Node::Directory(below) => self.drop_tree(below),
                Node::File(file) => _ = self.files.remove(&file),
            }
        }
    }

    /// Whether what a writer publishes is seen by nobody: then the service may refuse it as well.
    pub(crate) fn is_cut_off(&self, writer: u32) -> bool {
        match self.writers.get(&writer) {
            Some(Writer::Of(file) | Writer::Cutting { file, .. }) => !self.files.contains_key(file),
            Some(Writer::New { directory, .. }) => !self.directories.contains_key(directory),
            None => true,
        }
    }

    fn unlink_file(&mut self, directory: u32, name: &str) {
        let names = self.directories.get_mut(&directory);
        if let Some(Node::File(file)) = names.and_then(|names| names.remove(name)) {
            self.files.remove(&file);
        }
    }

    fn link(&mut self, directory: u32, name: &'static str, node: Node) -> Option<()> {
        self.directories.get_mut(&directory)?.insert(name, node);
        Some(())
    }

    /// The directory that holds the last name of a path, and that name.
    fn place(&self, path: &Path) -> Option<(u32, &'static str)> {
        let (name, above) = path.0.split_last()?;
        Some((self.walk(above)?, name))
    }

    fn walk(&self, names: &[&'static str]) -> Option<u32> {
        names
            .iter()
            .try_fold(ROOT, |directory, name| match self.entry(directory, name)? {
                Node::Directory(below) => Some(below),
                Node::File(_) => None,
            })
    }

    fn entry(&self, directory: u32, name: &str) -> Option<Node> {
        self.directories.get(&directory)?.get(name).copied()
    }

    fn find(&self, path: &Path) -> Option<Node> {
        if path.0.is_empty() {
            return Some(Node::Directory(ROOT));
        }
        let (parent, name) = self.place(path)?;
        self.entry(parent, name)
    }

    fn file(&self, path: &Path) -> Option<(u32, &Vec<(u32, u32)>)> {
        match self.find(path)? {
            Node::File(file) => Some((file, self.files.get(&file)?)),
            Node::Directory(_) => None,
        }
    }

    fn names(&self, path: &Path) -> Option<Vec<(String, bool)>> {
        let names = self.directories.get(&self.walk(&path.0)?)?;
        let name = |(name, node): (&&str, &Node)| ((*name).to_owned(), matches!(node, Node::Directory(_)));
        Some(names.iter().map(name).collect())
    }

    fn length(&self, node: Node) -> Option<u64> {
        match node {
            Node::Directory(_) => None,
            Node::File(file) => Some(length(self.files.get(&file)?)),
        }
    }
}

fn length(chunks: &[(u32, u32)]) -> u64 {
    chunks.iter().map(|(_, kept)| u64::from(*kept)).sum()
}

/// Cuts a file to its first `left` bytes.
fn shorten(chunks: &mut Vec<(u32, u32)>, mut left: u64) {
    chunks.retain_mut(|(_, kept)| {
        *kept = u32::try_from(left).unwrap_or(u32::MAX).min(*kept);
        left -= u64::from(*kept);
        *kept > 0
    });
}

fn content(chunks: &[(u32, u32)]) -> Content {
    let part = |(chunk, kept): &(u32, u32)| {
        let mut bytes = chunk::bytes(*chunk);
        bytes.truncate(*kept as usize);
        bytes
    };
    Content::of(&chunks.iter().flat_map(part).collect::<Vec<_>>())
}
