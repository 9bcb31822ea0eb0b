use bytes::Bytes;

use crate::{CommitError, StoreError, limits::KEYS_TOGETHER_MAX};

/// An ordered key-value store. Clones are handles of the same store.
pub trait Store: Clone + Send + Sync + 'static {
    /// Its transactions.
    type Txn: Txn;
    /// Its read-only views.
    type Snapshot: Reader;

    /// Starts a transaction on a snapshot that holds every commit acknowledged before this call.
    ///
    /// # Errors
    /// If the store cannot be read now.
    fn begin(&self) -> impl Future<Output = Result<Self::Txn, StoreError>> + Send;

    /// A view of the store as it is now, for reading any amount: it remembers nothing of what was read. While it
    /// lives, the store keeps what it shows; an engine may end one that is left unused for a minute.
    ///
    /// # Errors
    /// If the store cannot be read now.
    fn snapshot(&self) -> impl Future<Output = Result<Self::Snapshot, StoreError>> + Send;

    /// Whether other processes may have the same store.
    fn is_shared(&self) -> bool;
}

/// What reads one state of a store.
pub trait Reader: Send {
    /// The value of `key`.
    ///
    /// # Errors
    /// If the store cannot be read or a transaction has read too much.
    fn get(&mut self, key: &[u8]) -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send;

    /// The values of `keys`, each at its key's place, as [`Reader::get`] would tell them one after the other. Where each reading is a
    /// message to a database, these are one together. A key may stand there twice.
    ///
    /// # Errors
    /// [`StoreError::TooManyKeys`] for more than [`KEYS_TOGETHER_MAX`]; otherwise those of [`Reader::get`].
    fn get_many<K: AsRef<[u8]> + Sync>(
        &mut self,
        keys: &[K],
    ) -> impl Future<Output = Result<Vec<Option<Bytes>>, StoreError>> + Send {
        async move {
            check_together(keys.len())?;
            let mut values = Vec::with_capacity(keys.len());
            for key in keys {
                values.push(self.get(key.as_ref()).await?);
            }
            Ok(values)
        }
    }

    /// The first `limit` pairs with `start <= key < end`, in order of the keys' bytes. Only what was looked at
    /// counts as read by a transaction: with `limit` pairs found, the rest of the range may change without a conflict.
    ///
    /// # Errors
    /// If the store cannot be read or a transaction has read too much.
    fn range(
        &mut self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(Bytes, Bytes)>, StoreError>> + Send;
}

/// Refuses to read too many keys together.
pub(crate) const fn check_together(keys: usize) -> Result<(), StoreError> {
    if keys > KEYS_TOGETHER_MAX {
        return Err(StoreError::TooManyKeys { keys });
    }
    Ok(())
}

/// A transaction: reads see one snapshot and the transaction's own writes. Dropping it forgets the writes.
pub trait Txn: Reader {
    /// Sets `key` when the transaction commits. A broken bound ([`crate::limits`]) is reported by the commit.
    fn put(&mut self, key: &[u8], value: impl Into<Bytes>);

    /// Removes `key` when the transaction commits, whether it exists or not.
    fn delete(&mut self, key: &[u8]);

    /// Adds `by` to the counter at `key` when the transaction commits. A key that does not exist is a counter at 0, and
    /// one that comes to 0 exists no more; its value is read with [`crate::counter()`].
    ///
    /// Adding reads nothing: it conflicts with no other addition, though with whoever reads the key. The commit is
    /// refused with [`StoreError::CounterOver`] if the counter would rise above `max`; lowering it is always allowed.
    fn add(&mut self, key: &[u8], by: i64, max: i64);

    /// Whether the engine undid this transaction in favour of another while it read. The read that failed then did so for no other reason, and
    /// the transaction may run again.
    fn is_overtaken(&self) -> bool;

    /// Makes the writes durable, all or none. Dropping the future does not take the commit back: it may happen.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] if something read here was written by another since the snapshot;
    /// [`CommitError::Store`] if a bound is broken or the store cannot write.
    fn commit(self) -> impl Future<Output = Result<(), CommitError>> + Send;
}
