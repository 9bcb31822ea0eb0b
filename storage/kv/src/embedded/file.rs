//! The database file: opening it, its lock and format version, snapshots, and opening it again after a failure.
//!
//! redb refuses all work after a failed write until the file is opened anew, so [`DatabaseFile`] can do that
//! while the store lives. The lock is on a file of its own, so that it is kept meanwhile.

use std::{
    error::Error,
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, TableDefinition, TableError};

use super::Snapshot;
use crate::StoreError;

/// The layout of tables that this release reads and writes.
const FORMAT: u64 = 1;
/// Bytes of pages that redb keeps in memory.
const CACHE_BYTES: usize = 256 << 20;

pub(super) const DATA: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("data");
pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
const FORMAT_KEY: &str = "format";
pub(super) const SEQUENCE_KEY: &str = "sequence";

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or the lock file cannot be made.
    #[error("cannot create {}", path.display())]
    Create {
        /// The directory or file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error("{} is in use by {holder}; stop that process first", path.display())]
    Locked {
        /// The store's file.
        path: PathBuf,
        /// The process, as it wrote itself into the lock file.
        holder: String,
    },
    /// A newer release wrote the file.
    #[error(
        "{} has format {found}, and this release knows formats up to {supported}; run the release that wrote it, or a newer one",
        path.display()
    )]
    NewerFormat {
        /// The store's file.
        path: PathBuf,
        /// The version in the file.
        found: u64,
        /// The newest that this release knows.
        supported: u64,
    },
    /// The engine cannot use the file.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The file, locked for this process. The database in it is `None` after a failure until it could be opened again.
pub(super) struct DatabaseFile {
    path: PathBuf,
    database: RwLock<Option<Database>>,
    /// Held for its lock. Declared last: released after the database is closed.
    _lock: Lock,
}

impl DatabaseFile {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|source| OpenError::Create {
                path: parent.to_owned(),
                source,
            })?;
        }
        let lock = lock(path)?;
        let database = open_database(path)?;
        sync_name(path).map_err(|error| failed(path, "sync the directory of", error))?;
        Ok(Self {
            path: path.to_owned(),
            database: RwLock::new(Some(database)),
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The current state and its number.
    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let txn = self.read()?;
        let sequence = sequence(&txn).map_err(|error| self.failed("read", error))?;
        let table = txn.open_table(DATA).map_err(|error| self.failed("read", error))?;
        Ok(Snapshot { table, sequence })
    }

    /// The number of the last commit.
    pub(super) fn sequence(&self) -> Result<u64, StoreError> {
        sequence(&self.read()?).map_err(|error| self.failed("read", error))
    }

    fn read(&self) -> Result<ReadTransaction, StoreError> {
        self.with_database(|database| database.begin_read().map_err(|error| self.failed("read", error)))
    }

    /// Runs `work` on the database, opened again first if it had failed.
    pub(super) fn with_database<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Some(database) = self.shared().as_ref() {
            return work(database);
        }
        self.reopen()?;
        match self.shared().as_ref() {
            Some(database) => work(database),
            None => Err(self.failed("stay open", io::Error::from(io::ErrorKind::Interrupted))),
        }
    }

    /// Closes the database after a failure and opens it again.
    pub(super) fn recover(&self) -> Result<(), StoreError> {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.reopen()
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            let opened = open_database(&self.path).map_err(|error| match error {
                OpenError::Store(error) => error,
                other => self.failed("open", other),
            })?;
            *database = Some(opened);
            tracing::info!(path = %self.path.display(), "store opened again after a failure");
        }
        Ok(())
    }

    fn shared(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that this process may still write on the file's disk.
    pub(super) fn free_bytes(&self) -> Result<u64, StoreError> {
        free_bytes(&self.path).map_err(|error| self.failed("measure its disk", error))
    }

    /// The store error of an engine's failure.
    pub(super) fn failed(&self, what: &'static str, error: impl Error + Send + Sync + 'static) -> StoreError {
        failed(&self.path, what, error)
    }
}

/// Makes the file's name durable: redb only sees to its bytes.
fn sync_name(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn sequence(txn: &ReadTransaction) -> Result<u64, redb::Error> {
    let stored = txn.open_table(META)?.get(SEQUENCE_KEY)?;
    Ok(stored.map_or(0, |value| value.value()))
}

fn failed(path: &Path, what: &'static str, error: impl Error + Send + Sync + 'static) -> StoreError {
    if is_full(&error) {
        return StoreError::Full {
            path: path.to_owned(),
            free_bytes: free_bytes(path).unwrap_or(0),
        };
    }
    StoreError::Failed {
        path: path.to_owned(),
        what,
        source: Arc::new(error),
    }
}

/// Whether the system said that the disk is full. redb hides the cause from `Error::source`, so its types are named.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    let storage = |error: &redb::StorageError| matches!(error, redb::StorageError::Io(io) if full_kind(io));
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return full_kind(error);
    }
    if let Some(error) = error.downcast_ref::<redb::StorageError>() {
        return storage(error);
    }
    match error.downcast_ref::<redb::Error>() {
        Some(redb::Error::Io(error)) => full_kind(error),
        _ => false,
    }
}

fn full_kind(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn free_bytes(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn open_database(path: &Path) -> Result<Database, OpenError> {
    // redb would make the file by the umask; what it holds is its owner's business alone.
    private_file(path).map_err(|source| OpenError::Create {
        path: path.to_owned(),
        source,
    })?;
    let database = Database::builder().set_cache_size(CACHE_BYTES).create(path);
    let database = database.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => OpenError::Locked {
            path: path.to_owned(),
            holder: "another process".to_owned(),
        },
        other => failed(path, "open", redb::Error::from(other)).into(),
    })?;
    match stored_format(&database).map_err(|error| failed(path, "open", error))? {
        Some(found) if found > FORMAT => Err(OpenError::NewerFormat {
            path: path.to_owned(),
            found,
            supported: FORMAT,
        }),
        Some(_) => Ok(database),
        None => {
            initialize(&database).map_err(|error| failed(path, "create", error))?;
            Ok(database)
        }
    }
}

fn stored_format(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(table) => Ok(table.get(FORMAT_KEY)?.map(|value| value.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn initialize(database: &Database) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    txn.open_table(DATA)?;
    txn.open_table(META)?.insert(FORMAT_KEY, FORMAT)?;
    txn.commit()?;
    Ok(())
}

/// A locked file.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would leave the lock with a child process that another thread is just starting.
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "cannot unlock the store");
        }
    }
}

/// Opens a file as it is, or makes an empty one that only its owner may read (mode 0600).
fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
}

/// Locks `path.lock` and writes this process into it.
fn lock(path: &Path) -> Result<Lock, OpenError> {
    let lock_path = beside(path, ".lock");
    let create = |source| OpenError::Create {
        path: lock_path.clone(),
        source,
    };
    let mut file = private_file(&lock_path).map_err(create)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::Locked {
                path: path.to_owned(),
                holder: holder(&mut file),
            });
        }
        Err(TryLockError::Error(source)) => return Err(create(source)),
    }
    // The text only serves a message: on a full disk the lock alone does.
    let described = file
        .set_len(0)
        .and_then(|()| writeln!(file, "process {} ({})", std::process::id(), program()));
    if let Err(error) = described {
        tracing::warn!(path = %lock_path.display(), %error, "cannot write this process' id into the lock file");
    }
    Ok(Lock(file))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn program() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(256).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "another process".to_owned(),
    }
}
