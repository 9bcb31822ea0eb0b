//! `fs chmod`, `fs chown`, `fs chgrp`: attributes of files and directories.

use strongroom_fs::{Attributes, FileKind, Stat, ZoneFs};
use strongroom_proto::ZonePath;

use super::{Listing, for_each, is_trash};
use crate::{error::Error, output::Output};

/// Sets attributes of each path, with `recursive` also of all below it.
pub(super) async fn run(
    fs: &ZoneFs,
    paths: &[ZonePath],
    wanted: &Attributes,
    recursive: bool,
    output: Output,
) -> Result<(), Error> {
    for_each(paths, output, async |path| {
        let mut waiting = vec![path.clone()];
        while let Some(path) = waiting.pop() {
            let stat = fs.set_attributes(&path, wanted).await?;
            output.result(&stat, String::new)?;
            if recursive && stat.kind == FileKind::Directory {
                below(fs, &path, &stat, wanted, output, &mut waiting).await?;
            }
        }
        Ok(())
    })
    .await
}

/// Sets attributes of the files in a directory; the directories are left to do.
async fn below(
    fs: &ZoneFs,
    directory: &ZonePath,
    stat: &Stat,
    wanted: &Attributes,
    output: Output,
    waiting: &mut Vec<ZonePath>,
) -> Result<(), Error> {
    let mut listing = Listing::of(fs, directory);
    while let Some(entries) = listing.next().await? {
        for entry in entries {
            if is_trash(directory, stat.zone_root, &entry.name) {
                continue;
            }
            let path = directory.join(&entry.name)?;
            if entry.kind == FileKind::Directory {
                waiting.push(path);
            } else {
                output.result(&fs.set_attributes(&path, wanted).await?, String::new)?;
            }
        }
    }
    Ok(())
}
