//! `fs put`: local files and trees into the zone filesystem.

use std::{
    collections::BTreeSet,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use strongroom_fs::{Attributes, CreateOptions, FileKind, FileWriter, FsError, RawDirectory, ZoneFs};
use strongroom_proto::{Reason, ZonePath};
use tokio::sync::mpsc;

use super::{Form, look_up, parse, raw, with_force_hint};
use crate::{
    cli::PutArgs,
    error::Error,
    output::Output,
    transfer::{CHUNK_BYTES, Chunk, Found, LocalFile, Pool, Report, Verb, blocking, survey},
};

/// Entries that the walk may be ahead of the transfer.
const WALK_AHEAD_MAX: usize = 256;
/// The mode of a file that comes through a pipe and so has none.
const PIPE_MODE: u32 = 0o644;

/// Stores every source.
pub(super) async fn run(fs: ZoneFs, form: Form, args: PutArgs, output: Output) -> Result<(), Error> {
    let target = parse(&args.target)?;
    let put = Put {
        fs: Arc::new(fs),
        report: Arc::new(Report::start(Verb::Stored)),
        refused: Arc::default(),
        form,
        force: args.transfer.force,
        recursive: args.transfer.recursive,
        skip_special: args.skip_special,
        jobs: args.transfer.jobs,
    };
    if args.sources == [Path::new("-")] && form == Form::Content {
        put.pipe(&target).await?;
    } else if form != Form::Content && args.sources.iter().any(|source| source == Path::new("-")) {
        let message =
            "ciphertext is put from files, not from standard input; name a file that is called - as ./-".to_owned();
        return Err(Error::Usage { message });
    } else if args.sources.iter().any(|source| source == Path::new("-")) {
        let message = "standard input (-) is stored alone; name a file that is called - as ./-".to_owned();
        return Err(Error::Usage { message });
    } else {
        let roots = put.roots(&args, &target).await?;
        put.trees(roots).await?;
    }
    put.report.finish(output)
}

/// A local tree or file and where it goes.
#[derive(Clone)]
struct Root {
    local: PathBuf,
    remote: ZonePath,
}

/// What an owner needs to fill a directory.
const OWNER_ALL: u32 = 0o700;

/// A directory that was made and still lacks its mode and time.
struct Directory {
    local: PathBuf,
    remote: ZonePath,
    mode: u32,
    mtime_ms: u64,
    depth: usize,
    made: OnceLock<Made>,
}

/// What a directory is to become when it is filled.
enum Made {
    /// It was made here with this mode; one that was there before keeps its mode and time.
    Mode(u32),
    /// It becomes what it was elsewhere, also if it was there before.
    Raw(Box<RawDirectory>),
}

struct Put {
    fs: Arc<ZoneFs>,
    report: Arc<Report>,
    refused: Arc<Refused>,
    form: Form,
    force: bool,
    recursive: bool,
    skip_special: bool,
    jobs: u16,
}

/// Local directories without counterpart: what they hold is left out with them.
#[derive(Default)]
struct Refused(Mutex<BTreeSet<PathBuf>>);

impl Refused {
    fn add(&self, local: PathBuf) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(local);
    }

    /// Whether something is such a directory, or below one.
    fn holds(&self, local: &Path) -> bool {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !refused.is_empty() && local.ancestors().any(|above| refused.contains(above))
    }
}

impl Put {
    /// Decides where each source goes, as `cp` does: into a directory that exists, else the target is the new name.
    async fn roots(&self, args: &PutArgs, target: &ZonePath) -> Result<Vec<Root>, Error> {
        args.sources.iter().try_for_each(|local| self.check_source(local))?;
        let found = look_up(&self.fs, target).await?;
        let into_directory = found.is_some_and(|found| found.kind == FileKind::Directory);
        if args.sources.len() > 1 && !into_directory {
            let message = format!(
                "{target} is no directory, so it cannot take {} sources",
                args.sources.len()
            );
            return Err(Error::Usage { message });
        }
        let mut roots = Vec::new();
        for local in &args.sources {
            let remote = match own_name(local)? {
                Some(name) if into_directory => target.join(&name)?,
                Some(_) if self.form == Form::Raw && local.is_dir() => {
                    let message = format!(
                        "{target} is no directory; name the one that {0} is to come into, or put what it holds, {0}/., so that the same command goes on there if it is cut off",
                        local.display()
                    );
                    return Err(Error::Usage { message });
                }
                _ => target.clone(),
            };
            let local = local.clone();
            roots.push(Root { local, remote });
        }
        Ok(roots)
    }

    fn check_source(&self, local: &Path) -> Result<(), Error> {
        let metadata = std::fs::metadata(local).map_err(Error::local("cannot read", local))?;
        if metadata.is_dir() && !self.recursive {
            let message = format!(
                "{} is a directory; pass -r to store it with all it holds",
                local.display()
            );
            return Err(Error::Usage { message });
        }
        Ok(())
    }

    /// Looks at everything, makes the directories, stores the files, then sets the directories' modes and times, which
    /// storing files in them would change.
    async fn trees(&self, roots: Vec<Root>) -> Result<(), Error> {
        let directories = Arc::new(self.survey(roots.clone()).await);
        self.make_directories(&directories).await?;
        self.store_files(roots).await;
        self.finish_directories(&directories).await;
        Ok(())
    }

    /// The first walk: names what cannot be stored, counts files, and finds the directories, parents first.
    async fn survey(&self, roots: Vec<Root>) -> Vec<Directory> {
        let (report, skip_special, form) = (Arc::clone(&self.report), self.skip_special, self.form);
        blocking(move || {
            let mut directories = Vec::new();
            for found in roots.iter().flat_map(|root| walk(root, form)) {
                directories.extend(note_found(found, &report, skip_special));
            }
            directories.sort_by_key(|directory: &Directory| directory.depth);
            directories
        })
        .await
    }

    /// Makes directories side by side, one level of the tree after the other.
    async fn make_directories(&self, directories: &Arc<Vec<Directory>>) -> Result<(), Error> {
        // The first directory is made alone: if that is refused, so is all else, and it says why.
        if let Some(first) = directories.first() {
            make(&self.fs, self.form, first).await?;
        }
        let mut pool = Pool::new(self.jobs);
        let mut depth = 0;
        for (index, directory) in directories.iter().enumerate().skip(1) {
            if directory.depth != depth {
                pool.finish().await;
                depth = directory.depth;
            }
            if self.refused.holds(&directory.local) {
                continue;
            }
            let (fs, report, directories) = (Arc::clone(&self.fs), Arc::clone(&self.report), Arc::clone(directories));
            let (refused, form) = (Arc::clone(&self.refused), self.form);
            let task = async move {
                let directory = &directories[index];
                if let Err(error) = make(&fs, form, directory).await {
                    report.fail(&directory.local.display().to_string(), &error);
                    refused.add(directory.local.clone());
                }
            };
            pool.spawn(task).await;
        }
        pool.finish().await;
        Ok(())
    }

    /// The second walk: stores each file as it is found.
    async fn store_files(&self, roots: Vec<Root>) {
        let (found, mut files) = mpsc::channel(WALK_AHEAD_MAX);
        let form = self.form;
        tokio::task::spawn_blocking(move || {
            for found_one in roots.iter().flat_map(|root| walk(root, form)) {
                if found.blocking_send(found_one).is_err() {
                    return;
                }
            }
        });
        let mut pool = Pool::new(self.jobs);
        while let Some(found) = files.recv().await {
            let Found::File {
                local,
                remote,
                bytes,
                named,
            } = found
            else {
                continue;
            };
            if self.refused.holds(&local) {
                continue;
            }
            let (fs, report, force) = (Arc::clone(&self.fs), Arc::clone(&self.report), self.force);
            let task = async move {
                match Box::pin(store(&fs, &report, form, &local, &remote, named, force)).await {
                    Ok(Some(bytes)) => report.file_done(bytes),
                    Ok(None) => {
                        report.advance(bytes as usize);
                        report.unchanged();
                    }
                    Err(error) => report.fail(&local.display().to_string(), &error),
                }
            };
            pool.spawn(task).await;
            if self.report.is_hopeless() {
                break;
            }
        }
        // The walk ends at the next entry that nobody takes.
        drop(files);
        pool.finish().await;
    }

    async fn finish_directories(&self, directories: &Arc<Vec<Directory>>) {
        let mut pool = Pool::new(self.jobs);
        for (index, directory) in directories.iter().enumerate().rev() {
            if self.refused.holds(&directory.local) {
                continue;
            }
            let (fs, report, directories) = (Arc::clone(&self.fs), Arc::clone(&self.report), Arc::clone(directories));
            let task = async move {
                let directory = &directories[index];
                match finish(&fs, directory).await {
                    Ok(()) => report.directory_done(),
                    Err(error) => report.fail(&directory.local.display().to_string(), &error.into()),
                }
            };
            pool.spawn(task).await;
        }
        pool.finish().await;
    }

    /// Stores standard input.
    async fn pipe(&self, target: &ZonePath) -> Result<(), Error> {
        let options = CreateOptions {
            mode: PIPE_MODE,
            overwrite: self.force,
        };
        let mut writer = self.fs.create(target, options).await.map_err(not_piped)?;
        let outcome = copy_stdin(&mut writer, &self.report).await;
        match outcome {
            Ok(bytes) => {
                writer.finish(now_ms()).await.map_err(with_force_hint)?;
                self.report.file_done(bytes);
                Ok(())
            }
            Err(error) => {
                give_up(writer, target).await;
                Err(error)
            }
        }
    }
}

/// Why a directory is not made: where directories that exist are taken as they are, what is in the way is a file.
pub(super) fn not_made(error: FsError) -> Error {
    match error.reason() {
        Reason::AlreadyExists | Reason::NotADirectory => Error::FileInTheWay(error),
        _ => error.into(),
    }
}

/// What there is below a root. Of a tree of ciphertext, what was carried.
fn walk(root: &Root, form: Form) -> impl Iterator<Item = Found> + use<> {
    let all = survey(&root.local, &root.remote);
    all.filter(move |found| form != Form::Raw || !is_raw_own(found))
}

/// Whether a file in a tree of ciphertext is not one that was carried.
fn is_raw_own(found: &Found) -> bool {
    match found {
        Found::File {
            local, named: false, ..
        } => local
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(raw::is_own),
        _ => false,
    }
}

/// Makes a directory that we may fill, and those above it.
async fn make(fs: &ZoneFs, form: Form, directory: &Directory) -> Result<(), Error> {
    let made = match form {
        Form::Content => make_plainly(fs, directory).await.map_err(not_made)?.map(Made::Mode),
        Form::Raw | Form::Hdfs => {
            let wanted = raw::make_directory(fs, &directory.local, &directory.remote).await?;
            Some(Made::Raw(Box::new(wanted)))
        }
    };
    if let Some(made) = made {
        _ = directory.made.set(made);
    }
    Ok(())
}

/// Makes a directory and answers with its mode. One that is there is taken as it is.
async fn make_plainly(fs: &ZoneFs, directory: &Directory) -> Result<Option<u32>, FsError> {
    let (remote, mode) = (&directory.remote, directory.mode | OWNER_ALL);
    let mut made = fs.make_directory(remote, mode, false).await;
    if matches!(&made, Err(error) if error.reason() == Reason::NotFound) {
        made = fs.make_directory(remote, mode, true).await;
    }
    match made {
        Ok(stat) => Ok(Some(stat.mode)),
        // Says what is there if it is no directory.
        Err(error) if error.reason() == Reason::AlreadyExists => {
            fs.make_directory(remote, mode, true).await?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Gives a directory its time, and its mode if that would have kept us out.
async fn finish(fs: &ZoneFs, directory: &Directory) -> Result<(), FsError> {
    let made = match directory.made.get() {
        None => return Ok(()),
        Some(Made::Mode(made)) => made,
        Some(Made::Raw(wanted)) => return fs.finish_raw_directory(&directory.remote, wanted).await,
    };
    let wanted = Attributes {
        mode: Some(left(*made, directory.mode)).filter(|mode| mode != made),
        mtime_ms: Some(directory.mtime_ms),
        ..Attributes::default()
    };
    fs.set_attributes(&directory.remote, &wanted).await.map(drop)
}

/// What a directory that was made with the mode `made` keeps: only what we gave ourselves to fill it goes, beyond that umask and
/// default ACL have taken their share.
const fn left(made: u32, local: u32) -> u32 {
    made & (local | !OWNER_ALL)
}

/// Why standard input is not stored.
fn not_piped(error: FsError) -> Error {
    if error.reason() == Reason::IsADirectory {
        let message = format!("{error}; standard input has no name of its own: name the file it becomes");
        return Error::Usage { message };
    }
    with_force_hint(error)
}

/// Accounts for what the first walk found; answers with it if it is a directory.
fn note_found(found: Found, report: &Report, skip_special: bool) -> Option<Directory> {
    match found {
        Found::Directory {
            local,
            remote,
            mode,
            mtime_ms,
            depth,
        } => {
            return Some(Directory {
                local,
                remote,
                mode,
                mtime_ms,
                depth,
                made: OnceLock::new(),
            });
        }
        Found::File { bytes, .. } => report.expect(bytes),
        Found::Special { local, what } => report.skip(&local.display().to_string(), what, skip_special),
        Found::Unusable { local, error } => report.fail(&local.display().to_string(), &error),
    }
    None
}

/// The name that a source has in the directory that takes it in; `None` for `.`, `dir/.` and `/`, whose content goes
/// into the target itself.
fn own_name(local: &Path) -> Result<Option<String>, Error> {
    let text = local.as_os_str().as_encoded_bytes();
    if text == b"." || text.ends_with(b"/.") {
        return Ok(None);
    }
    let Some(name) = local.file_name() else {
        return Ok(None);
    };
    let name = name
        .to_str()
        .ok_or_else(|| Error::LocalName { path: local.to_owned() })?;
    Ok(Some(name.to_owned()))
}

/// Stores one file as `form` has it and answers with its bytes; `None` if it is there already.
async fn store(
    fs: &ZoneFs,
    report: &Report,
    form: Form,
    local: &Path,
    remote: &ZonePath,
    named: bool,
    force: bool,
) -> Result<Option<u64>, Error> {
    let hdfs = match form {
        Form::Content => return store_file(fs, report, local, remote, named, force).await.map(Some),
        Form::Raw => false,
        Form::Hdfs => true,
    };
    let source = raw::Source { local, named, hdfs };
    raw::bring(fs, report, source, remote, force).await
}

/// Stores one file and answers with its length.
async fn store_file(
    fs: &ZoneFs,
    report: &Report,
    local: &Path,
    remote: &ZonePath,
    named: bool,
    force: bool,
) -> Result<u64, Error> {
    let path = local.to_owned();
    // Most files are one piece: opening and reading them is one trip to a blocking thread.
    let (file, first) = blocking(move || {
        let mut file = LocalFile::open(&path, named)?;
        let first = file.next_chunk()?;
        Ok::<_, Error>((file, first))
    })
    .await?;
    let options = CreateOptions {
        mode: file.mode(),
        overwrite: force,
    };
    let mtime_ms = file.mtime_ms();
    let mut writer = fs.create(remote, options).await.map_err(with_force_hint)?;
    match copy_file(file, first, &mut writer, report).await {
        Ok(bytes) => {
            writer.finish(mtime_ms).await.map_err(with_force_hint)?;
            Ok(bytes)
        }
        Err(error) => {
            give_up(writer, remote).await;
            Err(error)
        }
    }
}

/// Gives an unfinished file up. If even that fails, its lease runs out; what was never published does not show.
pub(super) async fn give_up(writer: FileWriter, path: &ZonePath) {
    if let Err(error) = writer.abandon().await {
        tracing::info!(%path, %error, "the unfinished file is left to its lease");
    }
}

/// Writes piece after piece while the next one is read.
pub(super) async fn copy_file(
    mut file: LocalFile,
    mut chunk: Chunk,
    writer: &mut FileWriter,
    report: &Report,
) -> Result<u64, Error> {
    let mut bytes = 0;
    while !chunk.last {
        let reading = blocking(move || {
            let next = file.next_chunk();
            (file, next)
        });
        let (written, (reader, next)) = tokio::join!(writer.write(&chunk.bytes), reading);
        written?;
        bytes += chunk.bytes.len() as u64;
        report.advance(chunk.bytes.len());
        (file, chunk) = (reader, next?);
    }
    writer.write(&chunk.bytes).await?;
    report.advance(chunk.bytes.len());
    Ok(bytes + chunk.bytes.len() as u64)
}

pub(super) async fn copy_stdin(writer: &mut FileWriter, report: &Report) -> Result<u64, Error> {
    let mut bytes = 0;
    loop {
        let chunk = blocking(|| {
            let mut chunk = Vec::new();
            let read = io::stdin().lock().take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
            read.map(|_| chunk).map_err(Error::Input)
        })
        .await?;
        if chunk.is_empty() {
            return Ok(bytes);
        }
        writer.write(&chunk).await?;
        bytes += chunk.len() as u64;
        report.advance(chunk.len());
    }
}

pub(super) fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_brings_its_own_name_unless_it_means_its_content() {
        for (source, name) in [
            ("dir", Some("dir")),
            ("dir/", Some("dir")),
            ("../dir/file", Some("file")),
            (".", None),
            ("dir/.", None),
            ("/", None),
            ("..", None),
        ] {
            assert_eq!(own_name(Path::new(source)).expect("UTF-8").as_deref(), name, "{source}");
        }
    }

    /// A directory of mode 0555 that was made under a umask of 077, or with one of 022, and others.
    #[test]
    fn a_directory_gets_no_more_than_it_was_made_with() {
        for (made, local, mode) in [
            (0o700, 0o555, 0o500),
            (0o755, 0o555, 0o555),
            (0o750, 0o077, 0o050),
            (0o700, 0o700, 0o700),
        ] {
            assert_eq!(left(made, local), mode, "{made:o} {local:o}");
        }
    }
}
