//! The audit log: every decision and key operation, one JSON line each, chained by hash, on disk before the
//! answer goes out.
//!
//! One thread writes. It takes what has gathered in a bounded queue, appends it in one write and syncs once
//! for all of it. If a batch cannot be written it is taken back out of the file and every call in it fails;
//! the next one tries again. If even that fails, or a sync fails (after which nobody knows what is on disk),
//! the log stays closed until the service is started again and has looked at the file.

mod chain;
mod record;

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use strongroom_proto::{Failure, Reason};
use tokio::sync::{mpsc, oneshot};

pub use chain::{AuditError, Verified, verify};
pub use record::{Caller, Entry, Outcome, Record};

use record::Head;

/// Batches that may wait for the writer.
const QUEUE_MAX: usize = 1024;
/// Records that share one sync, give or take a batch: some MiB of text.
const RECORDS_PER_SYNC_MAX: usize = 4096;

/// The way to the writer. Cheap to clone; the writer ends when the last clone is gone.
#[derive(Debug, Clone)]
pub struct AuditLog {
    queue: mpsc::Sender<Batch>,
}

/// Joins the writer, so that a stop waits for the last records.
#[derive(Debug)]
pub struct AuditWriter(JoinHandle<()>);

#[derive(Debug)]
struct Batch {
    entries: Vec<Entry>,
    written: oneshot::Sender<Result<(), String>>,
}

impl AuditLog {
    /// Opens the log at `path`, looks at its end and starts the writer.
    ///
    /// # Errors
    /// If the file cannot be opened or its end is not a chain. A torn last line is no error: it is moved aside.
    pub fn open(path: &Path) -> Result<(Self, AuditWriter), AuditError> {
        let mut end = chain::open(path)?;
        if let Some(torn) = end.torn.take() {
            let mut bytes = Vec::new();
            let head = end.head.append(jiff::Timestamp::now(), torn, &mut bytes);
            append(&mut end.file, &bytes).map_err(|source| AuditError::io(path, source))?;
            (end.head, end.bytes) = (head, end.bytes + bytes.len() as u64);
        }
        let (queue, batches) = mpsc::channel(QUEUE_MAX);
        let writer = Writer {
            path: path.to_owned(),
            file: end.file,
            bytes: end.bytes,
            head: end.head,
            closed: None,
        };
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(batches))
            .map_err(|source| AuditError::io(path, source))?;
        Ok((Self { queue }, AuditWriter(thread)))
    }

    /// Returns when `entries` are on disk.
    ///
    /// # Errors
    /// [`Reason::StoreFailed`]: the caller must not answer as if the call had been recorded.
    pub async fn record(&self, entries: Vec<Entry>) -> Result<(), Failure> {
        let (written, done) = oneshot::channel();
        let outcome = match self.queue.send(Batch { entries, written }).await {
            Ok(()) => done.await.unwrap_or_else(|_| Err("its writer stopped".to_owned())),
            Err(_) => Err("its writer stopped".to_owned()),
        };
        outcome.map_err(|why| {
            Failure::new(
                Reason::StoreFailed,
                format!("the key service cannot write its audit log ({why}) and answers nothing without it; its operator must make room or restart it"),
            )
        })
    }
}

impl AuditWriter {
    /// Waits until the last clone of the log is gone and all it was given is written.
    pub async fn finish(self) {
        _ = tokio::task::spawn_blocking(move || self.0.join()).await;
    }
}

struct Writer {
    path: PathBuf,
    file: File,
    /// Bytes of the file that are good.
    bytes: u64,
    head: Head,
    /// Why nothing is written any more.
    closed: Option<String>,
}

impl Writer {
    fn run(mut self, mut batches: mpsc::Receiver<Batch>) {
        while let Some(first) = batches.blocking_recv() {
            let mut records = first.entries.len();
            let mut together = vec![first];
            while records < RECORDS_PER_SYNC_MAX
                && let Ok(next) = batches.try_recv()
            {
                records += next.entries.len();
                together.push(next);
            }
            self.write(together);
        }
    }

    fn write(&mut self, batches: Vec<Batch>) {
        let mut answers = Vec::with_capacity(batches.len());
        let mut bytes = Vec::new();
        let mut head = self.head.clone();
        for batch in batches {
            for entry in batch.entries {
                head = head.append(jiff::Timestamp::now(), entry, &mut bytes);
            }
            answers.push(batch.written);
        }
        let outcome = self.commit(&bytes, head);
        for answer in answers {
            // A caller that has gone away needs no answer.
            _ = answer.send(outcome.clone());
        }
    }

    fn commit(&mut self, bytes: &[u8], head: Head) -> Result<(), String> {
        if let Some(why) = &self.closed {
            return Err(why.clone());
        }
        if let Err(error) = self.file.write_all(bytes) {
            tracing::error!(path = %self.path.display(), %error, "cannot write the audit log: calls are refused");
            self.take_back(&error);
            return Err(error.to_string());
        }
        if let Err(error) = self.file.sync_data() {
            tracing::error!(path = %self.path.display(), %error, "cannot sync the audit log: closed until a restart");
            self.closed = Some(error.to_string());
            return Err(error.to_string());
        }
        self.bytes += bytes.len() as u64;
        self.head = head;
        Ok(())
    }

    /// Cuts off a batch that was written in part, so that the chain goes on after the last good record.
    fn take_back(&mut self, cause: &io::Error) {
        if let Err(error) = self.file.set_len(self.bytes) {
            tracing::error!(path = %self.path.display(), %error, "cannot repair the audit log: closed until a restart");
            self.closed = Some(format!("{cause}; and it could not be repaired"));
        }
    }
}

fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_data()
}
