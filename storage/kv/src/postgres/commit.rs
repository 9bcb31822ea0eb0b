//! One commit, of one transaction or several: it holds the head row, writes and takes the next number. Since
//! commits are ordered so, a snapshot is always a prefix of them and strict serializability needs nothing more.
//!
//! The mark: each commit leaves its number and a random mark behind. When the connection breaks after COMMIT was sent,
//! the head row is taken again, which the old transaction gives up only when it has ended, and the mark tells how.

use std::time::{Duration, Instant};

use super::connection::{CONNECTION_ATTEMPTS_MAX, Connection, Connections, Trouble};
use crate::{CommitError, StoreError, writes::Outcome};

/// Commits that are remembered, each overwriting the one so many before it.
const MARKS: i64 = 4096;
/// Pause between two attempts to learn how a lost commit ended.
const LOOK_UP_PAUSE: Duration = Duration::from_millis(100);

/// Whoever holds the head row and falls silent, its process being stopped, loses it after two seconds.
const LOCK: &str = "ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED; \
    SET LOCAL idle_in_transaction_session_timeout = 2000; \
    UPDATE strongroom_kv_head SET seq = seq + 1 RETURNING seq";
const PUT: &str = "INSERT INTO strongroom_kv (key, value, seq) \
    SELECT pair.key, pair.value, $3 FROM unnest($1::bytea[], $2::bytea[]) AS pair (key, value) \
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, seq = excluded.seq";
const DELETE: &str = "DELETE FROM strongroom_kv WHERE key = ANY($1)";
const MARK: &str = "INSERT INTO strongroom_kv_commit (slot, seq, mark) VALUES ($1, $2, $3) \
    ON CONFLICT (slot) DO UPDATE SET seq = excluded.seq, mark = excluded.mark";
/// Waits for a transaction that is still being ended.
const LOCK_TO_LOOK: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT seq FROM strongroom_kv_head FOR UPDATE";
const LOOK_UP: &str = "SELECT seq, mark FROM strongroom_kv_commit WHERE slot = $1";

/// A connection with the head row, and the number that the commit will have.
pub(super) struct Head {
    connection: Connection,
    pub(super) seq: i64,
}

impl Head {
    /// Takes the head row: from now on nobody else commits, until this is dropped or committed. A connection of the pool may
    /// have died unnoticed; another is taken then.
    pub(super) async fn take(connections: &Connections, held: Option<Connection>) -> Result<Self, CommitError> {
        let mut next = held;
        let mut attempt = 1;
        loop {
            let mut connection = match next.take() {
                Some(connection) => connection,
                None => connections.get().await?,
            };
            match connection.simple("begin a commit", LOCK).await {
                Err(Trouble::Lost(_)) if attempt < CONNECTION_ATTEMPTS_MAX => attempt += 1,
                Err(trouble) => return Err(trouble.into()),
                Ok(head) => {
                    let seq = head.and_then(|head| head.parse().ok());
                    let seq = seq.ok_or_else(|| connections.headless())?;
                    return Ok(Self { connection, seq });
                }
            }
        }
    }

    /// To ask what is there now.
    pub(super) const fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Makes an outcome durable, or says how that ended. The connection is of further use then.
    pub(super) async fn commit(
        mut self,
        connections: &Connections,
        outcome: &Outcome,
    ) -> Result<Option<Connection>, CommitError> {
        let mark = uuid::Uuid::new_v4().into_bytes();
        write(&mut self.connection, self.seq, outcome, &mark).await?;
        match self.connection.simple("commit", "COMMIT").await {
            Ok(_) => Ok(Some(self.connection)),
            Err(Trouble::Lost(_)) => {
                drop(self.connection);
                look_up(connections, self.seq, &mark).await.map(|()| None)
            }
            Err(trouble) => Err(trouble.into()),
        }
    }
}

async fn write(connection: &mut Connection, seq: i64, outcome: &Outcome, mark: &[u8]) -> Result<(), Trouble> {
    let (keys, values): (Vec<&[u8]>, Vec<&[u8]>) = outcome
        .iter()
        .filter_map(|(key, value)| Some((key.as_ref(), value.as_deref()?)))
        .unzip();
    if !keys.is_empty() {
        connection.query("write", PUT, &[&keys, &values, &seq]).await?;
    }
    let gone = outcome.iter().filter(|(_, value)| value.is_none());
    let gone: Vec<&[u8]> = gone.map(|(key, _)| key.as_ref()).collect();
    if !gone.is_empty() {
        connection.query("delete", DELETE, &[&gone]).await?;
    }
    let slot = seq % MARKS;
    connection.query("mark a commit", MARK, &[&slot, &seq, &mark]).await?;
    Ok(())
}

/// How a commit ended whose answer was lost.
async fn look_up(connections: &Connections, seq: i64, mark: &[u8]) -> Result<(), CommitError> {
    let started = Instant::now();
    loop {
        match marked(connections, seq).await {
            Ok(Some((found, left))) if found == seq && left == mark => return Ok(()),
            // So many have committed since that the mark is overwritten.
            Ok(Some((found, _))) if found > seq => break,
            // It did not take place.
            Ok(_) => return Err(CommitError::Conflict),
            Err(error) => tracing::warn!(%error, "cannot learn yet how a commit ended"),
        }
        if started.elapsed() > connections.look_up {
            break;
        }
        tokio::time::sleep(LOOK_UP_PAUSE).await;
    }
    Err(CommitError::Store(StoreError::OutcomeUnknown {
        database: connections.database.clone(),
    }))
}

/// Number and mark of the last commit in the place of `seq`, when no commit is under way.
async fn marked(connections: &Connections, seq: i64) -> Result<Option<(i64, Vec<u8>)>, StoreError> {
    let mut connection = connections.get().await?;
    connection.simple("learn how a commit ended", LOCK_TO_LOOK).await?;
    let slot = seq % MARKS;
    let rows = connection.query("learn how a commit ended", LOOK_UP, &[&slot]).await?;
    Ok(rows.first().map(|row| (row.get(0), row.get(1))))
}
