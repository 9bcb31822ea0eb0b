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
        walkers::{WALK, Walkers},
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
    let deadline = Instant::now() + WALK;
    let page = look_and_expunge(store, walkers, who, call, from, rule).await?;
    if let Some((trash, checkpoint)) = &page.too_large {
        take_parts(store, trash, *checkpoint, rule.now_ms, deadline).await?;
    }
    Ok((page.answer, page.work))
}

async fn look_and_expunge(
    store: &impl Store,
    walkers: &Walkers,
    who: &Caller,
    call: &Call,
    from: &Option<Cursor>,
    rule: Rule,
) -> Result<Page, MetadataError> {
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
        Turn::Done(page) => return Ok(page),
        Turn::Look(found) => found,
    };
    let leave = walkers.begin(who).await?;
    for _ in 0..LOOKS_MAX {
        let looked = Looked::at(store, who, &found, leave.deadline()).await?;
        found = match turn(looked).await? {
            Turn::Done(page) => return Ok(page),
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

/// Makes a checkpoint smaller that is too large to go, part by part, until `deadline`.
async fn take_parts(
    store: &impl Store,
    trash: &Trash,
    checkpoint: FileId,
    now_ms: u64,
    deadline: Instant,
) -> Result<(), MetadataError> {
    for _ in 0..PARTS_PER_CALL {
        let is_there = transact!(store, [trash], |txn| shrink(txn, &trash, checkpoint, now_ms)).await?;
        if !is_there || Instant::now() >= deadline {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use strongroom_proto::groups::Groups;

    use super::*;
    use crate::{
        meddled::Meddled,
        namespace::remove::{How, remove},
        planted::{Planted, moved, parsed},
    };

    #[tokio::test]
    async fn nothing_comes_into_a_small_checkpoint_while_it_is_expunged() {
        let planted = Planted::new().await;
        for path in ["/a", "/b"] {
            planted.directory(path, "alice", 0o777).await;
        }
        planted.directory("/b/private", "bob", 0o700).await;
        planted.directory("/b/private/x", "bob", 0o755).await;
        let alice = Caller::of("alice", Groups::default(), false);
        let call = Call::of("expunge", &alice.name, &[], &pb::ExpungeRequest::default(), 1).expect("a call");
        let how = How {
            recursive: true,
            to_trash: true,
        };
        let walkers = Walkers::new();
        let removed = remove(&planted.store, &walkers, &alice, &call, &parsed("/a"), how).await;
        removed.expect("moved into the trash");
        let mut came = false;
        let store = Meddled::new(&planted.store).before_commit(move |store| {
            let is_first = !std::mem::replace(&mut came, true);
            Box::pin(async move {
                if is_first {
                    moved(&store, "/b/private", "/user/alice/.Trash/Current/a/private").await;
                }
            })
        });
        let rule = Rule {
            now_ms: 1,
            checkpoint_after_ms: 0,
            expire_after_ms: 0,
        };
        let expunged = expunge(&store, &walkers, &alice, &call, &None, rule).await;
        let told = expunged.expect("expunged").0.trashes.remove(0);
        assert_eq!((told.removed.len(), told.kept.len()), (0, 1), "{told:?}");
        let kept = format!("/user/alice/.Trash/{}/a/private/x", told.checkpoint);
        assert!(planted.at(&kept).await.is_some(), "it is bob's");
    }
}
