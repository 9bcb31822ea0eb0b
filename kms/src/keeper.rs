//! What the service does by itself, once a second: rolls and destructions that are due, and the record of last uses. Of
//! several instances one does what is due.
//!
//! Nothing is kept here that a restart would lose: what is due is in the store. Only the pauses after failures start
//! anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use strongroom_proto::{Failure, KeyName, KeyVersion, Reason};
use tokio::time::{MissedTickBehavior, interval};

use crate::{api::Desk, audit::Entry, hsm::Hsm, keys::Target};

/// How often it looks what is due.
const TICK: Duration = Duration::from_secs(1);
/// Looks between two records of last uses, which are kept to the minute anyway.
const USES_TICKS: u64 = 30;
/// Pause after a first failure, doubled with each further one, up to the longest.
const PAUSE_FIRST_MS: u64 = 10_000;
const PAUSE_MAX_MS: u64 = 3600 * 1000;

/// Works for as long as it is let.
pub(crate) async fn keep<H: Hsm>(desk: Arc<Desk<H>>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut pauses, mut destructions) = (Pauses::default(), Pauses::default());
    for tick in 0_u64.. {
        ticks.tick().await;
        rotate(&desk, &mut pauses).await;
        if desk.keys.leads() {
            destroy(&desk, &mut destructions).await;
        }
        if tick % USES_TICKS == 0 {
            store_uses(&desk).await;
        }
    }
}

/// Records when versions were last used.
pub(crate) async fn store_uses<H: Hsm>(desk: &Desk<H>) {
    if let Err(failure) = desk.keys.store_uses().await {
        tracing::warn!(reason = %failure.reason, "last uses of key versions cannot be recorded: {failure}");
    }
}

async fn rotate<H: Hsm>(desk: &Arc<Desk<H>>, pauses: &mut Pauses) {
    let due = desk.keys.rolls_due();
    pauses.keep_only(&due);
    for name in due {
        let now_ms = desk.clock.now_ms();
        if pauses.is_over(&name, now_ms) {
            let roll = tokio::spawn(roll(Arc::clone(desk), name.clone()));
            let outcome = roll.await.unwrap_or_else(|_| Err(cut_off(&name)));
            pauses.note(&name, &outcome, now_ms);
        }
    }
}

/// Rolls a key that is due, with its audit records. In a task of its own, since it must not be dropped half way.
async fn roll<H: Hsm>(desk: Arc<Desk<H>>, name: KeyName) -> Result<(), Failure> {
    let entry = Entry::of_service("service kms", "roll").key(&name);
    desk.record(vec![entry.clone().started()]).await?;
    let outcome = desk.keys.roll_due(&name).await;
    let entry = match &outcome {
        Ok(key) => entry.version(key.as_ref().and_then(|key| key.current_version).map(KeyVersion)),
        Err(failure) => entry.failed(failure),
    };
    desk.record(vec![entry]).await?;
    if let Some(key) = outcome? {
        tracing::info!(key = %name, version = key.current_version, "rolled by itself, being as old as its rotation period or worn");
    }
    Ok(())
}

async fn destroy<H: Hsm>(desk: &Arc<Desk<H>>, pauses: &mut Pauses) {
    for (name, target) in desk.keys.destructions_due() {
        let now_ms = desk.clock.now_ms();
        if pauses.is_over(&name, now_ms) {
            let destroy = tokio::spawn(destroy_one(Arc::clone(desk), name.clone(), target));
            let outcome = destroy.await.unwrap_or_else(|_| Err(cut_off(&name)));
            pauses.note(&name, &outcome, now_ms);
        }
    }
}

/// Destroys what is due: a record that it begins, in the token, then the receipts, then the record that nothing is left.
async fn destroy_one<H: Hsm>(desk: Arc<Desk<H>>, name: KeyName, target: Target) -> Result<(), Failure> {
    // While the audit log cannot be written, nothing is destroyed.
    let begins = Entry::of_service("service kms", "destroy").key(&name);
    let begins = match target {
        Target::Key => begins,
        Target::Version(version) => begins.version(Some(version)),
    };
    desk.record(vec![begins.started()]).await?;
    let Some(receipts) = desk.keys.destroy(&name, target).await? else {
        return Ok(());
    };
    let entry = |(version, receipt)| {
        let entry = Entry::of_service("service kms", "destroy").key(&name);
        entry.version(Some(version)).receipt(receipt)
    };
    desk.record(receipts.into_iter().map(entry).collect()).await?;
    desk.keys.bury(&name, target).await
}

fn cut_off(name: &KeyName) -> Failure {
    Failure::new(Reason::Internal, format!("what was due of key {name} was cut off"))
}

/// Keys whose rolls failed: how often, and when to try again.
#[derive(Debug, Default)]
struct Pauses(BTreeMap<KeyName, (u32, u64)>);

impl Pauses {
    fn is_over(&self, name: &KeyName, now_ms: u64) -> bool {
        self.0.get(name).is_none_or(|&(_, until_ms)| until_ms <= now_ms)
    }

    fn note(&mut self, name: &KeyName, outcome: &Result<(), Failure>, now_ms: u64) {
        let Err(failure) = outcome else {
            self.0.remove(name);
            return;
        };
        let (failures, until_ms) = self.0.entry(name.clone()).or_default();
        let pause_ms = PAUSE_FIRST_MS
            .saturating_mul(1 << (*failures).min(16))
            .min(PAUSE_MAX_MS);
        *failures = failures.saturating_add(1);
        *until_ms = now_ms.saturating_add(pause_ms);
        tracing::error!(key = %name, failures, retry_ms = pause_ms, reason = %failure.reason, "what is due of a key cannot be done: {failure}");
    }

    fn keep_only(&mut self, due: &[KeyName]) {
        let due: BTreeSet<&KeyName> = due.iter().collect();
        self.0.retain(|name, _| due.contains(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_an_hour_and_end_with_success() {
        let name: KeyName = "payroll".parse().expect("a key name");
        let failed = Err(cut_off(&name));
        let mut pauses = Pauses::default();
        assert!(pauses.is_over(&name, 0));
        let mut pause_ms = PAUSE_FIRST_MS;
        for _ in 0..40 {
            pauses.note(&name, &failed, 5);
            assert!(!pauses.is_over(&name, 4 + pause_ms) && pauses.is_over(&name, 5 + pause_ms));
            pause_ms = (pause_ms * 2).min(PAUSE_MAX_MS);
        }
        pauses.note(&name, &Ok(()), 5);
        assert!(pauses.is_over(&name, 5));
    }
}
