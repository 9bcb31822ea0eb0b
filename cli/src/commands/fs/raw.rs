//! `fs --raw …`: ciphertext out and in, without any key. Streams are as `docs/formats/raw.md` describes them; with `--hdfs` a file is what
//! HDFS has in `/.reserved/raw`, with the attribute that it has there beside it.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use serde_json::json;
use strongroom_fs::{FileKind, HDFS_ATTRIBUTE, RawBlock, RawError, RawHeader, Stat, ZoneFs};
use strongroom_proto::{Reason, ZonePath};

use super::{for_each, look_up, ls, parse, parse_all, simple};
use crate::{
    cli::{FsCommand, GetArgs, PutArgs},
    error::Error,
    output::Output,
    transfer::{PartFile, blocking, replaceable},
};

/// `strongroom fs --raw …`
pub(super) async fn run(fs: ZoneFs, command: FsCommand, output: Output) -> Result<(), Error> {
    match command {
        FsCommand::Get(args) => get(&fs, &args, output).await,
        FsCommand::Put(args) => put(&fs, &args, output).await,
        FsCommand::Ls { paths, long } => ls::run(&fs, &parse_all(&paths)?, long, output).await,
        FsCommand::Stat { paths } => stat(&fs, &parse_all(&paths)?, output).await,
        _ => Err(usage("--raw goes with get, put, ls and stat; leave it out".to_owned())),
    }
}

/// What is known of files, with the attributes that only the raw view has.
async fn stat(fs: &ZoneFs, paths: &[ZonePath], output: Output) -> Result<(), Error> {
    for_each(paths, output, async |path| {
        let stat = fs.stat(path).await?;
        if stat.kind == FileKind::Directory {
            return output.result(&stat, || simple::text(&stat));
        }
        let attributes = fs.open_raw(path).await?.header().attributes();
        let map: serde_json::Map<_, _> = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        output.result(&json!({"stat": stat, "raw": map}), || {
            let lines = attributes.iter().map(|(name, value)| format!("{name}={value}"));
            let lines: Vec<_> = std::iter::once(simple::text(&stat)).chain(lines).collect();
            lines.join("\n")
        })
    })
    .await
}

async fn get(fs: &ZoneFs, args: &GetArgs, output: Output) -> Result<(), Error> {
    only_files(args.transfer.recursive)?;
    let sources = parse_all(&args.sources)?;
    let into = args.target.is_dir();
    if sources.len() > 1 && !into {
        let message = format!(
            "{} is no directory, so it cannot take {} files",
            args.target.display(),
            sources.len()
        );
        return Err(usage(message));
    }
    for_each(&sources, output, async |source| {
        let target = match source.split_last() {
            Some((_, name)) if into => args.target.join(name),
            _ => args.target.clone(),
        };
        let bytes = fetch(fs, source, &target, args.transfer.force, args.hdfs).await?;
        let document = json!({"path": source.as_str(), "local": target.display().to_string(), "bytes": bytes});
        output.result(&document, String::new)
    })
    .await
}

/// Fetches one file's ciphertext; says how many bytes the local file has.
async fn fetch(fs: &ZoneFs, source: &ZonePath, target: &Path, force: bool, hdfs: bool) -> Result<u64, Error> {
    let mut reader = fs.open_raw(source).await?;
    let header = reader.header().clone();
    let raw = |error| Error::raw(source.to_string(), error);
    let sidecar = match hdfs {
        true => Some((sidecar(target), header.hdfs_attribute().map_err(raw)?)),
        false => None,
    };
    let begin = if hdfs { Vec::new() } else { header.to_bytes() };
    let mut written = begin.len() as u64;
    let local = target.to_owned();
    let mut part = blocking(move || {
        replaceable(&local, force)?;
        let mut part = PartFile::create(&local)?;
        part.write(&begin)?;
        Ok::<_, Error>(part)
    })
    .await?;
    while let Some(block) = reader.next_block().await? {
        let frame = if hdfs { Vec::new() } else { frame(&block) };
        written += (frame.len() + block.bytes.len()) as u64;
        part = blocking(move || {
            part.write(&frame)?;
            part.write(&block.bytes)?;
            Ok::<_, Error>(part)
        })
        .await?;
    }
    let (mode, mtime_ms) = (header.mode(), header.mtime_ms());
    blocking(move || {
        match sidecar {
            Some((path, value)) => {
                replaceable(&path, force)?;
                let mut attribute = PartFile::create(&path)?;
                attribute.write(value.as_bytes())?;
                attribute.finish(mode, mtime_ms, force)?;
            }
            None => {
                part.write(&RawHeader::END)?;
                written += RawHeader::END.len() as u64;
            }
        }
        part.finish(mode, mtime_ms, force)?;
        Ok(written)
    })
    .await
}

/// What goes before a block in a stream.
fn frame(block: &RawBlock) -> Vec<u8> {
    let length = block.bytes.len() as u32;
    [length.to_be_bytes(), block.crc32c.to_be_bytes()].concat()
}

/// Where HDFS' attribute of a local file is.
fn sidecar(local: &Path) -> PathBuf {
    let mut name = local.as_os_str().to_owned();
    name.push(".");
    name.push(HDFS_ATTRIBUTE);
    name.into()
}

async fn put(fs: &ZoneFs, args: &PutArgs, output: Output) -> Result<(), Error> {
    only_files(args.transfer.recursive)?;
    let target = parse(&args.target)?;
    let into = look_up(fs, &target)
        .await?
        .is_some_and(|stat| stat.kind == FileKind::Directory);
    if args.sources.len() > 1 && !into {
        let message = format!(
            "{target} is no directory, so it cannot take {} files",
            args.sources.len()
        );
        return Err(usage(message));
    }
    for source in &args.sources {
        let path = match source.file_name().and_then(|name| name.to_str()) {
            Some(name) if into => target.join(name)?,
            _ => target.clone(),
        };
        let stat = bring(fs, source, &path, args.transfer.force, args.hdfs).await?;
        output.result(&stat, String::new)?;
    }
    Ok(())
}

/// Brings one file in.
async fn bring(fs: &ZoneFs, source: &Path, path: &ZonePath, force: bool, hdfs: bool) -> Result<Stat, Error> {
    let local = source.to_owned();
    let (mut stream, header) = blocking(move || Stream::open(&local, hdfs)).await?;
    let mut writer = fs
        .create_raw(path, &header, force)
        .await
        .map_err(|error| match error.reason() {
            Reason::AlreadyExists => Error::Exists(error),
            _ => error.into(),
        })?;
    for bytes in header.block_bytes() {
        let (back, block) = blocking(move || {
            let block = stream.block(bytes as usize);
            (stream, block)
        })
        .await;
        stream = back;
        writer.put(block?).await?;
    }
    blocking(move || stream.end()).await?;
    Ok(writer.finish().await?)
}

/// A local file that ciphertext is read from.
struct Stream {
    file: BufReader<File>,
    path: PathBuf,
    hdfs: bool,
}

impl Stream {
    fn open(path: &Path, hdfs: bool) -> Result<(Self, RawHeader), Error> {
        let file = File::open(path).map_err(Error::local("cannot read", path))?;
        let mut stream = Self {
            file: BufReader::new(file),
            path: path.to_owned(),
            hdfs,
        };
        let header = if hdfs { stream.hdfs_header() } else { stream.header() }?;
        Ok((stream, header))
    }

    fn header(&mut self) -> Result<RawHeader, Error> {
        let mut prefix = [0; RawHeader::PREFIX_BYTES];
        self.fill(&mut prefix, RawError::NotAStream)?;
        let length = RawHeader::length(&prefix).map_err(|error| self.bad(error))?;
        let mut header = vec![0; length];
        self.fill(&mut header, RawError::Header)?;
        RawHeader::from_bytes(&prefix, &header).map_err(|error| self.bad(error))
    }

    fn hdfs_header(&mut self) -> Result<RawHeader, Error> {
        let beside = sidecar(&self.path);
        let attribute = fs::read_to_string(&beside).map_err(Error::local("cannot read the attribute", &beside))?;
        let metadata = self.file.get_ref().metadata();
        let metadata = metadata.map_err(Error::local("cannot look at", &self.path))?;
        let mtime = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let mtime_ms = mtime.map_or(0, |since| since.as_millis() as u64);
        RawHeader::of_hdfs(&attribute, metadata.len(), 0o644, mtime_ms).map_err(|error| self.bad(error))
    }

    /// The next block, which has to have so many bytes.
    fn block(&mut self, wanted: usize) -> Result<RawBlock, Error> {
        let mut frame = [0; 8];
        if !self.hdfs {
            self.fill(&mut frame, RawError::End)?;
        }
        let mut bytes = vec![0; wanted];
        self.fill(&mut bytes, RawError::End)?;
        if self.hdfs {
            return Ok(RawBlock::of(bytes.into()));
        }
        let [length, crc32c] = [[0, 1, 2, 3], [4, 5, 6, 7]].map(|at| u32::from_be_bytes(at.map(|i: usize| frame[i])));
        if length as usize != wanted {
            return Err(self.bad(RawError::End));
        }
        Ok(RawBlock {
            bytes: bytes.into(),
            crc32c,
        })
    }

    /// Nothing may follow but what a stream ends with.
    fn end(mut self) -> Result<(), Error> {
        let mut rest = Vec::new();
        let limit = RawHeader::END.len() as u64 + 1;
        let read = (&mut self.file).take(limit).read_to_end(&mut rest);
        read.map_err(Error::local("cannot read", &self.path))?;
        let wanted: &[u8] = if self.hdfs { &[] } else { &RawHeader::END };
        if rest == wanted {
            return Ok(());
        }
        Err(self.bad(RawError::End))
    }

    fn fill(&mut self, bytes: &mut [u8], short: RawError) -> Result<(), Error> {
        match self.file.read_exact(bytes) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.bad(short)),
            Err(error) => Err(Error::local("cannot read", &self.path)(error)),
        }
    }

    fn bad(&self, error: RawError) -> Error {
        Error::raw(self.path.display().to_string(), error)
    }
}

fn only_files(recursive: bool) -> Result<(), Error> {
    if recursive {
        return Err(usage(
            "--raw takes files, not directories; name them, or list them with strongroom fs ls".to_owned(),
        ));
    }
    Ok(())
}

const fn usage(message: String) -> Error {
    Error::Usage { message }
}
