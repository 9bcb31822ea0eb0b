use std::collections::VecDeque;

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::{
    FileReader, FsError,
    reader::{Piece, Plan},
};

/// Blocks fetched before they are asked for.
const BLOCKS_AHEAD: usize = 4;

/// The bytes of a file in order. Holds at most four blocks.
pub struct ByteStream {
    reader: FileReader,
    plan: Plan,
    ahead: VecDeque<Fetch>,
    failed: bool,
}

impl std::fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ByteStream({:?})", self.reader)
    }
}

impl ByteStream {
    /// The bytes from `start` to `end`, or to the end of the file if that comes first.
    pub(crate) fn new(reader: FileReader, start: u64, end: u64) -> Self {
        Self {
            plan: reader.plan(start, end),
            reader,
            ahead: VecDeque::new(),
            failed: false,
        }
    }

    /// The next bytes, at most a block of them and never none; `None` at the end of the file and after an error.
    pub async fn next(&mut self) -> Option<Result<Bytes, FsError>> {
        if self.failed {
            return None;
        }
        while self.ahead.len() < BLOCKS_AHEAD {
            let Some(piece) = self.plan.next() else { break };
            self.ahead.push_back(Fetch::start(self.reader.clone(), piece));
        }
        // Stays in the queue while it is awaited, so that a cancelled call loses nothing.
        let outcome = self.ahead.front_mut()?.outcome().await;
        self.ahead.pop_front();
        self.failed = outcome.is_err();
        Some(outcome)
    }
}

/// One fetch under way, in a task of its own, so that several blocks are opened on several cores; ends with its stream.
struct Fetch(JoinHandle<Result<Bytes, FsError>>);

impl Fetch {
    fn start(reader: FileReader, piece: Piece) -> Self {
        Self(tokio::spawn(async move { reader.fetch(piece).await }))
    }

    async fn outcome(&mut self) -> Result<Bytes, FsError> {
        (&mut self.0)
            .await
            .unwrap_or(Err(FsError::Machine { what: "read task" }))
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.0.abort();
    }
}
