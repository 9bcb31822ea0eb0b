//! What a transaction read, and the question whether it still holds.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::connection::{Connection, Trouble};
use crate::{StoreError, limits::READS_MAX};

/// Rows of a range, and the newest commit that wrote one of them.
const RANGE_STATE: &str = "SELECT count(*), coalesce(max(seq), 0) FROM strongroom_kv WHERE key >= $1 AND key < $2";
const KEYS_STATE: &str = "SELECT count(*), coalesce(max(seq), 0) FROM strongroom_kv WHERE key = ANY($1)";

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

    /// Whether all that was read after the commit number `seq` is the same now.
    pub(super) async fn still_holds(&self, connection: &mut Connection, seq: i64) -> Result<bool, Trouble> {
        for (keys, rows) in [(&self.present, self.present.len()), (&self.absent, 0)] {
            if keys.is_empty() {
                continue;
            }
            let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
            let state = connection.query("check what was read", KEYS_STATE, &[&keys]).await?;
            if !unchanged(&state, i64::try_from(rows).unwrap_or(i64::MAX), seq) {
                return Ok(false);
            }
        }
        for ((start, end), &rows) in &self.ranges {
            let bounds: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&&start[..], &&end[..]];
            let state = connection.query("check what was read", RANGE_STATE, &bounds).await?;
            if !unchanged(&state, rows, seq) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn unchanged(state: &[tokio_postgres::Row], rows: i64, seq: i64) -> bool {
    state
        .first()
        .is_some_and(|state| state.get::<_, i64>(0) == rows && state.get::<_, i64>(1) <= seq)
}
