//! The file: opening it at its end, moving a torn last line aside, and verifying the whole chain.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::record::{Entry, Head, Record, line_hash};

/// Bytes of the longest line that is read. A record is far shorter.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Torn lines that may lie beside a log before somebody must look at why.
const TORN_FILES_MAX: u32 = 10_000;

/// Why an audit log is not used or not trusted.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened, read or written.
    #[error("cannot use the audit log {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A line is not the record that the lines before it lead to.
    #[error("the audit log {} is broken at record {seq}: {what}; keep the file as evidence and move it away before a start", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The record that should be there, from 1; at a start, the last one.
        seq: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl AuditError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    fn broken(path: &Path, seq: u64, what: &'static str) -> Self {
        Self::Broken {
            path: path.to_owned(),
            seq,
            what,
        }
    }
}

/// What a log that verified holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Records in the chain.
    pub records: u64,
    /// SHA-256 of the last line, in hex: two logs with the same one are the same.
    pub head: String,
}

/// Verifies a whole log, record by record.
///
/// # Errors
/// Names the first record that is missing, changed or torn.
pub fn verify(path: &Path) -> Result<Verified, AuditError> {
    let file = File::open(path).map_err(|source| AuditError::io(path, source))?;
    let mut lines = BufReader::new(file);
    let mut head = Head::genesis();
    loop {
        let mut line = Vec::new();
        let read = (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if read.map_err(|source| AuditError::io(path, source))? == 0 {
            return Ok(Verified {
                records: head.seq,
                head: head.hash,
            });
        }
        head = follow(&head, &line).map_err(|what| AuditError::broken(path, head.seq + 1, what))?;
    }
}

/// The head after `line`, if the line is what must follow.
fn follow(head: &Head, line: &[u8]) -> Result<Head, &'static str> {
    let line = line.strip_suffix(b"\n").ok_or("its line is torn")?;
    let record: Record = serde_json::from_slice(line).map_err(|_| "it is not a record")?;
    if record.seq != head.seq + 1 {
        return Err("its sequence number does not follow");
    }
    if record.prev != head.hash {
        return Err("it does not carry the hash of the record before");
    }
    Ok(Head {
        seq: record.seq,
        hash: line_hash(line),
    })
}

/// A log opened at its end.
pub(super) struct End {
    pub(super) file: File,
    pub(super) bytes: u64,
    pub(super) head: Head,
    /// Says that a torn line was moved aside.
    pub(super) torn: Option<Entry>,
}

/// Opens the log for appending; a missing one is made. The last two records must chain; a line that a crash
/// tore is moved to `….torn-<n>`.
pub(super) fn open(path: &Path) -> Result<End, AuditError> {
    let io = |source| AuditError::io(path, source);
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(io)?;
    // The first records' durability is worth nothing while the file's name is not on disk.
    sync_directory(path).map_err(io)?;
    let mut bytes = file.metadata().map_err(io)?.len();
    let mut tail = read_tail(&mut file, bytes).map_err(io)?;
    let whole = tail.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let torn = if whole < tail.len() {
        if whole == 0 && bytes > tail.len() as u64 {
            return Err(AuditError::broken(path, 0, "its last line has no end"));
        }
        let aside = move_aside(path, &tail[whole..]).map_err(io)?;
        bytes -= (tail.len() - whole) as u64;
        tail.truncate(whole);
        file.set_len(bytes).and_then(|()| file.sync_all()).map_err(io)?;
        Some(torn_entry(&aside))
    } else {
        None
    };
    let head = last_head(path, &tail, bytes)?;
    Ok(End {
        file,
        bytes,
        head,
        torn,
    })
}

/// The last bytes of the file: enough for two whole lines and a torn one.
fn read_tail(file: &mut File, bytes: u64) -> io::Result<Vec<u8>> {
    let from = bytes.saturating_sub(3 * LINE_BYTES_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    (&mut *file).take(bytes - from).read_to_end(&mut tail)?;
    Ok(tail)
}

/// The head after the last line of `tail`, checked against the line before it.
fn last_head(path: &Path, tail: &[u8], bytes: u64) -> Result<Head, AuditError> {
    let Some(lines) = tail.strip_suffix(b"\n") else {
        return Ok(Head::genesis());
    };
    let mut last_first = lines.rsplit(|&byte| byte == b'\n');
    let last = last_first.next().unwrap_or_default();
    let record: Record =
        serde_json::from_slice(last).map_err(|_| AuditError::broken(path, 0, "its last line is not a record"))?;
    let before = match last_first.next() {
        Some(line) => Head {
            seq: record.seq.saturating_sub(1),
            hash: line_hash(line),
        },
        None if tail.len() as u64 == bytes => Head::genesis(),
        None => return Err(AuditError::broken(path, record.seq, "its line is too long")),
    };
    let line = [last, b"\n"].concat();
    follow(&before, &line).map_err(|what| AuditError::broken(path, record.seq, what))
}

/// Writes the torn bytes durably beside the log, before they are cut off it.
fn move_aside(path: &Path, torn: &[u8]) -> io::Result<PathBuf> {
    for n in 1..=TORN_FILES_MAX {
        let aside = PathBuf::from(format!("{}.torn-{n}", path.display()));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside) {
            Ok(mut file) => {
                super::append(&mut file, torn)?;
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
