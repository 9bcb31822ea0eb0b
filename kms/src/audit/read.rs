//! Reading a log's records in bounded memory, as they are or as they come.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{
    error::AuditError,
    record::Record,
    segments::{LINE_BYTES_MAX, Lines, list, path_of},
};

/// Reads records one after the other, off all segments of a directory or off files. It verifies nothing.
pub struct Reader {
    paths: VecDeque<PathBuf>,
    open: Option<(PathBuf, Lines<File>)>,
}

impl Reader {
    /// A reader of directories and files, in that order.
    ///
    /// # Errors
    /// If a directory cannot be read or holds no segment.
    pub fn open(paths: &[PathBuf]) -> Result<Self, AuditError> {
        let mut files = VecDeque::new();
        for path in paths {
            if path.is_dir() {
                let segments = list(path)?;
                if segments.is_empty() {
                    return Err(AuditError::Empty { path: path.clone() });
                }
                files.extend(segments.into_iter().map(|(_, path)| path));
            } else {
                files.push_back(path.clone());
            }
        }
        Ok(Self {
            paths: files,
            open: None,
        })
    }

    /// The next record with its line as it stands in the file.
    ///
    /// # Errors
    /// If a file cannot be read or a line is not a record.
    pub fn read_next(&mut self) -> Result<Option<(&[u8], Record)>, AuditError> {
        loop {
            if self.open.is_none() {
                let Some(path) = self.paths.pop_front() else {
                    return Ok(None);
                };
                let file = File::open(&path).map_err(|source| AuditError::io(&path, source))?;
                self.open = Some((path, Lines::new(file)));
            }
            let Some((path, lines)) = &mut self.open else { continue };
            if lines.next().map_err(|source| AuditError::io(path, source))?.is_some() {
                break;
            }
            self.open = None;
        }
        let Some((path, lines)) = &self.open else {
            return Ok(None);
        };
        let record = serde_json::from_slice(&lines.line).map_err(|_| not_a_record(path))?;
        Ok(Some((&lines.line, record)))
    }
}

/// Follows a log that is being written.
pub struct Follower {
    dir: PathBuf,
    number: u64,
    input: BufReader<File>,
    /// The beginning of a line whose end is not there yet.
    partial: Vec<u8>,
}

impl Follower {
    /// A follower that begins so many segments before the last one of the directory, or with the first that there is; and
    /// whether it is that.
    ///
    /// # Errors
    /// If the directory cannot be read or holds no segment.
    pub fn open_before(dir: &Path, before: usize) -> Result<(Self, bool), AuditError> {
        let segments = list(dir)?;
        let first = segments
            .first()
            .ok_or_else(|| AuditError::Empty { path: dir.to_owned() })?;
        let (number, path) = segments.iter().rev().nth(before).unwrap_or(first);
        let file = File::open(path).map_err(|source| AuditError::io(path, source))?;
        let follower = Self {
            dir: dir.to_owned(),
            number: *number,
            input: BufReader::new(file),
            partial: Vec::new(),
        };
        Ok((follower, number == &first.0))
    }

    /// The next record with its line, if there is one by now.
    ///
    /// # Errors
    /// If a file cannot be read or a line is not a record.
    pub fn read_next(&mut self) -> Result<Option<(Vec<u8>, Record)>, AuditError> {
        let path = path_of(&self.dir, self.number);
        loop {
            if self.read_line().map_err(|source| AuditError::io(&path, source))? {
                let line = std::mem::take(&mut self.partial);
                let record = serde_json::from_slice(&line).map_err(|_| not_a_record(&path))?;
                return Ok(Some((line, record)));
            }
            let next = path_of(&self.dir, self.number + 1);
            let file = match File::open(&next) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(AuditError::io(&next, error)),
            };
            // A segment is complete once the next one is there.
            if !self.at_end().map_err(|source| AuditError::io(&path, source))? {
                continue;
            }
            if !self.partial.is_empty() {
                return Err(AuditError::broken(&path, 0, "its last line is torn"));
            }
            self.number += 1;
            self.input = BufReader::new(file);
            return self.read_next();
        }
    }

    /// Reads on to the end of a line. False if its end is not there yet.
    fn read_line(&mut self) -> io::Result<bool> {
        let left = LINE_BYTES_MAX.saturating_sub(self.partial.len() as u64);
        (&mut self.input).take(left).read_until(b'\n', &mut self.partial)?;
        Ok(self.partial.pop_if(|last| *last == b'\n').is_some())
    }

    fn at_end(&mut self) -> io::Result<bool> {
        let at = self.input.stream_position()?;
        let end = self.input.get_ref().metadata()?.len();
        self.input.seek(SeekFrom::Start(at))?;
        Ok(at >= end)
    }
}

fn not_a_record(path: &Path) -> AuditError {
    AuditError::broken(path, 0, "a line is not a record")
}
