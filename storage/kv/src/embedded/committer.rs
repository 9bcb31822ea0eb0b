//! The one thread that writes: it takes commits off a queue in batches, checks each, and makes those that pass
//! durable with one write to the disk.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use redb::Database;
use tokio::sync::mpsc;

use super::{
    Snapshot,
    file::{DATA, DatabaseFile, META, SEQUENCE_KEY},
    reads::ReadSet,
    window::Window,
};
use crate::{
    CommitError, StoreError,
    queue::{Queue, Refused, answer_all, answer_refused, batch},
    writes::{Outcome, Writes},
};

/// Room that must be on the disk beyond what a batch needs.
const DISK_RESERVE_BYTES: u64 = 4 << 20;
/// Bytes of pages that one write may touch on its way down the tree.
const PATH_BYTES: u64 = 16 << 10;

/// What a transaction has read, and the number of the commit that its snapshot shows.
pub(super) struct Seen {
    pub(super) sequence: u64,
    pub(super) reads: ReadSet,
}

type Request = crate::queue::Request<Seen>;

/// The thread's handle. Dropping it waits until the queue is worked off.
pub(super) struct Committer {
    queue: Option<Queue<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    pub(super) fn start(file: Arc<DatabaseFile>) -> Result<Self, StoreError> {
        let path = file.path().to_owned();
        let (queue, requests) = Queue::new(StoreError::Stopped { path: path.clone() });
        let failed = |error| StoreError::Failed {
            path,
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
            thread: Some(thread),
        })
    }

    /// Has a transaction committed, when there is room for it in the queue.
    pub(super) async fn commit(&self, seen: Seen, writes: Writes) -> Result<(), CommitError> {
        let queue = self.queue.as_ref().expect("it is taken when this is dropped");
        queue.commit(seen, writes).await
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
            Err(error) => return answer_all(batch, &Err(error.into())),
        };
        let Judged {
            passed,
            refused,
            outcome,
            ..
        } = self.judge(batch, last);
        if passed.is_empty() {
            return answer_refused(refused, true);
        }
        let written = self.write(last + 1, &outcome);
        if let Err(error) = &written {
            tracing::error!(error = error as &dyn std::error::Error, "a commit failed");
        }
        let is_written = written.is_ok();
        answer_all(passed, &written.map_err(CommitError::from));
        answer_refused(refused, is_written);
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

    /// Those whose reads still hold, each checked also against those before it. Those whose do not are answered.
    fn judge(&mut self, batch: Vec<Request>, last: u64) -> Judged {
        let window = self.window.get_or_insert_with(|| Window::after(last));
        let mut judged = Judged::default();
        for request in batch {
            if !window.still_holds(&request.seen.reads, request.seen.sequence) {
                request.answer(Err(CommitError::Conflict));
                continue;
            }
            match judged.take(&request.writes, &self.file) {
                Ok(()) => {
                    window.record(last + 1, &request.writes);
                    judged.passed.push(request);
                }
                Err(error) => judged.refused.push((request, error)),
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

/// The part of a batch that is to be written.
#[derive(Default)]
struct Judged {
    passed: Vec<Request>,
    refused: Refused<Seen>,
    outcome: Outcome,
    /// The state before the batch, once an addition asked for it.
    before: Option<Snapshot>,
}

impl Judged {
    /// Enters the writes of one more transaction, all or none.
    fn take(&mut self, writes: &Writes, file: &DatabaseFile) -> Result<(), StoreError> {
        self.outcome.take(writes, |key| {
            let before = match &self.before {
                Some(before) => before,
                None => self.before.insert(file.snapshot()?),
            };
            let found = before.table.get(key.as_ref());
            let found = found.map_err(|error| file.failed("read", error))?;
            Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
        })
    }
}

fn apply(database: &Database, sequence: u64, outcome: &Outcome) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    {
        let mut data = txn.open_table(DATA)?;
        for (key, value) in outcome.iter() {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{counter::Delta, writes::Write};

    /// Two transactions of one batch: the second is refused for what the first adds.
    #[tokio::test]
    async fn what_is_refused_for_the_sake_of_another_is_refused_once_that_is_written() {
        for is_written in [true, false] {
            let dir = tempfile::tempdir().expect("a directory");
            let file = Arc::new(DatabaseFile::open(&dir.path().join("store")).expect("a store"));
            let (queue, mut requests) = Queue::new(StoreError::TooManyReads);
            let add = |by| {
                let seen = Seen {
                    sequence: 0,
                    reads: ReadSet::default(),
                };
                let delta = Write::Add(Delta { by, max: 5 });
                queue.commit(seen, BTreeMap::from([(Bytes::from_static(b"c"), delta)]))
            };
            let judge = async {
                let first = requests.recv().await.expect("the first");
                let batch = batch(first, &mut requests);
                let mut worker = Worker { window: None, file };
                let judged = worker.judge(batch, 0);
                assert_eq!((judged.passed.len(), judged.refused.len()), (1, 1));
                let failed = CommitError::Store(StoreError::TooManyWrites);
                answer_all(judged.passed, &if is_written { Ok(()) } else { Err(failed) });
                answer_refused(judged.refused, is_written);
            };
            let (first, second, ()) = tokio::join!(add(5), add(1), judge);
            assert_eq!(first.is_ok(), is_written);
            let refusal = second.expect_err("it is over the bound, or was told nothing");
            let is_over = matches!(refusal, CommitError::Store(StoreError::CounterOver { max: 5, .. }));
            assert_eq!(is_over, is_written, "{refusal:?}");
        }
    }
}
