//! The files: `000001.log`, `000002.log`, … in one directory, and how the last one is opened for more.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{
    checkpoint::LogId,
    error::AuditError,
    record::{Entry, Head},
    verify::{Verifier, VerifyOptions},
};

/// Bytes of the longest line that is read. A record is far shorter.
pub(super) const LINE_BYTES_MAX: u64 = 64 << 10;
/// Torn lines that may lie beside a segment before somebody must look at why.
const TORN_FILES_MAX: u32 = 10_000;
/// The file with the log's id.
const ID_FILE: &str = "log-id";

/// The segment of that number, from 1.
pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:06}.log"))
}

/// The number of a segment's file.
fn number_of(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".log")?;
    let is_number = digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

/// The segments of a directory, in order.
pub(super) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, AuditError> {
    let io = |source| AuditError::io(dir, source);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if let Some(number) = number_of(&path) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Lines that were torn by a crash and moved aside, in a directory.
pub(super) fn torn_files(dir: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let io = |source| AuditError::io(dir, source);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.to_string_lossy().contains(".log.torn-") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A file's lines, one after the other, in bounded memory.
pub(super) struct Lines<R> {
    input: BufReader<R>,
    /// The line last read, without its newline.
    pub(super) line: Vec<u8>,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input: BufReader::with_capacity(256 << 10, input),
            line: Vec::new(),
        }
    }

    /// Reads the next line. `None` at the end; false if the line has no end.
    pub(super) fn next(&mut self) -> io::Result<Option<bool>> {
        self.line.clear();
        let read = (&mut self.input)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut self.line)?;
        let whole = self.line.pop_if(|last| *last == b'\n').is_some();
        Ok((read > 0).then_some(whole))
    }
}

/// A log opened at its end.
pub(super) struct End {
    pub(super) log: LogId,
    pub(super) number: u64,
    pub(super) file: File,
    pub(super) bytes: u64,
    pub(super) head: Head,
    /// Records after the last checkpoint.
    pub(super) unsigned: u64,
    /// Says that a torn line was moved aside.
    pub(super) torn: Option<Entry>,
}

/// Opens the log in `dir` for appending; a missing one is begun. The last segment must be a chain that follows the one
/// before it; a line that a crash tore is moved to `….torn-<n>`.
pub(super) fn open(dir: &Path) -> Result<End, AuditError> {
    let io = |source| AuditError::io(dir, source);
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
    sync_directory(dir).map_err(io)?;
    let log = log_id(dir)?;
    let segments = list(dir)?;
    let (number, path) = segments.last().cloned().unwrap_or_else(|| (1, path_of(dir, 1)));
    let before = segments.iter().rev().nth(1).map(|(_, path)| path.as_path());
    let start = start_of(&path, number, before)?;
    let (mut file, mut bytes) = append_to(&path)?;
    let torn = cut_torn(&path, &mut file, &mut bytes)?;
    let (head, unsigned) = verified_end(&path, &mut file, bytes, start, log)?;
    Ok(End {
        log,
        number,
        file,
        bytes,
        head,
        unsigned,
        torn,
    })
}

/// Makes the segment of that number. One that is there and empty is left from a try that failed.
pub(super) fn create(dir: &Path, number: u64) -> io::Result<File> {
    let path = path_of(dir, number);
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
    if file.metadata()?.len() > 0 {
        let text = format!("{} is there already", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    // A record's durability is worth nothing while the file's name is not on disk.
    sync_directory(&path)?;
    Ok(file)
}

/// The log's id, drawn when there is none.
fn log_id(dir: &Path) -> Result<LogId, AuditError> {
    let path = dir.join(ID_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|_| AuditError::broken(&path, 0, "it is not the id of a log")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            draw_id(&path).map_err(|source| AuditError::io(&path, source))
        }
        Err(source) => Err(AuditError::io(&path, source)),
    }
}

fn draw_id(path: &Path) -> io::Result<LogId> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("the system gives no random bytes"))?;
    let id = LogId::from_bytes(bytes);
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    sync_directory(path)?;
    Ok(id)
}

/// What the first record of a segment follows; unknown if the segment before it was moved away.
fn start_of(path: &Path, number: u64, before: Option<&Path>) -> Result<Option<Head>, AuditError> {
    match before {
        None if number == 1 => Ok(Some(Head::genesis())),
        None => Ok(None),
        Some(before) if number_of(before) == Some(number - 1) => last_head(before).map(Some),
        Some(_) => Err(AuditError::broken(path, 0, "the segment before it is missing")),
    }
}

/// The head after a segment's last line.
fn last_head(path: &Path) -> Result<Head, AuditError> {
    let io = |source| AuditError::io(path, source);
    let mut file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    let tail = read_tail(&mut file, bytes, LINE_BYTES_MAX).map_err(io)?;
    let line = tail
        .strip_suffix(b"\n")
        .and_then(|lines| lines.rsplit(|&byte| byte == b'\n').next())
        .ok_or_else(|| AuditError::broken(path, 0, "its last line has no end"))?;
    Head::after(line).ok_or_else(|| AuditError::broken(path, 0, "its last line is not a record"))
}

fn append_to(path: &Path) -> Result<(File, u64), AuditError> {
    let io = |source| AuditError::io(path, source);
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(io)?;
    sync_directory(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    Ok((file, bytes))
}

/// Moves what stands after the last newline aside.
fn cut_torn(path: &Path, file: &mut File, bytes: &mut u64) -> Result<Option<Entry>, AuditError> {
    let io = |source| AuditError::io(path, source);
    let tail = read_tail(file, *bytes, 2 * LINE_BYTES_MAX).map_err(io)?;
    let whole = tail.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    if whole == tail.len() {
        return Ok(None);
    }
    if whole == 0 && *bytes > tail.len() as u64 {
        return Err(AuditError::broken(path, 0, "its last line has no end"));
    }
    let aside = move_aside(path, &tail[whole..]).map_err(io)?;
    *bytes -= (tail.len() - whole) as u64;
    file.set_len(*bytes).and_then(|()| file.sync_all()).map_err(io)?;
    Ok(Some(torn_entry(&aside)))
}

/// The last bytes of a file.
fn read_tail(file: &mut File, bytes: u64, most: u64) -> io::Result<Vec<u8>> {
    let from = bytes.saturating_sub(most);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    (&mut *file).take(bytes - from).read_to_end(&mut tail)?;
    Ok(tail)
}

/// The head after the last record, and how many records no checkpoint speaks of, once every line was found to follow.
fn verified_end(
    path: &Path,
    file: &mut File,
    bytes: u64,
    start: Option<Head>,
    log: LogId,
) -> Result<(Head, u64), AuditError> {
    let io = |source| AuditError::io(path, source);
    if bytes == 0 && start.is_none() {
        return Err(AuditError::broken(
            path,
            0,
            "it is empty and the segments before it are missing",
        ));
    }
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut verifier = Verifier::continuing(start, log, VerifyOptions::default());
    verifier.segment(path, (&mut *file).take(bytes))?;
    Ok(verifier.end())
}

/// Writes the torn bytes durably beside the segment, before they are cut off it.
fn move_aside(path: &Path, torn: &[u8]) -> io::Result<PathBuf> {
    for n in 1..=TORN_FILES_MAX {
        let aside = PathBuf::from(format!("{}.torn-{n}", path.display()));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside) {
            Ok(mut file) => {
                file.write_all(torn)?;
                file.sync_data()?;
                sync_directory(&aside)?;
                return Ok(aside);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many torn lines lie beside it"))
}

/// Makes the name of `file` durable.
fn sync_directory(file: &Path) -> io::Result<()> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn torn_entry(aside: &Path) -> Entry {
    let name = aside.file_name().map(|name| name.to_string_lossy().into_owned());
    tracing::warn!(path = %aside.display(), "the audit log ended in a torn line, which was moved aside");
    Entry {
        message: name.map(|name| format!("a torn last line was moved to {name}")),
        ..Entry::of_service("service kms", "torn-line")
    }
}
