//! What every engine must do, as functions over any [`Store`]. Each takes an empty store.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use strongroom_kv::{CommitError, Reader, Store, StoreError, Txn, counter, limits, transact};

/// Checks the whole contract, each part on a store of its own.
pub(crate) async fn check_all<S: Store>(fresh: impl AsyncFn() -> S) {
    values_read_back(fresh().await).await;
    ranges_are_ordered_and_half_open(fresh().await).await;
    own_writes_are_visible(fresh().await).await;
    keys_are_read_together_as_one_by_one(fresh().await).await;
    keys_read_together_conflict(fresh().await).await;
    snapshots_do_not_move(fresh().await).await;
    a_read_key_conflicts(fresh().await).await;
    a_phantom_conflicts(fresh().await).await;
    the_unread_rest_of_a_range_may_change(fresh().await).await;
    write_skew_is_prevented(fresh().await).await;
    blind_writes_do_not_conflict(fresh().await).await;
    bounds_are_errors(fresh().await).await;
    a_view_does_not_move_and_has_no_bound(fresh().await).await;
    counted_reads_add_up(fresh().await).await;
    additions_conflict_with_readers_alone(fresh().await).await;
    an_addition_sees_own_writes_and_is_seen(fresh().await).await;
    a_counter_keeps_its_bound(fresh().await).await;
    additions_add_up(fresh().await).await;
    endless_conflicts_end(fresh().await).await;
    for seed in 0..20 {
        random_histories_are_serializable(fresh().await, seed).await;
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

/// Values in the order of the keys, in a view and in a transaction with writes of its own.
async fn keys_are_read_together_as_one_by_one<S: Store>(store: S) {
    set(&store, &[("a", "1"), ("b", "2"), ("c", "3"), ("", "none")]).await;
    let added = 5_i64.to_be_bytes();
    set_count(&store, "n", 5).await;
    let mut txn = store.begin().await.expect("begin");
    txn.put(b"b", "own");
    txn.put(b"new", "own");
    txn.delete(b"c");
    txn.add(b"n", 2, i64::MAX);
    let (owned, sum) = (&b"own"[..], 7_i64.to_be_bytes());
    let asked = ["c", "n", "a", "new", "missing", "a", "", "b"];
    let stored: [Option<&[u8]>; 8] = [
        Some(b"3"),
        Some(&added),
        Some(b"1"),
        None,
        None,
        Some(b"1"),
        Some(b"none"),
        Some(b"2"),
    ];
    let own: [Option<&[u8]>; 8] = [
        None,
        Some(&sum),
        Some(b"1"),
        Some(owned),
        None,
        Some(b"1"),
        Some(b"none"),
        Some(owned),
    ];
    let mut view = store.snapshot().await.expect("a view");
    set(&store, &[("a", "later"), ("missing", "later")]).await;
    let found = view.get_many(&asked).await.expect("read");
    assert_eq!(found.iter().map(Option::as_deref).collect::<Vec<_>>(), stored);
    let found = txn.get_many(&asked).await.expect("read");
    assert_eq!(found.iter().map(Option::as_deref).collect::<Vec<_>>(), own);
    for (key, value) in asked.iter().zip(found) {
        assert_eq!(txn.get(key.as_bytes()).await.expect("get"), value, "{key:?}");
    }
    assert_eq!(txn.get_many::<&[u8]>(&[]).await.expect("nothing"), []);
    let many: Vec<[u8; 8]> = (0..=limits::KEYS_TOGETHER_MAX).map(usize::to_be_bytes).collect();
    assert_eq!(
        txn.get_many(&many[1..]).await.expect("at the bound").len(),
        many.len() - 1
    );
    for refused in [view.get_many(&many).await, txn.get_many(&many).await] {
        assert!(matches!(refused, Err(StoreError::TooManyKeys { keys }) if keys == many.len()));
    }
}

async fn set_count<S: Store>(store: &S, key: &str, count: i64) {
    let mut txn = store.begin().await.expect("begin");
    txn.add(key.as_bytes(), count, i64::MAX);
    txn.commit().await.expect("nothing read, nothing conflicts");
}

/// Each of them counts as read, whether it was there or not; what the transaction wrote itself before does not.
async fn keys_read_together_conflict<S: Store>(store: S) {
    set(&store, &[("a", ""), ("b", ""), ("gone", "")]).await;
    for (written, conflicts) in [
        ("a", true),
        ("b", true),
        ("missing", true),
        ("own", false),
        ("other", false),
    ] {
        let mut txn = store.begin().await.expect("begin");
        txn.put(b"own", "mine");
        txn.get_many(&["a", "missing", "own", "b"]).await.expect("read");
        set(&store, &[(written, "by another")]).await;
        assert_eq!(is_conflict(txn.commit().await), conflicts, "other wrote {written}");
        let mut undo = store.begin().await.expect("begin");
        undo.delete(b"missing");
        undo.commit().await.expect("blind");
    }
    let mut txn = store.begin().await.expect("begin");
    txn.get_many(&["a", "gone"]).await.expect("read");
    txn.put(b"result", "");
    let mut other = store.begin().await.expect("begin");
    other.delete(b"gone");
    other.commit().await.expect("blind");
    assert!(is_conflict(txn.commit().await), "one that was read is gone");
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

async fn a_view_does_not_move_and_has_no_bound<S: Store>(store: S) {
    set(&store, &[("a", "1"), ("b", "1")]).await;
    let mut view = store.snapshot().await.expect("a view");
    set(&store, &[("a", "2"), ("c", "2")]).await;
    assert_eq!(view.get(b"a").await.expect("get").as_deref(), Some(&b"1"[..]));
    assert_eq!(view.get(b"c").await.expect("get"), None);
    for (start, end, limit, expected) in [
        (&b"a"[..], &b"z"[..], 10, 2),
        (b"a", b"z", 1, 1),
        (b"a", b"z", 0, 0),
        (b"b", b"a", 9, 0),
    ] {
        let found = view.range(start, end, limit).await.expect("range");
        assert_eq!(found.len(), expected, "{start:?} {end:?} {limit}");
    }
    drop(view);
    let mut view = store.snapshot().await.expect("another view");
    assert_eq!(view.get(b"a").await.expect("get").as_deref(), Some(&b"2"[..]));
}

/// What is at a key that is added to.
async fn count<S: Store>(store: &S, key: &str) -> i64 {
    counter(key.as_bytes(), value(store, key).await.as_deref()).expect("a counter")
}

async fn added<S: Store>(store: &S, by: i64, max: i64) -> Result<(), CommitError> {
    let mut txn = store.begin().await.expect("begin");
    txn.put(b"beside", by.to_be_bytes().to_vec());
    txn.add(b"count", by, max);
    txn.commit().await
}

async fn additions_conflict_with_readers_alone<S: Store>(store: S) {
    let mut reader = store.begin().await.expect("begin");
    reader.get(b"count").await.expect("get");
    reader.put(b"result", "");
    let mut looker = store.begin().await.expect("begin");
    keys(&mut looker, "a", "z", 10).await;
    looker.put(b"result", "");
    let (mut one, mut two) = (store.begin().await.expect("begin"), store.begin().await.expect("begin"));
    one.add(b"count", 5, i64::MAX);
    two.add(b"count", -2, i64::MAX);
    assert!(!is_conflict(one.commit().await));
    assert!(!is_conflict(two.commit().await));
    assert!(is_conflict(reader.commit().await), "it has read the counter");
    assert!(
        is_conflict(looker.commit().await),
        "it has read a range with the counter"
    );
    assert_eq!(count(&store, "count").await, 3);
}

async fn an_addition_sees_own_writes_and_is_seen<S: Store>(store: S) {
    let mut txn = store.begin().await.expect("begin");
    txn.add(b"a", 2, i64::MAX);
    txn.add(b"a", 3, i64::MAX);
    txn.put(b"b", 7_i64.to_be_bytes().to_vec());
    txn.add(b"b", 1, i64::MAX);
    txn.delete(b"c");
    txn.add(b"c", 4, i64::MAX);
    txn.add(b"d", 9, i64::MAX);
    txn.delete(b"d");
    let seen = txn.get(b"a").await.expect("get");
    assert_eq!(counter(b"a", seen.as_deref()).expect("a counter"), 5);
    txn.commit().await.expect("committed");
    for (key, expected) in [("a", 5), ("b", 8), ("c", 4), ("d", 0)] {
        assert_eq!(count(&store, key).await, expected, "{key}");
    }

    let mut txn = store.begin().await.expect("begin");
    txn.add(b"a", -5, i64::MAX);
    txn.add(b"b", 1, i64::MAX);
    assert_eq!(keys(&mut txn, "a", "z", 10).await, ["b", "c"], "at 0 it is not there");
    assert_eq!(keys(&mut txn, "a", "z", 1).await, ["b"]);
    txn.commit().await.expect("committed");
    assert_eq!(value(&store, "a").await, None);
    assert_eq!(count(&store, "b").await, 9);
}

async fn a_counter_keeps_its_bound<S: Store>(store: S) {
    added(&store, 8, 10).await.expect("within");
    for (by, max, fits) in [
        (3, 10, false),
        (1, 7, false),
        (2, 10, true),
        (-1, 3, true),
        (i64::MAX, i64::MAX, false),
    ] {
        let before = (count(&store, "count").await, value(&store, "beside").await);
        match added(&store, by, max).await {
            Ok(()) => assert!(fits, "{by} up to {max}"),
            Err(CommitError::Store(StoreError::CounterOver { max: told, .. })) => {
                assert!(!fits && told == max, "{by} up to {max}");
                let now = (count(&store, "count").await, value(&store, "beside").await);
                assert_eq!(now, before, "refused as a whole");
            }
            Err(other) => panic!("{by} up to {max}: {other:?}"),
        }
    }
    assert_eq!(count(&store, "count").await, 9);
    set(&store, &[("text", "not 8 bytes")]).await;
    let mut txn = store.begin().await.expect("begin");
    txn.add(b"text", 1, i64::MAX);
    assert!(matches!(refusal(txn).await, StoreError::NotACounter { key } if key == "text"));
}

/// Additions side by side, some refused: the counter is the sum of those that were not, and never above its bound.
async fn additions_add_up<S: Store>(store: S) {
    const MAX: i64 = 40;
    let tasks: Vec<_> = (0..6_u64)
        .map(|seed| {
            let (store, mut rng) = (store.clone(), StdRng::seed_from_u64(seed));
            tokio::spawn(async move {
                let mut sum = 0;
                for _ in 0..20 {
                    let by = rng.random_range(-3..9);
                    match added(&store, by, MAX).await {
                        Ok(()) => sum += by,
                        Err(CommitError::Store(StoreError::CounterOver { .. })) => {}
                        Err(other) => panic!("an addition has nothing to conflict with: {other:?}"),
                    }
                }
                sum
            })
        })
        .collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await.expect("no panic");
    }
    assert_eq!(count(&store, "count").await, sum);
    assert!(sum <= MAX, "{sum}");
}

async fn counted_reads_add_up<S: Store>(store: S) {
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

/// What one committed transaction did. The versions of a key are counted in its value, 0 being its absence.
#[derive(Debug, Default)]
struct Record {
    /// Key and the version seen.
    seen: Vec<(u8, u64)>,
    /// Key and the version made.
    made: Vec<(u8, u64)>,
}

/// Transactions over few keys, run side by side. Who saw which version of what gives the order in which they must
/// have happened (Adya's serialization graph): it has no cycle exactly if some serial order explains it all.
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
    let mut makers = BTreeMap::new();
    for (n, record) in history.iter().enumerate() {
        for version in &record.made {
            assert_eq!(makers.insert(*version, n), None, "seed {seed}: {version:?} made twice");
        }
    }
    assert!(
        !has_cycle(&edges(&history, &makers), history.len()),
        "seed {seed}: {history:#?}"
    );
}

/// Pairs of transactions of which the first must have come before the second.
fn edges(history: &[Record], makers: &BTreeMap<(u8, u64), usize>) -> BTreeSet<(usize, usize)> {
    let mut edges = BTreeSet::new();
    for (n, record) in history.iter().enumerate() {
        for &(key, version) in &record.seen {
            edges.extend(makers.get(&(key, version)).map(|&maker| (maker, n)));
            edges.extend(makers.get(&(key, version + 1)).map(|&next| (n, next)));
        }
    }
    edges.retain(|(before, after)| before != after);
    edges
}

/// Takes away transactions that nothing left must precede, until none can be taken.
fn has_cycle(edges: &BTreeSet<(usize, usize)>, count: usize) -> bool {
    let mut left: BTreeSet<usize> = (0..count).collect();
    loop {
        let held: BTreeSet<usize> = edges
            .iter()
            .filter(|(before, _)| left.contains(before))
            .map(|&(_, after)| after)
            .collect();
        let before = left.len();
        left.retain(|n| held.contains(n));
        if left.len() == before {
            return !left.is_empty();
        }
    }
}

async fn run_random<S: Store>(store: S, mut rng: StdRng) -> Vec<Record> {
    let mut done = Vec::new();
    for _ in 0..20 {
        let plan: Vec<(u8, u8, u8)> = (0..rng.random_range(1..5_usize))
            .map(|_| (rng.random_range(0..4), rng.random_range(0..6), rng.random_range(1..6)))
            .collect();
        let record = transact(&store, |txn| Box::pin(step(txn, plan.clone())));
        done.push(record.await.expect("retried until it fits"));
    }
    done
}

/// Reads keys together (0), ranges (1) and writes (2 and 3), reads first so that none sees an own write.
async fn step<T: Txn>(txn: &mut T, plan: Vec<(u8, u8, u8)>) -> Result<Record, StoreError> {
    let mut record = Record::default();
    for &(kind, key, length) in &plan {
        if kind == 1 {
            let found: BTreeMap<_, _> = txn.range(&[key], &[key + length], 100).await?.into_iter().collect();
            let version = |key: u8| found.get(&[key][..]).map_or(0, |value| number(value));
            record.seen.extend((key..key + length).map(|key| (key, version(key))));
        } else if kind == 0 {
            let keys: Vec<[u8; 1]> = (key..key + length).map(|key| [key]).collect();
            let values = txn.get_many(&keys).await?;
            let versions = values.iter().map(|value| value.as_deref().map_or(0, number));
            record.seen.extend((key..key + length).zip(versions));
        } else {
            let version = txn.get(&[key]).await?.map_or(0, |value| number(&value));
            record.seen.push((key, version));
            if !record.made.contains(&(key, version + 1)) {
                record.made.push((key, version + 1));
            }
        }
    }
    for (key, version) in &record.made {
        txn.put(&[*key], version.to_be_bytes().to_vec());
        // Lets others in between, on one thread, too.
        tokio::task::yield_now().await;
    }
    Ok(record)
}
