//! The engine that a configuration names, behind one type.

use std::path::Path;

use bytes::Bytes;

use crate::{
    CommitError, EmbeddedSnapshot, EmbeddedStore, EmbeddedTxn, OpenError, PostgresOpenError, PostgresSnapshot,
    PostgresStore, PostgresTxn, Reader, Store, StoreConfig, StoreError, Txn,
};

/// A store of either engine.
#[derive(Clone)]
pub enum AnyStore {
    /// One file, one process.
    Embedded(EmbeddedStore),
    /// A database, several processes.
    Postgres(PostgresStore),
}

/// A transaction of an [`AnyStore`].
pub enum AnyTxn {
    /// On the file.
    Embedded(EmbeddedTxn),
    /// On the database.
    Postgres(PostgresTxn),
}

/// A view of an [`AnyStore`].
pub enum AnySnapshot {
    /// Of the file.
    Embedded(EmbeddedSnapshot),
    /// Of the database.
    Postgres(PostgresSnapshot),
}

/// Why a store of either engine cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AnyOpenError {
    /// The embedded engine cannot.
    #[error(transparent)]
    Embedded(#[from] OpenError),
    /// The database cannot be used.
    #[error(transparent)]
    Postgres(#[from] PostgresOpenError),
    /// The program is being stopped.
    #[error("the store was not opened")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl AnyStore {
    /// Opens the store that `config` names; `file` is the embedded engine's.
    ///
    /// # Errors
    /// Says what keeps the engine from its file or database.
    pub async fn open(config: &StoreConfig, file: &Path) -> Result<Self, AnyOpenError> {
        match config {
            StoreConfig::Embedded {} => {
                let file = file.to_owned();
                let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(&file)).await??;
                Ok(Self::Embedded(opened))
            }
            StoreConfig::Postgres(config) => Ok(Self::Postgres(PostgresStore::open(config).await?)),
        }
    }
}

impl Store for AnyStore {
    type Txn = AnyTxn;
    type Snapshot = AnySnapshot;

    async fn begin(&self) -> Result<AnyTxn, StoreError> {
        Ok(match self {
            Self::Embedded(store) => AnyTxn::Embedded(store.begin().await?),
            Self::Postgres(store) => AnyTxn::Postgres(store.begin().await?),
        })
    }

    async fn snapshot(&self) -> Result<AnySnapshot, StoreError> {
        Ok(match self {
            Self::Embedded(store) => AnySnapshot::Embedded(store.snapshot().await?),
            Self::Postgres(store) => AnySnapshot::Postgres(store.snapshot().await?),
        })
    }

    fn is_shared(&self) -> bool {
        match self {
            Self::Embedded(store) => store.is_shared(),
            Self::Postgres(store) => store.is_shared(),
        }
    }
}

impl Reader for AnySnapshot {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self {
            Self::Embedded(view) => view.get(key).await,
            Self::Postgres(view) => view.get(key).await,
        }
    }

    async fn get_many<K: AsRef<[u8]> + Sync>(&mut self, keys: &[K]) -> Result<Vec<Option<Bytes>>, StoreError> {
        match self {
            Self::Embedded(view) => view.get_many(keys).await,
            Self::Postgres(view) => view.get_many(keys).await,
        }
    }

    async fn range(&mut self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        match self {
            Self::Embedded(view) => view.range(start, end, limit).await,
            Self::Postgres(view) => view.range(start, end, limit).await,
        }
    }
}

impl Reader for AnyTxn {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self {
            Self::Embedded(txn) => txn.get(key).await,
            Self::Postgres(txn) => txn.get(key).await,
        }
    }

    async fn get_many<K: AsRef<[u8]> + Sync>(&mut self, keys: &[K]) -> Result<Vec<Option<Bytes>>, StoreError> {
        match self {
            Self::Embedded(txn) => txn.get_many(keys).await,
            Self::Postgres(txn) => txn.get_many(keys).await,
        }
    }

    async fn range(&mut self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        match self {
            Self::Embedded(txn) => txn.range(start, end, limit).await,
            Self::Postgres(txn) => txn.range(start, end, limit).await,
        }
    }
}

impl Txn for AnyTxn {
    fn put(&mut self, key: &[u8], value: impl Into<Bytes>) {
        match self {
            Self::Embedded(txn) => txn.put(key, value),
            Self::Postgres(txn) => txn.put(key, value),
        }
    }

    fn delete(&mut self, key: &[u8]) {
        match self {
            Self::Embedded(txn) => txn.delete(key),
            Self::Postgres(txn) => txn.delete(key),
        }
    }

    fn add(&mut self, key: &[u8], by: i64, max: i64) {
        match self {
            Self::Embedded(txn) => txn.add(key, by, max),
            Self::Postgres(txn) => txn.add(key, by, max),
        }
    }

    fn is_overtaken(&self) -> bool {
        match self {
            Self::Embedded(txn) => txn.is_overtaken(),
            Self::Postgres(txn) => txn.is_overtaken(),
        }
    }

    async fn commit(self) -> Result<(), CommitError> {
        match self {
            Self::Embedded(txn) => txn.commit().await,
            Self::Postgres(txn) => txn.commit().await,
        }
    }
}
