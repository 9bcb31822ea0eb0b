//! Connections: a bounded pool of them, time limits, and what a failure means for the transaction under way.

use std::{error::Error, io, sync::Arc, time::Duration};

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType,
};
use futures::FutureExt as _;
use tokio_postgres::{
    NoTls, Row, SimpleQueryMessage,
    error::{DbError, Severity, SqlState},
    types::ToSql,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{PostgresOpenError, target::Target};
use crate::{CommitError, PostgresConfig, StoreError};

/// Connections tried for one piece of work: those of the pool may have died unnoticed.
pub(super) const CONNECTION_ATTEMPTS_MAX: u32 = 3;
/// What the database has for a statement beyond its own limit, before the connection is given up.
const ANSWER_GRACE: Duration = Duration::from_secs(2);
/// How long the database keeps a transaction whose process says nothing. A commit under way has less.
const IDLE_TRANSACTION_MS: u64 = 60_000;

/// The connections of one store.
pub(super) struct Connections {
    pool: Pool,
    /// How many there are at most.
    pub(super) size: usize,
    pub(super) database: Arc<str>,
    wait: Duration,
    answer: Duration,
    /// How long the outcome of a lost commit is asked for.
    pub(super) look_up: Duration,
}

/// Why a statement was not carried out.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The database undid the transaction in favour of another.
    Conflict,
    /// The database refused the statement; the transaction is undone.
    Refused(StoreError),
    /// The connection is gone, and with it the answer.
    Lost(StoreError),
}

impl Connections {
    /// Connects when first asked.
    pub(super) fn new(target: Target, config: &PostgresConfig) -> Result<Self, PostgresOpenError> {
        let wait = Duration::from_millis(config.connect_timeout_ms);
        let recycling = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = match target.tls {
            Some(tls) => Manager::from_config(target.config, MakeRustlsConnect::new(tls), recycling),
            None => Manager::from_config(target.config, NoTls, recycling),
        };
        let pool = Pool::builder(manager)
            .max_size(config.connections)
            .wait_timeout(Some(wait))
            .create_timeout(Some(wait))
            .recycle_timeout(Some(wait))
            .runtime(Runtime::Tokio1)
            .post_create(set_up(config.statement_timeout_ms))
            .build()
            .map_err(PostgresOpenError::Pool)?;
        Ok(Self {
            pool,
            size: config.connections,
            database: target.name,
            wait,
            answer: Duration::from_millis(config.statement_timeout_ms) + ANSWER_GRACE,
            look_up: wait + Duration::from_millis(config.statement_timeout_ms),
        })
    }

    /// A connection, when one is free.
    pub(super) async fn get(&self) -> Result<Connection, StoreError> {
        match self.pool.get().await {
            Ok(client) => Ok(Connection {
                client: Some(client),
                database: Arc::clone(&self.database),
                answer: self.answer,
                is_overtaken: false,
            }),
            Err(PoolError::Timeout(TimeoutType::Wait)) => Err(StoreError::Overloaded {
                lack: "no free connection to its database",
                waited_ms: millis(self.wait),
            }),
            Err(error) => Err(self.unreachable("connect", error)),
        }
    }

    /// The one row that orders the commits was taken away.
    pub(super) fn headless(&self) -> StoreError {
        self.unreachable("read its head row", io::Error::from(io::ErrorKind::NotFound))
    }

    /// The error of a database that does not answer.
    pub(super) fn unreachable(&self, what: &'static str, source: impl Error + Send + Sync + 'static) -> StoreError {
        unreachable(&self.database, what, source)
    }
}

/// Limits that hold for every statement of a connection.
fn set_up(statement_timeout_ms: u64) -> Hook {
    let limits = format!(
        "SET statement_timeout = {statement_timeout_ms}; \
         SET idle_in_transaction_session_timeout = {IDLE_TRANSACTION_MS}"
    );
    Hook::async_fn(move |client, _| {
        let limits = limits.clone();
        Box::pin(async move { client.batch_execute(&limits).await.map_err(HookError::Backend) })
    })
}

/// A connection in the hands of one transaction. Dropping it undoes what was not committed.
pub(super) struct Connection {
    /// Gone once it did not answer.
    client: Option<Object>,
    database: Arc<str>,
    answer: Duration,
    /// The database undid the transaction in favour of another.
    is_overtaken: bool,
}

impl Connection {
    pub(super) const fn is_overtaken(&self) -> bool {
        self.is_overtaken
    }

    /// Runs statements without parameters; the first column of the last row, if there was one.
    pub(super) async fn simple(&mut self, what: &'static str, statements: &str) -> Result<Option<String>, Trouble> {
        let client = self.client(what)?;
        let messages = client.simple_query(statements);
        let messages = self.judge(what, tokio::time::timeout(self.answer, messages).await)?;
        let row = messages.iter().rev().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).map(str::to_owned)),
            _ => None,
        });
        Ok(row.flatten())
    }

    /// Runs a query, which is prepared once for the connection.
    pub(super) async fn query(
        &mut self,
        what: &'static str,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Trouble> {
        let client = self.client(what)?;
        let run = async {
            let statement = client.prepare_cached(statement).await?;
            client.query(&statement, parameters).await
        };
        let outcome = tokio::time::timeout(self.answer, run).await;
        self.judge(what, outcome)
    }

    fn client(&self, what: &'static str) -> Result<&Object, Trouble> {
        let gone = || unreachable(&self.database, what, io::Error::from(io::ErrorKind::NotConnected));
        self.client.as_ref().ok_or_else(gone).map_err(Trouble::Lost)
    }

    /// What the outcome of a statement means. A connection that gave no answer is never used again.
    fn judge<T>(
        &mut self,
        what: &'static str,
        outcome: Result<Result<T, tokio_postgres::Error>, tokio::time::error::Elapsed>,
    ) -> Result<T, Trouble> {
        let trouble = match outcome {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => match refusal(&error) {
                Some(refusal) => {
                    let trouble = refused(&self.database, what, refusal, self.answer);
                    self.is_overtaken |= matches!(trouble, Trouble::Conflict);
                    return Err(trouble);
                }
                None => unreachable(&self.database, what, error),
            },
            Err(elapsed) => unreachable(&self.database, what, elapsed),
        };
        // Taken out of the pool and closed.
        drop(self.client.take().map(Object::take));
        Err(Trouble::Lost(trouble))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(client) = &self.client {
            // Sent at the first poll. The next transaction's statements queue behind it, and nobody waits for its answer.
            _ = client.batch_execute("ROLLBACK").now_or_never();
        }
    }
}

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Conflict => Self::Contended { attempts: 1 },
            Trouble::Refused(error) | Trouble::Lost(error) => error,
        }
    }
}

impl From<Trouble> for CommitError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Conflict => Self::Conflict,
            Trouble::Refused(error) | Trouble::Lost(error) => Self::Store(error),
        }
    }
}

/// The database's own refusal, if the error is one after which the connection is of use. After a FATAL it is not, and
/// nothing is known of the statement.
fn refusal(error: &tokio_postgres::Error) -> Option<&DbError> {
    error
        .as_db_error()
        .filter(|error| error.parsed_severity() == Some(Severity::Error))
}

fn refused(database: &Arc<str>, what: &'static str, error: &DbError, waited: Duration) -> Trouble {
    let code = error.code();
    if [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code) {
        return Trouble::Conflict;
    }
    if [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE].contains(code) {
        return Trouble::Refused(StoreError::Overloaded {
            lack: "no answer of its database",
            waited_ms: millis(waited),
        });
    }
    let database = Arc::clone(database);
    Trouble::Refused(if *code == SqlState::DISK_FULL {
        StoreError::DatabaseFull { database }
    } else {
        StoreError::Refused {
            database,
            what,
            source: Arc::new(error.clone()),
        }
    })
}

fn unreachable(database: &Arc<str>, what: &'static str, source: impl Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unreachable {
        database: Arc::clone(database),
        what,
        source: Arc::new(source),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
