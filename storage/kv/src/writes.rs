//! What a transaction wants to write, held back until it commits. Every engine keeps its writes so.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;

use crate::{
    StoreError,
    counter::Delta,
    limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX, WRITE_BYTES_MAX, WRITES_MAX},
};

/// One write for each key, in key order.
pub(crate) type Writes = BTreeMap<Bytes, Write>;

/// What a transaction does to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Write {
    Put(Bytes),
    Delete,
    Add(Delta),
}

impl Write {
    /// Bytes of the value.
    pub(crate) const fn bytes(&self) -> usize {
        match self {
            Self::Put(value) => value.len(),
            Self::Delete => 0,
            Self::Add(_) => Delta::BYTES,
        }
    }

    /// The value that is there after it, if `stored` was before.
    pub(crate) fn over(&self, key: &[u8], stored: Option<&[u8]>) -> Result<Option<Bytes>, StoreError> {
        match self {
            Self::Put(value) => Ok(Some(value.clone())),
            Self::Delete => Ok(None),
            Self::Add(delta) => delta.over(key, stored),
        }
    }
}

impl From<Option<Bytes>> for Write {
    fn from(value: Option<Bytes>) -> Self {
        value.map_or(Self::Delete, Self::Put)
    }
}

/// The writes of a transaction under way. Stops taking them at the first broken bound, and remembers it.
#[derive(Default)]
pub(crate) struct WriteSet {
    writes: Writes,
    bytes: usize,
    broken: Option<StoreError>,
}

impl WriteSet {
    pub(crate) fn put(&mut self, key: &[u8], value: Bytes) {
        self.write(key, Write::Put(value));
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        self.write(key, Write::Delete);
    }

    /// An addition on top of the transaction's own write of the key, if there is one.
    pub(crate) fn add(&mut self, key: &[u8], delta: Delta) {
        let sum = match self.writes.get(key) {
            None => Ok(Write::Add(delta)),
            Some(Write::Add(before)) => before.then(key, delta).map(Write::Add),
            Some(Write::Delete) => delta.over(key, None).map(Write::from),
            Some(Write::Put(value)) => delta.over(key, Some(value)).map(Write::from),
        };
        match sum {
            Ok(write) => self.write(key, write),
            Err(error) => _ = self.broken.get_or_insert(error),
        }
    }

    fn write(&mut self, key: &[u8], write: Write) {
        if self.broken.is_none() {
            self.broken = self.broken_by(key.len(), write.bytes());
        }
        if self.broken.is_some() {
            return;
        }
        self.bytes += write.bytes();
        match self.writes.insert(Bytes::copy_from_slice(key), write) {
            Some(old) => self.bytes -= old.bytes(),
            None => self.bytes += key.len(),
        }
        if self.writes.len() > WRITES_MAX {
            self.broken = Some(StoreError::TooManyWrites);
        } else if self.bytes > WRITE_BYTES_MAX {
            self.broken = Some(StoreError::TooManyBytes);
        }
    }

    fn broken_by(&self, key_bytes: usize, value_bytes: usize) -> Option<StoreError> {
        if key_bytes > KEY_BYTES_MAX {
            return Some(StoreError::KeyTooLong { bytes: key_bytes });
        }
        (value_bytes > VALUE_BYTES_MAX).then_some(StoreError::ValueTooLong { bytes: value_bytes })
    }

    /// Whether the own write of `key` decides what is there, whatever is stored.
    pub(crate) fn decides(&self, key: &[u8]) -> bool {
        matches!(self.writes.get(key), Some(Write::Put(_) | Write::Delete))
    }

    /// What is at `key` where `stored` is in the store; that need not be known of a key for which the own write [decides](Self::decides).
    pub(crate) fn over(&self, key: &[u8], stored: Option<Bytes>) -> Result<Option<Bytes>, StoreError> {
        match self.writes.get(key) {
            Some(write) => write.over(key, stored.as_deref()),
            None => Ok(stored),
        }
    }

    pub(crate) fn range(&self, start: &[u8], end: &[u8]) -> impl Iterator<Item = (&Bytes, &Write)> {
        self.writes
            .range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)))
    }

    /// The writes, unless a bound was broken on the way.
    pub(crate) fn checked(self) -> Result<Writes, StoreError> {
        self.broken.map_or(Ok(self.writes), Err)
    }
}

/// What a batch of transactions leaves under each key that one of them writes.
#[derive(Default)]
pub(crate) struct Outcome {
    /// `None` where nothing is left.
    values: BTreeMap<Bytes, Option<Bytes>>,
}

impl Outcome {
    /// Enters the writes of one more transaction, all or none. `before` says what was under a key before the batch.
    pub(crate) fn take(
        &mut self,
        writes: &Writes,
        mut before: impl FnMut(&Bytes) -> Result<Option<Bytes>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut values = Vec::with_capacity(writes.len());
        for (key, write) in writes {
            let stored = match (write, self.values.get(key)) {
                (Write::Put(_) | Write::Delete, _) => None,
                (Write::Add(_), Some(value)) => value.clone(),
                (Write::Add(_), None) => before(key)?,
            };
            values.push((key.clone(), write.over(key, stored.as_deref())?));
        }
        self.values.extend(values);
        Ok(())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Option<Bytes>)> {
        self.values.iter()
    }

    /// Whether the batch writes `key`.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        self.values.contains_key(key)
    }

    /// Whether the batch writes a key of `[start, end)`.
    pub(crate) fn has_any(&self, start: &[u8], end: &[u8]) -> bool {
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        start < end && self.values.range::<[u8], _>(bounds).next().is_some()
    }
}
