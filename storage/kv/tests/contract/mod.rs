//! What every engine must do, as functions over any [`Store`]. Each takes an empty store.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use strongroom_kv::{CommitError, Store, StoreError, Txn, limits, transact};

/// Checks the whole contract, each part on a store of its own.
pub(crate) async fn check_all<S: Store>(fresh: impl Fn() -> S) {
    values_read_back(fresh()).await;
    ranges_are_ordered_and_half_open(fresh()).await;
    own_writes_are_visible(fresh()).await;
    snapshots_do_not_move(fresh()).await;
    a_read_key_conflicts(fresh()).await;
    a_phantom_conflicts(fresh()).await;
    the_unread_rest_of_a_range_may_change(fresh()).await;
    write_skew_is_prevented(fresh()).await;
    blind_writes_do_not_conflict(fresh()).await;
    bounds_are_errors(fresh()).await;
    counters_add_up(fresh()).await;
    endless_conflicts_end(fresh()).await;
    for seed in 0..20 {
        random_histories_are_serializable(fresh(), seed).await;
    }
}

async fn set<S: Store>(store: &S, pairs: &[(&str, &str)]) {
    let mut txn = store.begin().await.expect("begin");
    for (key, value) in pairs {
        txn.put(key.as_bytes(), value.as_bytes().to_vec());
    }
    txn.commit().await.expect("nothing read, nothing conflicts");
}

async fn keys<T: Txn>(txn: &mut T, start: &str, end: &str, limit: usize) -> Vec<String> {
    let pairs = txn.range(start.as_bytes(), end.as_bytes(), limit).await.expect("range");
    let text = |key: &Bytes| String::from_utf8(key.to_vec()).expect("test keys are text");
    pairs.iter().map(|(key, _)| text(key)).collect()
}

async fn value<S: Store>(store: &S, key: &str) -> Option<Bytes> {
    let mut txn = store.begin().await.expect("begin");
    txn.get(key.as_bytes()).await.expect("get")
}

fn is_conflict(outcome: Result<(), CommitError>) -> bool {
    match outcome {
        Ok(()) => false,
        Err(CommitError::Conflict) => true,
        Err(CommitError::Store(error)) => panic!("neither done nor a conflict: {error}"),
    }
}

async fn values_read_back<S: Store>(store: S) {
    set(&store, &[("a", "1"), ("", "empty key"), ("b", "")]).await;
    assert_eq!(value(&store, "a").await.as_deref(), Some(&b"1"[..]));
    assert_eq!(value(&store, "").await.as_deref(), Some(&b"empty key"[..]));
    assert_eq!(value(&store, "b").await.as_deref(), Some(&b""[..]));
    assert_eq!(value(&store, "c").await, None);
    let mut txn = store.begin().await.expect("begin");
    txn.delete(b"a");
    txn.delete(b"never there");
    txn.commit().await.expect("commit");
    assert_eq!(value(&store, "a").await, None);
}

async fn ranges_are_ordered_and_half_open<S: Store>(store: S) {
    set(&store, &[("b", ""), ("a", ""), ("c", ""), ("aa", ""), ("a\0", "")]).await;
    let mut txn = store.begin().await.expect("begin");
    for (start, end, limit, expected) in [
        ("a", "c", 10, &["a", "a\0", "aa", "b"][..]),
        ("", "\u{7f}", 10, &["a", "a\0", "aa", "b", "c"]),
        ("a\0", "b", 10, &["a\0", "aa"]),
        ("a", "c", 2, &["a", "a\0"]),
        ("a", "c", 0, &[]),
        ("b", "b", 10, &[]),
        ("c", "a", 10, &[]),
        ("d", "e", 10, &[]),
    ] {
        let found = keys(&mut txn, start, end, limit).await;
        assert_eq!(found, expected, "[{start:?}, {end:?}) limit {limit}");
    }
}

async fn own_writes_are_visible<S: Store>(store: S) {
    set(&store, &[("a", "old"), ("b", "old"), ("c", "old")]).await;
    let mut txn = store.begin().await.expect("begin");
    txn.put(b"b", "new");
    txn.delete(b"c");
    txn.put(b"bb", "new");
    assert_eq!(txn.get(b"b").await.expect("get").as_deref(), Some(&b"new"[..]));
    assert_eq!(txn.get(b"c").await.expect("get"), None);
    assert_eq!(keys(&mut txn, "a", "z", 10).await, ["a", "b", "bb"]);
    assert_eq!(keys(&mut txn, "a", "z", 2).await, ["a", "b"]);
    drop(txn);
    assert_eq!(
        value(&store, "b").await.as_deref(),
        Some(&b"old"[..]),
        "dropped, not committed"
    );
}

async fn snapshots_do_not_move<S: Store>(store: S) {
    set(&store, &[("a", "1")]).await;
    let mut reader = store.begin().await.expect("begin");
    set(&store, &[("a", "2"), ("b", "2")]).await;
    assert_eq!(reader.get(b"a").await.expect("get").as_deref(), Some(&b"1"[..]));
    assert_eq!(keys(&mut reader, "a", "z", 10).await, ["a"]);
    assert!(!is_conflict(reader.commit().await), "a reader never conflicts");
}

async fn a_read_key_conflicts<S: Store>(store: S) {
    for (read, written, conflicts) in [("a", "a", true), ("a", "b", false), ("missing", "missing", true)] {
        let mut txn = store.begin().await.expect("begin");
        txn.get(read.as_bytes()).await.expect("get");
        txn.put(b"result", "x");
        set(&store, &[(written, "by another")]).await;
        assert_eq!(
            is_conflict(txn.commit().await),
            conflicts,
            "read {read}, other wrote {written}"
        );
    }
}

async fn a_phantom_conflicts<S: Store>(store: S) {
    for (written, conflicts) in [("b", true), ("az", true), ("c", false), ("a", true), ("Z", false)] {
        let mut txn = store.begin().await.expect("begin");
        keys(&mut txn, "a", "c", 10).await;
        txn.put(b"result", "x");
        set(&store, &[(written, "")]).await;
        assert_eq!(
            is_conflict(txn.commit().await),
            conflicts,
            "read [a, c), other wrote {written}"
        );
    }
}

async fn the_unread_rest_of_a_range_may_change<S: Store>(store: S) {
    set(&store, &[("a", ""), ("c", ""), ("e", "")]).await;
    for (written, conflicts) in [("b", true), ("c", true), ("d", false), ("e", false)] {
        let mut txn = store.begin().await.expect("begin");
        assert_eq!(keys(&mut txn, "a", "z", 2).await.first().map(String::as_str), Some("a"));
        txn.put(b"result", "x");
        let mut other = store.begin().await.expect("begin");
        other.put(written.as_bytes(), "");
        other.commit().await.expect("blind");
        assert_eq!(
            is_conflict(txn.commit().await),
            conflicts,
            "read two from a, other wrote {written}"
        );
        let mut undo = store.begin().await.expect("begin");
        undo.delete(b"b");
        undo.delete(b"d");
        undo.commit().await.expect("blind");
    }
}

async fn write_skew_is_prevented<S: Store>(store: S) {
    set(&store, &[("alice on call", "yes"), ("bob on call", "yes")]).await;
    let (mut alice, mut bob) = (store.begin().await.expect("begin"), store.begin().await.expect("begin"));
    assert_eq!(keys(&mut alice, "a", "z", 10).await.len(), 2);
    assert_eq!(keys(&mut bob, "a", "z", 10).await.len(), 2);
    alice.delete(b"alice on call");
    bob.delete(b"bob on call");
    let (alice, bob) = tokio::join!(alice.commit(), bob.commit());
    assert_ne!(is_conflict(alice), is_conflict(bob), "exactly one may leave");
}

async fn blind_writes_do_not_conflict<S: Store>(store: S) {
    let (mut one, mut two) = (store.begin().await.expect("begin"), store.begin().await.expect("begin"));
    one.put(b"a", "1");
    two.put(b"a", "2");
    assert!(!is_conflict(one.commit().await));
    assert!(!is_conflict(two.commit().await));
    assert_eq!(
        value(&store, "a").await.as_deref(),
        Some(&b"2"[..]),
        "the later commit wins"
    );
}

async fn bounds_are_errors<S: Store>(store: S) {
    let key = vec![b'k'; limits::KEY_BYTES_MAX];
    let mut txn = store.begin().await.expect("begin");
    txn.put(&key, vec![0; limits::VALUE_BYTES_MAX]);
    txn.commit().await.expect("at the bound");

    let mut txn = store.begin().await.expect("begin");
    txn.put(&[&key[..], b"k"].concat(), "");
    assert!(matches!(refusal(txn).await, StoreError::KeyTooLong { bytes } if bytes == key.len() + 1));

    let mut txn = store.begin().await.expect("begin");
    txn.put(b"k", vec![0; limits::VALUE_BYTES_MAX + 1]);
    txn.put(b"harmless", "");
    assert!(matches!(refusal(txn).await, StoreError::ValueTooLong { .. }));

    let mut txn = store.begin().await.expect("begin");
    for n in 0..=limits::WRITES_MAX {
        txn.delete(&n.to_be_bytes());
    }
    assert!(matches!(refusal(txn).await, StoreError::TooManyWrites));

    let mut txn = store.begin().await.expect("begin");
    for n in 0_u8..17 {
        txn.put(&[n], vec![0; limits::VALUE_BYTES_MAX]);
    }
    assert!(matches!(refusal(txn).await, StoreError::TooManyBytes));
    assert_eq!(
        value(&store, "harmless").await,
        None,
        "a refused transaction writes nothing"
    );
}

async fn refusal<T: Txn>(txn: T) -> StoreError {
    match txn.commit().await {
        Err(CommitError::Store(error)) => error,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

async fn increment<S: Store>(store: &S, key: &'static str) -> Result<u64, StoreError> {
    transact(store, |txn| {
        Box::pin(async move {
            let now = txn.get(key.as_bytes()).await?.map_or(0, |value| number(&value));
            txn.put(key.as_bytes(), (now + 1).to_be_bytes().to_vec());
            Ok(now + 1)
        })
    })
    .await
}

fn number(value: &[u8]) -> u64 {
    u64::from_be_bytes(value.try_into().expect("eight bytes"))
}

async fn counters_add_up<S: Store>(store: S) {
    const TASKS: u64 = 8;
    const EACH: u64 = 25;
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..EACH {
                    increment(&store, "counter").await.expect("retried until it fits");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let total = value(&store, "counter").await.expect("written");
    assert_eq!(number(&total), TASKS * EACH);
}

async fn endless_conflicts_end<S: Store>(store: S) {
    let rival = store.clone();
    let outcome: Result<(), StoreError> = transact(&store, |txn| {
        let rival = rival.clone();
        Box::pin(async move {
            txn.get(b"contended").await?;
            set(&rival, &[("contended", "again")]).await;
            txn.put(b"result", "");
            Ok(())
        })
    })
    .await;
    assert!(
        matches!(outcome, Err(StoreError::Contended { attempts: 64 })),
        "{outcome:?}"
    );
}

type Pairs = Vec<(Bytes, Bytes)>;

/// What one committed transaction saw and wrote.
#[derive(Debug, Clone, Default)]
struct Record {
    /// Place in the order of commits, drawn inside the transaction from a counter that all read and write.
    place: u64,
    got: Vec<(u8, Option<Bytes>)>,
    ranged: Vec<(std::ops::Range<u8>, Pairs)>,
    wrote: Vec<(u8, Option<Bytes>)>,
}

/// Transactions over few keys, run side by side, then replayed one after the other in the order in which they
/// claim to have committed: each must have seen exactly what the replay shows it.
async fn random_histories_are_serializable<S: Store>(store: S, seed: u64) {
    let tasks: Vec<_> = (0..6_u64)
        .map(|task| {
            let (store, rng) = (store.clone(), StdRng::seed_from_u64(seed * 1000 + task));
            tokio::spawn(run_random(store, rng))
        })
        .collect();
    let mut history = Vec::new();
    for task in tasks {
        history.extend(task.await.expect("no panic"));
    }
    history.sort_by_key(|record| record.place);
    let mut oracle: BTreeMap<u8, Bytes> = BTreeMap::new();
    for (n, record) in history.iter().enumerate() {
        assert_eq!(record.place, n as u64 + 1, "seed {seed}: two commits in one place");
        for (key, seen) in &record.got {
            assert_eq!(seen.as_ref(), oracle.get(key), "seed {seed}: get {key} in {record:?}");
        }
        for (range, seen) in &record.ranged {
            let expected: Vec<_> = oracle
                .range(range.clone())
                .map(|(k, v)| (Bytes::from(vec![*k]), v.clone()))
                .collect();
            assert_eq!(seen, &expected, "seed {seed}: range in {record:?}");
        }
        for (key, value) in &record.wrote {
            match value {
                Some(value) => oracle.insert(*key, value.clone()),
                None => oracle.remove(key),
            };
        }
    }
}

async fn run_random<S: Store>(store: S, mut rng: StdRng) -> Vec<Record> {
    let mut done = Vec::new();
    for _ in 0..8 {
        let plan: Vec<(u8, u8, u8)> = (0..rng.random_range(1..5_usize))
            .map(|_| (rng.random_range(0..4), rng.random_range(0..6), rng.random()))
            .collect();
        let record = transact(&store, |txn| Box::pin(step(txn, plan.clone())));
        done.push(record.await.expect("retried until it fits"));
    }
    done
}

async fn step<T: Txn>(txn: &mut T, plan: Vec<(u8, u8, u8)>) -> Result<Record, StoreError> {
    let mut record = Record::default();
    // Reads come first, so that they never see own writes and the oracle stays simple.
    for &(kind, key, other) in &plan {
        match kind {
            0 => record.got.push((key, txn.get(&[key]).await?)),
            1 => {
                let end = key + other % 6;
                let seen = txn.range(&[key], &[end], 100).await?;
                record.ranged.push((key..end, seen));
            }
            _ => {}
        }
    }
    for &(kind, key, other) in &plan {
        match kind {
            2 => record.wrote.push((key, Some(Bytes::from(vec![other])))),
            3 => record.wrote.push((key, None)),
            _ => {}
        }
    }
    for (key, value) in &record.wrote {
        match value {
            Some(value) => txn.put(&[*key], value.clone()),
            None => txn.delete(&[*key]),
        }
    }
    let place = txn.get(b"place").await?.map_or(0, |value| number(&value)) + 1;
    txn.put(b"place", place.to_be_bytes().to_vec());
    Ok(Record { place, ..record })
}
