//! The duty of the background: lets the clock of the trash go on, makes checkpoints and removes old ones. A round looks at a bounded
//! number of trashes, and one that fails keeps no other from its turn.

use std::time::Duration;

use bytes::Bytes;
use strongroom_kv::{Store, Txn};
use tokio::time::Instant;

use super::{
    emptying::{self, Done, Room, Rule, Trash},
    verdict::For,
};
use crate::{
    config::Settings,
    core::Core,
    duty::Fence,
    error::{MetadataError, chain},
    schema::{access, access::transact, keys},
    zones::source::EdekSource,
};

/// Trashes looked at in one round.
const TRASHES_PER_ROUND: usize = 500;
/// Bounds of the pause between two looks at all trashes, which is otherwise a part of the shorter of the two times.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(300);
const LOOKS_IN_THE_TIME: u64 = 24;

/// How often all trashes are looked at.
pub(crate) fn pause(settings: &Settings) -> Duration {
    let time_ms = settings.trash_ms.min(checkpoint_after_ms(settings));
    Duration::from_millis(time_ms / LOOKS_IN_THE_TIME).clamp(PAUSE_MIN, PAUSE_MAX)
}

/// How old a checkpoint has to be by the clock of the trash. That goes on at looks alone: one that is made between two of them is taken
/// for older than it is by up to a pause.
pub(crate) fn expire_after_ms(settings: &Settings) -> u64 {
    match settings.trash_ms {
        0 => 0,
        given => given + u64::try_from(pause(settings).as_millis()).unwrap_or(0),
    }
}

/// How old what was removed has to be before it becomes a checkpoint: what is configured, or as long as a checkpoint is kept.
fn checkpoint_after_ms(settings: &Settings) -> u64 {
    match settings.trash_checkpoint_ms {
        0 => settings.trash_ms,
        given => given.min(settings.trash_ms),
    }
}

/// Where the last round stopped, and since when the clock of the trash stands.
#[derive(Debug)]
pub(crate) struct Rounds {
    after: Option<Bytes>,
    since: Instant,
}

impl Rounds {
    pub(crate) fn new() -> Self {
        Self {
            after: None,
            since: Instant::now(),
        }
    }

    /// Looks at some trashes. Says whether others are left to look at.
    pub(crate) async fn run<S: Store, E: EdekSource>(&mut self, core: &Core<S, E>) -> Result<bool, MetadataError> {
        let Some(fence) = core.duty.fence() else {
            return Ok(false);
        };
        let range = match self.after.take() {
            Some(after) => keys::trashes().after(&after),
            None => keys::trashes(),
        };
        let found = access::page(&mut core.store.snapshot().await?, &range, TRASHES_PER_ROUND).await?;
        if found.is_empty() {
            self.since = Instant::now();
            return Ok(false);
        }
        self.pass(&core.store, fence).await?;
        let rule = Rule {
            now_ms: core.clock.now_ms(),
            checkpoint_after_ms: checkpoint_after_ms(&core.settings),
            expire_after_ms: expire_after_ms(&core.settings),
        };
        let mut is_left = false;
        for (key, _) in &found {
            // Should this one fail, the next round begins behind it.
            self.after = Some(key.clone());
            let trash = Trash::of(key)?;
            match tend(core, &trash, rule).await {
                Ok(is_more) => is_left |= is_more,
                Err(error @ MetadataError::Store(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(user = %trash.user, error = %chain(&error), "a trash is left as it is");
                }
            }
        }
        if found.len() < TRASHES_PER_ROUND {
            self.after = None;
        }
        Ok(self.after.is_some() || is_left)
    }

    /// Lets the clock go on by what passed since it was set last, if this instance still has the duties.
    async fn pass(&mut self, store: &impl Store, fence: Fence) -> Result<(), MetadataError> {
        let now = Instant::now();
        let passed_ms = u64::try_from((now - self.since).as_millis()).unwrap_or(u64::MAX);
        // Also if nobody knows whether it was committed: the clock may be late, and never early.
        self.since = now;
        transact!(store, [], |txn| pass_in(txn, fence, passed_ms)).await
    }
}

/// Looks at one trash. Says whether others of its checkpoints are left to remove.
async fn tend<S: Store, E: EdekSource>(core: &Core<S, E>, trash: &Trash, rule: Rule) -> Result<bool, MetadataError> {
    let done = transact!(&core.store, [trash], |txn| tend_in(txn, &trash, rule)).await?;
    let Some(done) = done else { return Ok(false) };
    if done.work {
        core.work.notify_one();
    }
    if let Some(checkpoint) = done.too_large {
        transact!(&core.store, [trash], |txn| emptying::shrink(
            txn,
            &trash,
            checkpoint,
            rule.now_ms
        ))
        .await?;
    }
    Ok(done.more)
}

async fn tend_in(txn: &mut impl Txn, trash: &Trash, rule: Rule) -> Result<Option<Done>, MetadataError> {
    let mut room = Room::ALL;
    emptying::tend(txn, trash, rule, &For::Anybody, None, &mut room).await
}

async fn pass_in(txn: &mut impl Txn, fence: Fence, passed_ms: u64) -> Result<(), MetadataError> {
    if fence.holds(txn).await? {
        emptying::pass(txn, passed_ms).await?;
    }
    Ok(())
}
