//! The one task of a process that commits: it takes commits off a queue in batches, and takes the head row once for each. What the
//! transactions of a batch have read is checked against the database, and against those before them in the batch.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::mpsc, time::timeout};

use super::{
    commit::Head,
    connection::{Connection, Connections},
    reads::{ReadSet, State, values},
};
use crate::{
    CommitError,
    queue::{Queue, Refused, answer_all, answer_refused, batch},
    writes::{Outcome, Write, Writes},
};

/// How long a connection is kept for the next batch, where there are so many that transactions can do without it.
const HELD_FOR: Duration = Duration::from_secs(1);
const CONNECTIONS_TO_HOLD_ONE: usize = 4;

/// What a transaction has read, and the number of the last commit in its snapshot.
pub(super) struct Seen {
    pub(super) snapshot: i64,
    pub(super) reads: ReadSet,
}

type Request = crate::queue::Request<Seen>;

/// The way to the task, which ends when the queue is worked off and this is gone.
pub(super) struct Committer {
    queue: Queue<Seen>,
}

impl Committer {
    /// Starts the task on the runtime that this is called on.
    pub(super) fn start(connections: &Arc<Connections>) -> Self {
        let gone = io::Error::new(io::ErrorKind::NotConnected, "the task that commits has ended");
        let (queue, requests) = Queue::new(connections.unreachable("commit", gone));
        tokio::spawn(run(Arc::clone(connections), requests));
        Self { queue }
    }

    /// Has a transaction committed, when there is room for it in the queue.
    pub(super) async fn commit(&self, seen: Seen, writes: Writes) -> Result<(), CommitError> {
        self.queue.commit(seen, writes).await
    }
}

async fn run(connections: Arc<Connections>, mut requests: mpsc::Receiver<Request>) {
    let mut held: Option<Connection> = None;
    loop {
        let next = match &held {
            Some(_) => timeout(HELD_FOR, requests.recv()).await,
            None => Ok(requests.recv().await),
        };
        match next {
            Ok(Some(first)) => {
                let batch = batch(first, &mut requests);
                held = commit(&connections, held.take(), batch).await;
                held = held.filter(|_| connections.size >= CONNECTIONS_TO_HOLD_ONE);
            }
            Ok(None) => return,
            Err(_) => held = None,
        }
    }
}

/// Commits what of a batch can be. The connection, if it is of further use.
async fn commit(connections: &Connections, held: Option<Connection>, batch: Vec<Request>) -> Option<Connection> {
    let mut head = match Head::take(connections, held).await {
        Ok(head) => head,
        Err(error) => {
            answer_all(batch, &Err(error));
            return None;
        }
    };
    let judged = match Found::look(&mut head, &batch).await {
        Ok(found) => judge(batch, &found, head.seq),
        Err(error) => {
            answer_all(batch, &Err(error));
            return None;
        }
    };
    if judged.passed.is_empty() {
        answer_refused(judged.refused, true);
        return None;
    }
    let written = head.commit(connections, &judged.outcome).await;
    answer_all(judged.passed, &written.as_ref().map(|_| ()).map_err(Clone::clone));
    answer_refused(judged.refused, written.is_ok());
    written.ok().flatten()
}

/// What is there now of what concerns a batch.
struct Found {
    state: State,
    counters: std::collections::HashMap<Bytes, Bytes>,
}

impl Found {
    async fn look(head: &mut Head, batch: &[Request]) -> Result<Self, CommitError> {
        // With no commit in between there is nothing to check.
        let to_check = batch.iter().filter(|request| request.seen.snapshot + 1 != head.seq);
        let reads: Vec<&ReadSet> = to_check.map(|request| &request.seen.reads).collect();
        let state = State::of(head.connection(), &reads).await?;
        let writes = batch.iter().flat_map(|request| &request.writes);
        let added = writes.filter(|(_, write)| matches!(write, Write::Add(_)));
        let added: std::collections::BTreeSet<&[u8]> = added.map(|(key, _)| key.as_ref()).collect();
        let added: Vec<&[u8]> = added.into_iter().collect();
        let counters = values(head.connection(), "read counters", &added).await?;
        Ok(Self { state, counters })
    }
}

/// A batch as far as it can be committed.
#[derive(Default)]
struct Judged {
    passed: Vec<Request>,
    refused: Refused<Seen>,
    outcome: Outcome,
}

/// Those whose reads still hold, each checked also against those before it, and what they leave. Those whose do not are answered.
fn judge(batch: Vec<Request>, found: &Found, seq: i64) -> Judged {
    let mut judged = Judged::default();
    for request in batch {
        let Seen { snapshot, reads } = &request.seen;
        let holds = *snapshot + 1 == seq || reads.still_holds(&found.state, *snapshot);
        if !holds || reads.meets(&judged.outcome) {
            request.answer(Err(CommitError::Conflict));
            continue;
        }
        let before = |key: &Bytes| Ok(found.counters.get(key).cloned());
        match judged.outcome.take(&request.writes, before) {
            Ok(()) => judged.passed.push(request),
            Err(error) => judged.refused.push((request, error)),
        }
    }
    judged
}
