use std::{error::Error, path::PathBuf, sync::Arc};

use bytes::Bytes;

use crate::limits::{KEY_BYTES_MAX, KEYS_TOGETHER_MAX, READS_MAX, VALUE_BYTES_MAX, WRITE_BYTES_MAX, WRITES_MAX};

/// Why a store cannot do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A key over its bound.
    #[error("a key of {bytes} bytes is over the bound of {KEY_BYTES_MAX}")]
    KeyTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A value over its bound.
    #[error("a value of {bytes} bytes is over the bound of {VALUE_BYTES_MAX}")]
    ValueTooLong {
        /// Its length.
        bytes: usize,
    },
    /// Too many puts and deletes.
    #[error("a transaction has at most {WRITES_MAX} writes; split it")]
    TooManyWrites,
    /// Too many bytes in puts and deletes.
    #[error("a transaction writes at most {WRITE_BYTES_MAX} bytes; split it")]
    TooManyBytes,
    /// Too many different keys and ranges read.
    #[error("a transaction reads at most {READS_MAX} keys and ranges; split it")]
    TooManyReads,
    /// Too many keys read together.
    #[error("at most {KEYS_TOGETHER_MAX} keys are read together, not {keys}; read them in parts")]
    TooManyKeys {
        /// How many were asked for.
        keys: usize,
    },
    /// An addition to what is no counter.
    #[error("the value of the key {} is no counter", key.escape_ascii())]
    NotACounter {
        /// The key.
        key: Bytes,
    },
    /// An addition would take a counter over its bound: nothing was written.
    #[error("the counter {} is not to rise above {max}", key.escape_ascii())]
    CounterOver {
        /// The counter's key.
        key: Bytes,
        /// The bound that the transaction gave.
        max: i64,
    },
    /// The disk has no room. Reads go on; commits succeed again when there is room.
    #[error("the disk of {} is full ({free_bytes} bytes free); make room there, nothing else needs doing", path.display())]
    Full {
        /// The store's file.
        path: PathBuf,
        /// What the file system has left for this process.
        free_bytes: u64,
    },
    /// What everybody waits for did not become free.
    #[error("the store is overloaded: {lack} for {waited_ms} ms; try again later")]
    Overloaded {
        /// What there was not.
        lack: &'static str,
        /// How long that was waited for.
        waited_ms: u64,
    },
    /// A transaction lost against others at every try.
    #[error("gave up after {attempts} conflicts with other transactions; try again later")]
    Contended {
        /// Times it was run.
        attempts: u32,
    },
    /// The engine failed.
    #[error("the store {} failed to {what}", path.display())]
    Failed {
        /// The store's file.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// What the engine said.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The database does not answer, or the connection to it broke before anything was decided: nothing was written.
    #[error("cannot {what}: the database {database} does not answer")]
    Unreachable {
        /// The database, without credentials.
        database: Arc<str>,
        /// What was being done.
        what: &'static str,
        /// What the connection said.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The database refused a statement: nothing was written.
    #[error("the database {database} refused to {what}")]
    Refused {
        /// The database, without credentials.
        database: Arc<str>,
        /// What was being done.
        what: &'static str,
        /// What the database said.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The database has no room on its disk.
    #[error("the disk of the database {database} is full; make room there, nothing else needs doing")]
    DatabaseFull {
        /// The database, without credentials.
        database: Arc<str>,
    },
    /// The connection broke after a commit was sent, and the database could not be asked since. The writes happened all
    /// or not at all; reading tells which.
    #[error(
        "the connection to the database {database} broke during a commit, and it is not known whether it took place; look before repeating"
    )]
    OutcomeUnknown {
        /// The database, without credentials.
        database: Arc<str>,
    },
    /// The engine's commit thread is gone.
    #[error("the store {} has stopped; restart the service", path.display())]
    Stopped {
        /// The store's file.
        path: PathBuf,
    },
}

/// Why a transaction was not committed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// Others wrote what this transaction read, or it took so long that nobody can tell. Run it again.
    #[error("the transaction conflicts with another")]
    Conflict,
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
