//! `fs get`: files and trees of the zone filesystem into local ones.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use strongroom_fs::{Entry, FileKind, ZoneFs};
use strongroom_proto::ZonePath;

use super::{Form, Listing, is_trash, parse_all, raw};
use crate::{
    cli::GetArgs,
    error::Error,
    output::Output,
    transfer::{CHUNK_BYTES, PartFile, Pool, Report, Verb, blocking, finish_directory, make_directory, replaceable},
};

/// What the owner of local copies may do with their directories whatever the modes: they are to be put elsewhere.
const OWNER_ALL: u32 = 0o700;

/// Fetches every source.
pub(super) async fn run(fs: ZoneFs, form: Form, args: GetArgs, output: Output) -> Result<(), Error> {
    let sources = parse_all(&args.sources)?;
    if args.target == Path::new("-") {
        let message =
            "get writes files, not standard output: use strongroom fs cat, or ./- for a file named -".to_owned();
        return Err(Error::Usage { message });
    }
    let mut get = Get {
        fs: Arc::new(fs),
        report: Arc::new(Report::start(Verb::Fetched)),
        form,
        force: args.transfer.force,
        recursive: args.transfer.recursive,
        pool: Pool::new(args.transfer.jobs),
    };
    let roots = get.roots(&sources, &args.target).await?;
    for root in roots {
        get.tree(root).await;
    }
    get.report.finish(output)
}

struct Get {
    fs: Arc<ZoneFs>,
    report: Arc<Report>,
    form: Form,
    force: bool,
    recursive: bool,
    pool: Pool,
}

/// A file or directory of the zone filesystem and its local counterpart.
struct Source {
    remote: ZonePath,
    entry: Entry,
    local: PathBuf,
}

impl Get {
    /// Decides where each source goes, as `cp` does: into a directory that exists, else the target is the new name.
    async fn roots(&self, sources: &[ZonePath], target: &Path) -> Result<Vec<Source>, Error> {
        let into_directory = target.is_dir();
        if sources.len() > 1 && !into_directory {
            let message = format!(
                "{} is no directory, so it cannot take {} sources",
                target.display(),
                sources.len()
            );
            return Err(Error::Usage { message });
        }
        let mut roots = Vec::new();
        for source in sources {
            let stat = self.fs.stat(source).await?;
            if stat.kind == FileKind::Directory && !self.recursive {
                let message = format!("{source} is a directory; pass -r to fetch it with all it holds");
                return Err(Error::Usage { message });
            }
            if stat.kind == FileKind::Directory && self.form == Form::Raw && !into_directory {
                let message = format!(
                    "{} is no directory; make it first: {source} comes into it under its own name, so that the same command goes on there if it is cut off",
                    target.display()
                );
                return Err(Error::Usage { message });
            }
            let local = match source.split_last() {
                Some((_, name)) if into_directory => target.join(name),
                _ => target.to_owned(),
            };
            roots.push(Source {
                remote: source.clone(),
                entry: stat.into(),
                local,
            });
        }
        Ok(roots)
    }

    /// Fetches a file, or a directory with all it holds. Directories get their modes and times last, deepest first,
    /// since a file that arrives changes the one and may be kept out by the other.
    async fn tree(&mut self, root: Source) {
        if root.entry.kind == FileKind::File {
            self.file(root).await;
            return self.pool.finish().await;
        }
        let mut waiting = vec![root];
        let mut done = Vec::new();
        while let Some(directory) = waiting.pop() {
            match self.directory(&directory, &mut waiting).await {
                Ok(()) => done.push(directory),
                Err(error) => self.report.fail(directory.remote.as_str(), &error),
            }
            if self.report.is_hopeless() {
                break;
            }
        }
        self.pool.finish().await;
        self.finish_directories(done).await;
    }

    /// Makes one directory, starts its files, and remembers its directories.
    async fn directory(&mut self, directory: &Source, waiting: &mut Vec<Source>) -> Result<(), Error> {
        let local = directory.local.clone();
        blocking(move || make_directory(&local)).await?;
        if self.form == Form::Raw {
            raw::describe(&self.fs, &directory.remote, &directory.local).await?;
        }
        let fs = Arc::clone(&self.fs);
        let mut listing = Listing::of(&fs, &directory.remote);
        while let Some(entries) = listing.next().await? {
            for entry in entries {
                if is_trash(&directory.remote, directory.entry.zone_root, &entry.name) {
                    continue;
                }
                let remote = match directory.remote.join(&entry.name) {
                    Ok(remote) => remote,
                    Err(error) => {
                        let path = format!("{}/{}", directory.remote, entry.name);
                        self.report.fail(&path, &error.into());
                        continue;
                    }
                };
                if self.form == Form::Raw && raw::is_own(&entry.name) {
                    let message = format!(
                        "{remote} has a name that local trees of ciphertext keep for themselves; fetch it without -r, under another name"
                    );
                    self.report.fail(remote.as_str(), &Error::Usage { message });
                    continue;
                }
                // An entry's name is one plain name: it cannot lead out of the local directory.
                let local = directory.local.join(&entry.name);
                let source = Source { remote, entry, local };
                match source.entry.kind {
                    FileKind::Directory => waiting.push(source),
                    FileKind::File => self.file(source).await,
                }
            }
        }
        Ok(())
    }

    /// Starts fetching one file, once there is room.
    async fn file(&mut self, source: Source) {
        if self.report.is_hopeless() {
            return;
        }
        self.report.expect(source.entry.length);
        let (fs, report) = (Arc::clone(&self.fs), Arc::clone(&self.report));
        let (form, force) = (self.form, self.force);
        let task = async move {
            match Box::pin(fetch(&fs, &report, form, &source, force)).await {
                Ok(Some(bytes)) => report.file_done(bytes),
                Ok(None) => {
                    report.advance(source.entry.length as usize);
                    report.unchanged();
                }
                Err(error) => report.fail(source.remote.as_str(), &error),
            }
        };
        self.pool.spawn(task).await;
    }

    async fn finish_directories(&self, directories: Vec<Source>) {
        let report = Arc::clone(&self.report);
        let own = match self.form {
            Form::Content => 0,
            Form::Raw | Form::Hdfs => OWNER_ALL,
        };
        blocking(move || {
            // Parents were listed before their children.
            for Source { remote, entry, local } in directories.iter().rev() {
                match finish_directory(local, entry.mode | own, entry.mtime_ms) {
                    Ok(()) => report.directory_done(),
                    Err(error) => report.fail(remote.as_str(), &error),
                }
            }
        })
        .await;
    }
}

/// Fetches one file as `form` has it and answers with its bytes; `None` if it is there already.
async fn fetch(fs: &ZoneFs, report: &Report, form: Form, source: &Source, force: bool) -> Result<Option<u64>, Error> {
    let Source { remote, local, .. } = source;
    match form {
        Form::Content => fetch_file(fs, report, remote, local, force).await.map(Some),
        Form::Raw => raw::fetch(fs, report, remote, local, force).await,
        Form::Hdfs => raw::fetch_for_hdfs(fs, report, remote, local, force).await.map(Some),
    }
}

/// Fetches one file and answers with its length.
async fn fetch_file(fs: &ZoneFs, report: &Report, remote: &ZonePath, local: &Path, force: bool) -> Result<u64, Error> {
    let target = local.to_owned();
    blocking(move || replaceable(&target, force)).await?;
    let reader = fs.open(remote).await?;
    let (stat, length) = (reader.stat().clone(), reader.len());
    let mut sink = Sink::Empty(local.to_owned());
    let mut stream = reader.stream(0);
    let mut found = 0;
    let mut piece = Vec::new();
    while let Some(bytes) = stream.next().await {
        let bytes = bytes?;
        found += bytes.len() as u64;
        report.advance(bytes.len());
        piece.extend_from_slice(&bytes);
        if piece.len() >= CHUNK_BYTES {
            sink = sink.write(std::mem::take(&mut piece)).await?;
        }
    }
    if found != length {
        return Err(Error::Length {
            path: remote.to_string(),
            expected: length,
            found,
        });
    }
    sink.finish(piece, stat.mode, stat.mtime_ms, force).await?;
    Ok(length)
}

/// Where a file's bytes go. The local file is made with its first bytes: most files are written, named and closed in
/// one trip to a blocking thread.
enum Sink {
    Empty(PathBuf),
    Open(PartFile),
}

impl Sink {
    async fn write(self, bytes: Vec<u8>) -> Result<Self, Error> {
        blocking(move || {
            let mut part = self.open()?;
            part.write(&bytes)?;
            Ok(Self::Open(part))
        })
        .await
    }

    async fn finish(self, bytes: Vec<u8>, mode: u32, mtime_ms: u64, force: bool) -> Result<(), Error> {
        blocking(move || {
            let mut part = self.open()?;
            part.write(&bytes)?;
            part.finish(mode, mtime_ms, force)
        })
        .await
    }

    fn open(self) -> Result<PartFile, Error> {
        match self {
            Self::Empty(target) => PartFile::create(&target),
            Self::Open(part) => Ok(part),
        }
    }
}
