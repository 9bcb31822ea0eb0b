//! Why an audit log is not used or not trusted.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why an audit log is not used or not trusted.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file cannot be opened, read or written.
    #[error("cannot use the audit log {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A line is not the record that the lines before it lead to.
    #[error("the audit log {} is broken at record {seq}: {what}; keep the log as evidence and move it away before a start", path.display())]
    Broken {
        /// The segment.
        path: PathBuf,
        /// The record that should be there, from 1; 0 if that is not known.
        seq: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A record known from elsewhere is not in the log, or is another.
    #[error("record {seq}, known from elsewhere, {what}")]
    Unexpected {
        /// The record's number.
        seq: u64,
        /// What became of it.
        what: &'static str,
    },
    /// There is no log.
    #[error("{} holds no audit log; it has files named 000001.log and so on", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
}

impl AuditError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn broken(path: &Path, seq: u64, what: &'static str) -> Self {
        Self::Broken {
            path: path.to_owned(),
            seq,
            what,
        }
    }
}
