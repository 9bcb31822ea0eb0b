//! `fs du`: files and bytes below a path.

use serde::Serialize;
use strongroom_fs::{Entry, FileKind, ZoneFs};
use strongroom_proto::ZonePath;

use super::{Listing, for_each, is_trash};
use crate::{
    error::Error,
    output::{Output, human_bytes},
};

/// What lies at and below a path; in `--json` as it is.
#[derive(Serialize)]
struct Usage {
    path: String,
    files: u64,
    directories: u64,
    bytes: u64,
}

/// Counts each path.
pub(super) async fn run(fs: &ZoneFs, paths: &[ZonePath], output: Output) -> Result<(), Error> {
    for_each(paths, output, async |path| {
        let usage = count(fs, path).await?;
        output.result(&usage, || usage.text())
    })
    .await
}

async fn count(fs: &ZoneFs, path: &ZonePath) -> Result<Usage, Error> {
    let mut usage = Usage {
        path: path.to_string(),
        files: 0,
        directories: 0,
        bytes: 0,
    };
    let root: Entry = fs.stat(path).await?.into();
    let mut directories = Vec::new();
    if usage.add(&root) {
        directories.push((path.clone(), root.zone_root));
    }
    while let Some((directory, is_zone_root)) = directories.pop() {
        let mut listing = Listing::of(fs, &directory);
        while let Some(entries) = listing.next().await? {
            for entry in &entries {
                if !is_trash(&directory, is_zone_root, &entry.name) && usage.add(entry) {
                    directories.push((directory.join(&entry.name)?, entry.zone_root));
                }
            }
        }
    }
    Ok(usage)
}

impl Usage {
    /// Counts an entry. Says whether it is a directory, still to be looked into.
    fn add(&mut self, entry: &Entry) -> bool {
        let is_directory = entry.kind == FileKind::Directory;
        if is_directory {
            self.directories += 1;
        } else {
            self.files += 1;
            self.bytes += entry.length;
        }
        is_directory
    }

    fn text(&self) -> String {
        format!(
            "{}  {} files, {} directories, {} bytes ({})",
            self.path,
            self.files,
            self.directories,
            self.bytes,
            human_bytes(self.bytes)
        )
    }
}
