//! The data directory: who may use it, and where what is.
//!
//! `LOCK` is held by the process that uses the directory; `FORMAT` says the layout's version, the node and the incarnation; `blocks`
//! has a directory for each value of an extent id's last byte (the first ones are a clock), and in `INCARNATION` the incarnation once
//! more: where it is not, the blocks are not; `tmp` is for writes under way, `bad` for blocks that failed their checksum.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use strongroom_proto::{BlockId, Incarnation, NodeId};

/// The layout that this release writes. It reads those before: the first had no incarnation, the second none beside the blocks.
const FORMAT: u32 = 3;
/// In `blocks`: the incarnation of the directory that they belong to.
const MARK: &str = "INCARNATION";
const OWN_NAMES: [&str; 6] = ["LOCK", "FORMAT", "blocks", "tmp", "bad", "lost+found"];

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error("the data directory {} is in use by {holder}; stop that process first", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process, as it wrote itself into the lock file.
        holder: String,
    },
    /// A newer release made it.
    #[error(
        "the data directory {} has format {found}, and this release knows formats up to {FORMAT}; \
         run the release that wrote it, or a newer one",
        path.display()
    )]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Its format file cannot be read.
    #[error("{} does not say a format and a node; restore it, or give the node an empty directory", path.display())]
    BadFormat {
        /// The format file.
        path: PathBuf,
    },
    /// It belongs to another node.
    #[error(
        "the data directory {} belongs to node {owner}; give node {node} a directory of its own, or its name back",
        path.display()
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who asked.
        node: NodeId,
    },
    /// The blocks are not where they were.
    #[error(
        "{} is not the directory that the blocks of this node are in: {found}; mount the filesystem that has them, or, if they are lost, \
         give the node an empty data directory",
        path.display()
    )]
    BlocksAway {
        /// Where they should be.
        path: PathBuf,
        /// What is wrong with its mark.
        found: String,
    },
    /// It holds something else.
    #[error("{} holds other files, such as {found}; choose an empty directory as data_dir", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// One of the names in it.
        found: String,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// A data directory, locked for this process.
pub(super) struct Directory {
    root: PathBuf,
    incarnation: Incarnation,
    _lock: Lock,
}

impl Directory {
    pub(super) fn open(root: &Path, node: &NodeId) -> Result<Self, OpenError> {
        make_private_directory(root).map_err(failed("create", root))?;
        let lock = lock(root)?;
        let blocks = root.join("blocks");
        let known = match format(root)? {
            Some(Format { version: found, .. }) if found > FORMAT => {
                return Err(OpenError::NewerFormat {
                    path: root.to_owned(),
                    found,
                });
            }
            Some(Format { owner, .. }) if owner != node.as_str() => {
                return Err(OpenError::OtherNode {
                    path: root.to_owned(),
                    owner,
                    node: node.clone(),
                });
            }
            Some(Format {
                version: FORMAT,
                incarnation: Some(incarnation),
                ..
            }) => {
                find_mark(&blocks, incarnation).map_err(|error| OpenError::BlocksAway {
                    path: blocks.clone(),
                    found: error.to_string(),
                })?;
                Some((FORMAT, incarnation))
            }
            Some(format) => {
                refuse_without_fans(&blocks)?;
                format.incarnation.map(|incarnation| (format.version, incarnation))
            }
            None => {
                refuse_foreign(root)?;
                None
            }
        };
        let directory = Self {
            root: root.to_owned(),
            incarnation: known.map_or_else(Incarnation::generate, |(_, incarnation)| incarnation),
            _lock: lock,
        };
        directory.lay_out()?;
        if known.is_none_or(|(version, _)| version < FORMAT) {
            directory.write_mark()?;
            directory.write_format(node)?;
        }
        Ok(directory)
    }

    /// Makes what is missing but for the format file, which comes last: with it, the directory is whole.
    fn lay_out(&self) -> Result<(), OpenError> {
        let temporary = self.root.join("tmp");
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(failed("clear", &temporary))?;
        }
        let fans = (0..=u8::MAX).map(|fan| self.fan(fan));
        for path in fans.chain([temporary, self.bad_blocks()]) {
            make_private_directory(&path).map_err(failed("create", &path))?;
        }
        let blocks = self.root.join("blocks");
        sync_directory(&blocks).map_err(failed("sync", &blocks))?;
        sync_directory(&self.root).map_err(failed("sync", &self.root))?;
        let parent = self.root.join("..");
        sync_directory(&parent).map_err(failed("sync", &parent))
    }

    fn write_format(&self, node: &NodeId) -> Result<(), OpenError> {
        self.write_line(&self.root, "FORMAT", &format!("{FORMAT} {node} {}\n", self.incarnation))
    }

    /// Renamed as blocks are: where that does not work, nothing could be stored.
    fn write_mark(&self) -> Result<(), OpenError> {
        self.write_line(&self.root.join("blocks"), MARK, &format!("{}\n", self.incarnation))
    }

    fn write_line(&self, folder: &Path, name: &str, line: &str) -> Result<(), OpenError> {
        let (draft, path) = (self.root.join("tmp").join(name), folder.join(name));
        write_synced(&draft, line.as_bytes()).map_err(failed("write", &draft))?;
        fs::rename(&draft, &path).map_err(failed("write", &path))?;
        sync_directory(folder).map_err(failed("sync", folder))
    }

    /// Whether the blocks are where they were at the start: their filesystem may have been unmounted since.
    pub(super) fn find_blocks(&self) -> io::Result<()> {
        find_mark(&self.root.join("blocks"), self.incarnation)
    }

    pub(super) const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a block's file.
    pub(super) fn fan_of(&self, id: BlockId) -> PathBuf {
        self.fan(id.extent.as_bytes()[15])
    }

    pub(super) fn fan(&self, fan: u8) -> PathBuf {
        self.root.join("blocks").join(format!("{fan:02x}"))
    }

    /// A block's file.
    pub(super) fn block(&self, id: BlockId) -> PathBuf {
        self.fan_of(id).join(format!("{id}.blk"))
    }

    /// The directory of damaged blocks.
    pub(super) fn bad_blocks(&self) -> PathBuf {
        self.root.join("bad")
    }

    /// Where a damaged block goes.
    pub(super) fn bad(&self, id: BlockId) -> PathBuf {
        self.bad_blocks().join(format!("{id}.bad"))
    }

    /// A file for the write number `serial`.
    pub(super) fn temporary(&self, id: BlockId, serial: u64) -> PathBuf {
        self.root.join("tmp").join(format!("{id}.{serial}"))
    }

    /// Counts the blocks.
    pub(super) fn count_blocks(&self) -> Result<u64, OpenError> {
        let mut count = 0;
        for fan in 0..=u8::MAX {
            let path = self.fan(fan);
            for entry in fs::read_dir(&path).map_err(failed("list", &path))? {
                let name = entry.map_err(failed("list", &path))?.file_name();
                count += u64::from(Path::new(&name).extension().is_some_and(|extension| extension == "blk"));
            }
        }
        Ok(count)
    }
}

/// Makes a directory, with its parents, that only its owner may enter (mode 0700): ciphertext too is nobody else's
/// business. One that exists is left as it is.
fn make_private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A locked file.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would leave the lock with a child process that another thread is just starting.
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "cannot unlock the data directory");
        }
    }
}

fn lock(root: &Path) -> Result<Lock, OpenError> {
    let path = root.join("LOCK");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::Locked {
                path: root.to_owned(),
                holder: holder(&mut file),
            });
        }
        Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
    }
    // The text only serves a message: on a full disk the lock alone does.
    let described = file
        .set_len(0)
        .and_then(|()| writeln!(file, "process {}", std::process::id()));
    if let Err(error) = described {
        tracing::warn!(path = %path.display(), %error, "cannot write this process' id into the lock file");
    }
    Ok(Lock(file))
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(64).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "another process".to_owned(),
    }
}

/// Whether a directory of blocks has the mark of an incarnation.
fn find_mark(blocks: &Path, incarnation: Incarnation) -> io::Result<()> {
    let path = blocks.join(MARK);
    let found = fs::read_to_string(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {MARK} in it: {error}")))?;
    if found.trim_end() == incarnation.to_string() {
        return Ok(());
    }
    let what = format!("{MARK} in it says another incarnation than FORMAT");
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

/// A directory of a layout without a mark has all fans since it was made.
fn refuse_without_fans(blocks: &Path) -> Result<(), OpenError> {
    if blocks.join("00").exists() {
        return Ok(());
    }
    Err(OpenError::BlocksAway {
        path: blocks.to_owned(),
        found: "it lacks the directories that every one has".to_owned(),
    })
}

/// What the format file says.
struct Format {
    version: u32,
    owner: String,
    incarnation: Option<Incarnation>,
}

impl Format {
    /// Of a newer version only the number is known.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.trim_end().split(' ');
        let version = words.next()?.parse().ok()?;
        let owner = words.next()?.to_owned();
        let incarnation = match (version, words.next()) {
            (2..=FORMAT, word) => Some(word?.parse().ok()?),
            _ => None,
        };
        Some(Self {
            version,
            owner,
            incarnation,
        })
    }
}

/// The node whose directory it is.
pub(super) fn node_of(root: &Path) -> io::Result<NodeId> {
    let text = fs::read_to_string(root.join("FORMAT"))?;
    let node = Format::parse(&text).and_then(|format| format.owner.parse().ok());
    node.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its FORMAT does not say a node"))
}

/// The directory's format, if it has any.
fn format(root: &Path) -> Result<Option<Format>, OpenError> {
    let path = root.join("FORMAT");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    Format::parse(&text).map(Some).ok_or(OpenError::BadFormat { path })
}

fn refuse_foreign(root: &Path) -> Result<(), OpenError> {
    for entry in fs::read_dir(root).map_err(failed("list", root))? {
        let name = entry.map_err(failed("list", root))?.file_name();
        let name = name.to_string_lossy();
        if !OWN_NAMES.contains(&name.as_ref()) {
            return Err(OpenError::Foreign {
                path: root.to_owned(),
                found: name.into_owned(),
            });
        }
    }
    Ok(())
}
