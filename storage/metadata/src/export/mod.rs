//! Moving a namespace from one engine to another: out of a store into a file, and from a file into an empty store.
//!
//! `docs/formats/metadata-export.md` has the file byte for byte. An export is one snapshot. An import reads the whole file
//! before it writes anything, may be cut off and repeated, and reads back what it wrote before the store counts as one.

mod file;
mod import;
mod write;

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::Serialize;
use strongroom_kv::{AnyOpenError, AnyStore, StoreConfig, StoreError};

use crate::{Clock, Config, MetadataError, core::STORE_FILE};

/// Bytes read or written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// What an export holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Summary {
    /// Records in all.
    pub records: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Files that show.
    pub files: u64,
    /// Files being written.
    pub open_files: u64,
    /// Encryption zones.
    pub zones: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// SHA-256 over the file up to it, in hexadecimal.
    pub sha256: String,
}

/// Why a namespace cannot be moved.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] AnyOpenError),
    /// The store failed.
    #[error("the metadata store failed")]
    Store(#[from] MetadataError),
    /// The file cannot be made, read or written.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not a whole export.
    #[error("{} is not a whole export: {why}; nothing was written, make it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file is of a newer release.
    #[error(
        "the export has format {found} of a namespace of format {store}, this release reads {known} of {known_store}"
    )]
    Format {
        /// The file's format.
        found: u32,
        /// The format of what is in it.
        store: u32,
        /// The format that this release reads.
        known: u32,
        /// And of what is in it.
        known_store: u32,
    },
    /// The file is whole and not the one that was asked for.
    #[error("the export has the SHA-256 {found}, not {expected}; nothing was written")]
    OtherExport {
        /// The file's.
        found: String,
        /// The one asked for.
        expected: String,
    },
    /// The store is of another format.
    #[error(
        "the metadata store has format {found}, this release reads {known}; export it with the release that wrote it"
    )]
    StoreFormat {
        /// The store's.
        found: String,
        /// The one that this release reads.
        known: u32,
    },
    /// There is no namespace to export.
    #[error("there is no namespace in the store that the configuration names")]
    Empty,
    /// The store to import into is in use.
    #[error("the store holds something already; an import needs an empty one, so name another in the configuration")]
    NotEmpty,
    /// An import of something else was begun there.
    #[error(
        "the import of another export ({begun}) was begun into this store and not finished; finish that one, or empty the store"
    )]
    OtherImport {
        /// SHA-256 of that one.
        begun: String,
    },
    /// A service works on the store.
    #[error(
        "a metadata service works on this store, and an export would lack what it does from now on; stop every instance first, or pass --running for a copy of this moment"
    )]
    Running,
    /// What is in the store is not what was written.
    #[error(
        "the store holds something else than was written into it ({found}, not {expected}); empty it and import again"
    )]
    Mismatch {
        /// SHA-256 of what is there.
        found: String,
        /// And of the export.
        expected: String,
    },
}

impl From<StoreError> for ExportError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.into())
    }
}

/// Writes the namespace of the store that `config` names into the new file `path`. Unless `running`, a service that works on
/// the store is an error; to see whether one does takes up to 12 s.
///
/// # Errors
/// Says what is in the way; then there is no file.
pub async fn export(config: &Config, path: &Path, running: bool) -> Result<Summary, ExportError> {
    let file = config.data_dir.join(STORE_FILE);
    // Opening would make one.
    if config.store == StoreConfig::default() && !file.exists() {
        return Err(ExportError::Empty);
    }
    let store = AnyStore::open(&config.store, &file).await?;
    if !running && crate::duty::is_held(&store, &Clock::system()).await? {
        return Err(ExportError::Running);
    }
    let mut options = OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(path);
    let made = made.map_err(failed("make", path))?;
    let written = write_file(&store, made, path).await;
    if written.is_err() {
        // What is left of it is of no use to anybody.
        _ = std::fs::remove_file(path);
    }
    written
}

async fn write_file(store: &AnyStore, made: File, path: &Path) -> Result<Summary, ExportError> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, made);
    let summary = write::write(store, &mut out, path, Clock::system().now_ms()).await?;
    out.flush().map_err(failed("write", path))?;
    out.get_ref().sync_all().map_err(failed("write", path))?;
    Ok(summary)
}

/// Reads the export `path` into the empty store that `config` names. Cut off, it is repeated with the same file. With
/// `expected`, the file's SHA-256 in hexadecimal has to be that.
///
/// # Errors
/// Says what is wrong with the file, before anything is written, or with the store.
pub async fn import(config: &Config, path: &Path, expected: Option<&str>) -> Result<Summary, ExportError> {
    let file = File::open(path).map_err(failed("read", path))?;
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
    let summary = file::verify(&mut reader, path)?;
    if let Some(expected) = expected.filter(|expected| !expected.eq_ignore_ascii_case(&summary.sha256)) {
        return Err(ExportError::OtherExport {
            found: summary.sha256,
            expected: expected.to_owned(),
        });
    }
    crate::run::make_data_dir(&config.data_dir).map_err(|source| ExportError::File {
        what: "make",
        path: config.data_dir.clone(),
        source,
    })?;
    let store = AnyStore::open(&config.store, &config.data_dir.join(STORE_FILE)).await?;
    import::import(&store, &mut reader, path, &summary).await?;
    Ok(summary)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ExportError {
    let path = path.to_owned();
    move |source| ExportError::File { what, path, source }
}
