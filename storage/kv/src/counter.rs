//! Counters: values that transactions change by addition, so that they need not read them.

use bytes::Bytes;

use crate::StoreError;

/// The counter in `value`, the bytes of a key that transactions add to; a key that does not exist is at 0.
///
/// # Errors
/// [`StoreError::NotACounter`] if something else was put there.
pub fn counter(key: &[u8], value: Option<&[u8]>) -> Result<i64, StoreError> {
    let Some(value) = value else { return Ok(0) };
    let bytes = <[u8; 8]>::try_from(value).map_err(|_| StoreError::NotACounter {
        key: Bytes::copy_from_slice(key),
    })?;
    Ok(i64::from_be_bytes(bytes))
}

/// What a transaction adds to a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) by: i64,
    pub(crate) max: i64,
}

impl Delta {
    /// Bytes of a counter.
    pub(crate) const BYTES: usize = 8;

    /// This and then `next`, as one.
    pub(crate) fn then(self, key: &[u8], next: Self) -> Result<Self, StoreError> {
        let by = self.by.checked_add(next.by).ok_or_else(|| over(key, next.max))?;
        let max = self.max.min(next.max);
        Ok(Self { by, max })
    }

    /// The value that `stored` becomes, none for a counter at 0.
    pub(crate) fn over(self, key: &[u8], stored: Option<&[u8]>) -> Result<Option<Bytes>, StoreError> {
        let next = counter(key, stored)?.checked_add(self.by);
        let next = next.filter(|next| self.by <= 0 || *next <= self.max);
        let next = next.ok_or_else(|| over(key, self.max))?;
        Ok((next != 0).then(|| Bytes::copy_from_slice(&next.to_be_bytes())))
    }
}

fn over(key: &[u8], max: i64) -> StoreError {
    StoreError::CounterOver {
        key: Bytes::copy_from_slice(key),
        max,
    }
}
