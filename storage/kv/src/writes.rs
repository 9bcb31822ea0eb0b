//! What a transaction wants to write, held back until it commits. Every engine keeps its writes so.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;

use crate::{
    StoreError,
    limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX, WRITE_BYTES_MAX, WRITES_MAX},
};

/// Puts, and deletes as `None`, in key order.
pub(crate) type Writes = BTreeMap<Bytes, Option<Bytes>>;

/// The writes of a transaction under way. Stops taking them at the first broken bound, and remembers it.
#[derive(Default)]
pub(crate) struct WriteSet {
    writes: Writes,
    bytes: usize,
    broken: Option<StoreError>,
}

impl WriteSet {
    pub(crate) fn add(&mut self, key: &[u8], value: Option<Bytes>) {
        let value_bytes = value.as_ref().map_or(0, Bytes::len);
        if self.broken.is_none() {
            self.broken = self.broken_by(key.len(), value_bytes);
        }
        if self.broken.is_some() {
            return;
        }
        let before = self.writes.insert(Bytes::copy_from_slice(key), value);
        match before {
            Some(old) => self.bytes -= old.as_ref().map_or(0, Bytes::len),
            None => self.bytes += key.len(),
        }
        self.bytes += value_bytes;
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

    /// The own write of `key`, if there is one.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        self.writes.get(key)
    }

    pub(crate) fn range(&self, start: &[u8], end: &[u8]) -> impl Iterator<Item = (&Bytes, &Option<Bytes>)> {
        self.writes
            .range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)))
    }

    /// The writes, unless a bound was broken on the way.
    pub(crate) fn checked(self) -> Result<Writes, StoreError> {
        self.broken.map_or(Ok(self.writes), Err)
    }
}
