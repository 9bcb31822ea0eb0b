use bytes::Bytes;

use crate::{CommitError, StoreError};

/// An ordered key-value store. Clones are handles of the same store.
pub trait Store: Clone + Send + Sync + 'static {
    /// Its transactions.
    type Txn: Txn;

    /// Starts a transaction on a snapshot that holds every commit acknowledged before this call.
    ///
    /// # Errors
    /// If the store cannot be read now.
    fn begin(&self) -> impl Future<Output = Result<Self::Txn, StoreError>> + Send;

    /// Whether other processes may have the same store.
    fn is_shared(&self) -> bool;
}

/// A transaction: reads see one snapshot and the transaction's own writes. Dropping it forgets the writes.
pub trait Txn: Send {
    /// The value of `key`.
    ///
    /// # Errors
    /// If the store cannot be read or the transaction has read too much.
    fn get(&mut self, key: &[u8]) -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send;

    /// The first `limit` pairs with `start <= key < end`, in order of the keys' bytes. Only what was looked at
    /// counts as read: with `limit` pairs found, the rest of the range may change without a conflict.
    ///
    /// # Errors
    /// If the store cannot be read or the transaction has read too much.
    fn range(
        &mut self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(Bytes, Bytes)>, StoreError>> + Send;

    /// Sets `key` when the transaction commits. A broken bound ([`crate::limits`]) is reported by the commit.
    fn put(&mut self, key: &[u8], value: impl Into<Bytes>);

    /// Removes `key` when the transaction commits, whether it exists or not.
    fn delete(&mut self, key: &[u8]);

    /// Makes the writes durable, all or none. Dropping the future does not take the commit back: it may happen.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] if something read here was written by another since the snapshot;
    /// [`CommitError::Store`] if a bound is broken or the store cannot write.
    fn commit(self) -> impl Future<Output = Result<(), CommitError>> + Send;
}
