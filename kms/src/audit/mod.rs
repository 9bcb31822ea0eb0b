//! The audit log: every decision and key operation, one JSON line each, chained by hash, on disk before the
//! answer goes out.
//!
//! One thread writes (`writer`): it takes what has gathered in a bounded queue, appends it in one write and syncs once
//! for all of it. A record that is not on disk within a bound fails its call. The log is cut into segments (`segments`);
//! now and then the chain's end is signed by a key in a token (`checkpoint`, `checkpointer`). `docs/formats/audit-log.md`
//! describes the files byte for byte, and what they prove.

mod call;
pub mod checkpoint;
mod checkpointer;
mod config;
mod error;
mod read;
mod receipt;
mod record;
mod segments;
mod verify;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use strongroom_proto::{Failure, Reason};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

pub use call::CallTag;
pub use checkpoint::{AuditHead, AuditKey, AuditSignature, Checkpoint, LogId};
pub(crate) use checkpointer::Checkpointer;
pub use checkpointer::Signing;
pub use config::AuditConfig;
pub use error::AuditError;
pub use read::{Follower, Reader};
pub(crate) use receipt::ZONES_MAX as RECEIPT_ZONES_MAX;
pub use receipt::{Receipt, TokenReceipt, ZoneReceipt};
pub use record::{Caller, Entry, Outcome, Record};
pub use verify::{Expected, Verified, VerifiedKey, VerifyOptions, key_of_pem, verify};

use record::Head;
use writer::{Job, Segment, Store, Tail, Writer};

/// Batches that may wait for the writer.
const QUEUE_MAX: usize = 1024;

/// The way to the writer. Cheap to clone; the writer ends when the last clone is gone.
#[derive(Debug, Clone)]
pub struct AuditLog {
    log: LogId,
    queue: mpsc::Sender<Job>,
    tail: watch::Receiver<Tail>,
    signing: Arc<watch::Sender<Signing>>,
    wait: Duration,
}

/// Joins the writer, so that a stop waits for the last records.
#[derive(Debug)]
pub struct AuditWriter(JoinHandle<()>);

impl AuditLog {
    /// Opens the log in the directory `dir`, verifies its last segment and starts the writer.
    ///
    /// # Errors
    /// If it cannot be opened or its last segment is not a chain. A torn last line is no error: it is moved aside.
    pub fn open(dir: &Path, config: &AuditConfig) -> Result<(Self, AuditWriter), AuditError> {
        let mut end = segments::open(dir)?;
        let mut unsigned = end.unsigned;
        if let Some(torn) = end.torn.take() {
            let mut bytes = Vec::new();
            end.head = end.head.append(end.log, jiff::Timestamp::now(), torn, &mut bytes);
            let written = end.file.append(&bytes).and_then(|()| end.file.sync());
            written.map_err(|source| AuditError::io(dir, source))?;
            end.bytes += bytes.len() as u64;
            unsigned += 1;
        }
        let tail = Tail {
            head: end.head,
            unsigned,
            segment: end.number,
        };
        let store: PathBuf = dir.to_owned();
        Self::start(end.log, Box::new(store), Box::new(end.file), end.bytes, tail, config)
            .map_err(|source| AuditError::io(dir, source))
    }

    fn start(
        log: LogId,
        store: Box<dyn Store>,
        segment: Box<dyn Segment>,
        bytes: u64,
        tail: Tail,
        config: &AuditConfig,
    ) -> std::io::Result<(Self, AuditWriter)> {
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let (sender, receiver) = watch::channel(tail);
        let writer = Writer {
            log,
            store,
            segment,
            bytes,
            segment_bytes_max: config.segment_bytes,
            tail: sender,
            closed: None,
        };
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(jobs))?;
        let handle = Self {
            log,
            queue,
            tail: receiver,
            signing: Arc::new(watch::Sender::new(Signing::default())),
            wait: config.wait(),
        };
        Ok((handle, AuditWriter(thread)))
    }

    /// Which log it is: the `instance` of its records.
    #[must_use]
    pub const fn id(&self) -> LogId {
        self.log
    }

    /// Returns when `entries` are on disk.
    ///
    /// # Errors
    /// [`Reason::StoreFailed`] if they are not within the configured wait: the caller must not answer as if the call had
    /// been recorded. They may still be written later.
    pub async fn record(&self, entries: Vec<Entry>) -> Result<(), Failure> {
        let (done, written) = oneshot::channel();
        self.ask(Job::Write(entries, done), written).await
    }

    /// Begins the next segment, unless the present one is empty, and says which one is written to.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub async fn rotate(&self) -> Result<u64, Failure> {
        let (done, rotated) = oneshot::channel();
        self.ask(Job::Rotate(done), rotated).await
    }

    /// The end of the log: what was on disk a moment ago.
    #[must_use]
    pub fn head(&self) -> AuditHead {
        let Head { seq, hash } = self.tail.borrow().head;
        AuditHead {
            log: self.log,
            seq,
            hash,
        }
    }

    /// How signing goes, and every change of it.
    #[must_use]
    pub fn signing(&self) -> watch::Receiver<Signing> {
        self.signing.subscribe()
    }

    async fn ask<T>(&self, job: Job, answer: oneshot::Receiver<Result<T, String>>) -> Result<T, Failure> {
        let stopped = || "its writer stopped".to_owned();
        let asked = async {
            self.queue.send(job).await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        };
        let outcome = timeout(self.wait, asked).await;
        let outcome =
            outcome.unwrap_or_else(|_| Err(format!("the disk did not answer for {} ms", self.wait.as_millis())));
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

#[cfg(test)]
mod tests;
