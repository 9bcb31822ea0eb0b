//! What the simulated users do: few names, so that they meet often.

use std::rc::Rc;

use strongroom_fs::{CreateOptions, FileKind, FileWriter, FsError, ZoneFs};
use strongroom_proto::{Reason, ZonePath};
use tokio::time::sleep;

use crate::{
    chance::{below, between_ms, one_in, pick},
    chunk::{self, Content},
    history::{Call, History, Outcome, Path, Told},
    machine::now_ms,
    site::Site,
    trace,
};

const DIRECTORIES: [&str; 3] = ["a", "b", "c"];
const FILES: [&str; 3] = ["f", "g", "h"];
/// A file that is longer would be one that this workload does not write.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One user at work, until the site is to come to rest.
pub(crate) async fn work(site: &Rc<Site>, who: &str, fs: &ZoneFs) {
    let user = User {
        history: site.history.clone(),
        who: who.to_owned(),
        fs: fs.clone(),
    };
    while site.is_busy() {
        user.something().await;
        let pause_max_ms = if one_in(4) { 400 } else { 30 };
        sleep(between_ms(0, pause_max_ms)).await;
    }
}

/// A user and what is noted of his calls.
pub(crate) struct User {
    pub(crate) history: History,
    pub(crate) who: String,
    pub(crate) fs: ZoneFs,
}

impl User {
    async fn something(&self) {
        match below(20) {
            0..3 => self.make_directory(directory()).await,
            3..6 => self.create(file(), one_in(2)).await,
            6..9 => self.append(file()).await,
            9..12 => self.rename().await,
            12 | 13 => self.remove(any(), one_in(2)).await,
            14 => self.stat(any()).await,
            15 => self.cut(file()).await,
            16 if one_in(3) => self.recover(file()).await,
            16 => _ = self.list(if one_in(2) { Path(Vec::new()) } else { directory() }).await,
            _ => _ = self.read(file()).await,
        }
    }

    async fn make_directory(&self, path: Path) {
        let id = self.call(Call::MakeDirectory(path.clone()));
        let made = self.fs.make_directory(&zone_path(&path), 0o777, false).await;
        self.told(id, made.map(|_| Told::Nothing));
    }

    async fn rename(&self) {
        let (from, to) = if one_in(3) {
            (directory(), directory())
        } else {
            (file(), file())
        };
        let overwrite = one_in(2);
        let id = self.call(Call::Rename {
            from: from.clone(),
            to: to.clone(),
            overwrite,
        });
        let moved = self.fs.rename(&zone_path(&from), &zone_path(&to), overwrite).await;
        self.told(id, moved.map(|_| Told::Nothing));
    }

    async fn remove(&self, path: Path, recursive: bool) {
        let id = self.call(Call::Remove {
            path: path.clone(),
            recursive,
        });
        let removed = self.fs.remove(&zone_path(&path), recursive).await;
        self.told(id, removed.map(|_| Told::Nothing));
    }

    async fn stat(&self, path: Path) {
        let id = self.call(Call::Stat(path.clone()));
        let stat = self.fs.stat(&zone_path(&path)).await;
        self.told(
            id,
            stat.map(|stat| Told::Stat((stat.kind == FileKind::File).then_some(stat.length))),
        );
    }

    /// The names in a directory and whether they are directories', if it can be listed.
    pub(crate) async fn list(&self, path: Path) -> Option<Vec<(String, bool)>> {
        let id = self.call(Call::List(path.clone()));
        let page = self.fs.list(&zone_path(&path), None).await;
        let names = page.map(|page| {
            let name = |entry: &strongroom_fs::Entry| (entry.name.clone(), entry.kind == FileKind::Directory);
            page.entries.iter().map(name).collect::<Vec<_>>()
        });
        let listed = names.as_ref().ok().cloned();
        self.told(id, names.map(Told::Names));
        listed
    }

    /// Whether a file could be read.
    pub(crate) async fn read(&self, path: Path) -> bool {
        let id = self.call(Call::Read(path.clone()));
        let reader = match self.fs.open(&zone_path(&path)).await {
            Ok(reader) => reader,
            Err(error) => {
                self.told(id, Err(error));
                return false;
            }
        };
        let length = reader.len().min(FILE_BYTES_MAX);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        match reader.read_at(0, &mut bytes).await {
            Ok(read) => {
                self.told(id, Ok(Told::Content(Content::of(&bytes[..read]))));
                true
            }
            Err(error) => {
                // What was opened may have been replaced since; that says nothing about what is there.
                trace::line(format_args!("{} #{id}: {error}", self.who));
                self.history.told(&self.who, id, Outcome::Unknown);
                false
            }
        }
    }

    async fn create(&self, path: Path, overwrite: bool) {
        let writer = self.history.number();
        let id = self.call(Call::Create {
            path: path.clone(),
            writer,
            overwrite,
        });
        let options = CreateOptions { mode: 0o666, overwrite };
        let created = self.fs.create(&zone_path(&path), options).await;
        if let Some(open) = self.begun(id, created) {
            self.write(open, writer).await;
        }
    }

    async fn append(&self, path: Path) {
        if let Some((open, writer)) = self.reopen(path, None).await {
            self.write(open, writer).await;
        }
    }

    /// Cuts a file to its beginning, and now and then goes on from there.
    async fn cut(&self, path: Path) {
        let cut = if one_in(3) { 0 } else { below(4_000) };
        let Some((open, writer)) = self.reopen(path, Some(cut)).await else {
            return;
        };
        if one_in(2) {
            return self.write(open, writer).await;
        }
        let id = self.call(Call::Publish { writer, chunk: None });
        let finished = open.finish(now_ms()).await;
        self.told(id, finished.map(|_| Told::Nothing));
    }

    async fn reopen(&self, path: Path, cut: Option<u64>) -> Option<(FileWriter, u32)> {
        let writer = self.history.number();
        let id = self.call(Call::Append {
            path: path.clone(),
            writer,
            cut,
        });
        let opened = self.fs.append(&zone_path(&path), cut).await;
        self.begun(id, opened).map(|open| (open, writer))
    }

    async fn recover(&self, path: Path) {
        let id = self.call(Call::Recover(path.clone()));
        match self.fs.recover(&zone_path(&path)).await {
            // Only its writer and its owner may.
            Err(error) if error.reason() == Reason::PermissionDenied => {
                self.history
                    .told(&self.who, id, Outcome::Excluded(Reason::PermissionDenied));
            }
            recovered => self.told(id, recovered.map(|_| Told::Nothing)),
        }
    }

    fn begun(&self, id: usize, opened: Result<FileWriter, FsError>) -> Option<FileWriter> {
        match opened {
            Ok(writer) => {
                self.told(id, Ok(Told::Nothing));
                Some(writer)
            }
            Err(error) => {
                self.told(id, Err(error));
                None
            }
        }
    }

    /// Writes up to three chunks, publishes each, and now and then walks away.
    async fn write(&self, mut open: FileWriter, writer: u32) {
        for _ in 0..below(3) {
            if !self.publish(&mut open, writer).await {
                return;
            }
            sleep(between_ms(0, 300)).await;
        }
        if one_in(10) {
            return;
        }
        let chunk = self.history.number();
        if open.write(&chunk::bytes(chunk)).await.is_err() {
            return;
        }
        let id = self.call(Call::Publish {
            writer,
            chunk: Some(chunk),
        });
        let finished = open.finish(now_ms()).await;
        self.told(id, finished.map(|_| Told::Nothing));
    }

    async fn publish(&self, open: &mut FileWriter, writer: u32) -> bool {
        let chunk = self.history.number();
        if open.write(&chunk::bytes(chunk)).await.is_err() {
            return false;
        }
        let id = self.call(Call::Publish {
            writer,
            chunk: Some(chunk),
        });
        let flushed = open.flush(now_ms()).await;
        let is_flushed = flushed.is_ok();
        self.told(id, flushed.map(|_| Told::Nothing));
        is_flushed
    }

    fn call(&self, call: Call) -> usize {
        self.history.call(&self.who, call)
    }

    fn told(&self, id: usize, outcome: Result<Told, FsError>) {
        let outcome = match outcome {
            Ok(told) => Outcome::Done(told),
            Err(error) => {
                trace::line(format_args!("{} #{id}: {error}", self.who));
                Outcome::of(&error)
            }
        };
        self.history.told(&self.who, id, outcome);
    }
}

/// A path of the workload as the client takes it.
pub(crate) fn zone_path(path: &Path) -> ZonePath {
    ZonePath::parse(path.to_string().as_bytes()).expect("short names of letters")
}

fn directory() -> Path {
    let names = if one_in(4) {
        vec![pick(&DIRECTORIES), pick(&DIRECTORIES)]
    } else {
        vec![pick(&DIRECTORIES)]
    };
    Path(names)
}

fn file() -> Path {
    let mut path = if one_in(3) { Path(Vec::new()) } else { directory() };
    path.0.push(pick(&FILES));
    path
}

fn any() -> Path {
    if one_in(3) { directory() } else { file() }
}
