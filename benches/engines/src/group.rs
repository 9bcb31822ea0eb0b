//! Durable group commit, the same for all engines and as the embedded store does it: one thread takes what waits and commits it at once,
//! adding up what is added to counters.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread::JoinHandle,
};

use crate::engine::{Engine, Writes};

/// Transactions in one commit, at most.
const BATCH_MAX: usize = 64;

/// What one transaction changes.
#[derive(Default)]
pub(crate) struct Change {
    pub(crate) writes: Writes,
    /// Counters and what is added to them.
    pub(crate) adds: Vec<(Vec<u8>, i64)>,
}

type Request = (Change, SyncSender<()>);

/// The thread that commits. Dropping it waits until it has ended.
pub(crate) struct Committer {
    requests: Option<Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    pub(crate) fn start(engine: Arc<dyn Engine>) -> Self {
        let (sender, receiver) = channel();
        Self {
            requests: Some(sender),
            thread: Some(std::thread::spawn(move || run(engine.as_ref(), &receiver))),
        }
    }

    /// Returns when the change is durable.
    pub(crate) fn commit(&self, change: Change) {
        let (done, wait) = sync_channel(1);
        let requests = self.requests.as_ref().expect("taken at the end");
        requests.send((change, done)).expect("the thread runs");
        wait.recv().expect("it is committed");
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        drop(self.requests.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()), "the committer failed");
    }
}

fn run(engine: &dyn Engine, requests: &Receiver<Request>) {
    while let Ok(first) = requests.recv() {
        let mut batch = vec![first];
        batch.extend(requests.try_iter().take(BATCH_MAX - 1));
        let (mut writes, mut adds) = (Writes::new(), BTreeMap::<Vec<u8>, i64>::new());
        let mut waiting = Vec::new();
        for (change, done) in batch {
            writes.extend(change.writes);
            for (key, by) in change.adds {
                *adds.entry(key).or_default() += by;
            }
            waiting.push(done);
        }
        let mut view = engine.view();
        for (key, by) in adds {
            let sum = counter(view.get(&key)) + by;
            writes.insert(key, Some(sum.to_be_bytes().to_vec()));
        }
        drop(view);
        engine.commit(&writes);
        for done in waiting {
            // A writer that is gone does not want to know.
            _ = done.send(());
        }
    }
}

/// What a counter stands at.
pub(crate) fn counter(value: Option<Vec<u8>>) -> i64 {
    value.map_or(0, |value| i64::from_be_bytes(value.try_into().expect("eight bytes")))
}
