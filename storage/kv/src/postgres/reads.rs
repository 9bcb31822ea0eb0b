//! What a transaction read, and the question whether it still holds.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::connection::{Connection, Trouble};
use crate::{StoreError, limits::READS_MAX, writes::Outcome};

/// Of each range its rows, and the newest commit that wrote one of them.
const RANGE_STATES: &str = "SELECT state.rows, state.seq \
    FROM unnest($1::bytea[], $2::bytea[]) WITH ORDINALITY AS asked (first, until, place) \
    CROSS JOIN LATERAL (SELECT count(*) AS rows, coalesce(max(kv.seq), 0) AS seq \
        FROM strongroom_kv AS kv WHERE kv.key >= asked.first AND kv.key < asked.until) AS state \
    ORDER BY asked.place";
const KEY_STATES: &str = "SELECT key, seq FROM strongroom_kv WHERE key = ANY($1)";
const VALUES: &str = "SELECT key, value FROM strongroom_kv WHERE key = ANY($1)";

/// Keys and ranges that a transaction looked at in its snapshot, with the number of rows that were there. If none of
/// them was written by a commit after the snapshot and none has gone, all is as it was.
#[derive(Default)]
pub(super) struct ReadSet {
    present: HashSet<Bytes>,
    absent: HashSet<Bytes>,
    /// Half-open.
    ranges: HashMap<(Bytes, Bytes), i64>,
}

impl ReadSet {
    pub(super) fn add_key(&mut self, key: &[u8], present: bool) -> Result<(), StoreError> {
        let keys = if present { &mut self.present } else { &mut self.absent };
        keys.insert(Bytes::copy_from_slice(key));
        self.check()
    }

    pub(super) fn add_range(&mut self, start: &[u8], end: &[u8], rows: usize) -> Result<(), StoreError> {
        let range = (Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
        self.ranges.insert(range, i64::try_from(rows).unwrap_or(i64::MAX));
        self.check()
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.present.len() + self.absent.len() + self.ranges.len() > READS_MAX {
            return Err(StoreError::TooManyReads);
        }
        Ok(())
    }

    /// Whether all that was read at the commit number `seq` is the same in `state`.
    pub(super) fn still_holds(&self, state: &State, seq: i64) -> bool {
        let unchanged = |key: &Bytes| state.keys.get(key).is_some_and(|writer| *writer <= seq);
        let same = |(range, rows): (&(Bytes, Bytes), &i64)| {
            let now = state.ranges.get(range);
            now.is_some_and(|(now, writer)| now == rows && *writer <= seq)
        };
        self.present.iter().all(unchanged)
            && !self.absent.iter().any(|key| state.keys.contains_key(key))
            && self.ranges.iter().all(same)
    }

    /// Whether `outcome` writes something that was read.
    pub(super) fn meets(&self, outcome: &Outcome) -> bool {
        let mut keys = self.present.iter().chain(&self.absent);
        keys.any(|key| outcome.has(key)) || self.ranges.keys().any(|(start, end)| outcome.has_any(start, end))
    }
}

/// What is there now of what transactions have read.
#[derive(Default)]
pub(super) struct State {
    /// The commits that wrote the keys that are there.
    keys: HashMap<Bytes, i64>,
    /// Rows, and the newest commit that wrote one of them.
    ranges: HashMap<(Bytes, Bytes), (i64, i64)>,
}

impl State {
    /// Asks about all that is in `reads`, in a statement for keys and one for ranges.
    pub(super) async fn of(connection: &mut Connection, reads: &[&ReadSet]) -> Result<Self, Trouble> {
        let mut state = Self::default();
        let keys: HashSet<&[u8]> = reads
            .iter()
            .flat_map(|reads| reads.present.iter().chain(&reads.absent))
            .map(AsRef::as_ref)
            .collect();
        let keys: Vec<&[u8]> = keys.into_iter().collect();
        if !keys.is_empty() {
            let rows = connection.query("check what was read", KEY_STATES, &[&keys]).await?;
            let states = rows.iter().map(|row| (Bytes::copy_from_slice(row.get(0)), row.get(1)));
            state.keys.extend(states);
        }
        let ranges: HashSet<&(Bytes, Bytes)> = reads.iter().flat_map(|reads| reads.ranges.keys()).collect();
        let ranges: Vec<&(Bytes, Bytes)> = ranges.into_iter().collect();
        if !ranges.is_empty() {
            let (first, until): (Vec<&[u8]>, Vec<&[u8]>) =
                ranges.iter().map(|(start, end)| (start.as_ref(), end.as_ref())).unzip();
            let rows = connection
                .query("check what was read", RANGE_STATES, &[&first, &until])
                .await?;
            let states = rows.iter().map(|row| (row.get(0), row.get(1)));
            state.ranges.extend(ranges.into_iter().cloned().zip(states));
        }
        Ok(state)
    }
}

/// The values of those of `keys` that are there.
pub(super) async fn values(
    connection: &mut Connection,
    what: &'static str,
    keys: &[&[u8]],
) -> Result<HashMap<Bytes, Bytes>, Trouble> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = connection.query(what, VALUES, &[&keys]).await?;
    let pairs = rows.iter();
    let pairs = pairs.map(|row| (Bytes::copy_from_slice(row.get(0)), Bytes::copy_from_slice(row.get(1))));
    Ok(pairs.collect())
}
