//! Reads a local regular file in pieces, and notices when it changes meanwhile.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use super::{CHUNK_BYTES, MODE_MASK};
use crate::error::Error;

/// An open file. Its methods block.
pub(crate) struct LocalFile {
    path: PathBuf,
    file: File,
    at_open: Metadata,
    read: u64,
}

/// A piece of a file.
pub(crate) struct Chunk {
    pub(crate) bytes: Vec<u8>,
    /// Whether nothing follows.
    pub(crate) last: bool,
}

impl LocalFile {
    /// Opens a regular file, see [`open_regular`].
    pub(crate) fn open(path: &Path, named: bool) -> Result<Self, Error> {
        let (file, at_open) = open_regular(path, named)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            at_open,
            read: 0,
        })
    }

    /// Permission bits.
    pub(crate) fn mode(&self) -> u32 {
        self.at_open.mode() & MODE_MASK
    }

    /// How long it was when it was opened.
    pub(crate) fn bytes(&self) -> u64 {
        self.at_open.len()
    }

    /// Time of the last change, in milliseconds since 1970; times before that are 0.
    pub(crate) fn mtime_ms(&self) -> u64 {
        mtime_ms(&self.at_open)
    }

    /// The next piece, at most [`CHUNK_BYTES`].
    ///
    /// # Errors
    /// [`Error::LocalChanged`] with the last piece if the file is not what it was when it was opened.
    pub(crate) fn next_chunk(&mut self) -> Result<Chunk, Error> {
        let left = usize::try_from(self.at_open.len().saturating_sub(self.read)).unwrap_or(CHUNK_BYTES);
        // One more than is left, so that the end is seen in the same call.
        let mut bytes = Vec::with_capacity(left.saturating_add(1).min(CHUNK_BYTES));
        (&mut self.file)
            .take(CHUNK_BYTES as u64)
            .read_to_end(&mut bytes)
            .map_err(Error::local("cannot read", &self.path))?;
        self.read += bytes.len() as u64;
        let last = bytes.len() < CHUNK_BYTES;
        if last {
            self.check_unchanged()?;
        }
        Ok(Chunk { bytes, last })
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        let now = self.file.metadata().map_err(Error::local("cannot read", &self.path))?;
        let stamp = |metadata: &Metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        if stamp(&now) == stamp(&self.at_open) && self.read == now.len() {
            Ok(())
        } else {
            Err(Error::LocalChanged {
                path: self.path.clone(),
            })
        }
    }
}

/// Opens a regular file, and says what it is. Between the walk and now it may have become a link or a pipe: neither is followed or
/// waited for. A file that the user named may be a link.
pub(crate) fn open_regular(path: &Path, named: bool) -> Result<(File, Metadata), Error> {
    let mut flags = OFlags::NONBLOCK;
    if !named {
        flags |= OFlags::NOFOLLOW;
    }
    let cannot_open = || Error::local("cannot open", path);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(cannot_open())?;
    let metadata = file.metadata().map_err(cannot_open())?;
    if metadata.is_file() {
        return Ok((file, metadata));
    }
    Err(Error::LocalKind {
        path: path.to_owned(),
        found: "something else now",
        wanted: "a regular file",
    })
}

/// Time of the last change, in milliseconds since 1970; times before that are 0.
pub(crate) fn mtime_ms(metadata: &Metadata) -> u64 {
    let ms = metadata
        .mtime()
        .saturating_mul(1000)
        .saturating_add(metadata.mtime_nsec() / 1_000_000);
    u64::try_from(ms).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_add_up() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1] {
            let path = dir.path().join(length.to_string());
            std::fs::write(&path, vec![7; length]).expect("writes");
            let mut file = LocalFile::open(&path, false).expect("opens");
            let mut read = 0;
            loop {
                let chunk = file.next_chunk().expect("reads");
                read += chunk.bytes.len();
                if chunk.last {
                    break;
                }
            }
            assert_eq!(read, length);
        }
    }

    #[test]
    fn a_file_that_grows_is_noticed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("log");
        std::fs::write(&path, "one").expect("writes");
        let mut file = LocalFile::open(&path, false).expect("opens");
        std::fs::write(&path, "one two").expect("writes");
        let error = file.next_chunk().err().expect("must be noticed").to_string();
        assert!(error.contains("changed while it was read"), "{error}");
    }

    #[test]
    fn links_are_followed_only_when_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let link = dir.path().join("link");
        std::fs::write(dir.path().join("file"), "x").expect("writes");
        std::os::unix::fs::symlink("file", &link).expect("links");
        assert!(LocalFile::open(&link, false).is_err());
        assert!(LocalFile::open(&link, true).is_ok());
    }
}
