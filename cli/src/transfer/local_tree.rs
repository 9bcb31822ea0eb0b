//! Walks a local tree and says, entry by entry, what goes where in the zone filesystem.

use std::{
    fs::{FileType, Metadata},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use strongroom_proto::ZonePath;
use walkdir::{DirEntry, WalkDir};

use super::{MODE_MASK, local_file::mtime_ms};
use crate::error::Error;

/// What the walk came by. A directory comes before what it holds.
pub(crate) enum Found {
    Directory {
        local: PathBuf,
        remote: ZonePath,
        mode: u32,
        mtime_ms: u64,
        /// Names between the root of the walk and this directory.
        depth: usize,
    },
    File {
        local: PathBuf,
        remote: ZonePath,
        bytes: u64,
        /// Whether this is the root of the walk itself.
        named: bool,
    },
    /// A link, socket, pipe or device.
    Special { local: PathBuf, what: &'static str },
    /// What cannot be read, or has a name that cannot be stored. A directory's content is left out with it.
    Unusable { local: PathBuf, error: Error },
}

/// Walks `root`, whose counterpart is `target`. A link is followed only if it is `root` itself, which the user named.
pub(crate) fn survey(root: &Path, target: &ZonePath) -> impl Iterator<Item = Found> + use<> {
    let (root, target) = (root.to_owned(), target.clone());
    let mut entries = WalkDir::new(&root).follow_root_links(true).into_iter();
    std::iter::from_fn(move || {
        let entry = match entries.next()? {
            Ok(entry) => entry,
            Err(error) => return Some(unreadable(&root, error)),
        };
        let found = classify(&entry, &root, &target);
        if matches!(found, Found::Unusable { .. }) && entry.file_type().is_dir() {
            entries.skip_current_dir();
        }
        Some(found)
    })
}

fn classify(entry: &DirEntry, root: &Path, target: &ZonePath) -> Found {
    let local = entry.path().to_owned();
    let metadata = match entry_metadata(entry) {
        Ok(metadata) => metadata,
        Err(source) => {
            let error = Error::local("cannot read", &local)(source);
            return Found::Unusable { local, error };
        }
    };
    if let Some(what) = special(metadata.file_type()) {
        return Found::Special { local, what };
    }
    let remote = match counterpart(&local, root, target) {
        Ok(remote) => remote,
        Err(error) => return Found::Unusable { local, error },
    };
    if metadata.is_dir() {
        Found::Directory {
            local,
            remote,
            mode: metadata.mode() & MODE_MASK,
            mtime_ms: mtime_ms(&metadata),
            depth: entry.depth(),
        }
    } else {
        Found::File {
            local,
            remote,
            bytes: metadata.len(),
            named: entry.depth() == 0,
        }
    }
}

fn entry_metadata(entry: &DirEntry) -> io::Result<Metadata> {
    if entry.depth() == 0 {
        std::fs::metadata(entry.path())
    } else {
        entry.metadata().map_err(io::Error::from)
    }
}

/// Where `local`, at or below `root`, goes at or below `target`.
fn counterpart(local: &Path, root: &Path, target: &ZonePath) -> Result<ZonePath, Error> {
    let mut remote = target.clone();
    for name in local.strip_prefix(root).unwrap_or(Path::new("")).components() {
        let name = name
            .as_os_str()
            .to_str()
            .ok_or_else(|| Error::LocalName { path: local.to_owned() })?;
        remote = remote.join(name)?;
    }
    Ok(remote)
}

fn special(kind: FileType) -> Option<&'static str> {
    if kind.is_file() || kind.is_dir() {
        None
    } else if kind.is_symlink() {
        Some("symbolic links are not stored")
    } else if kind.is_socket() {
        Some("sockets are not stored")
    } else if kind.is_fifo() {
        Some("pipes are not stored")
    } else {
        Some("devices are not stored")
    }
}

fn unreadable(root: &Path, error: walkdir::Error) -> Found {
    let local = error.path().unwrap_or(root).to_owned();
    let error = Error::local("cannot read", &local)(error.into());
    Found::Unusable { local, error }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _};

    use super::*;

    fn describe(found: Found) -> String {
        match found {
            Found::Directory { remote, depth, .. } => format!("dir {remote} {depth}"),
            Found::File { remote, bytes, .. } => format!("file {remote} {bytes}"),
            Found::Special { what, .. } => what.to_owned(),
            Found::Unusable { error, .. } => format!("{:?}", error.exit()),
        }
    }

    #[test]
    fn a_tree_keeps_its_shape_and_the_rest_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("a/b")).expect("makes directories");
        fs::write(root.join("a/b/file"), "12345").expect("writes");
        std::os::unix::fs::symlink("a", root.join("link")).expect("links");
        let broken = root.join(OsStr::from_bytes(b"br\xffken"));
        fs::create_dir(&broken).expect("makes a directory");
        fs::write(broken.join("inside"), "").expect("writes");
        let target = ZonePath::parse(b"/zone").expect("valid");
        let mut found: Vec<String> = survey(&root, &target).map(describe).collect();
        found.sort();
        assert_eq!(
            found,
            [
                "Partly",
                "dir /zone 0",
                "dir /zone/a 1",
                "dir /zone/a/b 2",
                "file /zone/a/b/file 5",
                "symbolic links are not stored",
            ]
        );
    }

    #[test]
    fn a_named_link_is_followed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("real")).expect("makes a directory");
        std::os::unix::fs::symlink("real", dir.path().join("link")).expect("links");
        let target = ZonePath::parse(b"/t").expect("valid");
        let found: Vec<String> = survey(&dir.path().join("link"), &target).map(describe).collect();
        assert_eq!(found, ["dir /t 0"]);
    }

    #[test]
    fn what_is_not_there_is_said() {
        let target = ZonePath::root();
        let found: Vec<String> = survey(Path::new("/no/such/path"), &target).map(describe).collect();
        assert_eq!(found, ["NotFound"]);
    }
}
