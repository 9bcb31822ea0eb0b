//! What a transaction read.

use std::collections::HashSet;

use bytes::Bytes;

use crate::{StoreError, limits::READS_MAX};

/// Keys and ranges that a transaction looked at in its snapshot.
#[derive(Default)]
pub(super) struct ReadSet {
    keys: HashSet<Bytes>,
    /// Half-open.
    ranges: HashSet<(Bytes, Bytes)>,
}

impl ReadSet {
    pub(super) fn add_key(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.keys.insert(Bytes::copy_from_slice(key));
        self.check()
    }

    pub(super) fn add_range(&mut self, start: &[u8], end: &[u8]) -> Result<(), StoreError> {
        let range = (Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
        self.ranges.insert(range);
        self.check()
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.keys.len() + self.ranges.len() > READS_MAX {
            return Err(StoreError::TooManyReads);
        }
        Ok(())
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.iter()
    }

    pub(super) fn ranges(&self) -> impl Iterator<Item = &(Bytes, Bytes)> {
        self.ranges.iter()
    }
}
