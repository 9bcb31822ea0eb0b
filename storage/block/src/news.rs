//! What the next heartbeat has to tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use strongroom_proto::{
    BlockId,
    metadata::v1::{CommandResult, ReplicaPage},
};
use tokio::sync::Notify;

/// Items of a kind in one heartbeat; the rest goes with the next.
const ITEMS_PER_HEARTBEAT_MAX: usize = 1000;
/// Blocks that the results in one heartbeat name, and at least one result: a heartbeat stays below the size of a message.
const NAMED_PER_HEARTBEAT_MAX: usize = 10_000;
/// Bad blocks remembered. Beyond, they are reported when they are asked for again.
const BAD_BLOCKS_MAX: usize = 10_000;

/// What concerns the metadata service as a whole: bad blocks, of which one of its instances has to hear.
#[derive(Default)]
pub(crate) struct News {
    bad: Mutex<BTreeSet<BlockId>>,
    arrived: Notify,
}

impl News {
    /// A block is damaged or missing.
    pub(crate) fn bad_block(&self, id: BlockId) {
        let mut bad = self.bad();
        if bad.len() < BAD_BLOCKS_MAX && bad.insert(id) {
            self.arrived.notify_one();
        }
    }

    /// Bad blocks for one heartbeat. Whoever takes them tells them, or gives them back.
    pub(crate) fn take(&self) -> Vec<BlockId> {
        let mut bad = self.bad();
        let taken: Vec<BlockId> = bad.iter().take(ITEMS_PER_HEARTBEAT_MAX).copied().collect();
        for id in &taken {
            bad.remove(id);
        }
        if !bad.is_empty() {
            self.arrived.notify_one();
        }
        taken
    }

    /// Bad blocks that could not be told.
    pub(crate) fn give_back(&self, taken: Vec<BlockId>) {
        self.bad().extend(taken);
    }

    /// Returns once there is something new.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    fn bad(&self) -> MutexGuard<'_, BTreeSet<BlockId>> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of a command that was carried out.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Outcome {
    /// Blocks that are not there as they should be.
    pub(crate) missing: Vec<BlockId>,
    /// Blocks whose files the disk could not read.
    pub(crate) unreadable: Vec<BlockId>,
    /// What is on the disk.
    pub(crate) page: Option<ReplicaPage>,
}

/// What became of the commands of one instance, until a heartbeat that told it was answered.
#[derive(Default)]
pub(crate) struct Results {
    /// By command. At most as many as were accepted.
    items: Mutex<BTreeMap<u64, CommandResult>>,
    arrived: Notify,
}

impl Results {
    /// A command is done, or has failed.
    pub(crate) fn add(&self, command_id: u64, outcome: Result<Outcome, String>) {
        let (outcome, failure) = match outcome {
            Ok(outcome) => (outcome, String::new()),
            Err(failure) => (Outcome::default(), failure),
        };
        let result = CommandResult {
            command_id,
            failure,
            missing: outcome.missing.into_iter().map(Into::into).collect(),
            unreadable: outcome.unreadable.into_iter().map(Into::into).collect(),
            page: outcome.page,
        };
        self.items().insert(command_id, result);
        self.arrived.notify_one();
    }

    /// Whether the result of a command waits to be told.
    pub(crate) fn has(&self, command_id: u64) -> bool {
        self.items().contains_key(&command_id)
    }

    /// The oldest of them for a heartbeat.
    pub(crate) fn oldest(&self) -> Vec<CommandResult> {
        let items = self.items();
        let (mut oldest, mut named) = (Vec::new(), 0);
        for result in items.values().take(ITEMS_PER_HEARTBEAT_MAX) {
            named += named_by(result);
            if named > NAMED_PER_HEARTBEAT_MAX && !oldest.is_empty() {
                break;
            }
            oldest.push(result.clone());
        }
        oldest
    }

    /// Forgets what an answered heartbeat told.
    pub(crate) fn told(&self, results: &[CommandResult]) {
        let mut items = self.items();
        for result in results {
            items.remove(&result.command_id);
        }
        if !items.is_empty() {
            self.arrived.notify_one();
        }
    }

    /// Returns once there is something new.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    fn items(&self) -> MutexGuard<'_, BTreeMap<u64, CommandResult>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocks that a result names.
fn named_by(result: &CommandResult) -> usize {
    result.missing.len() + result.unreadable.len() + result.page.as_ref().map_or(0, |page| page.replicas.len())
}
