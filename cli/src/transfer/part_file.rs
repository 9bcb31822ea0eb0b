//! Writes local files and directories so that a file shows under its name only when it is whole. Everything here blocks.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use filetime::FileTime;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use super::MODE_MASK;
use crate::error::Error;

/// What the names of temporary files begin and end with.
const PART: (&str, &str) = (".strongroom-", ".part");

/// A file under a temporary name beside its target; removed when dropped unfinished.
pub(crate) struct PartFile {
    file: File,
    part: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl PartFile {
    /// Makes the temporary file.
    pub(crate) fn create(target: &Path) -> Result<Self, Error> {
        let name = format!("{}{}{}", PART.0, uuid::Uuid::new_v4().simple(), PART.1);
        let part = target.with_file_name(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)
            .map_err(Error::local("cannot write", target))?;
        Ok(Self {
            file,
            part,
            target: target.to_owned(),
            finished: false,
        })
    }

    /// Adds bytes at the end.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file
            .write_all(bytes)
            .map_err(Error::local("cannot write", &self.target))
    }

    /// Waits until what was written is on disk, for files that a later command takes as they are if they have their name.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(Error::local("cannot write", &self.target))
    }

    /// Gives the file its mode, time and name. An existing file is replaced only with `force`.
    pub(crate) fn finish(mut self, mode: u32, mtime_ms: u64, force: bool) -> Result<(), Error> {
        let cannot_write = || Error::local("cannot write", &self.target);
        self.file
            .set_permissions(Permissions::from_mode(mode & MODE_MASK))
            .map_err(cannot_write())?;
        filetime::set_file_handle_times(&self.file, None, Some(file_time(mtime_ms))).map_err(cannot_write())?;
        rename(&self.part, &self.target, force)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.finished {
            _ = fs::remove_file(&self.part);
        }
    }
}

/// Whether a file's name is one of those that are temporary.
pub(crate) fn is_part(name: &str) -> bool {
    name.starts_with(PART.0) && name.ends_with(PART.1)
}

/// Fails if something is at `target` that may not be replaced: looked at before bytes are fetched in vain.
pub(crate) fn replaceable(target: &Path, force: bool) -> Result<(), Error> {
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::local("cannot look at", target)(error)),
        Ok(metadata) if metadata.is_dir() => Err(Error::LocalKind {
            path: target.to_owned(),
            found: "a directory",
            wanted: "a file",
        }),
        Ok(_) if force => Ok(()),
        Ok(_) => Err(Error::LocalExists {
            path: target.to_owned(),
        }),
    }
}

/// Makes a directory that is filled before it gets its own mode. One that exists is taken unless it is a link, through
/// which files would land elsewhere.
pub(crate) fn make_directory(path: &Path) -> Result<(), Error> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::symlink_metadata(path).map_err(Error::local("cannot look at", path))?;
            if metadata.is_dir() {
                return Ok(());
            }
            Err(Error::LocalKind {
                path: path.to_owned(),
                found: if metadata.is_symlink() {
                    "a symbolic link"
                } else {
                    "a file"
                },
                wanted: "a directory",
            })
        }
        Err(error) => Err(Error::local("cannot make the directory", path)(error)),
    }
}

/// Gives a directory its mode and time, after its content is in place.
pub(crate) fn finish_directory(path: &Path, mode: u32, mtime_ms: u64) -> Result<(), Error> {
    let cannot_set = || Error::local("cannot set mode and time of", path);
    filetime::set_file_mtime(path, file_time(mtime_ms)).map_err(cannot_set())?;
    fs::set_permissions(path, Permissions::from_mode(mode & MODE_MASK)).map_err(cannot_set())
}

fn rename(part: &Path, target: &Path, force: bool) -> Result<(), Error> {
    if force {
        return fs::rename(part, target).map_err(Error::local("cannot write", target));
    }
    match renameat_with(CWD, part, CWD, target, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(Error::LocalExists {
            path: target.to_owned(),
        }),
        // Not every filesystem knows the flag; then a look must do.
        Err(Errno::INVAL | Errno::NOSYS) => {
            replaceable(target, false)?;
            fs::rename(part, target).map_err(Error::local("cannot write", target))
        }
        Err(errno) => Err(Error::local("cannot write", target)(errno.into())),
    }
}

fn file_time(mtime_ms: u64) -> FileTime {
    let seconds = i64::try_from(mtime_ms / 1000).unwrap_or(i64::MAX);
    let nanoseconds = u32::try_from(mtime_ms % 1000).unwrap_or_default() * 1_000_000;
    FileTime::from_unix_time(seconds, nanoseconds)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("is there").flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_file_shows_when_it_is_whole() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let target = dir.path().join("file");
        let mut part = PartFile::create(&target).expect("creates");
        part.write(b"abc").expect("writes");
        assert!(!target.exists());
        part.finish(0o4640, 1_234_567, false).expect("finishes");
        let metadata = fs::metadata(&target).expect("is there");
        assert_eq!(metadata.mode() & 0o7777, 0o640);
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1234, 567_000_000));
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn nothing_is_left_of_an_unfinished_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        drop(PartFile::create(&dir.path().join("file")).expect("creates"));
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn only_force_replaces() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let target = dir.path().join("file");
        fs::write(&target, "old").expect("writes");
        let error = PartFile::create(&target).expect("creates").finish(0o600, 0, false);
        assert!(matches!(error, Err(Error::LocalExists { .. })));
        assert!(matches!(replaceable(&target, false), Err(Error::LocalExists { .. })));
        assert_eq!(fs::read(&target).expect("is there"), b"old");
        PartFile::create(&target)
            .expect("creates")
            .finish(0o600, 0, true)
            .expect("replaces");
        assert_eq!(fs::read(&target).expect("is there"), b"");
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn a_link_is_not_taken_for_a_directory() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::os::unix::fs::symlink("/tmp", dir.path().join("link")).expect("links");
        let error = make_directory(&dir.path().join("link"))
            .expect_err("must be refused")
            .to_string();
        assert!(error.contains("is a symbolic link, not a directory"), "{error}");
    }
}
