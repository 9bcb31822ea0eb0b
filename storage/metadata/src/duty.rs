//! Which of several instances over one store has the background duties: the holder of a lease, a record in the store.
//!
//! The record has a term, which every takeover raises, and a beat, which every renewal changes. No clocks are compared:
//! the holder counts from before its renewal, and whoever wants the lease waits until the record has stayed the same for
//! all of its time. What a late holder may still do has to be harmless; a [`Fence`] makes a transaction so.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use strongroom_kv::{Store, Txn};
use strongroom_proto::{Clock, limits::HEARTBEAT_ANSWER_MAX};
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    error::{MetadataError, chain},
    schema::{access, access::transact, keys, records},
};

/// How long the record has to stay the same before another instance takes the duties over.
const LEASE: Duration = Duration::from_secs(12);
/// The holder stops so long before.
const MARGIN: Duration = Duration::from_secs(1);
/// Pauses between renewals, and between looks of those who wait.
const RENEW_EVERY: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long giving the lease up may take; it lapses otherwise.
const GIVE_UP_MAX: Duration = Duration::from_secs(1);

/// This instance and its lease, if it has one.
pub(crate) struct Duty {
    clock: Clock,
    instance: Uuid,
    held: Mutex<Option<Held>>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    term: u64,
    /// Since the machine started.
    until: Duration,
}

/// One term of one instance. What is recorded in its name is void once the term is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fence {
    instance: Uuid,
    term: u64,
}

impl Duty {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            instance: Uuid::new_v4(),
            held: Mutex::default(),
        }
    }

    /// Returns once this instance has the duties.
    pub(crate) async fn win(&self, store: &impl Store) {
        let mut seen = None;
        loop {
            match self.try_win(store, &mut seen).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(error = %chain(&error), "cannot look who has the background duties"),
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Renews the lease; returns once it is lost or has lapsed.
    pub(crate) async fn keep(&self, store: &impl Store) {
        while let Some(fence) = self.fence() {
            let begun = self.clock.since_boot();
            match tokio::time::timeout(RENEW_EVERY, self.renew(store, fence)).await {
                Ok(Ok(true)) => self.hold(fence.term, begun),
                Ok(Ok(false)) => break,
                Ok(Err(error)) => tracing::warn!(error = %chain(&error), "cannot renew the background duties"),
                Err(_) => tracing::warn!("the store is too slow to renew the background duties"),
            }
            sleep(RENEW_EVERY).await;
        }
        *self.lock() = None;
        tracing::warn!("another instance has the background duties now, or the store is away");
    }

    /// Lets others have the duties at once.
    pub(crate) async fn give_up(&self, store: &impl Store) {
        let Some(fence) = self.fence() else { return };
        *self.lock() = None;
        let gone = tokio::time::timeout(GIVE_UP_MAX, transact!(store, [fence], |txn| leave(txn, fence)));
        if !matches!(gone.await, Ok(Ok(()))) {
            tracing::info!("the background duties pass to another instance when their lease has lapsed");
        }
    }

    /// The term under way.
    pub(crate) fn fence(&self) -> Option<Fence> {
        self.fence_for(Duration::ZERO)
    }

    /// The term under way, if an order that is given now is obeyed in it or not at all.
    pub(crate) fn fence_to_order(&self) -> Option<Fence> {
        self.fence_for(HEARTBEAT_ANSWER_MAX)
    }

    fn fence_for(&self, least: Duration) -> Option<Fence> {
        let held = (*self.lock())?;
        (self.clock.since_boot() + least < held.until).then_some(Fence {
            instance: self.instance,
            term: held.term,
        })
    }

    /// Takes the lease if nobody has it, or if its record has stayed as it was `seen` for all of its time.
    async fn try_win(
        &self,
        store: &impl Store,
        seen: &mut Option<(records::Duty, Duration)>,
    ) -> Result<bool, MetadataError> {
        let found = access::duty(&mut store.snapshot().await?).await?.unwrap_or_default();
        let first_seen = match seen {
            Some((same, at)) if *same == found => *at,
            _ => seen.insert((found.clone(), self.clock.since_boot())).1,
        };
        let is_free = found.holder.is_empty() || !store.is_shared();
        if !is_free && self.clock.since_boot() < first_seen + LEASE {
            return Ok(false);
        }
        let begun = self.clock.since_boot();
        let next = records::Duty {
            holder: self.instance.into_bytes().to_vec().into(),
            term: found.term + 1,
            beat: 0,
        };
        let term = next.term;
        if !transact!(store, [found, next], |txn| exchange(txn, &found, &next)).await? {
            return Ok(false);
        }
        self.hold(term, begun);
        tracing::info!(term, "this instance has the background duties");
        Ok(true)
    }

    async fn renew(&self, store: &impl Store, fence: Fence) -> Result<bool, MetadataError> {
        transact!(store, [fence], |txn| beat(txn, fence)).await
    }

    fn hold(&self, term: u64, begun: Duration) {
        let until = begun + (LEASE - MARGIN);
        *self.lock() = Some(Held { term, until });
    }

    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an instance that lives has the duties of `store`, by the record changing within the time that it has for that.
pub(crate) async fn is_held(store: &impl Store, clock: &Clock) -> Result<bool, MetadataError> {
    let first = access::duty(&mut store.snapshot().await?).await?.unwrap_or_default();
    if first.holder.is_empty() || !store.is_shared() {
        return Ok(false);
    }
    let begun = clock.since_boot();
    while clock.since_boot() < begun + LEASE {
        sleep(LOOK_EVERY).await;
        if access::duty(&mut store.snapshot().await?).await?.unwrap_or_default() != first {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Fence {
    pub(crate) const fn term(self) -> u64 {
        self.term
    }

    /// Whether the term is still under way when `txn` commits.
    pub(crate) async fn holds(&self, txn: &mut impl Txn) -> Result<bool, MetadataError> {
        Ok(self.record(txn).await?.is_some())
    }

    /// The lease's record, if it is this term's.
    async fn record(&self, txn: &mut impl Txn) -> Result<Option<records::Duty>, MetadataError> {
        let found = access::duty(txn).await?;
        Ok(found.filter(|duty| duty.term == self.term && duty.holder.as_ref() == self.instance.as_bytes()))
    }
}

async fn exchange(txn: &mut impl Txn, seen: &records::Duty, next: &records::Duty) -> Result<bool, MetadataError> {
    let is_same = access::duty(txn).await?.unwrap_or_default() == *seen;
    if is_same {
        access::put(txn, &keys::duty(), next);
    }
    Ok(is_same)
}

async fn beat(txn: &mut impl Txn, fence: Fence) -> Result<bool, MetadataError> {
    let Some(mut duty) = fence.record(txn).await? else {
        return Ok(false);
    };
    duty.beat += 1;
    access::put(txn, &keys::duty(), &duty);
    Ok(true)
}

/// The term stays, so that the next one is another.
async fn leave(txn: &mut impl Txn, fence: Fence) -> Result<(), MetadataError> {
    if let Some(mut duty) = fence.record(txn).await? {
        duty.holder.clear();
        access::put(txn, &keys::duty(), &duty);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use strongroom_kv::{EmbeddedStore, Reader};
    use strongroom_proto::{BlockId, ExtentId, NodeId};

    use super::*;
    use crate::{cluster::replicas::deleted, schema::counted};

    async fn holds(store: &EmbeddedStore, fence: Fence) -> bool {
        let mut txn = store.begin().await.expect("a transaction");
        fence.holds(&mut txn).await.expect("readable")
    }

    /// The embedded engine lets a second instance take over at once, as a database does after the time of the lease.
    #[tokio::test]
    async fn what_a_late_holder_records_is_void() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = EmbeddedStore::open(&dir.path().join("store")).expect("a store");
        let (first, second) = (Duty::new(Clock::system()), Duty::new(Clock::system()));
        first.win(&store).await;
        let late = first.fence().expect("it has just won");
        assert!(holds(&store, late).await && first.fence_to_order().is_some());
        second.win(&store).await;
        assert!(!holds(&store, late).await, "another term");

        let node: NodeId = "n1".parse().expect("valid");
        let block = BlockId {
            extent: ExtentId::from_bytes([1; 16]),
            index: 0,
        };
        let mut txn = store.begin().await.expect("a transaction");
        counted::put_garbage(&mut txn, &node, &[block]).await.expect("put");
        txn.commit().await.expect("committed");
        let is_garbage = async || {
            let mut txn = store.begin().await.expect("a transaction");
            txn.get(&keys::garbage(&node, block)).await.expect("readable").is_some()
        };
        deleted(&store, &node, vec![block], late).await.expect("heard");
        assert!(is_garbage().await, "the new holder may have told the node otherwise");
        let fence = second.fence().expect("it has the duties");
        deleted(&store, &node, vec![block], fence).await.expect("heard");
        assert!(!is_garbage().await);

        first.keep(&store).await;
        assert!(first.fence().is_none(), "it finds out when it renews");
        second.give_up(&store).await;
        first.win(&store).await;
        assert_eq!(first.fence().expect("it has won again").term, 3, "no term comes twice");
    }
}
