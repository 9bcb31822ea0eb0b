//! EDEKs held ready per zone, so that a create does not wait for the token and goes on through a short outage of
//! the key service. In memory only: an EDEK lost with the process was never used.
//!
//! Each zone is filled by a task of its own, with bounded tries and a pause that grows; a limit per key keeps one
//! bad key from taking all places.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use strongroom_proto::{Edek, EdekSuite, Failure, KeyName, KeyVersion, Reason, ZoneId};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::source::{EdekSource, Minted};
use crate::{Clock, config::Settings, error::MetadataError};

/// Tries of one refill; the next create starts another.
const TRIES_MAX: u32 = 6;
/// The first pause after a failed try; it doubles up to the second.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Mint calls under way at once, in all and for one key.
const CALLS_MAX: usize = 16;
const CALLS_PER_KEY_MAX: usize = 2;

/// The EDEKs in stock for every zone.
pub(crate) struct Stock<E> {
    shared: Arc<Shared<E>>,
}

struct Shared<E> {
    source: Arc<E>,
    clock: Clock,
    settings: Settings,
    calls: Semaphore,
    keys: Mutex<HashMap<KeyName, Arc<Semaphore>>>,
    zones: Mutex<HashMap<ZoneId, Arc<Shelf>>>,
    /// The key at which the last round that looked for rolls ended early.
    looked_to: Mutex<Option<KeyName>>,
}

/// The stock of one zone.
struct Shelf {
    zone: ZoneId,
    key: KeyName,
    state: Mutex<ShelfState>,
    /// Told whenever EDEKs came or a refill gave up.
    changed: Notify,
}

#[derive(Default)]
struct ShelfState {
    edeks: VecDeque<Ready>,
    /// Nothing older may be handed out.
    version_min: Option<KeyVersion>,
    /// Counts the times the stock was dropped: a mint begun before a drop does not fill it again.
    generation: u64,
    refilling: bool,
    failure: Option<Failure>,
}

struct Ready {
    version: KeyVersion,
    suite: EdekSuite,
    wrapped: Bytes,
    minted_ms: u64,
}

impl<E: EdekSource> Stock<E> {
    pub(crate) fn new(source: Arc<E>, clock: Clock, settings: Settings) -> Self {
        let shared = Shared {
            source,
            clock,
            settings,
            calls: Semaphore::new(CALLS_MAX),
            keys: Mutex::default(),
            zones: Mutex::default(),
            looked_to: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// An EDEK that nobody had before, of at least `version_min`. Waits for the key service when there is none.
    ///
    /// # Errors
    /// What the key service said last, once the wait of `mint_wait_ms` is over or waiting is no use.
    pub(crate) async fn take(
        &self,
        zone: ZoneId,
        key: &KeyName,
        version_min: KeyVersion,
    ) -> Result<Edek, MetadataError> {
        let deadline = Instant::now() + Duration::from_millis(self.shared.settings.mint_wait_ms);
        loop {
            // Another one, after the stock was dropped.
            let shelf = self.shared.shelf(zone, key);
            let changed = shelf.changed.notified();
            if let Some(edek) = self.pop(&shelf, version_min) {
                return Ok(edek);
            }
            if timeout_at(deadline, changed).await.is_err() {
                return Err(self.shared.empty(&shelf).into());
            }
            if let Some(failure) = shelf.lasting_failure() {
                return Err(failure.into());
            }
        }
    }

    /// The same, if there is one now. What is missing is minted meanwhile.
    pub(crate) fn ready(&self, zone: ZoneId, key: &KeyName, version_min: KeyVersion) -> Option<Edek> {
        self.pop(&self.shared.shelf(zone, key), version_min)
    }

    fn pop(&self, shelf: &Arc<Shelf>, version_min: KeyVersion) -> Option<Edek> {
        let now_ms = self.shared.clock.now_ms();
        let mut state = shelf.lock();
        state.raise(version_min);
        state.drop_older(now_ms, self.shared.settings.stock_age_ms);
        let ready = state.edeks.pop_front();
        let low = state.edeks.len() < self.shared.settings.stock_low_edeks || ready.is_none();
        if low && !state.refilling {
            state.refilling = true;
            state.failure = None;
            tokio::spawn(refill(Arc::clone(&self.shared), Arc::clone(shelf), state.generation));
        }
        drop(state);
        ready.map(|ready| shelf.edek(ready))
    }

    /// Throws away the stock of a zone and what is being minted for it.
    pub(crate) fn drop_zone(&self, zone: ZoneId) {
        let shelf = lock(&self.shared.zones).remove(&zone);
        if let Some(shelf) = shelf {
            let mut state = shelf.lock();
            state.generation += 1;
            state.edeks.clear();
            drop(state);
            shelf.changed.notify_waiters();
        }
    }

    /// Fills the stock of a zone ahead of its first create.
    pub(crate) fn warm(&self, zone: ZoneId, key: &KeyName) {
        let shelf = self.shared.shelf(zone, key);
        let mut state = shelf.lock();
        if state.edeks.len() < self.shared.settings.stock_edeks && !state.refilling {
            state.refilling = true;
            tokio::spawn(refill(Arc::clone(&self.shared), Arc::clone(&shelf), state.generation));
        }
    }

    /// A version of `key` is known to exist: older EDEKs of it are not handed out any more, in whichever zone.
    pub(crate) fn learned(&self, key: &KeyName, version: KeyVersion) {
        self.shared.learned(key, version);
    }

    /// Asks which version each key in stock mints under now, so that a roll drains also the stock of a zone where no file is
    /// made. The first key that cannot be asked now ends the round, since it may be the key service that is away; the next round begins
    /// behind it, so that a key that is away alone keeps no other from being asked.
    pub(crate) async fn look_for_rolls(&self) {
        let mut stocked: Vec<_> = self.shared.stocked_keys().into_iter().collect();
        let ended_at = lock(&self.shared.looked_to).clone();
        let behind = stocked.partition_point(|(key, _)| ended_at.as_ref().is_some_and(|end| key <= end));
        stocked.rotate_left(behind);
        for (key, shelf) in stocked {
            match self.shared.mint(&shelf, 0).await {
                Ok(current) => self.shared.learned(&key, current.version),
                Err(failure) if failure.is_transient() => {
                    *lock(&self.shared.looked_to) = Some(key);
                    return;
                }
                Err(failure) => tracing::warn!(%key, %failure, "cannot ask whether a key was rolled"),
            }
        }
    }

    /// Throws away what is older than `version` in the stock of one zone, now and when it comes.
    pub(crate) fn raise(&self, zone: ZoneId, version: KeyVersion) {
        let shelf = lock(&self.shared.zones).get(&zone).cloned();
        if let Some(shelf) = shelf {
            shelf.lock().raise(version);
        }
    }

    /// Zones that have a stock.
    pub(crate) fn zones(&self) -> Vec<ZoneId> {
        lock(&self.shared.zones).keys().copied().collect()
    }

    /// EDEKs ready for a zone now.
    pub(crate) fn count(&self, zone: ZoneId) -> usize {
        let shelf = lock(&self.shared.zones).get(&zone).cloned();
        shelf.map_or(0, |shelf| shelf.lock().edeks.len())
    }
}

impl<E: EdekSource> Shared<E> {
    fn shelf(&self, zone: ZoneId, key: &KeyName) -> Arc<Shelf> {
        let mut zones = lock(&self.zones);
        // A zone that was removed may have been made again under another key.
        if let Some(shelf) = zones.get(&zone).filter(|shelf| shelf.key == *key) {
            return Arc::clone(shelf);
        }
        let shelf = Arc::new(Shelf {
            zone,
            key: key.clone(),
            state: Mutex::default(),
            changed: Notify::new(),
        });
        zones.insert(zone, Arc::clone(&shelf));
        shelf
    }

    /// The keys that have EDEKs in stock, each with a shelf that has some.
    fn stocked_keys(&self) -> BTreeMap<KeyName, Arc<Shelf>> {
        let zones = lock(&self.zones);
        let stocked = zones.values().filter(|shelf| !shelf.lock().edeks.is_empty());
        stocked.map(|shelf| (shelf.key.clone(), Arc::clone(shelf))).collect()
    }

    fn learned(&self, key: &KeyName, version: KeyVersion) {
        let zones: Vec<_> = lock(&self.zones).values().cloned().collect();
        for shelf in zones.iter().filter(|shelf| shelf.key == *key) {
            shelf.lock().raise(version);
        }
    }

    /// What to say when the wait for an EDEK is over.
    fn empty(&self, shelf: &Shelf) -> Failure {
        let key = &shelf.key;
        let waited_ms = self.settings.mint_wait_ms;
        match shelf.lock().failure.clone() {
            Some(failure) => Failure::new(
                failure.reason,
                format!(
                    "no EDEK of key {key} could be had for {waited_ms} ms: {}",
                    failure.message
                ),
            ),
            None => Failure::new(
                Reason::Unavailable,
                format!("the key service gave no EDEK of key {key} for {waited_ms} ms; check that it runs"),
            ),
        }
    }

    async fn mint(&self, shelf: &Shelf, count: usize) -> Result<Minted, Failure> {
        let of_key = {
            let mut keys = lock(&self.keys);
            let limit = keys
                .entry(shelf.key.clone())
                .or_insert_with(|| Arc::new(Semaphore::new(CALLS_PER_KEY_MAX)));
            Arc::clone(limit)
        };
        let _of_key = of_key.acquire().await.map_err(closed)?;
        let _of_all = self.calls.acquire().await.map_err(closed)?;
        let wait = Duration::from_millis(self.settings.mint_wait_ms);
        match timeout(wait, self.source.mint(&shelf.key, &shelf.zone, count)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::new(
                Reason::DeadlineExceeded,
                format!("the key service did not answer for {} ms", wait.as_millis()),
            )),
        }
    }
}

fn closed(_: tokio::sync::AcquireError) -> Failure {
    Failure::new(Reason::Internal, "the stock of EDEKs is closed")
}

/// Fills a shelf up, with bounded tries.
async fn refill<E: EdekSource>(shared: Arc<Shared<E>>, shelf: Arc<Shelf>, generation: u64) {
    let mut pause = PAUSE_FIRST;
    for attempt in 1..=TRIES_MAX {
        let missing = shared.settings.stock_edeks.saturating_sub(shelf.lock().edeks.len());
        if missing == 0 {
            break;
        }
        match shared.mint(&shelf, missing).await {
            Ok(minted) => {
                shared.learned(&shelf.key, minted.version);
                shelf.accept(minted, generation, shared.clock.now_ms());
                break;
            }
            Err(failure) => {
                let (key, zone) = (&shelf.key, &shelf.zone);
                tracing::warn!(%key, %zone, attempt, reason = %failure.reason, %failure, "cannot mint EDEKs");
                let lasting = !failure.is_transient();
                shelf.lock().failure = Some(failure);
                if lasting {
                    break;
                }
                shelf.changed.notify_waiters();
            }
        }
        if attempt < TRIES_MAX {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
    shelf.lock().refilling = false;
    shelf.changed.notify_waiters();
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, ShelfState> {
        lock(&self.state)
    }

    fn accept(&self, minted: Minted, generation: u64, now_ms: u64) {
        let mut state = self.lock();
        state.failure = None;
        if state.generation == generation {
            state.add(minted, now_ms);
        }
    }

    /// A failure that waiting does not cure, if the last refill ended in one.
    fn lasting_failure(&self) -> Option<Failure> {
        let state = self.lock();
        let failure = state.failure.clone()?;
        (!failure.is_transient() && state.edeks.is_empty() && !state.refilling).then_some(failure)
    }

    fn edek(&self, ready: Ready) -> Edek {
        Edek {
            key: self.key.clone(),
            version: ready.version,
            zone: self.zone,
            suite: ready.suite,
            wrapped: ready.wrapped,
        }
    }
}

impl ShelfState {
    /// Adds fresh EDEKs. A newer version than seen before drops all older ones.
    fn add(&mut self, minted: Minted, minted_ms: u64) {
        self.raise(minted.version);
        if Some(minted.version) < self.version_min {
            return;
        }
        let Minted {
            version, suite, edeks, ..
        } = minted;
        self.edeks.extend(edeks.into_iter().map(|wrapped| Ready {
            version,
            suite,
            wrapped,
            minted_ms,
        }));
    }

    fn raise(&mut self, version: KeyVersion) {
        if self.version_min < Some(version) {
            self.version_min = Some(version);
            self.edeks.retain(|ready| ready.version >= version);
        }
    }

    /// Has the first EDEK be one that may be handed out.
    fn drop_older(&mut self, now_ms: u64, age_ms: u64) {
        let is_old = |ready: &Ready| now_ms.saturating_sub(ready.minted_ms) >= age_ms;
        while self.edeks.front().is_some_and(is_old) {
            self.edeks.pop_front();
        }
    }
}

/// The lock, also after a panic elsewhere: every critical section leaves the state whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
