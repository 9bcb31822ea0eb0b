//! Files that are there whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use crate::PkiError;

/// The mode of a private key's file: TLS identities refuse one that others can read.
pub(crate) const OWNER: u32 = 0o600;
/// The mode of a certificate's file.
pub(crate) const EVERYONE: u32 = 0o644;

/// Writes `path` atomically and durably: a crash leaves the old content or the new.
pub(crate) fn write(path: &Path, content: &str, mode: u32) -> Result<(), PkiError> {
    replace(path, content, mode).map_err(PkiError::file("cannot write", path))
}

fn replace(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // What a crash left has the mode that it was made with, so it is not written to.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(parent(path))?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
