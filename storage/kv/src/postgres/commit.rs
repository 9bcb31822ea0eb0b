//! Committing: one commit at a time holds the head row, checks what was read, writes and takes the next number. Since
//! commits are ordered so, a snapshot is always a prefix of them and strict serializability needs nothing more.
//!
//! The mark: each commit leaves its number and a random mark behind. When the connection breaks after COMMIT was sent,
//! the head row is taken again, which the old transaction gives up only when it has ended, and the mark tells how.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    connection::{Connection, Connections, Trouble},
    reads::ReadSet,
};
use crate::{
    CommitError, StoreError,
    writes::{Write, Writes},
};

/// What a commit leaves under each key that it writes; `None` where nothing is left.
type Outcome = BTreeMap<Bytes, Option<Bytes>>;

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
const GET_ALL: &str = "SELECT key, value FROM strongroom_kv WHERE key = ANY($1)";
const MARK: &str = "INSERT INTO strongroom_kv_commit (slot, seq, mark) VALUES ($1, $2, $3) \
    ON CONFLICT (slot) DO UPDATE SET seq = excluded.seq, mark = excluded.mark";
/// Waits for a transaction that is still being ended.
const LOCK_TO_LOOK: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT seq FROM strongroom_kv_head FOR UPDATE";
const LOOK_UP: &str = "SELECT seq, mark FROM strongroom_kv_commit WHERE slot = $1";

/// Commits `writes` if all that was `read` after the commit number `snapshot` still holds.
pub(super) async fn commit(
    connections: &Connections,
    mut connection: Connection,
    snapshot: i64,
    reads: &ReadSet,
    writes: &Writes,
) -> Result<(), CommitError> {
    let head = connection.simple("begin a commit", LOCK).await?;
    let seq: i64 = head
        .and_then(|head| head.parse().ok())
        .ok_or_else(|| connections.headless())?;
    // With no commit in between there is nothing to check.
    if seq != snapshot + 1 && !reads.still_holds(&mut connection, snapshot).await? {
        return Err(CommitError::Conflict);
    }
    let mark = uuid::Uuid::new_v4().into_bytes();
    let outcome = resolve(&mut connection, writes).await?;
    write(&mut connection, seq, &outcome, &mark).await?;
    match connection.simple("commit", "COMMIT").await {
        Ok(_) => Ok(()),
        Err(Trouble::Lost(_)) => {
            drop(connection);
            look_up(connections, seq, &mark).await
        }
        Err(trouble) => Err(trouble.into()),
    }
}

/// What the writes leave under each key; additions are made to what is there, which nobody else changes meanwhile.
async fn resolve(connection: &mut Connection, writes: &Writes) -> Result<Outcome, CommitError> {
    let added = writes.iter().filter(|(_, write)| matches!(write, Write::Add(_)));
    let added: Vec<&[u8]> = added.map(|(key, _)| key.as_ref()).collect();
    let mut stored = HashMap::new();
    if !added.is_empty() {
        let rows = connection.query("read counters", GET_ALL, &[&added]).await?;
        stored.extend(
            rows.iter()
                .map(|row| (row.get::<_, Vec<u8>>(0), row.get::<_, Vec<u8>>(1))),
        );
    }
    let over = |(key, write): (&Bytes, &Write)| {
        let value = write.over(key, stored.get(key.as_ref()).map(AsRef::as_ref))?;
        Ok((key.clone(), value))
    };
    writes.iter().map(over).collect()
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
