//! The queue of transactions that want to commit, in front of whoever commits them in batches. It is bounded in number and bytes.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::{CommitError, StoreError, writes::Writes};

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

/// A transaction that wants to commit: what it has `seen`, in its engine's terms, and its writes.
pub(crate) struct Request<R> {
    pub(crate) seen: R,
    pub(crate) writes: Writes,
    answer: oneshot::Sender<Result<(), CommitError>>,
    /// Its share of the queue's bytes, given back when it is answered.
    _room: OwnedSemaphorePermit,
}

impl<R> Request<R> {
    pub(crate) fn bytes(&self) -> usize {
        bytes(&self.writes)
    }

    pub(crate) fn answer(self, outcome: Result<(), CommitError>) {
        // A caller that went away wants no answer.
        _ = self.answer.send(outcome);
    }
}

/// Answers all of `requests` alike.
pub(crate) fn answer_all<R>(requests: Vec<Request<R>>, outcome: &Result<(), CommitError>) {
    for request in requests {
        request.answer(outcome.clone());
    }
}

/// Transactions that are refused for what others of their batch do, and why. That holds once those have done it.
pub(crate) type Refused<R> = Vec<(Request<R>, StoreError)>;

/// Answers those that were refused, when it is known whether the batch that they were judged with `is_written`.
pub(crate) fn answer_refused<R>(refused: Refused<R>, is_written: bool) {
    for (request, error) in refused {
        let outcome = if is_written {
            error.into()
        } else {
            CommitError::Conflict
        };
        request.answer(Err(outcome));
    }
}

/// The end of the queue that transactions come to. Dropping it lets the other end finish.
pub(crate) struct Queue<R> {
    requests: mpsc::Sender<Request<R>>,
    room: Arc<Semaphore>,
    /// What a commit that is not answered is told.
    stopped: StoreError,
}

impl<R> Queue<R> {
    /// A queue, and the end where it is worked off.
    pub(crate) fn new(stopped: StoreError) -> (Self, mpsc::Receiver<Request<R>>) {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let queue = Self {
            requests: sender,
            room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            stopped,
        };
        (queue, receiver)
    }

    /// Has a transaction committed, when there is room for it.
    pub(crate) async fn commit(&self, seen: R, writes: Writes) -> Result<(), CommitError> {
        let queued = timeout(QUEUE_WAIT, self.enqueue(seen, writes)).await;
        let overloaded = StoreError::Overloaded {
            lack: "no room in its commit queue",
            waited_ms: u64::try_from(QUEUE_WAIT.as_millis()).unwrap_or(u64::MAX),
        };
        let answered = queued.unwrap_or(Err(overloaded))?;
        answered.await.map_err(|_| self.stopped.clone())?
    }

    async fn enqueue(&self, seen: R, writes: Writes) -> Result<oneshot::Receiver<Result<(), CommitError>>, StoreError> {
        let bytes = u32::try_from(bytes(&writes)).expect("a transaction's bytes are bounded");
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        let (answer, answered) = oneshot::channel();
        let request = Request {
            seen,
            writes,
            answer,
            _room: room.map_err(|_| self.stopped.clone())?,
        };
        let sent = self.requests.send(request).await;
        sent.map_err(|_| self.stopped.clone())?;
        Ok(answered)
    }
}

/// `first` and what else waits, within bounds.
pub(crate) fn batch<R>(first: Request<R>, requests: &mut mpsc::Receiver<Request<R>>) -> Vec<Request<R>> {
    let mut bytes = first.bytes();
    let mut batch = vec![first];
    while batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
        let Ok(next) = requests.try_recv() else {
            break;
        };
        bytes += next.bytes();
        batch.push(next);
    }
    batch
}

fn bytes(writes: &Writes) -> usize {
    writes.iter().map(|(key, write)| key.len() + write.bytes()).sum()
}
