//! A store that fails at a commit of the test's choice: the process that has it dies before or after, the answer is lost, or
//! the commit is refused. Everything else is left to the real engine behind it.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use strongroom_kv::{CommitError, Reader, Store, StoreError, Txn};
use tokio::sync::Notify;

/// What happens at a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The process is gone before anything was written.
    DieBefore,
    /// The process is gone after all was written, and has answered nobody.
    DieAfter,
    /// All was written, and the process is told that nobody knows.
    LoseAnswer,
    /// Nothing was written: the database could not be reached.
    Refuse,
    /// Nothing was written: somebody else was faster. The transaction runs again.
    Conflict,
}

pub(crate) const FAULTS: [Fault; 5] = [
    Fault::DieBefore,
    Fault::DieAfter,
    Fault::LoseAnswer,
    Fault::Refuse,
    Fault::Conflict,
];

/// When the store fails next, in whichever process has it then.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    plan: Arc<Mutex<Plan>>,
    died: Arc<Notify>,
}

#[derive(Default)]
struct Plan {
    next: Option<(u32, Fault)>,
    struck: u64,
}

impl Faults {
    /// Has the commit fail before which `others` take place.
    pub(crate) fn arm(&self, others: u32, fault: Fault) {
        self.lock().next = Some((others, fault));
    }

    pub(crate) fn disarm(&self) {
        self.lock().next = None;
    }

    /// Returns when the process has died.
    pub(crate) async fn died(&self) {
        self.died.notified().await;
    }

    /// Faults that took place.
    pub(crate) fn struck(&self) -> u64 {
        self.lock().struck
    }

    fn strike(&self) -> Option<Fault> {
        let mut plan = self.lock();
        let (others, fault) = plan.next?;
        plan.next = others.checked_sub(1).map(|others| (others, fault));
        if plan.next.is_some() {
            return None;
        }
        plan.struck += 1;
        Some(fault)
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of the store is one process's: once that has died, nothing it asks for is done or answered.
#[derive(Clone)]
struct Life {
    faults: Faults,
    over: Arc<AtomicBool>,
}

impl Life {
    async fn go_on(&self) {
        if self.over.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    async fn end<T>(&self) -> T {
        self.over.store(true, Ordering::SeqCst);
        self.faults.died.notify_one();
        std::future::pending().await
    }
}

/// The store as one process has it.
#[derive(Clone)]
pub(crate) struct CrashStore<S> {
    inner: S,
    life: Life,
}

impl<S: Store> CrashStore<S> {
    pub(crate) fn new(inner: S, faults: Faults) -> Self {
        let over = Arc::default();
        Self {
            inner,
            life: Life { faults, over },
        }
    }
}

impl<S: Store> Store for CrashStore<S> {
    type Txn = CrashTxn<S::Txn>;
    type Snapshot = CrashView<S::Snapshot>;

    async fn begin(&self) -> Result<Self::Txn, StoreError> {
        self.life.go_on().await;
        Ok(CrashTxn {
            view: CrashView {
                inner: self.inner.begin().await?,
                life: self.life.clone(),
            },
            writes: false,
        })
    }

    async fn snapshot(&self) -> Result<Self::Snapshot, StoreError> {
        self.life.go_on().await;
        Ok(CrashView {
            inner: self.inner.snapshot().await?,
            life: self.life.clone(),
        })
    }

    /// One process at a time has it, so the next one need not wait for the lease of one that died.
    fn is_shared(&self) -> bool {
        false
    }
}

/// A view, or what a transaction reads through.
pub(crate) struct CrashView<R> {
    inner: R,
    life: Life,
}

impl<R: Reader> Reader for CrashView<R> {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.life.go_on().await;
        self.inner.get(key).await
    }

    async fn get_many<K: AsRef<[u8]> + Sync>(&mut self, keys: &[K]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.life.go_on().await;
        self.inner.get_many(keys).await
    }

    async fn range(&mut self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.life.go_on().await;
        self.inner.range(start, end, limit).await
    }
}

pub(crate) struct CrashTxn<T> {
    view: CrashView<T>,
    writes: bool,
}

impl<T: Txn> Reader for CrashTxn<T> {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.view.get(key).await
    }

    async fn get_many<K: AsRef<[u8]> + Sync>(&mut self, keys: &[K]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.view.get_many(keys).await
    }

    async fn range(&mut self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.view.range(start, end, limit).await
    }
}

impl<T: Txn> Txn for CrashTxn<T> {
    fn put(&mut self, key: &[u8], value: impl Into<Bytes>) {
        self.writes = true;
        self.view.inner.put(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.writes = true;
        self.view.inner.delete(key);
    }

    fn add(&mut self, key: &[u8], by: i64, max: i64) {
        self.writes = true;
        self.view.inner.add(key, by, max);
    }

    fn is_overtaken(&self) -> bool {
        self.view.inner.is_overtaken()
    }

    async fn commit(self) -> Result<(), CommitError> {
        let CrashView { inner, life } = self.view;
        life.go_on().await;
        let fault = if self.writes { life.faults.strike() } else { None };
        let database = || "of the model".into();
        match fault {
            None => inner.commit().await,
            Some(Fault::DieBefore) => life.end().await,
            Some(Fault::DieAfter) => {
                _ = inner.commit().await;
                life.end().await
            }
            Some(Fault::LoseAnswer) => {
                inner.commit().await?;
                Err(StoreError::OutcomeUnknown { database: database() }.into())
            }
            Some(Fault::Refuse) => Err(StoreError::Unreachable {
                database: database(),
                what: "commit",
                source: Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
            }
            .into()),
            Some(Fault::Conflict) => Err(CommitError::Conflict),
        }
    }
}
