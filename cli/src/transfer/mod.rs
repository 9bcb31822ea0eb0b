//! What `fs put` and `fs get` share: bounded parallelism, progress, counting, and the local side of files and trees.

mod local_file;
mod local_tree;
mod part_file;
mod pool;
mod report;

pub(crate) use local_file::{Chunk, LocalFile, mtime_ms, open_regular};
pub(crate) use local_tree::{Found, survey};
pub(crate) use part_file::{PartFile, finish_directory, is_part, make_directory, replaceable};
pub(crate) use pool::{Pool, blocking};
pub(crate) use report::{Report, Verb};

/// Bytes that a transfer reads, writes or holds at a time, per file.
pub(crate) const CHUNK_BYTES: usize = 4 << 20;

/// The permission bits that travel. Set-user-id, set-group-id and sticky bits stay behind: they mean something only
/// to the system that set them.
pub(crate) const MODE_MASK: u32 = 0o777;
