use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use futures::future::BoxFuture;

use crate::{CommitError, Store, StoreError, Txn};

/// Runs of one transaction before it gives up.
const ATTEMPTS_MAX: u32 = 64;
/// Bounds of the pause after a conflict; the first grows to the second.
const PAUSE_FIRST: Duration = Duration::from_micros(500);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Runs `body` in a transaction and commits it, again on a fresh snapshot after each conflict, be it at the commit or at a read. `body` must
/// have no other effects, since it may run up to 64 times.
///
/// ```
/// # use strongroom_kv::{Reader, Store, StoreError, Txn, transact};
/// async fn increment(store: &impl Store) -> Result<u8, StoreError> {
///     transact(store, |txn| {
///         Box::pin(async move {
///             let next = txn.get(b"counter").await?.map_or(0, |value| value[0]) + 1;
///             txn.put(b"counter", vec![next]);
///             Ok(next)
///         })
///     })
///     .await
/// }
/// ```
///
/// # Errors
/// What `body` returns, without a commit; a store error, as `E`; [`StoreError::Contended`] after 64 conflicts.
pub async fn transact<S, T, E, F>(store: &S, mut body: F) -> Result<T, E>
where
    S: Store,
    E: From<StoreError>,
    F: for<'a> FnMut(&'a mut S::Txn) -> BoxFuture<'a, Result<T, E>>,
{
    for attempt in 0..ATTEMPTS_MAX {
        let mut txn = store.begin().await?;
        match body(&mut txn).await {
            Ok(value) => match txn.commit().await {
                Ok(()) => return Ok(value),
                Err(CommitError::Store(error)) => return Err(error.into()),
                Err(CommitError::Conflict) => {}
            },
            Err(_) if txn.is_overtaken() => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pause(attempt)).await;
    }
    Err(StoreError::Contended { attempts: ATTEMPTS_MAX }.into())
}

/// A random pause up to a bound that doubles with every attempt, so that contenders spread out.
fn pause(attempt: u32) -> Duration {
    let bound = PAUSE_FIRST.saturating_mul(1 << attempt.min(10)).min(PAUSE_MAX);
    let bound_us = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
    // RandomState is seeded by the system; spreading needs no more than that.
    Duration::from_micros(RandomState::new().hash_one(attempt) % (bound_us + 1))
}
