//! A walk over all that a directory holds, depth first. What it remembers is bounded by the depth of the tree, not by its size: of each
//! directory on the way down how far it was read, and those of its last page that are still to be entered.
//!
//! The embedded store answers on its caller's thread without letting that go. So before each page others get their turn, and the time is
//! looked at.

use strongroom_kv::Reader;
use strongroom_proto::FileId;
use tokio::{task::yield_now, time::Instant};

use super::resolve::DEPTH_MAX;
use crate::{
    error::MetadataError,
    schema::{
        access,
        keys::{self, KeyRange},
        records,
    },
};

/// Entries read at once.
const PAGE: usize = 1000;

/// What a walk ends at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// In a transaction, where whoever changes what was read undoes it: so many names.
    Names(usize),
    /// In a view: this moment.
    Until(Instant),
}

/// What a walk comes to.
#[derive(Debug)]
pub(crate) enum Step<D> {
    /// Some of what a directory holds, with what is known of that directory.
    Page {
        of: FileId,
        known: D,
        entries: Vec<records::Entry>,
    },
    /// All was seen.
    End,
    /// There is more than the bound allows.
    Beyond,
}

/// Where a walk is. `D` is what its user has to know of a directory when it is read.
pub(crate) struct Walk<D> {
    bound: Bound,
    names: usize,
    /// From the first directory down.
    way: Vec<Level<D>>,
}

struct Level<D> {
    id: FileId,
    known: D,
    /// What was not read yet.
    rest: Option<KeyRange>,
    /// Directories of the page read last that are to be entered.
    inner: Vec<(FileId, D)>,
}

impl<D: Copy> Walk<D> {
    /// A walk over what is below a directory.
    pub(crate) fn of(directory: FileId, known: D, bound: Bound) -> Self {
        Self {
            bound,
            names: 0,
            way: vec![Level::of(directory, known)],
        }
    }

    /// Names seen so far.
    pub(crate) const fn names(&self) -> usize {
        self.names
    }

    /// Has a directory of the last page entered.
    pub(crate) fn enter(&mut self, directory: FileId, known: D) {
        if let Some(level) = self.way.last_mut() {
            level.inner.push((directory, known));
        }
    }

    /// Goes on to the next page.
    pub(crate) async fn step(&mut self, reader: &mut impl Reader) -> Result<Step<D>, MetadataError> {
        while let Some(level) = self.way.last_mut() {
            if let Some((id, known)) = level.inner.pop() {
                self.go_down(reader, id, known).await?;
            } else if let Some(range) = level.rest.take() {
                let (of, known) = (level.id, level.known);
                let entries = self.page(reader, range).await?;
                return Ok(entries.map_or(Step::Beyond, |entries| Step::Page { of, known, entries }));
            } else {
                self.way.pop();
            }
        }
        Ok(Step::End)
    }

    /// Renames can make a tree of any depth. Names bound it in a transaction.
    async fn go_down(&mut self, reader: &mut impl Reader, id: FileId, known: D) -> Result<(), MetadataError> {
        if matches!(self.bound, Bound::Until(_)) && self.way.len() > DEPTH_MAX {
            let place = access::place(reader, id).await?;
            return Err(MetadataError::TooDeep(place.unwrap_or_default().name));
        }
        self.way.push(Level::of(id, known));
        Ok(())
    }

    /// The next entries of the directory where the walk is, unless that is beyond its bound.
    async fn page(
        &mut self,
        reader: &mut impl Reader,
        range: KeyRange,
    ) -> Result<Option<Vec<records::Entry>>, MetadataError> {
        yield_now().await;
        let limit = match self.bound {
            Bound::Names(most) => PAGE.min(most.saturating_sub(self.names) + 1),
            Bound::Until(end) if Instant::now() >= end => return Ok(None),
            Bound::Until(_) => PAGE,
        };
        let page = access::page(reader, &range, limit).await?;
        self.names += page.len();
        if matches!(self.bound, Bound::Names(most) if self.names > most) {
            return Ok(None);
        }
        if let (Some((last, _)), Some(level)) = (page.last(), self.way.last_mut()) {
            level.rest = (page.len() == limit).then(|| range.after(last));
        }
        let entries = page.into_iter();
        let entries = entries.map(|(_, value)| access::decode(value, "directory entry"));
        entries.collect::<Result<_, _>>().map(Some)
    }
}

impl<D> Level<D> {
    fn of(id: FileId, known: D) -> Self {
        Self {
            id,
            known,
            rest: Some(keys::dentries(id)),
            inner: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use strongroom_kv::Store;

    use super::*;
    use crate::{namespace::resolve::Found, planted::Planted};

    /// Goes through a tree. Says what it came to, how many names it saw, and how many directories it remembered at most.
    async fn all(planted: &Planted, top: &Found, bound: Bound) -> (&'static str, usize, usize) {
        let mut view = planted.store.snapshot().await.expect("a view");
        let (mut walk, mut remembered) = (Walk::of(top.id, (), bound), 0);
        let end = loop {
            match walk.step(&mut view).await.expect("readable") {
                Step::End => break "end",
                Step::Beyond => break "beyond",
                Step::Page { entries, .. } => {
                    for entry in entries.iter().filter(|entry| entry.is_directory()) {
                        walk.enter(entry.file_id().expect("an id"), ());
                    }
                }
            }
            remembered = remembered.max(walk.way.iter().map(|level| level.inner.len()).sum());
        };
        (end, walk.names(), remembered)
    }

    fn later() -> Bound {
        Bound::Until(Instant::now() + Duration::from_secs(600))
    }

    #[tokio::test]
    async fn all_is_seen_once_and_little_of_it_remembered() {
        let planted = Planted::new().await;
        let flat = planted.directory("/flat", "alice", 0o755).await;
        planted.fill("/flat", "alice", 2500).await;
        planted.directory("/flat/0007/x", "alice", 0o755).await;
        planted.fill("/flat/2400", "alice", 1200).await;
        planted.directory("/flat/2400/1100/y", "alice", 0o755).await;
        let names = 2500 + 1 + 1200 + 1;
        let (end, seen, remembered) = all(&planted, &flat, later()).await;
        assert_eq!((end, seen), ("end", names));
        assert!(remembered <= 2 * PAGE, "{remembered} directories");
        for (most, expected) in [(names, "end"), (names - 1, "beyond"), (1, "beyond")] {
            let (end, seen, _) = all(&planted, &flat, Bound::Names(most)).await;
            assert_eq!(end, expected, "{most} names");
            assert!(seen <= most + 1, "{seen} of {most}");
        }
        assert_eq!(
            all(&planted, &flat, Bound::Until(Instant::now())).await,
            ("beyond", 0, 0)
        );
    }

    #[tokio::test]
    async fn what_is_too_deep_is_not_gone_down_to() {
        let planted = Planted::new().await;
        let top = planted.directory("/deep", "alice", 0o755).await;
        planted.chain(&top, DEPTH_MAX + 5).await;
        let mut view = planted.store.snapshot().await.expect("a view");
        let mut walk = Walk::of(top.id, (), later());
        let failure = loop {
            match walk.step(&mut view).await {
                Ok(Step::Page { entries, .. }) => walk.enter(entries[0].file_id().expect("an id"), ()),
                other => break other,
            }
        };
        assert!(matches!(failure, Err(MetadataError::TooDeep(_))), "{failure:?}");
        assert_eq!(walk.names(), DEPTH_MAX + 1);
    }

    /// The embedded store keeps its thread: a walk has to give it to others.
    #[tokio::test]
    async fn others_get_their_turn_between_pages() {
        let planted = Planted::new().await;
        let top = planted.directory("/d", "alice", 0o755).await;
        planted.fill("/d", "alice", 300).await;
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&turns);
        let other = tokio::spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                yield_now().await;
            }
        });
        let before = turns.load(Ordering::Relaxed);
        assert_eq!(all(&planted, &top, later()).await.1, 300);
        let had = turns.load(Ordering::Relaxed) - before;
        other.abort();
        assert!(had >= 250, "{had} turns in 301 pages");
    }
}
