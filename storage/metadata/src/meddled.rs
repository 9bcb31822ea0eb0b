//! A store for tests in which something else is done at moments that no test could hit: just after a view was opened, or just before a
//! transaction commits.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use strongroom_kv::{CommitError, EmbeddedSnapshot, EmbeddedStore, EmbeddedTxn, Reader, Store, StoreError, Txn};

type Meddling = Box<dyn FnMut(EmbeddedStore) -> BoxFuture<'static, ()> + Send>;

/// An embedded store, and what is done to it.
#[derive(Clone)]
pub(crate) struct Meddled {
    inner: EmbeddedStore,
    after_view: Arc<Mutex<Meddling>>,
    before_commit: Arc<Mutex<Meddling>>,
}

impl Meddled {
    pub(crate) fn new(inner: &EmbeddedStore) -> Self {
        let nothing = || -> Arc<Mutex<Meddling>> { Arc::new(Mutex::new(Box::new(|_| Box::pin(async {})))) };
        Self {
            inner: inner.clone(),
            after_view: nothing(),
            before_commit: nothing(),
        }
    }

    /// Does something each time that a view was opened, which does not show it.
    pub(crate) fn after_view(self, what: impl FnMut(EmbeddedStore) -> BoxFuture<'static, ()> + Send + 'static) -> Self {
        Self {
            after_view: Arc::new(Mutex::new(Box::new(what))),
            ..self
        }
    }

    /// Does something each time that a transaction is about to be committed.
    pub(crate) fn before_commit(
        self,
        what: impl FnMut(EmbeddedStore) -> BoxFuture<'static, ()> + Send + 'static,
    ) -> Self {
        Self {
            before_commit: Arc::new(Mutex::new(Box::new(what))),
            ..self
        }
    }
}

/// What is done the first time alone.
pub(crate) fn once(
    what: impl FnOnce(EmbeddedStore) -> BoxFuture<'static, ()> + Send + 'static,
) -> impl FnMut(EmbeddedStore) -> BoxFuture<'static, ()> + Send + 'static {
    let mut what = Some(what);
    move |store| what.take().map_or_else(|| async {}.boxed(), |what| what(store))
}

async fn meddle(meddling: &Mutex<Meddling>, store: &EmbeddedStore) {
    let done = {
        let mut meddling = meddling.lock().expect("no panic under the lock");
        (*meddling)(store.clone())
    };
    done.await;
}

impl Store for Meddled {
    type Txn = MeddledTxn;
    type Snapshot = EmbeddedSnapshot;

    async fn begin(&self) -> Result<MeddledTxn, StoreError> {
        Ok(MeddledTxn {
            txn: self.inner.begin().await?,
            store: self.clone(),
        })
    }

    async fn snapshot(&self) -> Result<EmbeddedSnapshot, StoreError> {
        let view = self.inner.snapshot().await?;
        meddle(&self.after_view, &self.inner).await;
        Ok(view)
    }

    fn is_shared(&self) -> bool {
        false
    }
}

pub(crate) struct MeddledTxn {
    txn: EmbeddedTxn,
    store: Meddled,
}

impl Reader for MeddledTxn {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.txn.get(key).await
    }

    async fn range(&mut self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.txn.range(start, end, limit).await
    }
}

impl Txn for MeddledTxn {
    fn put(&mut self, key: &[u8], value: impl Into<Bytes>) {
        self.txn.put(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.txn.delete(key);
    }

    fn add(&mut self, key: &[u8], by: i64, max: i64) {
        self.txn.add(key, by, max);
    }

    fn is_overtaken(&self) -> bool {
        self.txn.is_overtaken()
    }

    async fn commit(self) -> Result<(), CommitError> {
        meddle(&self.store.before_commit, &self.store.inner).await;
        self.txn.commit().await
    }
}
