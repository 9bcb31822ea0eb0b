//! Small files that are either there whole or not at all.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use super::DevError;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// Mode 0600.
    Owner,
    /// Mode 0644.
    Everyone,
}

/// Writes `path` atomically and durably: a crash leaves the old content or the new.
pub(super) fn write(path: &Path, content: &str, audience: Audience) -> Result<(), DevError> {
    replace(path, content, audience).map_err(DevError::file("cannot write", path))
}

fn replace(path: &Path, content: &str, audience: Audience) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = if audience == Audience::Owner { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_parent(path)
}

/// Makes the directory that holds `path` remember it.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Makes a directory, with its parents, that only its owner can enter. One that exists is left as it is.
pub(super) fn make_private_dir(path: &Path) -> Result<(), DevError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(DevError::file("cannot make the directory", path))
}

/// The content of a small text file, `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, DevError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DevError::file("cannot read", path)(error)),
    }
}

/// A path as a TOML string. The layout's paths are UTF-8: [`super::Layout::open`] checks it.
pub(super) fn toml_string(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}
