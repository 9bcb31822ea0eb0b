//! What is asked of an engine, and the engines by name.

use std::{collections::BTreeMap, path::Path};

use crate::{fjall::Fjall, redb::Redb, rocks::Rocks, sqlite::Sqlite};

/// Keys and what they are to hold; `None` takes one out.
pub(crate) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;
/// A key and what it holds.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// Memory that an engine may keep of what is on the disk, as the embedded store's (`storage/kv`).
pub(crate) const CACHE_BYTES: usize = 256 << 20;

/// An ordered map in a directory.
pub(crate) trait Engine: Send + Sync {
    /// One state, to read several things of.
    fn view(&self) -> Box<dyn View + '_>;

    /// Makes all of it durable at once: when this returns, the disk has it.
    fn commit(&self, writes: &Writes);
}

/// A state of an engine.
pub(crate) trait View {
    fn get(&mut self, key: &[u8]) -> Option<Vec<u8>>;
    /// The first `limit` pairs from `start` on to before `end`.
    fn scan(&mut self, start: &[u8], end: &[u8], limit: usize) -> Vec<Pair>;
}

/// The contestants, ours first.
pub(crate) const NAMES: [&str; 4] = ["redb", "fjall", "rocksdb", "sqlite"];

/// Opens or makes what an engine has in a directory.
pub(crate) fn open(name: &str, directory: &Path) -> Box<dyn Engine> {
    std::fs::create_dir_all(directory).expect("a directory");
    match name {
        "redb" => Box::new(Redb::open(directory)),
        "fjall" => Box::new(Fjall::open(directory)),
        "rocksdb" => Box::new(Rocks::open(directory)),
        "sqlite" => Box::new(Sqlite::open(directory)),
        other => panic!("there is no engine {other}"),
    }
}
