//! What the next heartbeat has to tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use strongroom_proto::{BlockId, metadata::v1::CommandResult};
use tokio::sync::Notify;

/// Items of a kind in one heartbeat; the rest goes with the next.
const ITEMS_PER_HEARTBEAT_MAX: usize = 1000;
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

/// What became of the commands of one instance, until a heartbeat that told it was answered.
#[derive(Default)]
pub(crate) struct Results {
    /// Failures of commands, empty for those done. At most as many as commands were accepted.
    items: Mutex<BTreeMap<u64, String>>,
    arrived: Notify,
}

impl Results {
    /// A command is done, or has failed.
    pub(crate) fn add(&self, command_id: u64, failure: String) {
        self.items().insert(command_id, failure);
        self.arrived.notify_one();
    }

    /// Whether the result of a command waits to be told.
    pub(crate) fn has(&self, command_id: u64) -> bool {
        self.items().contains_key(&command_id)
    }

    /// The oldest of them for a heartbeat.
    pub(crate) fn oldest(&self) -> Vec<CommandResult> {
        let items = self.items();
        let oldest = items.iter().take(ITEMS_PER_HEARTBEAT_MAX);
        oldest
            .map(|(&command_id, failure)| CommandResult {
                command_id,
                failure: failure.clone(),
            })
            .collect()
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

    fn items(&self) -> MutexGuard<'_, BTreeMap<u64, String>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
