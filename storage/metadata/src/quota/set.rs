//! Setting, clearing and looking at quotas.
//!
//! A quota begins with a mark: from then on every change below the directory adds to its counters, which begin at 0. Then one state of
//! the store that has the mark is counted, and what it has over the counters *of that state* is added to them. However long the
//! counting takes, and whatever changes meanwhile, the counters say then what there is.

use strongroom_kv::{Store, Txn};
use strongroom_proto::{FileId, QuotaId, ZonePath, metadata::v1 as pb};
use tokio::time::{Instant, timeout_at};

use super::{Limits, QuotaAt, Usage, at, directory, forget, size, used};
use crate::{
    answers::Call,
    authority::Caller,
    error::MetadataError,
    namespace::{
        permission::{Rights, check},
        resolve::{Found, climb, find},
        walk::Bound,
        walkers::Walkers,
    },
    schema::{
        access,
        access::transact,
        keys::{self, Measure},
        records,
    },
};

/// A change of a limit; none leaves it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Keep,
    Clear,
    Set(u64),
}

impl Limit {
    const fn over(self, before: Option<u64>) -> Option<u64> {
        match self {
            Self::Keep => before,
            Self::Clear => None,
            Self::Set(limit) => Some(limit),
        }
    }
}

/// What is to become of a directory's quota.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) names: Limit,
    pub(crate) bytes: Limit,
}

/// A quota whose directory is still to be counted.
#[derive(Debug, Clone, Copy)]
struct Marked {
    id: QuotaId,
    directory: FileId,
}

/// What a transaction comes to.
#[derive(Debug)]
enum Turn {
    /// The change was made, by this call or by an earlier attempt.
    Done,
    /// Nothing was done: what is there is to be counted.
    ToCount,
    Marked(Marked),
}

/// Changes the quota of the directory at `path`, and counts what is there if it had none. Only that takes a place among the walkers; a repeat
/// of what was done takes none. That the caller is a superuser was checked before.
pub(crate) async fn set(
    store: &impl Store,
    walkers: &Walkers,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    change: Change,
) -> Result<pb::Quotas, MetadataError> {
    let turn = async |may_count| {
        transact!(store, [who, call, path], |txn| mark(
            txn, &who, &call, &path, change, may_count
        ))
        .await
    };
    if let Turn::ToCount = turn(false).await? {
        // Before the mark, which nothing is to leave uncounted for want of a place.
        let leave = walkers.begin(who).await?;
        if let Turn::Marked(marked) = turn(true).await? {
            put_in_force_or_back(store, who, call, path, marked, leave.deadline()).await?;
        }
    }
    look(store, who, path).await
}

/// Counts what is there for a quota. If that takes too long the quota is taken back.
async fn put_in_force_or_back(
    store: &impl Store,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    marked: Marked,
    deadline: Instant,
) -> Result<(), MetadataError> {
    let counted = timeout_at(deadline, count(store, who, marked.id, deadline)).await;
    let given_up = match counted.unwrap_or(Ok(false)) {
        Ok(true) => None,
        Ok(false) => Some(given_up(String::new())),
        Err(MetadataError::TooDeep(name)) => Some(given_up(name)),
        Err(error) => return Err(error),
    };
    if let Some(change) = given_up
        && transact!(store, [who, call, change], |txn| unmark(
            txn, &who, &call, marked.id, &change
        ))
        .await?
    {
        return Err(why_given_up(change, path));
    }
    transact!(store, [who, call, path], |txn| conclude(
        txn,
        &who,
        &call,
        &path,
        marked.directory
    ))
    .await
}

/// What is kept of the call, if it came before; an error if its quota was given up then.
async fn said(txn: &mut impl Txn, call: &Call, path: &ZonePath) -> Result<Option<records::QuotaChange>, MetadataError> {
    match call.answer::<records::QuotaChange>(txn).await? {
        Some(change) if change.given_up => Err(why_given_up(change, path)),
        change => Ok(change),
    }
}

/// What is kept of a change that could not be counted, in time or since a directory of that name is too deep.
fn given_up(too_deep: String) -> records::QuotaChange {
    records::QuotaChange {
        given_up: true,
        too_deep,
        ..records::QuotaChange::default()
    }
}

fn why_given_up(change: records::QuotaChange, path: &ZonePath) -> MetadataError {
    if change.too_deep.is_empty() {
        return MetadataError::TooLongToCount(path.clone());
    }
    MetadataError::TooDeep(change.too_deep)
}

/// What is kept of a change that was made, whatever comes after it.
fn made() -> records::QuotaChange {
    records::QuotaChange {
        made: true,
        ..records::QuotaChange::default()
    }
}

/// Writes the new limits, unless what is there is to be counted for them and this `may_count` not.
async fn mark(
    txn: &mut impl Txn,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    change: Change,
    may_count: bool,
) -> Result<Turn, MetadataError> {
    let before = said(txn, call, path).await?;
    if before.as_ref().is_some_and(|change| change.made) {
        return Ok(Turn::Done);
    }
    let found = find(txn, who, path).await?;
    if !found.entry.is_directory() {
        return Err(MetadataError::NotADirectory(path.clone()));
    }
    match before {
        // The first one did not come to its end.
        Some(_) => go_on(txn, call, path, &found, may_count),
        None => make(txn, call, found, change, may_count),
    }
}

/// The quota that an earlier attempt of the call left to be counted.
fn go_on(
    txn: &mut impl Txn,
    call: &Call,
    path: &ZonePath,
    found: &Found,
    may_count: bool,
) -> Result<Turn, MetadataError> {
    match &found.entry.quota {
        None => Err(MetadataError::QuotaTakenAway(path.clone())),
        Some(quota) if quota.counted => {
            call.keep_instead(txn, &made());
            Ok(Turn::Done)
        }
        Some(_) if !may_count => Ok(Turn::ToCount),
        Some(quota) => Ok(Turn::Marked(Marked {
            id: quota.quota_id()?,
            directory: found.id,
        })),
    }
}

fn make(
    txn: &mut impl Txn,
    call: &Call,
    mut found: Found,
    change: Change,
    may_count: bool,
) -> Result<Turn, MetadataError> {
    let before = found.entry.quota.clone().unwrap_or_default();
    let limits = Limits {
        names: change.names.over(before.names),
        bytes: change.bytes.over(before.bytes),
    };
    if limits == Limits::default() {
        call.keep(txn, &made());
        return end(txn, found).map(|()| Turn::Done);
    }
    if before.counted {
        call.keep(txn, &made());
        found.entry.quota = Some(records::Quota {
            names: limits.names,
            bytes: limits.bytes,
            ..before
        });
        access::put(txn, &found.key, &found.entry);
        return Ok(Turn::Done);
    }
    if !may_count {
        return Ok(Turn::ToCount);
    }
    call.keep(txn, &records::QuotaChange::default());
    let directory = found.id;
    let id = begin(txn, found, limits)?;
    Ok(Turn::Marked(Marked { id, directory }))
}

/// Whether what was counted, by whomever, is in force. A quota that is not there was given up with a later change of another call, or
/// cleared: the caller hears that, and not that it is set.
async fn conclude(
    txn: &mut impl Txn,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    directory: FileId,
) -> Result<(), MetadataError> {
    // The same request may have come twice, and be given up by the other one.
    if said(txn, call, path).await?.is_some_and(|change| change.made) {
        return Ok(());
    }
    let found = climb(txn, who, directory).await?;
    let found = found.ok_or_else(|| MetadataError::NotFound(path.clone()))?;
    match &found.entry.quota {
        None => Err(MetadataError::QuotaTakenAway(path.clone())),
        Some(quota) => {
            if quota.counted {
                call.keep_instead(txn, &made());
            }
            // One that is not is a later change's, which counts it.
            Ok(())
        }
    }
}

/// Has everything that changes below a directory counted from now on.
fn begin(txn: &mut impl Txn, mut found: Found, limits: Limits) -> Result<QuotaId, MetadataError> {
    forget(txn, &found.entry)?;
    let id = QuotaId::generate();
    txn.put(&keys::quota(id), bytes::Bytes::from(found.id));
    found.entry.quota = Some(records::Quota {
        id: id.into(),
        names: limits.names,
        bytes: limits.bytes,
        counted: false,
    });
    access::put(txn, &found.key, &found.entry);
    Ok(id)
}

fn end(txn: &mut impl Txn, mut found: Found) -> Result<(), MetadataError> {
    forget(txn, &found.entry)?;
    found.entry.quota = None;
    access::put(txn, &found.key, &found.entry);
    Ok(())
}

/// The directory of a quota that is not counted yet; none if somebody else has ended or counted it.
async fn uncounted(
    txn: &mut impl strongroom_kv::Reader,
    who: &Caller,
    id: QuotaId,
) -> Result<Option<Found>, MetadataError> {
    let Some(directory) = directory(txn, id).await? else {
        return Ok(None);
    };
    let found = climb(txn, who, directory).await?;
    let is_it = |quota: &records::Quota| !quota.counted && quota.id.as_ref() == id.as_bytes();
    Ok(found.filter(|found| found.entry.quota.as_ref().is_some_and(is_it)))
}

/// Counts what is there, and puts the quota in force. Says whether that was done in time.
async fn count(store: &impl Store, who: &Caller, id: QuotaId, deadline: Instant) -> Result<bool, MetadataError> {
    let mut view = store.snapshot().await?;
    let Some(found) = uncounted(&mut view, who, id).await? else {
        return Ok(true);
    };
    let Some(below) = size::below(&mut view, &found.entry, Bound::Until(deadline)).await? else {
        return Ok(false);
    };
    let before = Usage::of(&found.entry) + below - used(&mut view, id).await?;
    drop(view);
    transact!(store, [who], |txn| put_in_force(txn, &who, id, before)).await?;
    Ok(true)
}

async fn put_in_force(txn: &mut impl Txn, who: &Caller, id: QuotaId, before: Usage) -> Result<(), MetadataError> {
    let Some(mut found) = uncounted(txn, who, id).await? else {
        return Ok(());
    };
    for measure in Measure::ALL {
        txn.add(&keys::used(id, measure), before.of_measure(measure), i64::MAX);
    }
    if let Some(quota) = &mut found.entry.quota {
        quota.counted = true;
    }
    access::put(txn, &found.key, &found.entry);
    Ok(())
}

/// Takes a quota back that could not be counted, if nobody else ended or counted it. Says whether it did.
async fn unmark(
    txn: &mut impl Txn,
    who: &Caller,
    call: &Call,
    id: QuotaId,
    given_up: &records::QuotaChange,
) -> Result<bool, MetadataError> {
    let Some(found) = uncounted(txn, who, id).await? else {
        return Ok(false);
    };
    end(txn, found)?;
    call.keep_instead(txn, given_up);
    Ok(true)
}

/// The quotas that the directory at `path` is under, its own last, for whoever may list it.
pub(crate) async fn look(store: &impl Store, who: &Caller, path: &ZonePath) -> Result<pb::Quotas, MetadataError> {
    let mut view = store.snapshot().await?;
    let found = find(&mut view, who, path).await?;
    if !found.entry.is_directory() {
        return Err(MetadataError::NotADirectory(path.clone()));
    }
    check(who, &found, Rights::LIST, path)?;
    let mut quotas = Vec::with_capacity(found.quotas.len());
    for quota in &found.quotas {
        quotas.push(wire(quota, used(&mut view, quota.id).await?));
    }
    Ok(pb::Quotas {
        has_own: at(&found.path, &found.entry)?.is_some(),
        quotas,
    })
}

fn wire(quota: &QuotaAt, used: Usage) -> pb::Quota {
    let used = |measure| u64::try_from(used.of_measure(measure)).unwrap_or_default();
    pb::Quota {
        path: (&quota.path).into(),
        names_max: quota.limits.names,
        bytes_max: quota.limits.bytes,
        names: used(Measure::Names),
        bytes: used(Measure::Bytes),
        counting: !quota.counted,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        time::Duration,
    };

    use strongroom_proto::{RequestId, groups::Groups};

    use super::*;
    use crate::{
        meddled::Meddled,
        planted::{Planted, parsed},
    };

    fn fsadmin() -> Caller {
        Caller::of("fsadmin", Groups::default(), true)
    }

    /// A call with an id of its own.
    fn call() -> Call {
        let id = RequestId::generate();
        Call::of("set_quota", &fsadmin().name, id.as_bytes(), &pb::Quotas::default(), 1).expect("a call")
    }

    const fn names(most: u64) -> Change {
        Change {
            names: Limit::Set(most),
            bytes: Limit::Keep,
        }
    }

    async fn set_on_d(store: &impl Store, call: &Call, change: Change) -> Result<pb::Quotas, MetadataError> {
        set(store, &Walkers::new(), &fsadmin(), call, &parsed("/d"), change).await
    }

    /// A directory with some in it.
    async fn with_directory() -> Planted {
        let planted = Planted::new().await;
        planted.directory("/d", "alice", 0o755).await;
        planted.fill("/d", "alice", 100).await;
        planted
    }

    /// A repeat of a request is told what became of it, also of one that was given up.
    #[tokio::test(start_paused = true)]
    async fn a_quota_that_was_given_up_is_not_said_to_be_set() {
        let planted = with_directory().await;
        let is_slow = Arc::new(AtomicBool::new(true));
        let slow = Arc::clone(&is_slow);
        let store = Meddled::new(&planted.store).after_view(move |_| {
            let slow = Arc::clone(&slow);
            Box::pin(async move {
                if slow.load(Ordering::Relaxed) {
                    pending::<()>().await;
                }
            })
        });
        let first = call();
        for attempt in ["given up", "repeated"] {
            is_slow.store(attempt == "given up", Ordering::Relaxed);
            let outcome = set_on_d(&store, &first, names(500)).await;
            assert!(
                matches!(outcome, Err(MetadataError::TooLongToCount(_))),
                "{attempt}: {outcome:?}"
            );
        }
        let second = call();
        let quotas = set_on_d(&store, &second, names(500)).await.expect("counted");
        assert!(quotas.has_own && quotas.quotas[0].names == 101, "{quotas:?}");
        let again = set_on_d(&store, &second, names(500)).await.expect("a repeat");
        assert_eq!(again, quotas);
    }

    /// The reads of the embedded store never wait.
    #[tokio::test]
    async fn what_takes_too_long_to_count_is_given_up() {
        let planted = with_directory().await;
        let (store, who, path) = (&planted.store, fsadmin(), parsed("/d"));
        for (given, is_enough) in [(Duration::ZERO, false), (Duration::from_secs(600), true)] {
            let view = planted.at("/d").await.expect("there");
            let marked = transact!(store, [view], |txn| async move {
                let id = begin(txn, view, Limits::default())?;
                Ok::<_, MetadataError>(id)
            })
            .await;
            let marked = Marked {
                id: marked.expect("marked"),
                directory: planted.at("/d").await.expect("there").id,
            };
            let deadline = Instant::now() + given;
            let outcome = put_in_force_or_back(store, &who, &call(), &path, marked, deadline).await;
            let quota = planted.at("/d").await.expect("there").entry.quota;
            match outcome {
                Ok(()) => assert!(is_enough && quota.is_some_and(|quota| quota.counted)),
                Err(MetadataError::TooLongToCount(_)) => assert!(!is_enough && quota.is_none()),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[tokio::test]
    async fn a_repeat_of_what_is_too_deep_to_be_counted_says_so() {
        let planted = with_directory().await;
        let top = planted.at("/d").await.expect("there");
        planted.chain(&top, 2100).await;
        let first = call();
        for attempt in ["given up", "repeated"] {
            let outcome = set_on_d(&planted.store, &first, names(5000)).await;
            assert!(
                matches!(&outcome, Err(MetadataError::TooDeep(name)) if name == "d"),
                "{attempt}: {outcome:?}"
            );
            assert_eq!(planted.at("/d").await.expect("there").entry.quota, None, "{attempt}");
        }
    }

    /// While all places of a superuser are taken what needs none is done, and a repeat is answered.
    #[tokio::test(start_paused = true)]
    async fn what_counts_nothing_waits_for_no_place() {
        let planted = with_directory().await;
        let (walkers, who, path) = (Walkers::new(), fsadmin(), parsed("/d"));
        let set = async |call: &Call, change| set(&planted.store, &walkers, &who, call, &path, change).await;
        let first = call();
        let begun = set(&first, names(500)).await.expect("counted");
        let held = [walkers.begin(&who).await, walkers.begin(&who).await];
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(set(&first, names(500)).await.expect("a repeat"), begun);
        let raised = set(&call(), names(600)).await.expect("nothing to count");
        assert_eq!(raised.quotas[0].names_max, Some(600));
        let clear = Change {
            names: Limit::Clear,
            bytes: Limit::Clear,
        };
        for _ in 0..2 {
            assert!(!set(&call(), clear).await.expect("nothing to count").has_own);
        }
        let late = call();
        let refused = set(&late, names(500)).await;
        assert!(matches!(refused, Err(MetadataError::TooManyWalks(_))), "{refused:?}");
        assert_eq!(
            planted.at("/d").await.expect("there").entry.quota,
            None,
            "no mark is left"
        );
        drop(held);
        let counted = set(&late, names(500)).await.expect("there is a place again");
        assert_eq!(counted.quotas[0].names, 101);
    }

    /// Of two changes that are counted at once the later one is in force, or none.
    #[tokio::test]
    async fn a_quota_that_a_later_change_took_with_it_is_not_said_to_be_set() {
        let planted = with_directory().await;
        let (first, later) = (call(), call());
        let taken_back = later.clone();
        let store = Meddled::new(&planted.store).after_view(move |store| {
            let later = taken_back.clone();
            Box::pin(async move {
                let (who, path) = (fsadmin(), parsed("/d"));
                let marked = transact!(&store, [who, later, path], |txn| mark(
                    txn,
                    &who,
                    &later,
                    &path,
                    names(700),
                    true
                ))
                .await;
                let Turn::Marked(marked) = marked.expect("marked") else {
                    panic!("it is to be counted");
                };
                let change = given_up(String::new());
                let taken_back = transact!(&store, [who, later, change], |txn| unmark(
                    txn, &who, &later, marked.id, &change
                ))
                .await;
                assert!(taken_back.expect("given up"));
            })
        });
        let outcome = set_on_d(&store, &first, names(500)).await;
        assert!(matches!(outcome, Err(MetadataError::QuotaTakenAway(_))), "{outcome:?}");
        let again = set_on_d(&planted.store, &first, names(500)).await;
        assert!(matches!(again, Err(MetadataError::QuotaTakenAway(_))), "{again:?}");
        let again = set_on_d(&planted.store, &later, names(700)).await;
        assert!(matches!(again, Err(MetadataError::TooLongToCount(_))), "{again:?}");
        let quotas = set_on_d(&planted.store, &call(), names(9)).await.expect("counted");
        assert_eq!(quotas.quotas[0].names_max, Some(9));
    }
}
