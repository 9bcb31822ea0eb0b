//! The tables, made when they are missing. `docs/adr/0012` says what they are for.

use tokio_postgres::error::SqlState;

use super::{
    PostgresOpenError,
    connection::{Connections, Trouble},
};
use crate::StoreError;

/// The layout of tables that this release reads and writes.
const FORMAT: i64 = 1;
/// Instances that start at once may get in each other's way while they make the tables.
const ATTEMPTS_MAX: u32 = 5;

/// `key` is compared as bytes, whatever the database's collation is. `seq` is the number of the commit that wrote a row.
/// The one row of `strongroom_kv_head` is held by whoever commits; `strongroom_kv_commit` remembers the last commits.
const TABLES: &str = "
    BEGIN;
    CREATE TABLE IF NOT EXISTS strongroom_kv_head (
        one smallint PRIMARY KEY CHECK (one = 1), format bigint NOT NULL, seq bigint NOT NULL);
    CREATE TABLE IF NOT EXISTS strongroom_kv (
        key bytea PRIMARY KEY, value bytea NOT NULL, seq bigint NOT NULL);
    CREATE TABLE IF NOT EXISTS strongroom_kv_commit (
        slot bigint PRIMARY KEY, seq bigint NOT NULL, mark bytea NOT NULL);
    INSERT INTO strongroom_kv_head (one, format, seq) VALUES (1, 1, 0) ON CONFLICT DO NOTHING;
    COMMIT";

/// Makes the tables if they are missing, and refuses a database that would lose commits or that a newer release wrote.
pub(super) async fn prepare(connections: &Connections) -> Result<(), PostgresOpenError> {
    refuse_loss(connections).await?;
    for _ in 0..ATTEMPTS_MAX {
        match format(connections).await? {
            Some(FORMAT) => return Ok(()),
            Some(found) => {
                return Err(PostgresOpenError::NewerFormat {
                    database: connections.database.to_string(),
                    found,
                    supported: FORMAT,
                });
            }
            None => make(connections).await?,
        }
    }
    Err(StoreError::Contended { attempts: ATTEMPTS_MAX }.into())
}

/// Settings under which the database would acknowledge what it can lose. A database that does not know them has its own.
async fn refuse_loss(connections: &Connections) -> Result<(), PostgresOpenError> {
    for setting in ["fsync", "synchronous_commit"] {
        let mut connection = connections.get().await?;
        match connection.simple("read its settings", &format!("SHOW {setting}")).await {
            Ok(Some(value)) if value == "off" => {
                return Err(PostgresOpenError::Loses {
                    database: connections.database.to_string(),
                    setting,
                });
            }
            Ok(_) | Err(Trouble::Refused(_)) => {}
            Err(trouble) => return Err(StoreError::from(trouble).into()),
        }
    }
    Ok(())
}

async fn format(connections: &Connections) -> Result<Option<i64>, StoreError> {
    let mut connection = connections.get().await?;
    let read = connection.simple("read its format", "SELECT format FROM strongroom_kv_head");
    match read.await {
        Ok(value) => Ok(value.and_then(|value| value.parse().ok())),
        Err(Trouble::Refused(error)) if says(&error, &[SqlState::UNDEFINED_TABLE]) => Ok(None),
        Err(trouble) => Err(trouble.into()),
    }
}

async fn make(connections: &Connections) -> Result<(), StoreError> {
    let mut connection = connections.get().await?;
    // What another instance makes at the same moment is as good.
    let raced = [
        SqlState::UNIQUE_VIOLATION,
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_OBJECT,
    ];
    match connection.simple("make its tables", TABLES).await {
        Ok(_) | Err(Trouble::Conflict) => Ok(()),
        Err(Trouble::Refused(error)) if says(&error, &raced) => Ok(()),
        Err(trouble) => Err(trouble.into()),
    }
}

/// Whether the database gave one of these reasons.
fn says(error: &StoreError, codes: &[SqlState]) -> bool {
    let StoreError::Refused { source, .. } = error else {
        return false;
    };
    let said = source.downcast_ref::<tokio_postgres::error::DbError>();
    said.is_some_and(|error| codes.contains(error.code()))
}
