//! Setting, clearing and looking at quotas.
//!
//! A quota begins with a mark: from then on every change below the directory adds to its counters, which begin at 0. Then one state of
//! the store that has the mark is counted, and what it has over the counters *of that state* is added to them. However long the
//! counting takes, and whatever changes meanwhile, the counters say then what there is.

use std::time::Duration;

use strongroom_kv::{Store, Txn};
use strongroom_proto::{QuotaId, ZonePath, metadata::v1 as pb};
use tokio::time::timeout;

use super::{Limits, QuotaAt, Usage, at, directory, forget, size, used};
use crate::{
    answers::Call,
    authority::Caller,
    error::MetadataError,
    namespace::{
        permission::{Rights, check},
        resolve::{Found, climb, find},
    },
    schema::{
        access,
        access::transact,
        keys::{self, Measure},
        records,
    },
};

/// How long what is there is counted: less than its caller waits.
const COUNTED_FOR: Duration = Duration::from_secs(20);

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

/// Changes the quota of the directory at `path`, and counts what is there if it had none. That the caller is a superuser was checked
/// before.
pub(crate) async fn set(
    store: &impl Store,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    change: Change,
) -> Result<pb::Quotas, MetadataError> {
    let to_count = transact!(store, [who, call, path], |txn| mark(txn, &who, &call, &path, change)).await?;
    if let Some(id) = to_count {
        match timeout(COUNTED_FOR, count(store, who, id)).await {
            Ok(outcome) => outcome?,
            Err(_) => {
                if transact!(store, [who, call], |txn| unmark(txn, &who, &call, id)).await? {
                    return Err(MetadataError::TooLongToCount(path.clone()));
                }
            }
        }
        // The same request may have come twice, and be given up by the other one.
        transact!(store, [call, path], |txn| said(txn, &call, &path)).await?;
    }
    look(store, who, path).await
}

/// Whether the change was made before; an error if it was given up then.
async fn said(txn: &mut impl Txn, call: &Call, path: &ZonePath) -> Result<bool, MetadataError> {
    match call.answer::<records::QuotaChange>(txn).await? {
        Some(change) if change.given_up => Err(MetadataError::TooLongToCount(path.clone())),
        change => Ok(change.is_some()),
    }
}

/// Writes the new limits. The quota, if what is there is still to be counted.
async fn mark(
    txn: &mut impl Txn,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    change: Change,
) -> Result<Option<QuotaId>, MetadataError> {
    let is_repeat = said(txn, call, path).await?;
    let mut found = find(txn, who, path).await?;
    if !found.entry.is_directory() {
        return Err(MetadataError::NotADirectory(path.clone()));
    }
    if is_repeat {
        // The first one may not have come to its end.
        let quota = found.quotas.last().filter(|quota| !quota.counted);
        return Ok(quota.map(|quota| quota.id).filter(|_| found.entry.quota.is_some()));
    }
    call.keep(txn, &records::QuotaChange::default());
    let before = found.entry.quota.clone().unwrap_or_default();
    let limits = Limits {
        names: change.names.over(before.names),
        bytes: change.bytes.over(before.bytes),
    };
    if limits == Limits::default() {
        return end(txn, found).map(|()| None);
    }
    if before.counted {
        found.entry.quota = Some(records::Quota {
            names: limits.names,
            bytes: limits.bytes,
            ..before
        });
        access::put(txn, &found.key, &found.entry);
        return Ok(None);
    }
    begin(txn, found, limits).map(Some)
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

/// Counts what is there, and puts the quota in force.
async fn count(store: &impl Store, who: &Caller, id: QuotaId) -> Result<(), MetadataError> {
    let mut view = store.snapshot().await?;
    let Some(found) = uncounted(&mut view, who, id).await? else {
        return Ok(());
    };
    let there = Usage::of(&found.entry) + size::below(&mut view, &found.entry, i64::MAX).await?;
    let before = there - used(&mut view, id).await?;
    drop(view);
    transact!(store, [who], |txn| put_in_force(txn, &who, id, before)).await
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
async fn unmark(txn: &mut impl Txn, who: &Caller, call: &Call, id: QuotaId) -> Result<bool, MetadataError> {
    let Some(found) = uncounted(txn, who, id).await? else {
        return Ok(false);
    };
    end(txn, found)?;
    call.keep_instead(txn, &records::QuotaChange { given_up: true });
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
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use strongroom_kv::{EmbeddedStore, StoreError};
    use strongroom_proto::{FileId, RequestId, groups::Groups};

    use super::*;
    use crate::schema::ROOT;

    /// A store of which no state can be looked at for a while, so that nothing is counted.
    #[derive(Clone)]
    struct Slow {
        inner: EmbeddedStore,
        is_slow: Arc<AtomicBool>,
    }

    impl Store for Slow {
        type Txn = <EmbeddedStore as Store>::Txn;
        type Snapshot = <EmbeddedStore as Store>::Snapshot;

        async fn begin(&self) -> Result<Self::Txn, StoreError> {
            self.inner.begin().await
        }

        async fn snapshot(&self) -> Result<Self::Snapshot, StoreError> {
            if self.is_slow.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            self.inner.snapshot().await
        }

        fn is_shared(&self) -> bool {
            false
        }
    }

    async fn with_directory(store: EmbeddedStore) -> Slow {
        let mut txn = store.begin().await.expect("a transaction");
        for (key, id) in [(keys::root(), ROOT), (keys::dentry(ROOT, "d"), FileId::generate())] {
            let entry = records::Entry {
                id: id.into(),
                ..records::Entry::default()
            };
            let place = records::Place {
                parent: ROOT.into(),
                name: "d".to_owned(),
                unlinked: false,
            };
            access::put(&mut txn, &key, &entry);
            access::put(&mut txn, &keys::place(id), &place);
        }
        txn.commit().await.expect("committed");
        Slow {
            inner: store,
            is_slow: Arc::new(AtomicBool::new(true)),
        }
    }

    /// A repeat of a request is told what became of it, also of one that was given up.
    #[tokio::test(start_paused = true)]
    async fn a_quota_that_was_given_up_is_not_said_to_be_set() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = EmbeddedStore::open(&dir.path().join("store")).expect("a store");
        let store = with_directory(store).await;
        let who = Caller::of("fsadmin", Groups::default(), true);
        let call = |id: RequestId| Call::of("set_quota", &who.name, id.as_bytes(), &pb::Quotas::default(), 1);
        let (path, change) = (
            ZonePath::parse(b"/d").expect("a path"),
            Change {
                names: Limit::Set(5),
                bytes: Limit::Keep,
            },
        );
        let first = call(RequestId::generate()).expect("a call");
        for attempt in ["given up", "repeated"] {
            if attempt == "repeated" {
                store.is_slow.store(false, Ordering::Relaxed);
            }
            let outcome = set(&store, &who, &first, &path, change).await;
            assert!(
                matches!(outcome, Err(MetadataError::TooLongToCount(_))),
                "{attempt}: {outcome:?}"
            );
        }
        let second = call(RequestId::generate()).expect("a call");
        let quotas = set(&store, &who, &second, &path, change).await.expect("counted");
        assert!(quotas.has_own && quotas.quotas[0].names == 1, "{quotas:?}");
        let again = set(&store, &who, &second, &path, change).await.expect("a repeat");
        assert_eq!(again, quotas);
    }
}
