//! Checkpoints of a trash, and their end. How old one is goes by the clock of the trash: for how long services have seen it there. A
//! wall clock that jumps, or services that were off for a week, end nothing early.

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{FileId, metadata::v1 as pb, transport::UserName};

use super::{CURRENT, HOMES, TRASH, name, survey::Survey};
use crate::{
    answers::Call,
    authority::Caller,
    error::MetadataError,
    namespace::{
        remove::{clear, is_empty, unlink_empty, unlink_file},
        resolve::{Found, child, climb},
    },
    quota::links::put_elsewhere,
    schema::{
        access,
        access::transact,
        keys::{self, KeyRange},
        records,
    },
};

/// Checkpoints of one trash that are looked at, the oldest by name first, and that are removed in one transaction; below a quota, where each
/// is counted, it is one.
const CHECKPOINTS_MAX: usize = 2000;
pub(super) const REMOVED_AT_ONCE: usize = 50;
/// Entries of one directory that are looked at when a checkpoint is made smaller.
const PART_ENTRIES: usize = 500;
/// Trashes of a user that one call expunges.
const TRASHES_PER_CALL: usize = 20;
/// Parts of a checkpoint that is too large to go at once that one call removes.
const PARTS_PER_CALL: usize = 50;

/// What becomes of a trash at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    /// By the clock of the machine, for names and times.
    pub(crate) now_ms: u64,
    /// How old what was removed has to be before it becomes a checkpoint, and a checkpoint before it is removed.
    pub(crate) checkpoint_after_ms: u64,
    pub(crate) expire_after_ms: u64,
}

/// Whose work it is.
#[derive(Debug, Clone)]
pub(crate) enum For {
    /// The service's own, or a superuser's: all of it may go.
    Anybody,
    User(Survey),
}

impl For {
    fn allows(&self, checkpoint: FileId) -> bool {
        match self {
            Self::Anybody => true,
            Self::User(survey) => survey.allows(checkpoint),
        }
    }

    fn why_not(&self, checkpoint: FileId) -> Option<&str> {
        match self {
            Self::Anybody => None,
            Self::User(survey) => survey.why_not(checkpoint),
        }
    }
}

/// A trash in the table of those that have something in them.
#[derive(Debug, Clone)]
pub(crate) struct Trash {
    pub(crate) user: UserName,
    pub(crate) directory: FileId,
}

impl Trash {
    /// The trash that a key names.
    pub(crate) fn of(key: &[u8]) -> Result<Self, MetadataError> {
        let (user, directory) = keys::trash_of(key).ok_or(MetadataError::Corrupt { what: "trash" })?;
        Ok(Self { user, directory })
    }
}

/// What was done to a trash.
#[derive(Debug, Clone, Default)]
pub(crate) struct Done {
    pub(crate) told: pb::ExpungedTrash,
    /// Whether there is a job to work on.
    pub(crate) work: bool,
    /// Whether others are left to remove.
    pub(crate) more: bool,
}

/// Does to the trashes of a user what `rule` says, to some of them from `from` on. Says also whether there are jobs to work on.
pub(crate) async fn expunge(
    store: &impl Store,
    who: &Caller,
    call: &Call,
    from: Option<FileId>,
    rule: Rule,
) -> Result<(pb::ExpungeResponse, bool), MetadataError> {
    let trashes = trashes_of(&mut store.snapshot().await?, who, from).await?;
    let whose = match who.superuser {
        true => For::Anybody,
        false => For::User(Survey::of(store, who, &trashes, rule).await?),
    };
    let done = transact!(store, [who, call, whose], |txn| expunge_once(
        txn, &who, &call, from, rule, &whose
    ))
    .await;
    let Err(MetadataError::TooManyToCount { .. }) = done else {
        return done;
    };
    for _ in 0..PARTS_PER_CALL {
        transact!(store, [trashes, whose], |txn| shrink_first(txn, &trashes, rule, &whose)).await?;
    }
    let next = from.or_else(|| trashes.first().map(|trash| trash.directory));
    let next = next.map(Into::into).unwrap_or_default();
    let trashes = Vec::new();
    Ok((pb::ExpungeResponse { trashes, next }, false))
}

/// Trashes of a user that one call is about, from `from` on, and one more if there is another.
async fn trashes_of(reader: &mut impl Reader, who: &Caller, from: Option<FileId>) -> Result<Vec<Trash>, MetadataError> {
    let mut range = keys::trashes_of(&who.name);
    if let Some(from) = from {
        range.start = keys::trash(&who.name, from);
    }
    let rows = access::page(reader, &range, TRASHES_PER_CALL + 1).await?;
    rows.iter().map(|(key, _)| Trash::of(key)).collect()
}

async fn expunge_once(
    txn: &mut impl Txn,
    who: &Caller,
    call: &Call,
    from: Option<FileId>,
    rule: Rule,
    whose: &For,
) -> Result<(pb::ExpungeResponse, bool), MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        return Ok((done, false));
    }
    let (mut answer, mut work) = (pb::ExpungeResponse::default(), false);
    for (number, trash) in trashes_of(txn, who, from).await?.iter().enumerate() {
        if number == TRASHES_PER_CALL {
            answer.next = trash.directory.into();
            break;
        }
        let is_first = answer.trashes.is_empty();
        let Some(done) = tend(txn, trash, rule, whose, is_first).await? else {
            continue;
        };
        answer.trashes.push(done.told);
        work |= done.work;
        if done.more {
            answer.next = trash.directory.into();
            break;
        }
    }
    call.keep(txn, &answer);
    Ok((answer, work))
}

/// Does to one trash what `rule` says; `None` if it is not there any more. Checkpoints that are counted for quotas go only if the transaction
/// `may_count`.
pub(crate) async fn tend(
    txn: &mut impl Txn,
    trash: &Trash,
    rule: Rule,
    whose: &For,
    may_count: bool,
) -> Result<Option<Done>, MetadataError> {
    let key = keys::trash(&trash.user, trash.directory);
    let Some(before) = access::record::<records::Trash>(txn, &key, "trash").await? else {
        return Ok(None);
    };
    let Some(found) = where_it_is(txn, trash).await? else {
        txn.delete(&key);
        return Ok(None);
    };
    let clock_ms = clock(txn).await?;
    let mut record = before.clone();
    let mut done = Done::default();
    if !found.path.is_too_long() {
        done.told.path = (&found.path).into();
    }
    done.told.checkpoint = checkpoint(txn, &found, &mut record, clock_ms, rule).await?;
    let most = match found.quotas.is_empty() {
        true => REMOVED_AT_ONCE,
        false => usize::from(may_count),
    };
    expire(txn, &found, &mut record, Turn { rule, whose, most }, &mut done).await?;
    if record == records::Trash::default() {
        txn.delete(&key);
    } else if record != before {
        access::put(txn, &key, &record);
    }
    Ok(Some(done))
}

/// Makes the first trash smaller that has something to remove.
async fn shrink_first(txn: &mut impl Txn, trashes: &[Trash], rule: Rule, whose: &For) -> Result<(), MetadataError> {
    for trash in trashes {
        if shrink(txn, trash, rule, whose).await? {
            break;
        }
    }
    Ok(())
}

/// Takes some of what it holds out of a checkpoint that is old enough but too large to be counted for the quotas that it is below, so that it
/// becomes smaller. Says whether there is one.
pub(crate) async fn shrink(txn: &mut impl Txn, trash: &Trash, rule: Rule, whose: &For) -> Result<bool, MetadataError> {
    let key = keys::trash(&trash.user, trash.directory);
    let record = access::record::<records::Trash>(txn, &key, "trash").await?;
    let (Some(record), Some(found)) = (record, where_it_is(txn, trash).await?) else {
        return Ok(false);
    };
    for (name, entry) in old_ones(txn, &found, &record, rule).await? {
        let checkpoint = child(&found, &name, entry)?;
        if whose.allows(checkpoint.id) {
            clear_part(txn, checkpoint, rule.now_ms).await?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is old enough to be removed, as it stands now: checkpoints, and what becomes one that is.
pub(super) async fn old_ones(
    reader: &mut impl Reader,
    trash: &Found,
    record: &records::Trash,
    rule: Rule,
) -> Result<Vec<(String, records::Entry)>, MetadataError> {
    let clock_ms = clock(reader).await?;
    let mut found = checkpoints(reader, trash.id).await?;
    found.retain(|(_, entry)| clock_ms.saturating_sub(since_ms(record, entry, clock_ms)) >= rule.expire_after_ms);
    if rule.checkpoint_after_ms == 0
        && rule.expire_after_ms == 0
        && let Some(current) = access::entry(reader, trash.id, CURRENT).await?
        && current.is_directory()
    {
        found.push((CURRENT.to_owned(), current));
    }
    Ok(found)
}

/// Removes files and empty directories in the first directory on the way down that has any.
async fn clear_part(txn: &mut impl Txn, mut at: Found, now_ms: u64) -> Result<(), MetadataError> {
    loop {
        let mut holds_more = None;
        let mut removed = false;
        for (key, value) in access::page(txn, &keys::dentries(at.id), PART_ENTRIES).await? {
            let name = keys::dentry_name(&key).unwrap_or_default();
            let found = child(&at, name, access::decode(value, "directory entry")?)?;
            if !found.entry.is_directory() {
                unlink_file(txn, &found).await?;
            } else if is_empty(txn, &found).await? {
                unlink_empty(txn, &found, now_ms).await?;
            } else {
                holds_more.get_or_insert(found);
                continue;
            }
            removed = true;
        }
        match holds_more {
            Some(directory) if !removed => at = directory,
            _ => return Ok(()),
        }
    }
}

/// For how long services have looked after the trash.
async fn clock(reader: &mut impl Reader) -> Result<u64, MetadataError> {
    let clock: Option<records::TrashClock> = access::record(reader, &keys::trash_clock(), "trash").await?;
    Ok(clock.unwrap_or_default().passed_ms)
}

/// Lets the clock of the trash go on.
pub(super) async fn pass(txn: &mut impl Txn, passed_ms: u64) -> Result<(), MetadataError> {
    let passed_ms = clock(txn).await? + passed_ms;
    access::put(txn, &keys::trash_clock(), &records::TrashClock { passed_ms });
    Ok(())
}

/// The directory of a trash, if it is still one. Somebody may have moved it to keep what it holds.
pub(super) async fn where_it_is(txn: &mut impl Reader, trash: &Trash) -> Result<Option<Found>, MetadataError> {
    let keeper = Caller::keeper(trash.user.clone());
    let Some(found) = climb(txn, &keeper, trash.directory).await? else {
        return Ok(None);
    };
    let is_its = found.entry.owner == trash.user.as_str() && is_trash_of(&found, trash.user.as_str());
    Ok(Some(found).filter(|_| is_its))
}

fn is_trash_of(found: &Found, user: &str) -> bool {
    let mut names = found.path.names().collect::<Vec<_>>();
    let (last, above) = (names.pop(), names.pop());
    match above {
        Some(TRASH) => last == Some(user),
        Some(home) => last == Some(TRASH) && home == user && names == [HOMES],
        None => false,
    }
}

/// Makes a checkpoint of what was removed since the last one, if that is old enough. Says its name.
async fn checkpoint(
    txn: &mut impl Txn,
    trash: &Found,
    record: &mut records::Trash,
    clock_ms: u64,
    rule: Rule,
) -> Result<String, MetadataError> {
    let Some(current) = access::entry(txn, trash.id, CURRENT).await? else {
        record.current_since_ms = None;
        return Ok(String::new());
    };
    let since_ms = *record.current_since_ms.get_or_insert(clock_ms);
    if !current.is_directory() || clock_ms.saturating_sub(since_ms) < rule.checkpoint_after_ms {
        return Ok(String::new());
    }
    let name = name::for_checkpoint(txn, trash.id, rule.now_ms, &trash.path).await?;
    let id = current.id.clone();
    put_elsewhere(txn, child(trash, CURRENT, current)?, trash, &name).await?;
    record.current_since_ms = None;
    record
        .checkpoints
        .push(records::TrashCheckpoint { id, since_ms: clock_ms });
    Ok(name)
}

/// What a trash is emptied by.
struct Turn<'w> {
    rule: Rule,
    whose: &'w For,
    /// Checkpoints that go at most.
    most: usize,
}

/// Removes checkpoints that are old enough, and remembers since when the others are there.
async fn expire(
    txn: &mut impl Txn,
    found: &Found,
    record: &mut records::Trash,
    Turn { rule, whose, most }: Turn<'_>,
    done: &mut Done,
) -> Result<(), MetadataError> {
    let by: UserName = found.entry.owner.parse()?;
    let clock_ms = clock(txn).await?;
    let mut left = Vec::new();
    for (name, entry) in checkpoints(txn, found.id).await? {
        let (id, since_ms) = (entry.file_id()?, since_ms(record, &entry, clock_ms));
        let is_old = clock_ms.saturating_sub(since_ms) >= rule.expire_after_ms;
        if is_old && whose.allows(id) && done.told.removed.len() < most {
            let job = clear(txn, &child(found, &name, entry)?, &by, rule.now_ms).await?;
            done.work |= job.is_some();
            done.told.removed.push(name);
            continue;
        }
        match whose.why_not(id).filter(|_| is_old) {
            Some(why) => done.told.kept.push(pb::KeptCheckpoint {
                name,
                why: why.to_owned(),
            }),
            None => done.more |= is_old,
        }
        let id = entry.id;
        left.push(records::TrashCheckpoint { id, since_ms });
    }
    record.checkpoints = left;
    Ok(())
}

/// Since when a checkpoint is there: from now on if it was not seen before.
fn since_ms(record: &records::Trash, entry: &records::Entry, clock_ms: u64) -> u64 {
    let known = record.checkpoints.iter().find(|known| known.id == entry.id);
    known.map_or(clock_ms, |known| known.since_ms)
}

/// Directories of a trash that have the names of checkpoints.
async fn checkpoints(txn: &mut impl Reader, trash: FileId) -> Result<Vec<(String, records::Entry)>, MetadataError> {
    let range = KeyRange {
        start: keys::dentry(trash, "0"),
        // What comes behind the last digit.
        end: keys::dentry(trash, ":"),
    };
    let mut found = Vec::new();
    for (key, value) in access::page(txn, &range, CHECKPOINTS_MAX).await? {
        let name = keys::dentry_name(&key).unwrap_or_default();
        let entry: records::Entry = access::decode(value, "directory entry")?;
        if name::is_checkpoint(name) && entry.is_directory() {
            found.push((name.to_owned(), entry));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use strongroom_kv::EmbeddedStore;

    use super::*;
    use crate::{namespace::resolve::root, quota::links::put_new, schema::ROOT};

    /// A directory that is too large for its quotas goes in parts, from below.
    #[tokio::test]
    async fn what_cannot_go_at_once_goes_in_parts() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = EmbeddedStore::open(&dir.path().join("store")).expect("a store");
        let directory = |id: FileId| records::Entry {
            id: id.into(),
            ..records::Entry::default()
        };
        let mut txn = store.begin().await.expect("a transaction");
        access::put(&mut txn, &keys::root(), &directory(ROOT));
        let top = root(&mut txn).await.expect("there");
        let a = put_new(&mut txn, &top, "a", directory(FileId::generate())).expect("new");
        for name in ["b", "c"] {
            let inner = put_new(&mut txn, &a, name, directory(FileId::generate())).expect("new");
            for number in 0..700 {
                let leaf = directory(FileId::generate());
                put_new(&mut txn, &inner, &format!("{number:03}"), leaf).expect("new");
            }
        }
        txn.commit().await.expect("committed");
        let mut steps = 0;
        loop {
            let mut txn = store.begin().await.expect("a transaction");
            if is_empty(&mut txn, &a).await.expect("readable") {
                break;
            }
            clear_part(&mut txn, a.clone(), 1).await.expect("some go");
            txn.commit().await.expect("committed");
            steps += 1;
        }
        assert_eq!(steps, 6, "500, 200 and itself, of each");
        let mut txn = store.begin().await.expect("a transaction");
        let left = access::page(&mut txn, &keys::everything(), 10).await.expect("readable");
        assert_eq!(left.len(), 3, "the root, a and its place: {left:?}");
    }
}
