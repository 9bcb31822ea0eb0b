//! A file's ciphertext into a local file.

use std::{
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use strongroom_fs::{RawBlock, RawHeader, RawReader, ZoneFs};
use strongroom_proto::ZonePath;

use super::local::sidecar;
use crate::{
    error::Error,
    transfer::{PartFile, Report, blocking, open_regular, replaceable},
};

/// What the owner of local copies may do with them whatever their modes: they are to be put elsewhere.
const OWNER: u32 = 0o600;

/// Fetches one file's ciphertext and answers with the bytes of the local file; `None` if it is there already.
pub(in crate::commands::fs) async fn fetch(
    fs: &ZoneFs,
    report: &Report,
    source: &ZonePath,
    target: &Path,
    force: bool,
) -> Result<Option<u64>, Error> {
    let reader = fs.open_raw(source).await?;
    let (header, local) = (reader.header().clone(), target.to_owned());
    let part = blocking(move || {
        if is_there(&local, &header) {
            return Ok(None);
        }
        replaceable(&local, force)?;
        let mut part = PartFile::create(&local)?;
        part.write(&header.to_bytes())?;
        Ok::<_, Error>(Some(part))
    })
    .await?;
    let Some(part) = part else {
        return Ok(None);
    };
    let header = reader.header().clone();
    let mut part = copy(report, reader, part, true).await?;
    blocking(move || {
        part.write(&RawHeader::END)?;
        // The next command passes over it, and looks at its ends alone.
        part.sync()?;
        part.finish(header.mode() | OWNER, header.mtime_ms(), force)?;
        Ok(Some(header.stream_bytes()))
    })
    .await
}

/// Whether a local file is the whole stream that `header` begins. One has its name once all of it is on disk, and blocks are checked where it
/// is put.
fn is_there(local: &Path, header: &RawHeader) -> bool {
    let begins_and_ends = || {
        let (mut file, metadata) = open_regular(local, false).ok()?;
        let wanted = header.to_bytes();
        if metadata.len() != header.stream_bytes() {
            return None;
        }
        let mut begin = vec![0; wanted.len()];
        file.read_exact(&mut begin).ok()?;
        let mut end = [0; RawHeader::END.len()];
        file.seek(SeekFrom::Start(metadata.len() - end.len() as u64)).ok()?;
        file.read_exact(&mut end).ok()?;
        Some(begin == wanted && end == RawHeader::END)
    };
    begins_and_ends().unwrap_or_default()
}

/// Fetches what HDFS has of a file and answers with its bytes.
pub(in crate::commands::fs) async fn fetch_for_hdfs(
    fs: &ZoneFs,
    report: &Report,
    source: &ZonePath,
    target: &Path,
    force: bool,
) -> Result<u64, Error> {
    let reader = fs.open_raw(source).await?;
    let header = reader.header().clone();
    let raw = |error| Error::raw(source.to_string(), error);
    let value = header.hdfs_attribute().map_err(raw)?;
    let (local, beside) = (target.to_owned(), sidecar(target));
    let part = blocking(move || {
        replaceable(&local, force)?;
        PartFile::create(&local)
    })
    .await?;
    let part = copy(report, reader, part, false).await?;
    let bytes: u64 = header.block_bytes().map(u64::from).sum();
    blocking(move || {
        let (mode, mtime_ms) = (header.mode() | OWNER, header.mtime_ms());
        replaceable(&beside, force)?;
        let mut attribute = PartFile::create(&beside)?;
        attribute.write(value.as_bytes())?;
        attribute.finish(mode, mtime_ms, force)?;
        part.finish(mode, mtime_ms, force)?;
        Ok(bytes)
    })
    .await
}

/// Writes every block, `framed` as in a stream or bare.
async fn copy(report: &Report, mut reader: RawReader, mut part: PartFile, framed: bool) -> Result<PartFile, Error> {
    while let Some(block) = reader.next_block().await? {
        report.advance(block.bytes.len());
        part = blocking(move || {
            if framed {
                part.write(&frame(&block))?;
            }
            part.write(&block.bytes)?;
            Ok::<_, Error>(part)
        })
        .await?;
    }
    Ok(part)
}

/// What goes before a block in a stream.
fn frame(block: &RawBlock) -> Vec<u8> {
    let length = block.bytes.len() as u32;
    [length.to_be_bytes(), block.crc32c.to_be_bytes()].concat()
}
