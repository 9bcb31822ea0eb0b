//! The one thread that writes: it takes commits off a queue in batches, checks each, and makes those that pass
//! durable with one write to the disk.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use redb::Database;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{
    Snapshot,
    file::{DATA, DatabaseFile, META, SEQUENCE_KEY},
    reads::ReadSet,
    window::Window,
};
use crate::{
    CommitError, StoreError,
    writes::{Write, Writes},
};

/// Commits that wait; more wait at the queue's door.
const QUEUE_MAX: usize = 1024;
/// Bytes of the commits that wait or are being written.
const QUEUE_BYTES_MAX: usize = 128 << 20;
/// How long a commit waits for room in the queue.
const QUEUE_WAIT: Duration = Duration::from_secs(10);
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

/// A request with its share of the queue's bytes, given back when it is answered.
struct Queued {
    request: Request,
    _room: OwnedSemaphorePermit,
}

impl Request {
    fn bytes(&self) -> usize {
        let pairs = self.writes.iter();
        pairs.map(|(key, write)| key.len() + write.bytes()).sum()
    }

    fn answer(self, outcome: Result<(), CommitError>) {
        // A caller that went away wants no answer.
        _ = self.answer.send(outcome);
    }
}

/// The thread's handle. Dropping it waits until the queue is worked off.
pub(super) struct Committer {
    queue: Option<mpsc::Sender<Queued>>,
    room: Arc<Semaphore>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    pub(super) fn start(file: Arc<DatabaseFile>) -> Result<Self, StoreError> {
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        let path = file.path().to_owned();
        let failed = |error| StoreError::Failed {
            path: path.clone(),
            what: "start its commit thread",
            source: Arc::new(error),
        };
        let worker = Worker {
            window: Some(Window::after(file.sequence()?)),
            file,
        };
        let thread = thread::Builder::new()
            .name("kv-committer".to_owned())
            .spawn(move || worker.run(requests))
            .map_err(failed)?;
        Ok(Self {
            queue: Some(queue),
            room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            path,
            thread: Some(thread),
        })
    }

    /// Puts a request into the queue, when there is room.
    pub(super) async fn submit(&self, request: Request) -> Result<(), StoreError> {
        let queued = timeout(QUEUE_WAIT, self.enqueue(request)).await;
        queued.unwrap_or_else(|_| {
            Err(StoreError::Overloaded {
                waited_ms: u64::try_from(QUEUE_WAIT.as_millis()).unwrap_or(u64::MAX),
            })
        })
    }

    async fn enqueue(&self, request: Request) -> Result<(), StoreError> {
        let bytes = u32::try_from(request.bytes()).expect("a transaction's bytes are bounded");
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        let queued = Queued {
            request,
            _room: room.map_err(|_| self.stopped())?,
        };
        let queue = self.queue.as_ref().ok_or_else(|| self.stopped())?;
        queue.send(queued).await.map_err(|_| self.stopped())
    }

    /// The error of a commit that the thread did not answer.
    pub(super) fn stopped(&self) -> StoreError {
        StoreError::Stopped {
            path: self.path.clone(),
        }
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
    fn run(mut self, mut requests: mpsc::Receiver<Queued>) {
        while let Some(first) = requests.blocking_recv() {
            self.commit(batch(first, &mut requests));
        }
    }

    fn commit(&mut self, batch: Vec<Queued>) {
        let last = match self.ready_for(&batch) {
            Ok(last) => last,
            Err(error) => return answer_all(batch, &Err(error)),
        };
        let Judged { passed, outcome, .. } = self.judge(batch, last);
        if passed.is_empty() {
            return;
        }
        let written = self.write(last + 1, &outcome);
        if let Err(error) = &written {
            tracing::error!(error = error as &dyn std::error::Error, "a commit failed");
        }
        answer_all(passed, &written);
    }

    /// The number of the last commit, if there is room on the disk for `batch`. A full disk is noticed here, before
    /// redb meets it and has to be opened again.
    fn ready_for(&self, batch: &[Queued]) -> Result<u64, StoreError> {
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
    fn judge(&mut self, batch: Vec<Queued>, last: u64) -> Judged {
        let window = self.window.get_or_insert_with(|| Window::after(last));
        let mut judged = Judged::default();
        for queued in batch {
            let request = &queued.request;
            if !window.still_holds(&request.reads, request.sequence) {
                queued.request.answer(Err(CommitError::Conflict));
                continue;
            }
            match judged.take(&request.writes, &self.file) {
                Ok(()) => {
                    window.record(last + 1, &request.writes);
                    judged.passed.push(queued);
                }
                Err(error) => queued.request.answer(Err(error.into())),
            }
        }
        judged
    }

    /// Makes the commit `sequence` durable, or finds out after an error whether it became so.
    fn write(&mut self, sequence: u64, outcome: &Outcome) -> Result<(), StoreError> {
        let written = self.file.with_database(|database| {
            apply(database, sequence, outcome).map_err(|error| self.file.failed("commit", error))
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

/// What a batch leaves under each key that it writes; `None` where nothing is left.
type Outcome = BTreeMap<Bytes, Option<Bytes>>;

/// The part of a batch that is to be written.
#[derive(Default)]
struct Judged {
    passed: Vec<Queued>,
    outcome: Outcome,
    /// The state before the batch, once an addition asked for it.
    before: Option<Snapshot>,
}

impl Judged {
    /// Enters the writes of one more transaction, all or none.
    fn take(&mut self, writes: &Writes, file: &DatabaseFile) -> Result<(), StoreError> {
        let mut outcome = Vec::with_capacity(writes.len());
        for (key, write) in writes {
            let stored = match write {
                Write::Add(_) => self.now(key, file)?,
                Write::Put(_) | Write::Delete => None,
            };
            outcome.push((key.clone(), write.over(key, stored.as_deref())?));
        }
        self.outcome.extend(outcome);
        Ok(())
    }

    /// What is under `key` after the transactions taken so far.
    fn now(&mut self, key: &Bytes, file: &DatabaseFile) -> Result<Option<Bytes>, StoreError> {
        if let Some(value) = self.outcome.get(key) {
            return Ok(value.clone());
        }
        let before = match &self.before {
            Some(before) => before,
            None => self.before.insert(file.snapshot()?),
        };
        let found = before.table.get(key.as_ref());
        let found = found.map_err(|error| file.failed("read", error))?;
        Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
    }
}

/// `first` and what else waits, within bounds.
fn batch(first: Queued, requests: &mut mpsc::Receiver<Queued>) -> Vec<Queued> {
    let mut bytes = first.request.bytes();
    let mut batch = vec![first];
    while batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
        let Ok(next) = requests.try_recv() else {
            break;
        };
        bytes += next.request.bytes();
        batch.push(next);
    }
    batch
}

fn apply(database: &Database, sequence: u64, outcome: &Outcome) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    {
        let mut data = txn.open_table(DATA)?;
        for (key, value) in outcome {
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
fn disk_need_bytes(batch: &[Queued]) -> u64 {
    let need = |queued: &Queued| queued.request.bytes() as u64 * 2 + queued.request.writes.len() as u64 * PATH_BYTES;
    DISK_RESERVE_BYTES + batch.iter().map(need).sum::<u64>()
}

fn answer_all(batch: Vec<Queued>, outcome: &Result<(), StoreError>) {
    for queued in batch {
        queued.request.answer(outcome.clone().map_err(CommitError::from));
    }
}
