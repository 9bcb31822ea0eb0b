//! What this instance last saw of the store's count of reservations, kept beside the store in the data directory: a store
//! that counts less was set back to an older state, and with it the counts of uses, which must never go back.
//!
//! The file `uses.mark` holds the number in decimal and a newline. It is written anew whenever a range of uses is
//! reserved, after the store and before anything is made of the range.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// The mark, as it was last written.
#[derive(Debug)]
pub(super) struct Mark {
    path: PathBuf,
    /// None if there is no mark yet.
    seen: Option<u64>,
}

impl Mark {
    /// Reads the mark below the data directory.
    ///
    /// # Errors
    /// If the file cannot be read, or is not a number.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join("uses.mark");
        let seen = match fs::read_to_string(&path) {
            Ok(text) => Some(text.trim_end().parse().map_err(io::Error::other)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { path, seen })
    }

    /// The count that the store had at least.
    pub(super) const fn seen(&self) -> Option<u64> {
        self.seen
    }

    /// Notes durably that the store counts `reservations`.
    ///
    /// # Errors
    /// If that cannot be written; then nothing is to be made.
    pub(super) fn advance(&mut self, reservations: u64) -> io::Result<()> {
        let new = self.path.with_extension("mark.new");
        let mut file = File::create(&new)?;
        writeln!(file, "{reservations}")?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        self.seen = Some(reservations);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_what_was_written_last_and_nothing_else_is_taken_for_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = || Mark::open(directory.path());
        assert_eq!(open().expect("none").seen(), None);
        for count in [1, 20, 3] {
            open().expect("read").advance(count).expect("written");
            assert_eq!(open().expect("read").seen(), Some(count));
        }
        for text in ["", "x\n", "-1\n"] {
            fs::write(directory.path().join("uses.mark"), text).expect("written");
            open().expect_err(text);
        }
    }
}
