//! `strongroom fsck --ciphertext DIR…`: what lies on the disks of block nodes is accounted for, and looks like ciphertext.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Serialize;
use strongroom_block::BlockFile;
use strongroom_fs::{StoredBlock, ZoneFs};
use strongroom_proto::{BlockId, ExtentId, NodeId, limits::REPLICAS_PER_COMMAND_MAX};
use tokio::task::spawn_blocking;

use super::looks;
use crate::{
    error::Error,
    output::{Output, human_bytes, print},
};

/// A file that is not as it should be.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    file: PathBuf,
    what: String,
}

/// What was looked at.
#[derive(Debug, Clone, Default, Serialize)]
struct Summary {
    blocks: u64,
    bytes: u64,
    /// Blocks too short for statistics.
    short: u64,
    /// Blocks of files that are not encrypted.
    plain: u64,
    /// Blocks that no file shows and that do not look like ciphertext: being written, or waiting to be deleted.
    unseen: u64,
    found: u64,
}

/// One file as it was read.
struct Looked {
    path: PathBuf,
    /// None if it is not a block that can be read.
    stored: Option<StoredBlock>,
    problem: Option<String>,
}

/// Looks at the blocks in data directories.
pub(super) async fn run(fs: &ZoneFs, data_dirs: &[PathBuf], output: Output) -> Result<(), Error> {
    let mut search = Search {
        fs,
        plain: fs.plain_extents().await?,
        summary: Summary::default(),
        output,
    };
    for data_dir in data_dirs {
        search.directory(data_dir).await?;
    }
    let summary = search.summary;
    output.result(&summary, || text(&summary))?;
    match (summary.found, summary.plain, summary.unseen) {
        (0, 0, 0) => Ok(()),
        (0, plain, unseen) => Err(Error::PlainBlocks { plain, unseen }),
        (found, ..) => Err(Error::NotCiphertext { found }),
    }
}

fn text(summary: &Summary) -> String {
    let verdict = match (summary.found, summary.plain + summary.unseen) {
        (0, 0) => "all of it is accounted for and looks like ciphertext",
        (0, _) => {
            "not proven: blocks that are not encrypted are there; all others are accounted for and look like ciphertext"
        }
        _ => "not all of it is what it should be",
    };
    format!(
        "blocks   {}, {}\nshort    {}, of fewer than {} bytes: no statistics\nplain    {}, of files that are not encrypted, and {} that no file shows\nfound    {}\nverdict  {verdict}",
        summary.blocks,
        human_bytes(summary.bytes),
        summary.short,
        looks::STATISTICS_BYTES_MIN,
        summary.plain,
        summary.unseen,
        summary.found
    )
}

/// A search under way.
struct Search<'a> {
    fs: &'a ZoneFs,
    /// Extents of files that are not encrypted, with their paths.
    plain: BTreeMap<ExtentId, String>,
    summary: Summary,
    output: Output,
}

impl Search<'_> {
    async fn directory(&mut self, data_dir: &Path) -> Result<(), Error> {
        let node = BlockFile::node(data_dir).map_err(Error::local("cannot read the FORMAT of", data_dir))?;
        for fan in 0..=u8::MAX {
            let folder = data_dir.to_owned();
            let files = BlockFile::list(data_dir, fan).map_err(Error::local("cannot list the blocks of", folder))?;
            for some in files.chunks(REPLICAS_PER_COMMAND_MAX) {
                self.files(&node, some.to_vec()).await?;
            }
        }
        Ok(())
    }

    async fn files(&mut self, node: &NodeId, files: Vec<BlockFile>) -> Result<(), Error> {
        let looked = spawn_blocking(move || files.iter().filter_map(look).collect::<Vec<Looked>>()).await;
        let looked = match looked {
            Ok(looked) => looked,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let stored: Vec<StoredBlock> = looked.iter().filter_map(|file| file.stored).collect();
        let unaccounted = self.fs.account_for(node, &stored).await?;
        let odd = looked.iter().filter(|file| file.problem.is_some());
        let odd: Vec<_> = odd.filter_map(|file| file.stored).collect();
        let unseen = match odd.as_slice() {
            [] => Vec::new(),
            odd => self.fs.unseen_blocks(node, odd).await?,
        };
        for Looked { path, stored, problem } in looked {
            let Some(block) = stored else {
                self.tell(&path, problem.unwrap_or_default())?;
                continue;
            };
            self.summary.blocks += 1;
            self.summary.bytes += u64::from(block.length);
            self.summary.short += u64::from((block.length as usize) < looks::STATISTICS_BYTES_MIN);
            if unaccounted.unknown.contains(&block.id) {
                let what = "nothing accounts for it: it is in no record, of no file that is being written, and not waiting to be deleted";
                self.tell(&path, what.to_owned())?;
            }
            if unaccounted.different.contains(&block.id) {
                self.tell(&path, "it is recorded with other bytes than these".to_owned())?;
            }
            self.content(&path, block.id, problem, unseen.contains(&block.id))?;
        }
        Ok(())
    }

    /// What is not ciphertext is named, unless it is of a file that is not encrypted, or was or will be, which is counted.
    fn content(&mut self, path: &Path, id: BlockId, problem: Option<String>, unseen: bool) -> Result<(), Error> {
        if let Some(file) = self.plain.get(&id.extent) {
            self.summary.plain += 1;
            if !self.output.is_json() {
                print(&format!(
                    "{}: of the file {file}, which is not encrypted",
                    path.display()
                ))?;
            }
            return Ok(());
        }
        match problem {
            Some(_) if unseen => {
                self.summary.unseen += 1;
                if !self.output.is_json() {
                    print(&format!(
                        "{}: of a file that is being written, or waiting to be deleted, and not encrypted",
                        path.display()
                    ))?;
                }
                Ok(())
            }
            Some(problem) => self.tell(path, format!("it does not look like ciphertext: {problem}")),
            None => Ok(()),
        }
    }

    fn tell(&mut self, path: &Path, what: String) -> Result<(), Error> {
        self.summary.found += 1;
        if self.output.is_json() {
            let file = path.to_owned();
            return self.output.result(&Finding { file, what }, String::new);
        }
        print(&format!("{}: {what}", path.display()))
    }
}

/// Reads a file; none if it went meanwhile.
fn look(file: &BlockFile) -> Option<Looked> {
    let path = file.path.clone();
    let unread = |what: String| Looked {
        path: path.clone(),
        stored: None,
        problem: Some(what),
    };
    let Some(id) = file.id else {
        return Some(unread(
            "it is no block: its name is not one that a node gives".to_owned(),
        ));
    };
    match file.read(id) {
        Ok(None) => None,
        Err(why) => Some(unread(format!("it is not a whole block: {why}"))),
        Ok(Some(content)) => Some(Looked {
            problem: looks::problem(&content.data),
            stored: Some(StoredBlock {
                id,
                length: u32::try_from(content.data.len()).unwrap_or(u32::MAX),
                crc32c: content.crc32c,
            }),
            path,
        }),
    }
}
