//! The engine alone: what a created file writes, committed durably by as many tasks as there are clients.

use std::time::{Duration, Instant};

use futures::future::join_all;
use strongroom_kv::{AnyStore, Reader as _, Store as _, StoreConfig, Txn as _};

/// Rows that a create and its commit put, and about how long they are: open file, index entry and counters; then entry,
/// place, body and the kept answer.
const ROWS: [&[usize]; 2] = [&[300, 0, 200, 0], &[100, 60, 260, 200, 0]];

/// Files a second that the engine could keep, were there nothing but it.
pub(super) async fn files_a_second(store: &AnyStore, writers: usize, time: Duration) -> f64 {
    let started = Instant::now();
    let write = |_| async move {
        let mut files = 0_u32;
        while started.elapsed() < time {
            for rows in ROWS {
                commit(store, rows).await;
            }
            files += 1;
        }
        files
    };
    let files: u32 = join_all((0..writers).map(write)).await.iter().sum();
    f64::from(files) / started.elapsed().as_secs_f64()
}

/// Lookups a second: one view and four rows, as finding a file in a directory of a zone takes.
pub(super) async fn lookups_a_second(store: &AnyStore, readers: usize, time: Duration) -> f64 {
    const ROWS: u8 = 4;
    let mut txn = store.begin().await.expect("a transaction");
    (0..ROWS).for_each(|row| txn.put(&[row], vec![7; 150]));
    txn.commit().await.expect("nobody else writes these");
    let started = Instant::now();
    let read = |_| async move {
        let mut lookups = 0_u32;
        while started.elapsed() < time {
            let mut view = store.snapshot().await.expect("a view");
            for row in 0..ROWS {
                assert!(view.get(&[row]).await.expect("readable").is_some());
            }
            lookups += 1;
        }
        lookups
    };
    let lookups: u32 = join_all((0..readers).map(read)).await.iter().sum();
    f64::from(lookups) / started.elapsed().as_secs_f64()
}

async fn commit(store: &AnyStore, rows: &[usize]) {
    let mut txn = store.begin().await.expect("a transaction");
    for length in rows {
        let key: [u8; 33] = rand::random();
        txn.put(&key, vec![7; *length]);
    }
    txn.commit().await.expect("nobody else writes random keys");
}

/// A store of its own beside the service's.
pub(super) async fn open(config: &StoreConfig, directory: &std::path::Path) -> AnyStore {
    AnyStore::open(config, &directory.join("limit.redb"))
        .await
        .expect("an empty store")
}
