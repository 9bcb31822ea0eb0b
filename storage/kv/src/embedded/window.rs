//! Recent commits by key: what a transaction's reads are checked against.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

use bytes::Bytes;

use super::reads::ReadSet;
use crate::writes::Writes;

/// Keys remembered before the oldest commits are forgotten.
const KEYS_MAX: usize = 200_000;

/// Which keys were written by which of the last commits. A transaction whose snapshot is older than all of
/// them cannot be checked and conflicts.
pub(super) struct Window {
    /// Snapshots before this number cannot be checked.
    floor: u64,
    last_writer: BTreeMap<Bytes, u64>,
    /// Commits in order, for forgetting.
    commits: VecDeque<(u64, Vec<Bytes>)>,
    keys: usize,
    keys_max: usize,
}

impl Window {
    /// A window that knows nothing of commits up to and with `sequence`.
    pub(super) const fn after(sequence: u64) -> Self {
        Self {
            floor: sequence,
            last_writer: BTreeMap::new(),
            commits: VecDeque::new(),
            keys: 0,
            keys_max: KEYS_MAX,
        }
    }

    /// Whether nothing in `reads` was written after the commit `sequence`.
    pub(super) fn still_holds(&self, reads: &ReadSet, sequence: u64) -> bool {
        let newer = |writer: &u64| *writer > sequence;
        sequence >= self.floor
            && !reads.keys().any(|key| self.last_writer.get(key).is_some_and(newer))
            && !reads.ranges().any(|range| self.range_written(range, newer))
    }

    fn range_written(&self, (start, end): &(Bytes, Bytes), newer: impl Fn(&u64) -> bool) -> bool {
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        self.last_writer
            .range::<Bytes, _>(bounds)
            .any(|(_, writer)| newer(writer))
    }

    /// Remembers that the commit `sequence`, the newest, writes these keys.
    pub(super) fn record(&mut self, sequence: u64, writes: &Writes) {
        let keys: Vec<Bytes> = writes.keys().cloned().collect();
        for key in &keys {
            self.last_writer.insert(key.clone(), sequence);
        }
        self.keys += keys.len();
        self.commits.push_back((sequence, keys));
        while self.keys > self.keys_max {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((sequence, keys)) = self.commits.pop_front() else {
            return;
        };
        self.floor = sequence;
        self.keys -= keys.len();
        for key in keys {
            if self.last_writer.get(&key) == Some(&sequence) {
                self.last_writer.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writes::Write;

    fn writes(keys: &[&'static str]) -> Writes {
        keys.iter()
            .map(|key| (Bytes::from_static(key.as_bytes()), Write::Delete))
            .collect()
    }

    fn reads(keys: &[&str], ranges: &[(&str, &str)]) -> ReadSet {
        let mut set = ReadSet::default();
        for key in keys {
            set.add_key(key.as_bytes()).expect("within bounds");
        }
        for (start, end) in ranges {
            set.add_range(start.as_bytes(), end.as_bytes()).expect("within bounds");
        }
        set
    }

    #[test]
    fn reads_hold_until_somebody_writes_them() {
        let mut window = Window::after(5);
        window.record(6, &writes(&["b"]));
        for (reads, sequence, expected) in [
            (reads(&["a"], &[]), 5, true),
            (reads(&["b"], &[]), 5, false),
            (reads(&["b"], &[]), 6, true),
            (reads(&[], &[("a", "b")]), 5, true),
            (reads(&[], &[("a", "c")]), 5, false),
            (reads(&[], &[("b", "b\0")]), 5, false),
            (reads(&[], &[("a", "c")]), 6, true),
            (reads(&["a"], &[]), 4, false),
        ] {
            assert_eq!(window.still_holds(&reads, sequence), expected);
        }
    }

    #[test]
    fn what_is_forgotten_conflicts() {
        let mut window = Window {
            keys_max: 2,
            ..Window::after(0)
        };
        window.record(1, &writes(&["a"]));
        window.record(2, &writes(&["a", "b"]));
        assert!(!window.still_holds(&reads(&["z"], &[]), 0), "commit 1 is forgotten");
        assert!(window.still_holds(&reads(&["z"], &[]), 1));
        assert!(!window.still_holds(&reads(&["a"], &[]), 1), "commit 2 wrote it");
        assert_eq!(window.last_writer.len(), 2);
    }
}
