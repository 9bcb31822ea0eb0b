//! The one thread that writes: it takes commits off a queue in batches, checks each, and makes those that pass
//! durable with one write to the disk.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

use redb::Database;
use tokio::sync::{mpsc, oneshot};

use super::{
    buffer::{ReadSet, Writes},
    file::{DATA, DatabaseFile, META, SEQUENCE_KEY},
    window::Window,
};
use crate::{CommitError, StoreError};

/// Commits that wait; more wait at the queue's door.
const QUEUE_MAX: usize = 1024;
/// Commits that share one write to the disk.
const BATCH_MAX: usize = 256;
/// Bytes after which a batch takes no more commits.
const BATCH_BYTES_MAX: usize = 32 << 20;
/// Room that must be on the disk beyond what a batch needs.
const DISK_RESERVE_BYTES: u64 = 4 << 20;
/// Bytes of pages that one write may touch on its way down the tree.
const PATH_BYTES: u64 = 16 << 10;

/// A transaction that wants to commit.
pub(super) struct Request {
    /// Number of the commit that its snapshot shows.
    pub(super) sequence: u64,
    pub(super) reads: ReadSet,
    pub(super) writes: Writes,
    pub(super) answer: oneshot::Sender<Result<(), CommitError>>,
}

impl Request {
    fn bytes(&self) -> usize {
        let pairs = self.writes.iter();
        pairs
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, bytes::Bytes::len))
            .sum()
    }

    fn answer(self, outcome: Result<(), CommitError>) {
        // A caller that went away wants no answer.
        _ = self.answer.send(outcome);
    }
}

/// The thread's handle. Dropping it waits until the queue is worked off.
pub(super) struct Committer {
    queue: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    pub(super) fn start(file: Arc<DatabaseFile>) -> Result<Self, StoreError> {
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        let path = file.path().to_owned();
        let worker = Worker {
            window: Some(Window::after(file.sequence()?)),
            file,
        };
        let thread = thread::Builder::new()
            .name("kv-committer".to_owned())
            .spawn(move || worker.run(requests))
            .map_err(|error| StoreError::Failed {
                path,
                what: "start its commit thread",
                source: Arc::new(error),
            })?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    pub(super) fn queue(&self) -> &mpsc::Sender<Request> {
        self.queue.as_ref().expect("taken only by drop")
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the commit thread panicked");
        }
    }
}

struct Worker {
    file: Arc<DatabaseFile>,
    /// `None` after a failed write, until the number of the last commit is known again.
    window: Option<Window>,
}

impl Worker {
    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            self.commit(batch(first, &mut requests));
        }
    }

    fn commit(&mut self, batch: Vec<Request>) {
        let last = match self.ready_for(&batch) {
            Ok(last) => last,
            Err(error) => return answer_all(batch, &Err(error)),
        };
        let passed = self.judge(batch, last);
        if passed.is_empty() {
            return;
        }
        let written = self.write(last + 1, &passed);
        if let Err(error) = &written {
            tracing::error!(error = error as &dyn std::error::Error, "a commit failed");
        }
        answer_all(passed, &written);
    }

    /// The number of the last commit, if there is room on the disk for `batch`. A full disk is noticed here, before
    /// redb meets it and has to be opened again.
    fn ready_for(&self, batch: &[Request]) -> Result<u64, StoreError> {
        let free_bytes = self.file.free_bytes()?;
        if free_bytes < disk_need_bytes(batch) {
            return Err(StoreError::Full {
                path: self.file.path().to_owned(),
                free_bytes,
            });
        }
        self.file.sequence()
    }

    /// Those whose reads still hold, each checked also against those before it. The others are answered.
    fn judge(&mut self, batch: Vec<Request>, last: u64) -> Vec<Request> {
        let window = self.window.get_or_insert_with(|| Window::after(last));
        let mut passed = Vec::with_capacity(batch.len());
        for request in batch {
            if window.still_holds(&request.reads, request.sequence) {
                window.record(last + 1, &request.writes);
                passed.push(request);
            } else {
                request.answer(Err(CommitError::Conflict));
            }
        }
        passed
    }

    /// Makes the commit `sequence` durable, or finds out after an error whether it became so.
    fn write(&mut self, sequence: u64, passed: &[Request]) -> Result<(), StoreError> {
        let written = self.file.with_database(|database| {
            apply(database, sequence, passed).map_err(|error| self.file.failed("commit", error))
        });
        let Err(error) = written else {
            return Ok(());
        };
        // The window holds writes that may not have happened.
        self.window = None;
        self.file.recover()?;
        if self.file.sequence()? == sequence {
            Ok(())
        } else {
            Err(error)
        }
    }
}

/// `first` and what else waits, within bounds.
fn batch(first: Request, requests: &mut mpsc::Receiver<Request>) -> Vec<Request> {
    let mut bytes = first.bytes();
    let mut batch = vec![first];
    while batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
        let Ok(request) = requests.try_recv() else {
            break;
        };
        bytes += request.bytes();
        batch.push(request);
    }
    batch
}

fn apply(database: &Database, sequence: u64, passed: &[Request]) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    {
        let mut data = txn.open_table(DATA)?;
        for (key, value) in passed.iter().flat_map(|request| &request.writes) {
            match value {
                Some(value) => _ = data.insert(key.as_ref(), value.as_ref())?,
                None => _ = data.remove(key.as_ref())?,
            }
        }
        txn.open_table(META)?.insert(SEQUENCE_KEY, sequence)?;
    }
    // redb's default durability: this returns when the disk has it.
    txn.commit()?;
    Ok(())
}

/// Copy-on-write needs room for the data and for the pages on the way to it.
fn disk_need_bytes(batch: &[Request]) -> u64 {
    let need = |request: &Request| request.bytes() as u64 * 2 + request.writes.len() as u64 * PATH_BYTES;
    DISK_RESERVE_BYTES + batch.iter().map(need).sum::<u64>()
}

fn answer_all(requests: Vec<Request>, outcome: &Result<(), StoreError>) {
    for request in requests {
        request.answer(outcome.clone().map_err(CommitError::from));
    }
}
