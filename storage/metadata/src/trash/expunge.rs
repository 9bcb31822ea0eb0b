//! What users empty of their trash themselves, a bounded part of it in each call: as much as one transaction takes, with at most one
//! checkpoint that is looked through before. The answer says where the next call goes on, behind what was removed or is kept.

use strongroom_kv::{Reader, Store, StoreError, Txn};
use strongroom_proto::{FileId, limits::NAME_BYTES_MAX, metadata::v1 as pb};
use tokio::time::Instant;

use super::{
    emptying::{Done, Room, Rule, Trash, shrink, tend},
    verdict::{For, Looked},
};
use crate::{
    answers::Call,
    authority::Caller,
    error::MetadataError,
    namespace::{
        resolve::Found,
        walkers::{Leave, WALK, Walkers},
    },
    schema::{access, access::transact, keys},
};

/// Trashes of a user that one call expunges.
const TRASHES_PER_CALL: usize = 20;
/// Checkpoints that one call looks through before its transaction: each time another one was the first then.
const LOOKS_MAX: usize = 3;
/// Parts of a checkpoint that is too large to go at once that one call removes, if there is time for more than one.
const PARTS_PER_CALL: usize = 50;

/// Where a call goes on.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    /// Of a trash.
    directory: FileId,
    /// The last of its checkpoints that was dealt with; none if it is the first one's turn.
    after: Option<String>,
}

impl Cursor {
    /// What a client gives back of an answer; nothing at the beginning.
    pub(crate) fn parse(wire: &[u8]) -> Result<Option<Self>, MetadataError> {
        if wire.is_empty() {
            return Ok(None);
        }
        let broken = || MetadataError::Field {
            field: "from",
            rule: "what the answer before said".to_owned(),
        };
        let (directory, after) = wire.split_at_checked(16).ok_or_else(broken)?;
        let after = std::str::from_utf8(after).map_err(|_| broken())?;
        if after.len() > NAME_BYTES_MAX {
            return Err(broken());
        }
        Ok(Some(Self {
            directory: directory.try_into()?,
            after: Some(after.to_owned()).filter(|name| !name.is_empty()),
        }))
    }

    fn wire(directory: FileId, after: Option<&str>) -> bytes::Bytes {
        [&directory.as_bytes()[..], after.unwrap_or_default().as_bytes()]
            .concat()
            .into()
    }
}

/// What one transaction did.
#[derive(Debug, Default)]
struct Page {
    answer: pb::ExpungeResponse,
    work: bool,
    /// A checkpoint that is too large to go, and its trash.
    too_large: Option<(Trash, FileId)>,
}

/// What a transaction comes to.
enum Turn {
    Done(Page),
    Look(Box<Found>),
}

/// Why a transaction is not committed.
enum Stop {
    /// What is first in turn has to be looked through.
    Look(Box<Found>),
    Failed(MetadataError),
}

impl From<MetadataError> for Stop {
    fn from(error: MetadataError) -> Self {
        Self::Failed(error)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

/// Does to the trashes of a user what `rule` says, to some of them from `from` on. Says also whether there are jobs to work on.
pub(crate) async fn expunge(
    store: &impl Store,
    walkers: &Walkers,
    who: &Caller,
    call: &Call,
    from: &Option<Cursor>,
    rule: Rule,
) -> Result<(pb::ExpungeResponse, bool), MetadataError> {
    let (page, leave) = look_and_expunge(store, walkers, who, call, from, rule).await?;
    if let Some((trash, checkpoint)) = &page.too_large {
        // A superuser's was not looked through and has no place: each part is bounded, and what was done is not to be refused.
        let until = leave.as_ref().map_or_else(|| Instant::now() + WALK, Leave::use_until);
        take_parts(store, trash, *checkpoint, rule.now_ms, until).await?;
    }
    Ok((page.answer, page.work))
}

/// What the transaction did, and the place of the look before it, if there was one.
async fn look_and_expunge(
    store: &impl Store,
    walkers: &Walkers,
    who: &Caller,
    call: &Call,
    from: &Option<Cursor>,
    rule: Rule,
) -> Result<(Page, Option<Leave>), MetadataError> {
    let turn = async |looked| {
        let whose = For::new(who, looked);
        let page = transact!(store, [who, call, from, whose], |txn| expunge_once(
            txn,
            &who,
            &call,
            from.as_ref(),
            rule,
            &whose
        ))
        .await;
        match page {
            Ok(page) => Ok(Turn::Done(page)),
            Err(Stop::Look(found)) => Ok(Turn::Look(found)),
            Err(Stop::Failed(error)) => Err(error),
        }
    };
    let mut found = match turn(None).await? {
        Turn::Done(page) => return Ok((page, None)),
        Turn::Look(found) => found,
    };
    let leave = walkers.begin(who).await?;
    for _ in 0..LOOKS_MAX {
        let looked = Looked::at(store, who, &found, leave.deadline()).await?;
        found = match turn(looked).await? {
            Turn::Done(page) => return Ok((page, Some(leave))),
            Turn::Look(found) => found,
        };
    }
    Err(MetadataError::ReplacedMeanwhile(found.path))
}

/// Trashes of a user that one call is about, from `from` on, and one more if there is another.
async fn trashes_of(
    reader: &mut impl Reader,
    who: &Caller,
    from: Option<&Cursor>,
) -> Result<Vec<Trash>, MetadataError> {
    let mut range = keys::trashes_of(&who.name);
    if let Some(from) = from {
        range.start = keys::trash(&who.name, from.directory);
    }
    let rows = access::page(reader, &range, TRASHES_PER_CALL + 1).await?;
    rows.iter().map(|(key, _)| Trash::of(key)).collect()
}

async fn expunge_once(
    txn: &mut impl Txn,
    who: &Caller,
    call: &Call,
    from: Option<&Cursor>,
    rule: Rule,
    whose: &For,
) -> Result<Page, Stop> {
    let mut page = Page::default();
    if let Some(answer) = call.answer(txn).await? {
        return Ok(Page { answer, ..page });
    }
    let mut room = Room::ALL;
    for (number, trash) in trashes_of(txn, who, from).await?.iter().enumerate() {
        if number == TRASHES_PER_CALL {
            page.answer.next = Cursor::wire(trash.directory, None);
            break;
        }
        let from = from.filter(|from| from.directory == trash.directory);
        let after = from.and_then(|from| from.after.as_deref());
        room.counts = page.answer.trashes.is_empty();
        let Some(done) = tend(txn, trash, rule, whose, after, &mut room).await? else {
            continue;
        };
        if let Some(found) = page.add(trash, after, done) {
            return Err(Stop::Look(found));
        }
        if !page.answer.next.is_empty() {
            break;
        }
    }
    call.keep(txn, &page.answer);
    Ok(page)
}

impl Page {
    /// Adds what was done to a trash, behind its checkpoint `after`. Says what has to be looked through if nothing else can be done before.
    fn add(&mut self, trash: &Trash, after: Option<&str>, done: Done) -> Option<Box<Found>> {
        let is_dealt_with = |told: &pb::ExpungedTrash| !told.removed.is_empty() || !told.kept.is_empty();
        let is_first = !is_dealt_with(&done.told) && !self.answer.trashes.iter().any(is_dealt_with);
        if done.unlooked.is_some() && is_first {
            return done.unlooked;
        }
        self.work |= done.work;
        self.answer.trashes.push(done.told);
        if done.more {
            self.answer.next = Cursor::wire(trash.directory, done.after.as_deref().or(after));
        }
        self.too_large = done.too_large.map(|checkpoint| (trash.clone(), checkpoint));
        None
    }
}

/// Makes a checkpoint smaller that is too large to go, part by part, until it is time to answer; one part at least.
async fn take_parts(
    store: &impl Store,
    trash: &Trash,
    checkpoint: FileId,
    now_ms: u64,
    until: Instant,
) -> Result<(), MetadataError> {
    for _ in 0..PARTS_PER_CALL {
        let is_there = transact!(store, [trash], |txn| shrink(txn, &trash, checkpoint, now_ms)).await?;
        if !is_there || Instant::now() >= until {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use strongroom_proto::groups::Groups;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::{
        meddled::{Meddled, once},
        namespace::remove::{How, remove},
        planted::{Planted, moved, parsed},
        quota::set as quota,
    };

    const AT_ONCE: Rule = Rule {
        now_ms: 1,
        checkpoint_after_ms: 0,
        expire_after_ms: 0,
    };

    fn user(name: &str, superuser: bool) -> Caller {
        Caller::of(name, Groups::default(), superuser)
    }

    /// A call without an id: each is another one.
    fn call(who: &Caller) -> Call {
        Call::of("expunge", &who.name, &[], &pb::ExpungeRequest::default(), 1).expect("a call")
    }

    /// Moves a directory into the trash of who removes it.
    async fn remove_to_trash(planted: &Planted, who: &Caller, path: &str) {
        let how = How {
            recursive: true,
            to_trash: true,
        };
        let walkers = Walkers::new();
        let removed = remove(&planted.store, &walkers, who, &call(who), &parsed(path), how).await;
        removed.expect("moved into the trash");
    }

    /// Names below the root's quota.
    async fn names_used(planted: &Planted) -> u64 {
        let told = quota::look(&planted.store, &user("fsadmin", true), &parsed("/")).await;
        told.expect("quotas").quotas[0].names
    }

    /// Below a quota that cannot count what is in the trash of `who`.
    async fn with_a_large_checkpoint(who: &Caller) -> Planted {
        let planted = Planted::new().await;
        let fsadmin = user("fsadmin", true);
        let change = quota::Change {
            names: quota::Limit::Set(1_000_000),
            bytes: quota::Limit::Keep,
        };
        let (walkers, set) = (Walkers::new(), call(&fsadmin));
        let set = quota::set(&planted.store, &walkers, &fsadmin, &set, &parsed("/"), change).await;
        set.expect("counted");
        let top = planted.directory("/top", who.name.as_str(), 0o755).await;
        planted.plain_files(&[&top], 51_000).await;
        remove_to_trash(&planted, who, "/top").await;
        planted
    }

    /// The look through the checkpoint takes nearly all the time that it may, and each transaction a hundredth of a second.
    #[tokio::test(start_paused = true)]
    async fn however_long_the_look_took_there_is_time_for_parts_and_they_keep_its_place() {
        let alice = user("alice", false);
        let planted = with_a_large_checkpoint(&alice).await;
        let before = names_used(&planted).await;
        let walkers = Arc::new(Walkers::new());
        let _held = walkers.begin(&alice).await.expect("one of two places");
        let (others, by) = (Arc::clone(&walkers), alice.clone());
        let store = Meddled::new(&planted.store)
            .after_view(|_| Box::pin(sleep(WALK - Duration::from_millis(1))))
            .before_commit(move |_| {
                let (walkers, who) = (Arc::clone(&others), by.clone());
                Box::pin(async move {
                    let third = timeout(Duration::from_millis(10), walkers.begin(&who)).await;
                    assert!(third.is_err(), "the call has no place any more");
                })
            });
        let expunged = expunge(&store, &walkers, &alice, &call(&alice), &None, AT_ONCE).await;
        let (answer, _) = expunged.expect("expunged");
        assert!(
            !answer.next.is_empty() && answer.trashes[0].removed.is_empty(),
            "{answer:?}"
        );
        assert_eq!(before - names_used(&planted).await, PARTS_PER_CALL as u64 * 500);
    }

    /// A superuser's trash is not looked through: that all his places are taken keeps no part of it.
    #[tokio::test]
    async fn parts_of_a_superusers_checkpoint_want_no_place() {
        let fsadmin = user("fsadmin", true);
        let planted = with_a_large_checkpoint(&fsadmin).await;
        let before = names_used(&planted).await;
        let walkers = Walkers::new();
        let held = [walkers.begin(&fsadmin).await, walkers.begin(&fsadmin).await];
        assert!(held.iter().all(Result::is_ok));
        let expunged = expunge(&planted.store, &walkers, &fsadmin, &call(&fsadmin), &None, AT_ONCE).await;
        expunged.expect("not refused");
        assert!(names_used(&planted).await < before);
    }

    #[tokio::test]
    async fn nothing_comes_into_a_small_checkpoint_while_it_is_expunged() {
        let planted = Planted::with_bobs().await;
        let alice = user("alice", false);
        remove_to_trash(&planted, &alice, "/a").await;
        let store = Meddled::new(&planted.store).before_commit(once(|store| {
            Box::pin(async move { moved(&store, "/b/private", "/user/alice/.Trash/Current/a/private").await })
        }));
        let expunged = expunge(&store, &Walkers::new(), &alice, &call(&alice), &None, AT_ONCE).await;
        let told = expunged.expect("expunged").0.trashes.remove(0);
        assert_eq!((told.removed.len(), told.kept.len()), (0, 1), "{told:?}");
        let kept = format!("/user/alice/.Trash/{}/a/private/x", told.checkpoint);
        assert!(planted.at(&kept).await.is_some(), "it is bob's");
    }
}
