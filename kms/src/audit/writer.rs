//! The thread that writes: group commit, rotation, and what it does when the disk fails.
//!
//! If a batch cannot be written it is taken back out of the segment and every call in it fails; the next one tries again,
//! so that making room is all that a full disk needs. If even that fails, or a sync fails (after which nobody knows what is
//! on disk), the log stays closed until the service is started again and has looked at the file.

use std::{
    fs::File,
    io::{self, Write},
    path::PathBuf,
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    checkpoint::LogId,
    record::{Entry, Head},
    segments,
};

/// Records that share one sync, give or take a batch: some MiB of text.
const RECORDS_PER_SYNC_MAX: usize = 4096;

/// What the writer is asked for.
#[derive(Debug)]
pub(super) enum Job {
    /// Records, and who waits until they are on disk.
    Write(Vec<Entry>, oneshot::Sender<Result<(), String>>),
    /// A new segment, and who waits for its number.
    Rotate(oneshot::Sender<Result<u64, String>>),
}

/// Where a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) head: Head,
    /// Records that no checkpoint speaks of, checkpoints left out.
    pub(super) unsigned: u64,
    /// The segment that is written to.
    pub(super) segment: u64,
}

/// Where segments come from: files, or in tests something that fails.
pub(super) trait Store: Send {
    /// Makes a segment.
    fn create(&mut self, number: u64) -> io::Result<Box<dyn Segment>>;
}

/// A segment that is written to.
pub(super) trait Segment: Send {
    /// Appends bytes, perhaps only a part of them if it fails.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was appended durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts off what was appended behind `bytes`.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;
}

impl Store for PathBuf {
    fn create(&mut self, number: u64) -> io::Result<Box<dyn Segment>> {
        segments::create(self, number).map(|file| Box::new(file) as Box<dyn Segment>)
    }
}

impl Segment for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }
}

pub(super) struct Writer {
    pub(super) log: LogId,
    pub(super) store: Box<dyn Store>,
    pub(super) segment: Box<dyn Segment>,
    /// Bytes of the segment that are good.
    pub(super) bytes: u64,
    pub(super) segment_bytes_max: u64,
    pub(super) tail: watch::Sender<Tail>,
    /// Why nothing is written any more.
    pub(super) closed: Option<String>,
}

impl Writer {
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut next = None;
        while let Some(job) = next.take().or_else(|| jobs.blocking_recv()) {
            match job {
                Job::Rotate(done) => _ = done.send(self.rotate()),
                Job::Write(entries, done) => next = self.gather(entries, done, &mut jobs),
            }
        }
    }

    /// Writes a batch with all that waits behind it. Gives back a job of another kind that stands in the way.
    fn gather(
        &mut self,
        first: Vec<Entry>,
        done: oneshot::Sender<Result<(), String>>,
        jobs: &mut mpsc::Receiver<Job>,
    ) -> Option<Job> {
        let mut entries = first;
        let mut waiting = vec![done];
        let mut next = None;
        while entries.len() < RECORDS_PER_SYNC_MAX {
            match jobs.try_recv() {
                Ok(Job::Write(more, done)) => {
                    entries.extend(more);
                    waiting.push(done);
                }
                Ok(other) => {
                    next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let outcome = self.write(entries);
        for done in waiting {
            // A caller that has gone away needs no answer.
            _ = done.send(outcome.clone());
        }
        next
    }

    fn write(&mut self, entries: Vec<Entry>) -> Result<(), String> {
        if self.bytes >= self.segment_bytes_max {
            self.rotate()?;
        }
        let mut tail = *self.tail.borrow();
        let mut bytes = Vec::new();
        for entry in entries {
            let signed = entry.checkpoint.as_ref().map(|checkpoint| checkpoint.seq);
            tail.head = tail.head.append(self.log, jiff::Timestamp::now(), entry, &mut bytes);
            tail.unsigned = match signed {
                // What came between the head that was signed and its checkpoint is not signed yet.
                Some(seq) => tail.unsigned.min((tail.head.seq - 1).saturating_sub(seq)),
                None => tail.unsigned + 1,
            };
        }
        self.commit(&bytes)?;
        self.tail.send_replace(tail);
        Ok(())
    }

    fn commit(&mut self, bytes: &[u8]) -> Result<(), String> {
        if let Some(why) = &self.closed {
            return Err(why.clone());
        }
        if let Err(error) = self.segment.append(bytes) {
            tracing::error!(%error, "cannot write the audit log: calls are refused");
            self.take_back(&error);
            return Err(error.to_string());
        }
        if let Err(error) = self.segment.sync() {
            tracing::error!(%error, "cannot sync the audit log: closed until a restart");
            self.closed = Some(error.to_string());
            return Err(error.to_string());
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Cuts off a batch that was written in part, so that the chain goes on after the last good record.
    fn take_back(&mut self, cause: &io::Error) {
        if let Err(error) = self.segment.cut(self.bytes) {
            tracing::error!(%error, "cannot repair the audit log: closed until a restart");
            self.closed = Some(format!("{cause}; and it could not be repaired"));
        }
    }

    /// Begins the next segment, unless the present one is empty. All that was written before is on disk.
    fn rotate(&mut self) -> Result<u64, String> {
        if let Some(why) = &self.closed {
            return Err(why.clone());
        }
        let number = self.tail.borrow().segment;
        if self.bytes == 0 {
            return Ok(number);
        }
        let segment = self.store.create(number + 1).map_err(|error| {
            tracing::error!(%error, "cannot begin a segment of the audit log: calls are refused");
            error.to_string()
        })?;
        self.segment = segment;
        self.bytes = 0;
        self.tail.send_modify(|tail| tail.segment = number + 1);
        Ok(number + 1)
    }
}
