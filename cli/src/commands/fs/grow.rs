//! `fs append`, `fs truncate`, `fs recover`: files that are there.

use std::path::Path;

use serde_json::json;
use strongroom_fs::ZoneFs;
use strongroom_proto::ZonePath;

use super::{
    for_each,
    put::{copy_file, copy_stdin, give_up, now_ms},
};
use crate::{
    error::Error,
    output::Output,
    transfer::{Chunk, LocalFile, Report, Verb, blocking},
};

/// Appends a local file, or standard input for `-`, to a file.
pub(super) async fn append(fs: &ZoneFs, local: &Path, target: &ZonePath, output: Output) -> Result<(), Error> {
    let report = Report::start(Verb::Appended);
    // What is not there is not worth a lease.
    let source = match local == Path::new("-") {
        true => None,
        false => Some(open_named(local).await?),
    };
    let mut writer = fs.append(target, None).await?;
    let copied = match source {
        None => copy_stdin(&mut writer, &report).await,
        Some((file, first)) => {
            report.expect(file.bytes());
            copy_file(file, first, &mut writer, &report).await
        }
    };
    match copied {
        Ok(bytes) => {
            writer.finish(now_ms()).await?;
            report.file_done(bytes);
            report.finish(output)
        }
        Err(error) => {
            give_up(writer, target).await;
            Err(error)
        }
    }
}

/// A file that the user named, and its first piece.
async fn open_named(local: &Path) -> Result<(LocalFile, Chunk), Error> {
    let path = local.to_owned();
    blocking(move || {
        let mut file = LocalFile::open(&path, true)?;
        let first = file.next_chunk()?;
        Ok((file, first))
    })
    .await
}

/// Cuts files to their first `length` bytes.
pub(super) async fn truncate(fs: &ZoneFs, paths: &[ZonePath], length: u64, output: Output) -> Result<(), Error> {
    for_each(paths, output, async |path| {
        let stat = fs.truncate(path, length, now_ms()).await?;
        output.result(&stat, String::new)
    })
    .await
}

/// Takes files from writers who left them open.
pub(super) async fn recover(fs: &ZoneFs, paths: &[ZonePath], output: Output) -> Result<(), Error> {
    for_each(paths, output, async |path| {
        let writer = fs.recover(path).await?;
        let writer = writer.as_ref().map(strongroom_proto::transport::UserName::as_str);
        output.result(&json!({"path": path.as_str(), "writer": writer}), || match writer {
            Some(writer) => format!("{path} was open for {writer}; it is as it was published last"),
            None => format!("{path} was not open for writing"),
        })
    })
    .await
}
