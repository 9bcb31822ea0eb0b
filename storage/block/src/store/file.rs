//! Block files as others may look at them: read only, without the lock of their node.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use strongroom_proto::{BlockId, NodeId};

use super::{
    directory::node_of,
    disk::{block_of, read_whole},
};

/// A file below the `blocks` of a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockFile {
    /// Where it is.
    pub path: PathBuf,
    /// The block that it is named after; none if its name is not one that a node gives.
    pub id: Option<BlockId>,
}

/// What a block file holds, verified against its checksums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockContent {
    /// The block's bytes.
    pub data: Bytes,
    /// Their CRC32C.
    pub crc32c: u32,
}

impl BlockFile {
    /// The files of one of the 256 directories of blocks, in the order of their names.
    ///
    /// # Errors
    /// What the disk said.
    pub fn list(data_dir: &Path, fan: u8) -> io::Result<Vec<Self>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(data_dir.join("blocks").join(format!("{fan:02x}")))? {
            let path = entry?.path();
            let id = path.file_name().and_then(block_of);
            files.push(Self { path, id });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// The node whose data directory it is.
    ///
    /// # Errors
    /// If its `FORMAT` cannot be read.
    pub fn node(data_dir: &Path) -> io::Result<NodeId> {
        node_of(data_dir)
    }

    /// Reads and verifies the file as block `id`; none if it went since it was listed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&self, id: BlockId) -> Result<Option<BlockContent>, String> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let (data, crc32c) = read_whole(&file, id)?;
        Ok(Some(BlockContent { data, crc32c }))
    }
}
