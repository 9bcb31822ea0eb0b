//! Ciphertext of a local file into the zone filesystem.

use std::path::Path;

use strongroom_fs::{RawHeader, ZoneFs};
use strongroom_proto::ZonePath;

use super::{super::with_force_hint, local::Stream};
use crate::{
    error::Error,
    transfer::{Report, blocking},
};

/// A local file that is brought in.
pub(in crate::commands::fs) struct Source<'a> {
    pub(in crate::commands::fs) local: &'a Path,
    /// Whether the user named it, rather than a directory above it.
    pub(in crate::commands::fs) named: bool,
    /// Whether it is a file of HDFS.
    pub(in crate::commands::fs) hdfs: bool,
}

/// Brings one file in and answers with the bytes of its blocks; `None` if it is there already.
pub(in crate::commands::fs) async fn bring(
    fs: &ZoneFs,
    report: &Report,
    source: Source<'_>,
    path: &ZonePath,
    force: bool,
) -> Result<Option<u64>, Error> {
    let Source { local, named, hdfs } = source;
    let local = local.to_owned();
    let (mut stream, header) = blocking(move || Stream::open(&local, named, hdfs)).await?;
    if is_there(fs, path, &header).await {
        return Ok(None);
    }
    let mut writer = fs.create_raw(path, &header, force).await.map_err(with_force_hint)?;
    let mut stored = 0;
    for bytes in header.block_bytes() {
        let (back, block) = blocking(move || {
            let block = stream.block(bytes as usize);
            (stream, block)
        })
        .await;
        stream = back;
        writer.put(block?).await?;
        report.advance(bytes as usize);
        stored += u64::from(bytes);
    }
    blocking(move || stream.end()).await?;
    writer.finish().await.map_err(with_force_hint)?;
    Ok(Some(stored))
}

/// Whether the file at a path came of the one that `header` is of, and is still as it came. Whatever else is there, and whatever keeps us
/// from looking, making the file says.
async fn is_there(fs: &ZoneFs, path: &ZonePath, header: &RawHeader) -> bool {
    let there = fs.open_raw(path).await;
    there.is_ok_and(|there| header.is_same(there.header()))
}
