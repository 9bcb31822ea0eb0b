//! The work on files, blocking: one method per operation.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, IoSlice, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use strongroom_proto::{BlockId, ExtentId, Failure, Incarnation, NodeId, Reason};

use super::{
    Part, Usage,
    directory::{Directory, OpenError, sync_directory},
    format::{CHUNK_BYTES, Front, HEADER_BYTES, Sealed},
};

/// Other blocks that are read to tell a bad block from a bad disk.
const OTHERS_MAX: usize = 3;

/// Why a block cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such block here.
    #[error("block {id} is not on node {node}")]
    NotFound {
        /// Which block.
        id: BlockId,
        /// Which node.
        node: NodeId,
    },
    /// Its file is not what was written. It has been put aside, now or at an earlier read.
    #[error("block {id} on node {node} is corrupt: {why}; read another replica")]
    Corrupt {
        /// Which block.
        id: BlockId,
        /// Which node.
        node: NodeId,
        /// How it shows.
        why: &'static str,
    },
    /// Other bytes have that id.
    #[error("node {node} has other bytes as block {id}; blocks are never rewritten")]
    Exists {
        /// Which block.
        id: BlockId,
        /// Which node.
        node: NodeId,
    },
    /// The bytes are not those that the sender summed up.
    #[error("block {id} was damaged on the way: its checksum does not fit; send it again")]
    Damaged {
        /// Which block.
        id: BlockId,
    },
    /// The disk is as full as it may get.
    #[error("node {node} has no space: {free_bytes} bytes are free, of which {reserve_bytes} stay free")]
    NoSpace {
        /// Which node.
        node: NodeId,
        /// What its disk has left.
        free_bytes: u64,
        /// What blocks must leave.
        reserve_bytes: u64,
    },
    /// Too much work waits.
    #[error("node {node} is overloaded; try again later")]
    Overloaded {
        /// Which node.
        node: NodeId,
    },
    /// The node is being stopped.
    #[error("the node is stopping; try another")]
    Stopping,
    /// The disk failed.
    #[error("node {node} cannot {what} {}: {source}", path.display())]
    Io {
        /// Which node.
        node: NodeId,
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let reason = match &error {
            StoreError::NotFound { .. } => Reason::BlockNotFound,
            StoreError::Corrupt { .. } => Reason::BlockCorrupt,
            StoreError::Exists { .. } => Reason::BlockExists,
            StoreError::Damaged { .. } => Reason::InvalidArgument,
            StoreError::NoSpace { .. } => Reason::NoSpace,
            StoreError::Overloaded { .. } => Reason::Overloaded,
            StoreError::Stopping => Reason::Unavailable,
            StoreError::Io { .. } => Reason::StoreFailed,
        };
        Self::new(reason, error.to_string())
    }
}

pub(super) struct Disk {
    directory: Directory,
    node: NodeId,
    reserve_bytes: u64,
    blocks: AtomicU64,
    serial: AtomicU64,
    putting_aside: Mutex<()>,
}

impl Disk {
    pub(super) fn new(directory: Directory, node: NodeId, reserve_bytes: u64) -> Result<Self, OpenError> {
        Ok(Self {
            blocks: AtomicU64::new(directory.count_blocks()?),
            serial: AtomicU64::new(0),
            putting_aside: Mutex::new(()),
            directory,
            node,
            reserve_bytes,
        })
    }

    pub(super) const fn node(&self) -> &NodeId {
        &self.node
    }

    pub(super) const fn incarnation(&self) -> Incarnation {
        self.directory.incarnation()
    }

    pub(super) const fn directory(&self) -> &Directory {
        &self.directory
    }

    pub(super) fn put(&self, block: &Sealed) -> Result<(), StoreError> {
        if self.has_same(block)? {
            return Ok(());
        }
        let path = self.directory.block(block.id);
        self.refuse_without_space(block)?;
        let temporary = Temporary(
            self.directory
                .temporary(block.id, self.serial.fetch_add(1, Ordering::Relaxed)),
        );
        write_synced(&temporary.0, block).map_err(|error| self.failed("write", &temporary.0, error))?;
        match renameat_with(CWD, &temporary.0, CWD, &path, RenameFlags::NOREPLACE) {
            Ok(()) => _ = self.blocks.fetch_add(1, Ordering::Relaxed),
            // Somebody stored the same id meanwhile.
            Err(rustix::io::Errno::EXIST) if self.has_same(block)? => return Ok(()),
            Err(error) => return Err(self.failed("rename a block to", &path, error.into())),
        }
        self.sync_names(block.id)
    }

    /// Whether the very block is durable here already. A damaged file under its id is put aside.
    fn has_same(&self, block: &Sealed) -> Result<bool, StoreError> {
        match self.get(block.id, 0, 0) {
            Ok(part) if part.data == block.data => {
                // Its first writer may not have come as far as this.
                self.sync_names(block.id)?;
                Ok(true)
            }
            Ok(_) => Err(StoreError::Exists {
                id: block.id,
                node: self.node.clone(),
            }),
            Err(StoreError::NotFound { .. } | StoreError::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn refuse_without_space(&self, block: &Sealed) -> Result<(), StoreError> {
        let needed = (block.front.len() + block.data.len()) as u64;
        if self.usage()?.free_bytes < needed {
            return Err(self.no_space());
        }
        Ok(())
    }

    pub(super) fn get(&self, id: BlockId, offset: u32, length: u32) -> Result<Part, StoreError> {
        let file = self.opened(id)?;
        read(&file, id, offset, length).map_err(|error| self.unreadable(id, &file, error))
    }

    /// What header and table of a block say.
    pub(super) fn front(&self, id: BlockId) -> Result<(Front, fs::Metadata), StoreError> {
        let file = self.opened(id)?;
        let front = read_front(&file, id).map_err(|error| self.unreadable(id, &file, error))?;
        let metadata = file.metadata();
        Ok((
            front,
            metadata.map_err(|error| self.failed("look at", &self.directory.block(id), error))?,
        ))
    }

    /// A block's file. One that was put aside and reads well now, as after a disk was away for a while, is taken back first.
    fn opened(&self, id: BlockId) -> Result<File, StoreError> {
        let path = self.directory.block(id);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened.map_err(|error| self.failed("open", &path, error)),
        }
        let why = self.missing(id);
        if matches!(why, StoreError::Corrupt { .. }) && self.take_back(id) {
            return File::open(&path).map_err(|error| self.failed("open", &path, error));
        }
        Err(why)
    }

    fn unreadable(&self, id: BlockId, file: &File, error: ReadError) -> StoreError {
        match error {
            ReadError::Corrupt(why) => self.put_aside(id, file, why),
            // What the medium cannot give back is lost as surely as what it gives back wrong; but not if it gives back nothing at all.
            ReadError::Io(error) if is_medium(&error) && self.works_otherwise(id) => {
                self.put_aside(id, file, "the disk cannot read it")
            }
            ReadError::Io(error) => self.failed("read", &self.directory.block(id), error),
        }
    }

    /// Whether the disk gives other blocks back, or, for want of any, takes a file.
    fn works_otherwise(&self, id: BlockId) -> bool {
        let first = id.extent.as_bytes()[15];
        let fans = (0..=u8::MAX).map(|step| first.wrapping_add(step));
        let others = fans.filter_map(|fan| fs::read_dir(self.directory.fan(fan)).ok());
        let others = others.flatten().filter_map(|entry| block_of(&entry.ok()?.file_name()));
        let mut looked_at = others.filter(|other| *other != id).take(OTHERS_MAX).peekable();
        if looked_at.peek().is_none() {
            return self.takes_a_file(id);
        }
        looked_at.any(|other| {
            let file = File::open(self.directory.block(other));
            file.is_ok_and(|file| read(&file, other, 0, 0).is_ok())
        })
    }

    fn takes_a_file(&self, id: BlockId) -> bool {
        let probe = Temporary(
            self.directory
                .temporary(id, self.serial.fetch_add(1, Ordering::Relaxed)),
        );
        File::create_new(&probe.0)
            .and_then(|mut file| file.write_all(b"strongroom").and_then(|()| file.sync_all()))
            .is_ok()
    }

    /// Takes a block back that was put aside, if its file is whole. Says whether it is in its place.
    fn take_back(&self, id: BlockId) -> bool {
        let (bad, path) = (self.directory.bad(id), self.directory.block(id));
        let is_whole = File::open(&bad).is_ok_and(|file| read(&file, id, 0, 0).is_ok());
        if !is_whole {
            return false;
        }
        let _one_at_a_time = self.putting_aside.lock().unwrap_or_else(PoisonError::into_inner);
        match renameat_with(CWD, &bad, CWD, &path, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.blocks.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(block = %id, "a block that was put aside reads well and is back in its place");
                self.sync_names(id).is_ok()
            }
            // Another reader was faster.
            Err(_) => path.exists(),
        }
    }

    /// Moves a damaged block out of the way, so that a good copy can take its place.
    fn put_aside(&self, id: BlockId, damaged: &File, why: &'static str) -> StoreError {
        match self.rename_damaged(id, damaged) {
            Ok(true) => tracing::error!(block = %id, why, "a block is damaged and was moved to the directory bad"),
            Ok(false) => {}
            Err(error) => tracing::error!(block = %id, why, %error, "a block is damaged and cannot be put aside"),
        }
        StoreError::Corrupt {
            id,
            node: self.node.clone(),
            why,
        }
    }

    /// Whether this call moved it. Another reader may have been faster, and a good copy have come since.
    fn rename_damaged(&self, id: BlockId, damaged: &File) -> io::Result<bool> {
        let path = self.directory.block(id);
        let _one_at_a_time = self.putting_aside.lock().unwrap_or_else(PoisonError::into_inner);
        let there = match fs::metadata(&path) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if there.ino() != damaged.metadata()?.ino() {
            return Ok(false);
        }
        fs::rename(&path, self.directory.bad(id))?;
        self.blocks.fetch_sub(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Removes a block, and what was put aside under its id: a block that nobody should have is not a corrupt one.
    pub(super) fn delete(&self, id: BlockId) -> Result<(), StoreError> {
        self.remove_bad(&self.directory.bad(id))?;
        self.remove(&self.directory.block(id))?;
        self.sync_names(id)
    }

    pub(super) fn delete_extent(&self, extent: ExtentId) -> Result<(), StoreError> {
        let first = BlockId { extent, index: 0 };
        self.each_of(extent, &self.directory.bad_blocks(), |path| self.remove_bad(path))?;
        self.each_of(extent, &self.directory.fan_of(first), |path| self.remove(path))?;
        self.sync_names(first)
    }

    /// Does `act` to each file of an extent's blocks in `folder`.
    fn each_of(
        &self,
        extent: ExtentId,
        folder: &Path,
        act: impl Fn(&Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let prefix = format!("{extent}-");
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            // Somebody looked at the damaged blocks and cleared them away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.failed("list", folder, error)),
        };
        for entry in entries {
            let name = entry.map_err(|error| self.failed("list", folder, error))?.file_name();
            if name.to_string_lossy().starts_with(&prefix) {
                act(&folder.join(name))?;
            }
        }
        Ok(())
    }

    /// Removes a block's file, if it is there.
    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        if self.remove_file(path)? {
            self.blocks.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Removes a file that was put aside, if there is one. It is counted no more.
    fn remove_bad(&self, path: &Path) -> Result<(), StoreError> {
        self.remove_file(path).map(|_| ())
    }

    /// Whether there was such a file to remove.
    fn remove_file(&self, path: &Path) -> Result<bool, StoreError> {
        match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.failed("remove", path, error)),
        }
    }

    pub(super) fn usage(&self) -> Result<Usage, StoreError> {
        let (capacity_bytes, free_bytes) = self.capacity_and_free_bytes()?;
        Ok(Usage {
            capacity_bytes,
            free_bytes: free_bytes.saturating_sub(self.reserve_bytes),
            blocks: self.blocks.load(Ordering::Relaxed),
        })
    }

    fn capacity_and_free_bytes(&self) -> Result<(u64, u64), StoreError> {
        let root = self.directory.root();
        let disk = rustix::fs::statvfs(root).map_err(|error| self.failed("measure", root, error.into()))?;
        let bytes = |units: u64| units.saturating_mul(disk.f_frsize);
        Ok((bytes(disk.f_blocks), bytes(disk.f_bavail)))
    }

    fn sync_names(&self, id: BlockId) -> Result<(), StoreError> {
        let path = self.directory.fan_of(id);
        sync_directory(&path).map_err(|error| self.failed("sync", &path, error))
    }

    /// Why a block has no file: it never came or was deleted, or it was put aside. Whoever asks after the first reader
    /// who met the damage is to hear of it too.
    fn missing(&self, id: BlockId) -> StoreError {
        let (node, bad) = (self.node.clone(), self.directory.bad(id));
        if let Err(error) = self.directory.find_blocks() {
            return self.failed("find the blocks in", self.directory.root(), error);
        }
        match bad.try_exists() {
            Ok(true) => StoreError::Corrupt {
                id,
                node,
                why: "it was found corrupt before and put aside",
            },
            Ok(false) => StoreError::NotFound { id, node },
            Err(error) => self.failed("look for", &bad, error),
        }
    }

    fn no_space(&self) -> StoreError {
        let free_bytes = self.capacity_and_free_bytes().map_or(0, |(_, free)| free);
        StoreError::NoSpace {
            node: self.node.clone(),
            free_bytes,
            reserve_bytes: self.reserve_bytes,
        }
    }

    pub(super) fn failed(&self, what: &'static str, path: &Path, source: io::Error) -> StoreError {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return self.no_space();
        }
        StoreError::Io {
            node: self.node.clone(),
            what,
            path: path.to_owned(),
            source,
        }
    }
}

/// A file that is removed when its write ends, unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove a temporary file; the next start does");
        }
    }
}

fn write_synced(path: &Path, block: &Sealed) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut parts = [IoSlice::new(&block.front), IoSlice::new(&block.data)];
    let mut left = &mut parts[..];
    while !left.is_empty() {
        match file.write_vectored(left)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => IoSlice::advance_slices(&mut left, written),
        }
    }
    file.sync_data()
}

/// All of a block, and its checksum.
pub(super) fn read_whole(file: &File, id: BlockId) -> Result<(Bytes, u32), String> {
    let told = |error| match error {
        ReadError::Corrupt(why) => why.to_owned(),
        ReadError::Io(error) => error.to_string(),
    };
    let crc32c = read_front(file, id).map_err(told)?.crc32c;
    let part = read(file, id, 0, 0).map_err(told)?;
    Ok((part.data, crc32c))
}

enum ReadError {
    Corrupt(&'static str),
    Io(io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Corrupt("its file is too short"),
            _ => Self::Io(error),
        }
    }
}

/// Whether the medium could not be read.
fn is_medium(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// The block that a file name of `blocks` is of.
pub(super) fn block_of(name: &OsStr) -> Option<BlockId> {
    name.to_str()?.strip_suffix(".blk")?.parse().ok()
}

/// Reads whole chunks around the range, verifies them, and cuts the range out.
fn read(file: &File, id: BlockId, offset: u32, length: u32) -> Result<Part, ReadError> {
    let front = read_front(file, id)?;
    let start = offset.min(front.length);
    let end = match length {
        0 => front.length,
        length => start.saturating_add(length).min(front.length),
    };
    let first_chunk = start / CHUNK_BYTES;
    let chunks_start = first_chunk * CHUNK_BYTES;
    let chunks_end = end.next_multiple_of(CHUNK_BYTES).min(front.length).max(chunks_start);
    let mut chunks = vec![0; (chunks_end - chunks_start) as usize];
    file.read_exact_at(&mut chunks, front.data_offset() + u64::from(chunks_start))?;
    if !front.verifies(first_chunk as usize, &chunks) {
        return Err(ReadError::Corrupt("the checksum of its data does not fit"));
    }
    let cut = (start - chunks_start) as usize..(end - chunks_start) as usize;
    Ok(Part {
        data: Bytes::from(chunks).slice(cut),
        block_length: front.length,
    })
}

fn read_front(file: &File, id: BlockId) -> Result<Front, ReadError> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0)?;
    let table_bytes = Front::table_bytes(&header).ok_or(ReadError::Corrupt("the header says an impossible length"))?;
    let mut front = header.to_vec();
    front.resize(HEADER_BYTES + table_bytes, 0);
    file.read_exact_at(&mut front[HEADER_BYTES..], HEADER_BYTES as u64)?;
    let front = Front::decode(id, &front).map_err(ReadError::Corrupt)?;
    if file.metadata()?.len() != front.file_bytes() {
        return Err(ReadError::Corrupt("its file does not have the block's length"));
    }
    Ok(front)
}
