//! A file's ciphertext into a local file.

use std::{path::Path, sync::Arc};

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
    /// It is whole.
    Whole,
    /// It is, but for what its header says: another file has the header, and its blocks are to come from this one.
    Earlier(Stream, PartFile),
    /// There is the header of a file whose blocks are to be fetched.
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
    let header = Arc::new(reader.header().clone());
    let (local, given) = (target.to_owned(), Arc::clone(&header));
    let part = match blocking(move || begin(&local, &given, force)).await? {
        Begun::Whole => return Ok(None),
        Begun::Part(part) => Some(part),
        Begun::Earlier(stream, part) => match renew(report, stream, part, &header, force).await? {
            Renewed::Done => None,
            Renewed::Damaged(why) if !force => return Err(why),
            Renewed::Damaged(_) => {
                let (local, given) = (target.to_owned(), Arc::clone(&header));
                Some(blocking(move || anew(&local, &given, force)).await?)
            }
        },
    };
    if let Some(part) = part {
        let part = copy(report, reader, part, true).await?;
        let header = Arc::clone(&header);
        blocking(move || finish(part, &header, force)).await?;
    }
    Ok(Some(header.stream_bytes()))
}

/// Sees what there is of a stream, and begins it if it is not there.
fn begin(local: &Path, header: &RawHeader, force: bool) -> Result<Begun, Error> {
    match there(local) {
        Some((old, _)) if old.stands_for(header) => Ok(Begun::Whole),
        Some((old, stream)) if header.renews(&old) => Ok(Begun::Earlier(stream, headed(local, header)?)),
        _ => anew(local, header, force).map(Begun::Part),
    }
}

fn anew(local: &Path, header: &RawHeader, force: bool) -> Result<PartFile, Error> {
    replaceable(local, force)?;
    headed(local, header)
}

fn headed(local: &Path, header: &RawHeader) -> Result<PartFile, Error> {
    let mut part = PartFile::create(local)?;
    part.write(&header.to_bytes())?;
    Ok(part)
}

/// The whole stream that a local file is.
fn there(local: &Path) -> Option<(RawHeader, Stream)> {
    let (mut stream, header) = Stream::open(local, false, false).ok()?;
    stream.is_whole(&header).ok()?.then_some((header, stream))
}

/// What came of a stream that was there.
enum Renewed {
    /// It has its new header.
    Done,
    /// One of its blocks cannot be read, or is not what it was.
    Damaged(Error),
}

/// Gives a stream that is there the header of now, in a copy beside it. Block by block, so that it ends soon if it is to.
async fn renew(
    report: &Report,
    mut stream: Stream,
    mut part: PartFile,
    header: &Arc<RawHeader>,
    force: bool,
) -> Result<Renewed, Error> {
    for (number, wanted) in (0..).zip(header.block_bytes()) {
        let step = move || {
            let read = stream.sound_block(number, wanted as usize);
            if let Ok(block) = &read {
                part.write(&frame(block))?;
                part.write(&block.bytes)?;
            }
            Ok::<_, Error>((stream, part, read.err()))
        };
        let damage;
        (stream, part, damage) = blocking(step).await?;
        if let Some(why) = damage {
            return Ok(Renewed::Damaged(why));
        }
        report.advance(wanted as usize);
    }
    let header = Arc::clone(header);
    blocking(move || {
        // What somebody else put in its place meanwhile stays.
        let is_mine = stream.has_its_name().unwrap_or(false);
        finish(part, &header, is_mine || force)
    })
    .await?;
    Ok(Renewed::Done)
}

/// Ends a stream and gives it its name. The next command passes over it, and looks at its ends alone.
fn finish(mut part: PartFile, header: &RawHeader, force: bool) -> Result<(), Error> {
    part.write(&RawHeader::END)?;
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
