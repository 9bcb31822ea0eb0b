//! A file's ciphertext into a local file.

use std::{fs::File, io::BufReader, path::Path};

use strongroom_fs::{RawBlock, RawHeader, RawReader, ZoneFs};
use strongroom_proto::ZonePath;

use super::local::{Stream, sidecar};
use crate::{
    error::Error,
    transfer::{PartFile, Report, blocking, replaceable},
};

/// What the owner of local copies may do with them whatever their modes: they are to be put elsewhere.
const OWNER: u32 = 0o600;

/// How far the local file of a stream is.
enum Begun {
    /// It was whole.
    Whole,
    /// It was, but for what its header says; now it is.
    Renewed,
    /// It has its header, and its blocks are to come.
    Part(PartFile),
}

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
    let begun = blocking(move || begin(&local, &header, force)).await?;
    let header = reader.header().clone();
    match begun {
        Begun::Whole => return Ok(None),
        Begun::Renewed => report.advance(header.file_bytes() as usize),
        Begun::Part(part) => {
            let mut part = copy(report, reader, part, true).await?;
            let header = header.clone();
            blocking(move || {
                part.write(&RawHeader::END)?;
                finish(part, &header, force)
            })
            .await?;
        }
    }
    Ok(Some(header.stream_bytes()))
}

/// Sees what there is of a stream, and begins it if it is not there. One that is there under another header of the same file gets this one: the
/// file's EDEK was wrapped again since, and the version that it was under then may be destroyed; or the stream is of format 1.
fn begin(local: &Path, header: &RawHeader, force: bool) -> Result<Begun, Error> {
    let there = there(local).filter(|(there, _)| there.is_same(header));
    if there.as_ref().is_some_and(|(there, _)| there == header) {
        return Ok(Begun::Whole);
    }
    if there.is_none() {
        replaceable(local, force)?;
    }
    let mut part = PartFile::create(local)?;
    part.write(&header.to_bytes())?;
    let Some((_, mut blocks)) = there else {
        return Ok(Begun::Part(part));
    };
    part.copy(&mut blocks)?;
    finish(part, header, true)?;
    Ok(Begun::Renewed)
}

/// The whole stream that a local file is: its header, and the file from the first block on.
fn there(local: &Path) -> Option<(RawHeader, BufReader<File>)> {
    let (stream, header) = Stream::open(local, false, false).ok()?;
    let blocks = stream.whole(&header).ok()??;
    Some((header, blocks))
}

/// Gives a stream its name. The next command passes over it, and looks at its ends alone.
fn finish(part: PartFile, header: &RawHeader, force: bool) -> Result<(), Error> {
    part.sync()?;
    part.finish(header.mode() | OWNER, header.mtime_ms(), force)
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
