//! Checkpoints of a trash, and their end. How old one is goes by the clock of the trash: for how long services have seen it there. A
//! wall clock that jumps, or services that were off for a week, end nothing early.

use strongroom_kv::{Reader, Txn};
use strongroom_proto::{FileId, metadata::v1 as pb, transport::UserName};

use super::{
    CURRENT, HOMES, TRASH, name,
    verdict::{For, Verdict},
};
use crate::{
    authority::Caller,
    error::MetadataError,
    namespace::{
        clearing::IN_A_TRANSACTION_MAX,
        remove::{clear, is_empty, unlink_empty, unlink_file},
        resolve::{Found, child, climb},
    },
    quota::links::put_elsewhere,
    schema::{
        access,
        keys::{self, KeyRange},
        records,
    },
};

/// Checkpoints of one trash that are looked at, the oldest by name first, and that are removed in one transaction; below a quota, where each
/// is counted, it is one.
const CHECKPOINTS_MAX: usize = 2000;
const REMOVED_AT_ONCE: usize = 50;
/// Entries of one directory that are looked at when a checkpoint is made smaller.
const PART_ENTRIES: usize = 500;

/// What becomes of a trash at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    /// By the clock of the machine, for names and times.
    pub(crate) now_ms: u64,
    /// How old what was removed has to be before it becomes a checkpoint, and a checkpoint before it is removed.
    pub(crate) checkpoint_after_ms: u64,
    pub(crate) expire_after_ms: u64,
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
    /// The last one that was removed or is kept, by its name.
    pub(crate) after: Option<String>,
    /// One that has to be looked through first.
    pub(crate) unlooked: Option<Box<Found>>,
    /// One that has to become smaller first: it is too large to be counted for the quotas that it is below.
    pub(crate) too_large: Option<FileId>,
}

/// What a transaction may still do to trashes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Whether checkpoints may go that are counted for quotas.
    pub(crate) counts: bool,
    /// Names that may be looked through.
    pub(crate) names: usize,
}

impl Room {
    /// Of a transaction that has done nothing yet.
    pub(crate) const ALL: Self = Self {
        counts: true,
        names: IN_A_TRANSACTION_MAX,
    };
}

/// Does to one trash what `rule` says, to its checkpoints behind the one named `after`; `None` if it is not there any more.
pub(crate) async fn tend(
    txn: &mut impl Txn,
    trash: &Trash,
    rule: Rule,
    whose: &For,
    after: Option<&str>,
    room: &mut Room,
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
        false => usize::from(room.counts),
    };
    let turn = Turn {
        rule,
        whose,
        by: &trash.user,
        after,
        most,
    };
    expire(txn, &found, &mut record, turn, room, &mut done).await?;
    if record == records::Trash::default() {
        txn.delete(&key);
    } else if record != before {
        access::put(txn, &key, &record);
    }
    Ok(Some(done))
}

/// Takes some of what it holds out of a checkpoint that is too large to be counted, so that it becomes smaller. Says whether it is there.
pub(crate) async fn shrink(
    txn: &mut impl Txn,
    trash: &Trash,
    checkpoint: FileId,
    now_ms: u64,
) -> Result<bool, MetadataError> {
    let Some(found) = where_it_is(txn, trash).await? else {
        return Ok(false);
    };
    let mut all = checkpoints(txn, found.id).await?.into_iter();
    let Some((name, entry)) = all.find(|(_, entry)| entry.id.as_ref() == checkpoint.as_bytes()) else {
        return Ok(false);
    };
    clear_part(txn, child(&found, &name, entry)?, now_ms).await?;
    Ok(true)
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
async fn where_it_is(txn: &mut impl Reader, trash: &Trash) -> Result<Option<Found>, MetadataError> {
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
#[derive(Clone, Copy)]
struct Turn<'w> {
    rule: Rule,
    whose: &'w For,
    /// Whose jobs clear it away.
    by: &'w UserName,
    after: Option<&'w str>,
    /// Checkpoints that go at most.
    most: usize,
}

/// Removes checkpoints that are old enough, up to the first that cannot be dealt with in this transaction, and remembers since when the
/// others are there.
async fn expire(
    txn: &mut impl Txn,
    found: &Found,
    record: &mut records::Trash,
    turn: Turn<'_>,
    room: &mut Room,
    done: &mut Done,
) -> Result<(), MetadataError> {
    let clock_ms = clock(txn).await?;
    let mut left = Vec::new();
    for (name, entry) in checkpoints(txn, found.id).await? {
        let (id, since_ms) = (entry.id.clone(), since_ms(record, &entry, clock_ms));
        let is_old = clock_ms.saturating_sub(since_ms) >= turn.rule.expire_after_ms;
        let is_next = is_old && !done.more && turn.after.is_none_or(|after| name.as_str() > after);
        if is_next && end(txn, &child(found, &name, entry)?, &name, turn, room, done).await? {
            continue;
        }
        left.push(records::TrashCheckpoint { id, since_ms });
    }
    record.checkpoints = left;
    Ok(())
}

/// Removes a checkpoint, or keeps it if its user may not, or leaves it to another transaction. Says whether it is gone.
async fn end(
    txn: &mut impl Txn,
    checkpoint: &Found,
    name: &str,
    turn: Turn<'_>,
    room: &mut Room,
    done: &mut Done,
) -> Result<bool, MetadataError> {
    if done.told.removed.len() >= turn.most {
        done.more = true;
        return Ok(false);
    }
    match turn.whose.verdict(txn, checkpoint, &mut room.names).await? {
        Verdict::May => {}
        Verdict::Not(why) => {
            let name = name.to_owned();
            done.after = Some(name.clone());
            done.told.kept.push(pb::KeptCheckpoint { name, why });
            return Ok(false);
        }
        Verdict::Unknown => {
            done.more = true;
            done.unlooked = Some(Box::new(checkpoint.clone()));
            return Ok(false);
        }
    }
    match clear(txn, checkpoint, turn.by, turn.rule.now_ms).await {
        Ok(job) => {
            done.work |= job.is_some();
            done.after = Some(name.to_owned());
            done.told.removed.push(name.to_owned());
            Ok(true)
        }
        Err(MetadataError::TooManyToCount { .. }) => {
            done.more = true;
            done.too_large = Some(checkpoint.id);
            Ok(false)
        }
        Err(error) => Err(error),
    }
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
    use strongroom_kv::{EmbeddedStore, Store};

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
