//! The database that the metadata services share, in memory: strictly serializable, as its trait demands, slow at random,
//! and now and then out of reach. A commit that was cut off on the way happened or did not, and nobody is told which.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use strongroom_kv::{CommitError, Reader, Store, StoreError, Txn, counter};
use tokio::time::sleep;

use crate::{
    chance::{below, between_ms, one_in},
    sabotage::Sabotage,
};

/// The database.
pub(crate) struct Database {
    state: Mutex<State>,
    sabotage: Option<Sabotage>,
}

#[derive(Default)]
struct State {
    values: Arc<BTreeMap<Bytes, Bytes>>,
    /// What they were a while ago.
    before: Arc<BTreeMap<Bytes, Bytes>>,
    /// The keys that each commit wrote, by its number.
    log: Vec<BTreeSet<Bytes>>,
    /// Instances that do not reach it.
    cut_off: BTreeSet<usize>,
}

impl Database {
    pub(crate) fn new(sabotage: Option<Sabotage>) -> Self {
        Self {
            state: Mutex::default(),
            sabotage,
        }
    }

    /// Whether it lies this once.
    fn lies(&self, sabotage: Sabotage) -> bool {
        self.sabotage == Some(sabotage) && one_in(10)
    }

    /// The database as an instance reaches it.
    pub(crate) fn handle(self: &Arc<Self>, instance: usize) -> MemoryStore {
        MemoryStore {
            database: Arc::clone(self),
            instance,
        }
    }

    /// Cuts an instance off, or lets it in again.
    pub(crate) fn cut_off(&self, instance: usize, is_cut_off: bool) {
        let mut state = self.lock();
        if is_cut_off {
            state.cut_off.insert(instance);
        } else {
            state.cut_off.remove(&instance);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One instance's way to the database.
#[derive(Clone)]
pub(crate) struct MemoryStore {
    database: Arc<Database>,
    instance: usize,
}

impl MemoryStore {
    /// Most calls are quick, some are slow.
    async fn travel(&self) {
        match below(16) {
            0 => sleep(between_ms(1, 60)).await,
            1..6 => sleep(between_ms(1, 4)).await,
            _ => {}
        }
    }

    /// # Errors
    /// If the instance is cut off.
    fn reach(&self, what: &'static str) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.database.lock();
        if state.cut_off.contains(&self.instance) {
            return Err(StoreError::Unreachable {
                database: "simulated".into(),
                what,
                source: Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
            });
        }
        Ok(state)
    }
}

impl Store for MemoryStore {
    type Txn = MemoryTxn;
    type Snapshot = View;

    async fn begin(&self) -> Result<MemoryTxn, StoreError> {
        Ok(MemoryTxn {
            view: self.snapshot().await?,
            keys: BTreeSet::new(),
            ranges: BTreeSet::new(),
            writes: BTreeMap::new(),
            refused: None,
        })
    }

    async fn snapshot(&self) -> Result<View, StoreError> {
        self.travel().await;
        let state = self.reach("begin")?;
        let values = if self.database.lies(Sabotage::StaleReads) {
            &state.before
        } else {
            &state.values
        };
        Ok(View {
            values: Arc::clone(values),
            sequence: state.log.len(),
            store: self.clone(),
        })
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// The database as it was after the first `sequence` commits.
pub(crate) struct View {
    store: MemoryStore,
    values: Arc<BTreeMap<Bytes, Bytes>>,
    sequence: usize,
}

impl Reader for View {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.store.travel().await;
        drop(self.store.reach("read")?);
        Ok(self.values.get(key).cloned())
    }

    async fn range(&mut self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.store.travel().await;
        drop(self.store.reach("read")?);
        let found = span(&self.values, start, end).take(limit);
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

enum Write {
    Put(Bytes),
    Delete,
    Add { by: i64, max: i64 },
}

impl Write {
    /// What is under `key` after it, where `stored` was before.
    fn over(&self, key: &[u8], stored: Option<&Bytes>) -> Result<Option<Bytes>, StoreError> {
        let (by, max) = match self {
            Self::Put(value) => return Ok(Some(value.clone())),
            Self::Delete => return Ok(None),
            Self::Add { by, max } => (*by, *max),
        };
        let next = counter(key, stored.map(AsRef::as_ref))?.checked_add(by);
        match next.filter(|next| by <= 0 || *next <= max) {
            Some(0) => Ok(None),
            Some(next) => Ok(Some(Bytes::copy_from_slice(&next.to_be_bytes()))),
            None => Err(StoreError::CounterOver {
                key: Bytes::copy_from_slice(key),
                max,
            }),
        }
    }
}

/// A transaction of a [`MemoryStore`].
pub(crate) struct MemoryTxn {
    view: View,
    keys: BTreeSet<Bytes>,
    ranges: BTreeSet<(Bytes, Bytes)>,
    writes: BTreeMap<Bytes, Write>,
    refused: Option<StoreError>,
}

impl Reader for MemoryTxn {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let stored = match self.writes.get(key) {
            Some(Write::Put(value)) => return Ok(Some(value.clone())),
            Some(Write::Delete) => return Ok(None),
            Some(Write::Add { .. }) | None => self.view.get(key).await?,
        };
        self.keys.insert(Bytes::copy_from_slice(key));
        match self.writes.get(key) {
            Some(write) => write.over(key, stored.as_ref()),
            None => Ok(stored),
        }
    }

    async fn range(&mut self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let mut merged: BTreeMap<Bytes, Bytes> = self.view.range(start, end, usize::MAX).await?.into_iter().collect();
        for (key, write) in span(&self.writes, start, end) {
            match write.over(key, merged.get(key))? {
                Some(value) => _ = merged.insert(key.clone(), value),
                None => _ = merged.remove(key),
            }
        }
        let found: Vec<_> = merged.into_iter().take(limit).collect();
        let end = match found.last() {
            Some((last, _)) if found.len() == limit => [last, &[0][..]].concat().into(),
            _ => Bytes::copy_from_slice(end),
        };
        self.ranges.insert((Bytes::copy_from_slice(start), end));
        Ok(found)
    }
}

impl Txn for MemoryTxn {
    fn put(&mut self, key: &[u8], value: impl Into<Bytes>) {
        self.writes
            .insert(Bytes::copy_from_slice(key), Write::Put(value.into()));
    }

    fn delete(&mut self, key: &[u8]) {
        self.writes.insert(Bytes::copy_from_slice(key), Write::Delete);
    }

    fn add(&mut self, key: &[u8], by: i64, max: i64) {
        let sum = match self.writes.get(key) {
            None => Write::Add { by, max },
            Some(Write::Add { by: first, max: least }) => Write::Add {
                by: first.saturating_add(by),
                max: max.min(*least),
            },
            Some(Write::Delete) => self.added(key, None, by, max),
            Some(Write::Put(value)) => {
                let value = value.clone();
                self.added(key, Some(&value), by, max)
            }
        };
        self.writes.insert(Bytes::copy_from_slice(key), sum);
    }

    fn is_overtaken(&self) -> bool {
        false
    }

    async fn commit(self) -> Result<(), CommitError> {
        if let Some(refused) = self.refused {
            return Err(refused.into());
        }
        if self.writes.is_empty() {
            return Ok(());
        }
        let store = self.view.store.clone();
        store.travel().await;
        self.apply()?;
        store.travel().await;
        // What the database did stays done; the answer may be lost on the way.
        drop(store.reach("commit").map_err(|_| unknown())?);
        if one_in(2_000) {
            sleep(Duration::from_secs(1)).await;
            return Err(unknown().into());
        }
        Ok(())
    }
}

impl MemoryTxn {
    fn added(&mut self, key: &[u8], stored: Option<&Bytes>, by: i64, max: i64) -> Write {
        match (Write::Add { by, max }).over(key, stored) {
            Ok(Some(value)) => Write::Put(value),
            Ok(None) => Write::Delete,
            Err(error) => {
                self.refused.get_or_insert(error);
                Write::Delete
            }
        }
    }

    fn apply(&self) -> Result<(), CommitError> {
        let mut state = self.view.store.reach("commit")?;
        let database = &self.view.store.database;
        let is_lost = state.log[self.view.sequence..].iter().any(|wrote| self.read_any(wrote));
        if is_lost && database.sabotage != Some(Sabotage::NoConflicts) {
            return Err(CommitError::Conflict);
        }
        let mut changes = Vec::with_capacity(self.writes.len());
        for (key, write) in &self.writes {
            changes.push((key.clone(), write.over(key, state.values.get(key))?));
        }
        if database.lies(Sabotage::LostCommits) {
            return Ok(());
        }
        if state.log.len().is_multiple_of(20) {
            state.before = Arc::clone(&state.values);
        }
        state.log.push(self.writes.keys().cloned().collect());
        let values = Arc::make_mut(&mut state.values);
        for (key, value) in changes {
            match value {
                Some(value) => _ = values.insert(key, value),
                None => _ = values.remove(&key),
            }
        }
        Ok(())
    }

    fn read_any(&self, wrote: &BTreeSet<Bytes>) -> bool {
        let in_range =
            |(start, end): &(Bytes, Bytes)| start < end && wrote.range(start.clone()..end.clone()).next().is_some();
        wrote.iter().any(|key| self.keys.contains(key)) || self.ranges.iter().any(in_range)
    }
}

fn unknown() -> StoreError {
    StoreError::OutcomeUnknown {
        database: "simulated".into(),
    }
}

fn span<'m, V>(map: &'m BTreeMap<Bytes, V>, start: &[u8], end: &[u8]) -> impl Iterator<Item = (&'m Bytes, &'m V)> {
    let end = if start < end { end } else { start };
    map.range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)))
}
