//! The engine for several processes, on a PostgreSQL database (or another that speaks its protocol): three tables, no
//! extensions, no notifications.
//!
//! A transaction reads from one snapshot and keeps its writes here until it commits, together with others of its process
//! ([`committer`]). Readers hold no locks and never conflict.

mod commit;
mod committer;
mod connection;
mod reads;
mod schema;
mod target;

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use deadpool_postgres::BuildError;

use self::{
    committer::{Committer, Seen},
    connection::{CONNECTION_ATTEMPTS_MAX, Connection, Connections, Trouble},
    reads::{ReadSet, values},
    target::Target,
};
use crate::{
    CommitError, PostgresConfig, Reader, Store, StoreError, Txn,
    counter::Delta,
    store::check_together,
    writes::{Write, WriteSet},
};

/// The head's number belongs to the same snapshot as every later read.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT seq FROM strongroom_kv_head";
const GET: &str = "SELECT value FROM strongroom_kv WHERE key = $1";
const RANGE: &str = "SELECT key, value FROM strongroom_kv WHERE key >= $1 AND key < $2 ORDER BY key LIMIT $3";

/// Why a database cannot be used as a store.
#[derive(Debug, thiserror::Error)]
pub enum PostgresOpenError {
    /// The file with the URL cannot be read.
    #[error("cannot read the database's URL from {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others can read the password.
    #[error("{} has mode {mode:o}, so others may read the password in it; run: chmod 600 {}", path.display(), path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The URL is none that can be used.
    #[error("the database's URL in {} cannot be used: {why}", path.display())]
    Url {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No CA.
    #[error("a PostgreSQL store needs ca, the file with the CA of the server's certificate")]
    NoCa,
    /// The CA cannot be used.
    #[error("cannot use the database's CA {}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No pool can be made.
    #[error("cannot set up connections to the database")]
    Pool(#[source] BuildError),
    /// The server acknowledges what it may lose.
    #[error("the database {database} has {setting} = off and would lose acknowledged changes in a crash; switch it on")]
    Loses {
        /// The database.
        database: String,
        /// Its setting.
        setting: &'static str,
    },
    /// A newer release wrote the tables.
    #[error(
        "the database {database} has format {found}, and this release knows formats up to {supported}; run the release that wrote it, or a newer one"
    )]
    NewerFormat {
        /// The database.
        database: String,
        /// The version in it.
        found: i64,
        /// The newest that this release knows.
        supported: i64,
    },
    /// The database cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A store in a PostgreSQL database.
#[derive(Clone)]
pub struct PostgresStore {
    connections: Arc<Connections>,
    committer: Arc<Committer>,
}

impl PostgresStore {
    /// Connects to the database, with its commits on the runtime that this is called on, and makes the tables if they are missing, in the first schema of the user's search path.
    ///
    /// # Errors
    /// Says what is wrong with the URL, the server or its tables, never the password.
    pub async fn open(config: &PostgresConfig) -> Result<Self, PostgresOpenError> {
        let connections = Connections::new(Target::read(config)?, config)?;
        schema::prepare(&connections).await?;
        let connections = Arc::new(connections);
        Ok(Self {
            committer: Arc::new(Committer::start(&connections)),
            connections,
        })
    }
}

impl Store for PostgresStore {
    type Txn = PostgresTxn;
    type Snapshot = PostgresSnapshot;

    async fn begin(&self) -> Result<PostgresTxn, StoreError> {
        Ok(PostgresTxn {
            snapshot: self.snapshot().await?,
            committer: Arc::clone(&self.committer),
            reads: ReadSet::default(),
            writes: WriteSet::default(),
        })
    }

    async fn snapshot(&self) -> Result<PostgresSnapshot, StoreError> {
        let mut attempt = 1;
        loop {
            let mut connection = self.connections.get().await?;
            match connection.simple("begin a transaction", BEGIN).await {
                Err(Trouble::Lost(_) | Trouble::Conflict) if attempt < CONNECTION_ATTEMPTS_MAX => attempt += 1,
                Err(trouble) => return Err(trouble.into()),
                Ok(head) => {
                    let seq = head.and_then(|head| head.parse().ok());
                    return Ok(PostgresSnapshot {
                        seq: seq.ok_or_else(|| self.connections.headless())?,
                        connection,
                    });
                }
            }
        }
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// A view of a [`PostgresStore`]. It holds a connection, and the database ends it after a minute without a read.
pub struct PostgresSnapshot {
    connection: Connection,
    /// Number of the last commit that it shows.
    seq: i64,
}

impl Reader for PostgresSnapshot {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let rows = self.connection.query("read", GET, &[&key]).await?;
        Ok(rows.first().map(|row| Bytes::copy_from_slice(row.get(0))))
    }

    async fn get_many<K: AsRef<[u8]> + Sync>(&mut self, keys: &[K]) -> Result<Vec<Option<Bytes>>, StoreError> {
        check_together(keys.len())?;
        let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        let stored = values(&mut self.connection, "read", &keys).await?;
        Ok(keys.iter().map(|key| stored.get(*key).cloned()).collect())
    }

    async fn range(&mut self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if start >= end || limit == 0 {
            return Ok(Vec::new());
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.connection.query("read", RANGE, &[&start, &end, &limit]).await?;
        let pairs = rows.iter();
        let pairs = pairs.map(|row| (Bytes::copy_from_slice(row.get(0)), Bytes::copy_from_slice(row.get(1))));
        Ok(pairs.collect())
    }
}

/// A transaction of a [`PostgresStore`]. It holds a connection, so it should be short.
pub struct PostgresTxn {
    snapshot: PostgresSnapshot,
    committer: Arc<Committer>,
    reads: ReadSet,
    writes: WriteSet,
}

impl Reader for PostgresTxn {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if self.writes.decides(key) {
            return self.writes.over(key, None);
        }
        let stored = self.snapshot.get(key).await?;
        self.reads.add_key(key, stored.is_some())?;
        self.writes.over(key, stored)
    }

    async fn get_many<K: AsRef<[u8]> + Sync>(&mut self, keys: &[K]) -> Result<Vec<Option<Bytes>>, StoreError> {
        check_together(keys.len())?;
        let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        let asked: Vec<&[u8]> = keys.iter().copied().filter(|key| !self.writes.decides(key)).collect();
        let stored = values(&mut self.snapshot.connection, "read", &asked).await?;
        for key in asked {
            self.reads.add_key(key, stored.contains_key(key))?;
        }
        keys.iter()
            .map(|key| self.writes.over(key, stored.get(*key).cloned()))
            .collect()
    }

    async fn range(&mut self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if start >= end || limit == 0 {
            return Ok(Vec::new());
        }
        // Own writes may hide stored pairs, so that more of those may be needed.
        let hidden = self.writes.range(start, end);
        let hidden = hidden.filter(|(_, write)| !matches!(write, Write::Put(_))).count();
        let stored = self.snapshot.range(start, end, limit.saturating_add(hidden)).await?;
        let found = self.overlaid(&stored, start, end, limit)?;
        match found.last() {
            Some((last, _)) if found.len() == limit => {
                let seen = stored.iter().filter(|(key, _)| key <= last).count();
                self.reads.add_range(start, &[last, &[0][..]].concat(), seen)?;
            }
            _ => self.reads.add_range(start, end, stored.len())?,
        }
        Ok(found)
    }
}

impl Txn for PostgresTxn {
    fn put(&mut self, key: &[u8], value: impl Into<Bytes>) {
        self.writes.put(key, value.into());
    }

    fn delete(&mut self, key: &[u8]) {
        self.writes.delete(key);
    }

    fn add(&mut self, key: &[u8], by: i64, max: i64) {
        self.writes.add(key, Delta { by, max });
    }

    fn is_overtaken(&self) -> bool {
        self.snapshot.connection.is_overtaken()
    }

    async fn commit(self) -> Result<(), CommitError> {
        let writes = self.writes.checked()?;
        if writes.is_empty() {
            // All reads were of one snapshot: the transaction took place when that was current.
            return Ok(());
        }
        let seen = Seen {
            snapshot: self.snapshot.seq,
            reads: self.reads,
        };
        // Its connection is for others while this waits.
        drop(self.snapshot);
        self.committer.commit(seen, writes).await
    }
}

impl PostgresTxn {
    /// The first `limit` of the stored pairs of `[start, end)` with the own writes over them.
    fn overlaid(
        &self,
        stored: &[(Bytes, Bytes)],
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let mut pairs: BTreeMap<Bytes, Bytes> = stored.iter().cloned().collect();
        for (key, write) in self.writes.range(start, end) {
            match write.over(key, pairs.get(key).map(AsRef::as_ref))? {
                Some(value) => _ = pairs.insert(key.clone(), value),
                None => _ = pairs.remove(key),
            }
        }
        Ok(pairs.into_iter().take(limit).collect())
    }
}
