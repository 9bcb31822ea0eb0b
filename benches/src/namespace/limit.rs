//! The engine alone: what a created file writes, committed durably by as many tasks as there are clients.

use std::time::{Duration, Instant};

use futures::future::join_all;
use strongroom_kv::{AnyStore, Reader as _, Store as _, StoreConfig, Txn as _};
use strongroom_proto::{FileId, RequestId};

/// Commits of a file: that it is opened, and that it shows.
pub(super) const COMMITS_PER_FILE: u32 = 2;

/// Durable commits a second that the engine could keep, were there nothing but it.
pub(super) async fn commits_a_second(store: &AnyStore, writers: usize, time: Duration) -> f64 {
    let started = Instant::now();
    let write = |writer: usize| async move {
        let mut files = 0_u32;
        while started.elapsed() < time {
            create(store, writer, files).await;
            files += 1;
        }
        files
    };
    let files: u32 = join_all((0..writers).map(write)).await.iter().sum();
    f64::from(files * COMMITS_PER_FILE) / started.elapsed().as_secs_f64()
}

/// The rows of a file that is made, under keys as the service has them and about as long: those of new files are neighbours, but for
/// their names, which are in the writer's own directory.
async fn create(store: &AnyStore, writer: usize, number: u32) {
    let file = *FileId::generate().as_bytes();
    let mut txn = store.begin().await.expect("a transaction");
    txn.put(&key(b"o", &[&file]), vec![7; 300]);
    txn.put(&key(b"x", &[&[9; 20], &file]), Vec::new());
    keep_answer(&mut txn);
    txn.add(b"cx", 1, i64::MAX);
    txn.add(b"co", 1, i64::MAX);
    txn.commit().await.expect("nothing was read");

    let directory = [writer.to_be_bytes(), [0; 8]].concat();
    let mut txn = store.begin().await.expect("a transaction");
    txn.delete(&key(b"o", &[&file]));
    txn.put(&key(b"e", &[&file]), vec![7; 260]);
    txn.put(&key(b"i", &[&file]), vec![7; 60]);
    let name = rand::random::<u32>().to_be_bytes();
    txn.put(&key(b"d", &[&directory, &number.to_be_bytes(), &name]), vec![7; 100]);
    keep_answer(&mut txn);
    txn.add(b"co", -1, i64::MAX);
    txn.commit().await.expect("nothing was read");
}

fn keep_answer(txn: &mut strongroom_kv::AnyTxn) {
    let request = *RequestId::generate().as_bytes();
    txn.put(&key(b"a", &[&request]), vec![7; 200]);
    txn.put(&key(b"t", &[&request]), Vec::new());
}

fn key(table: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    [table, &parts.concat()].concat()
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

/// A store of its own beside the service's.
pub(super) async fn open(config: &StoreConfig, directory: &std::path::Path) -> AnyStore {
    AnyStore::open(config, &directory.join("limit.redb"))
        .await
        .expect("an empty store")
}
