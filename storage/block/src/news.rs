//! What the next heartbeat has to tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use strongroom_proto::{
    BlockId,
    metadata::v1::{CommandResult, HeartbeatRequest},
};
use tokio::sync::Notify;

/// Items of a kind in one heartbeat; the rest goes with the next.
const ITEMS_PER_HEARTBEAT_MAX: usize = 1000;
/// Bad blocks remembered. Beyond, they are reported when they are asked for again.
const BAD_BLOCKS_MAX: usize = 10_000;

/// Collects what happened until a heartbeat that told it was answered.
#[derive(Default)]
pub(crate) struct News {
    items: Mutex<Items>,
    arrived: Notify,
}

#[derive(Default)]
struct Items {
    bad: BTreeSet<BlockId>,
    /// Failures of commands, empty for those done. At most as many as commands were accepted.
    results: BTreeMap<u64, String>,
}

impl News {
    /// A block is damaged or missing.
    pub(crate) fn bad_block(&self, id: BlockId) {
        let mut items = self.items();
        if items.bad.len() < BAD_BLOCKS_MAX && items.bad.insert(id) {
            self.arrived.notify_one();
        }
    }

    /// A command is done, or has failed.
    pub(crate) fn result(&self, command_id: u64, failure: String) {
        self.items().results.insert(command_id, failure);
        self.arrived.notify_one();
    }

    /// Whether the result of a command waits to be told.
    pub(crate) fn has_result(&self, command_id: u64) -> bool {
        self.items().results.contains_key(&command_id)
    }

    /// Returns once there is something new.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Puts the oldest items into a heartbeat.
    pub(crate) fn fill(&self, heartbeat: &mut HeartbeatRequest) {
        let items = self.items();
        let bad = items.bad.iter().take(ITEMS_PER_HEARTBEAT_MAX);
        heartbeat.bad_blocks = bad.map(|id| (*id).into()).collect();
        let results = items.results.iter().take(ITEMS_PER_HEARTBEAT_MAX);
        heartbeat.results = results
            .map(|(&command_id, failure)| CommandResult {
                command_id,
                failure: failure.clone(),
            })
            .collect();
    }

    /// Forgets what an answered heartbeat told.
    pub(crate) fn told(&self, heartbeat: &HeartbeatRequest) {
        let mut items = self.items();
        for block in &heartbeat.bad_blocks {
            if let Ok(id) = BlockId::try_from(Some(block.clone())) {
                items.bad.remove(&id);
            }
        }
        for result in &heartbeat.results {
            items.results.remove(&result.command_id);
        }
        if !items.bad.is_empty() || !items.results.is_empty() {
            self.arrived.notify_one();
        }
    }

    fn items(&self) -> MutexGuard<'_, Items> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
