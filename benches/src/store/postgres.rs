//! Transactions that make files, over a PostgreSQL of the benchmark's own: 64 writers against one.

use std::time::{Duration, Instant};

use strongroom_kv::{PostgresConfig, PostgresStore, Reader as _, StoreError, Txn as _, transact};

use crate::{cluster::Cluster, report::Figure};

const WRITERS: usize = 64;
/// How long each number of writers is timed, in turns.
const TURNS: usize = 3;
const TURN: Duration = Duration::from_secs(2);
const VALUE_BYTES: usize = 250;

pub(super) fn run() -> Vec<Figure> {
    let cluster = Cluster::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let config = PostgresConfig {
            url_file: cluster.fresh_url(),
            ca: None,
            connections: 16,
            connect_timeout_ms: 30_000,
            statement_timeout_ms: 30_000,
        };
        measure(&PostgresStore::open(&config).await.expect("a store")).await
    })
}

async fn measure(store: &PostgresStore) -> Vec<Figure> {
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        alone.push(rate(store, 1).await);
        together.push(rate(store, WRITERS).await);
    }
    let (alone, together) = (crate::report::median(alone), crate::report::median(together));
    let figure = |writers: usize, value: f64| Figure {
        bench: format!("store/commit/postgres/writers{writers}"),
        implementation: "strongroom",
        value,
        unit: "op/s",
        against: "one-writer",
        ratio: Some(value / alone),
    };
    vec![figure(1, alone), figure(WRITERS, together)]
}

/// Transactions a second that so many writers have acknowledged.
async fn rate(store: &PostgresStore, writers: usize) -> f64 {
    let started = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut made = 0_u32;
                while started.elapsed() < TURN {
                    make_file(&store).await.expect("a file");
                    made += 1;
                }
                made
            })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += task.await.expect("no panic");
    }
    f64::from(made) / started.elapsed().as_secs_f64()
}

/// Reads a directory and a name in it that is free, and makes a file there.
async fn make_file(store: &PostgresStore) -> Result<(), StoreError> {
    let id: [u8; 16] = rand::random();
    transact(store, |txn| {
        Box::pin(async move {
            txn.get(b"z the zone").await?;
            let name = [b"d", id.as_slice()].concat();
            assert_eq!(txn.get(&name).await?, None, "no name comes twice");
            txn.put(&name, id.to_vec());
            txn.put(&[b"i", id.as_slice()].concat(), vec![7; VALUE_BYTES]);
            txn.put(&[b"x", id.as_slice()].concat(), "");
            txn.add(b"c files", 1, i64::MAX);
            Ok(())
        })
    })
    .await
}
