//! Finding the files of a directory that moves, and telling its client which of them lack an EDEK.

use std::collections::{HashMap, hash_map::Entry};

use bytes::Bytes;
use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{FileId, JobId, ZoneId, metadata::v1 as pb, transfer::TRANSFER_EDEKS_MAX};

use super::{begin::item, check_has_code, check_staging, own, staged, tidy};
use crate::{
    authority::Caller,
    core::Core,
    error::MetadataError,
    jobs::record,
    namespace::{
        permission::{Rights, check},
        resolve::{Found, child, climb},
    },
    schema::{
        access,
        access::transact,
        keys::{self, Stage},
        records,
    },
    zones::source::EdekSource,
};

/// Entries looked at in one transaction, directories that they may come from, and transactions in one call.
const ENTRIES_PER_STEP: usize = 500;
const DIRECTORIES_PER_STEP: usize = 100;
const STEPS: usize = 10;

/// Files that lack an EDEK, behind `after`. Looks on through the directory if that is not done.
pub(crate) async fn list<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    id: JobId,
    after: Option<FileId>,
) -> Result<pb::ListTransferResponse, MetadataError> {
    for _ in 0..STEPS {
        let now_ms = core.clock.now_ms();
        match transact!(&core.store, [who], |txn| collect(txn, &who, id, now_ms)).await? {
            Collected::More => {}
            Collected::All => break,
            Collected::Impossible { path, why } => {
                core.work.notify_one();
                return Err(MetadataError::Transfer { path, why });
            }
        }
    }
    page(core, who, id, after).await
}

/// How far the files of a directory are found.
enum Collected {
    More,
    All,
    /// The job is canceled.
    Impossible {
        path: strongroom_proto::ZonePath,
        why: String,
    },
}

/// Puts files on the job's list, of the directories that are still to be looked through.
async fn collect(txn: &mut impl Txn, who: &Caller, id: JobId, now_ms: u64) -> Result<Collected, MetadataError> {
    let mut job = own(txn, who, id).await?;
    check_staging(&job, id)?;
    let directories = access::page(txn, &keys::removals(id), DIRECTORIES_PER_STEP).await?;
    if directories.is_empty() {
        return Ok(Collected::All);
    }
    let mut room = ENTRIES_PER_STEP;
    for (key, behind) in &directories {
        let directory = keys::removal_of(key).ok_or(MetadataError::Corrupt { what: "job" })?;
        let taken = match take(txn, id, directory, behind, room).await? {
            Taken::Entries(taken) => taken,
            Taken::Obstacle(name, why) => {
                let path = tidy::path_of(txn, who, directory, &name, &job).await?;
                tidy::undo(&mut job, &format!("{path} {why}"), now_ms)?;
                record::put(txn, id, &job);
                return Ok(Collected::Impossible { path, why });
            }
        };
        job.moves_mut()?.found += taken.files;
        if taken.entries == room {
            break;
        }
        room -= taken.entries;
        txn.delete(key);
    }
    job.moves_mut()?.heard_ms = now_ms;
    record::put(txn, id, &job);
    Ok(Collected::More)
}

#[derive(Default)]
struct Entries {
    entries: usize,
    files: u64,
}

enum Taken {
    Entries(Entries),
    /// What cannot be moved along, and why.
    Obstacle(String, String),
}

/// Looks at up to so many entries of a directory, behind the name `behind`. A directory that went is empty.
async fn take(
    txn: &mut impl Txn,
    job: JobId,
    directory: FileId,
    behind: &Bytes,
    room: usize,
) -> Result<Taken, MetadataError> {
    let broken = || MetadataError::Corrupt {
        what: "directory entry",
    };
    let mut range = keys::dentries(directory);
    if !behind.is_empty() {
        range.start = [&range.start, behind.as_ref(), &[0]].concat();
    }
    let found = access::page(txn, &range, room).await?;
    let mut taken = Entries::default();
    for (key, value) in &found {
        let entry: records::Entry = access::decode(value.clone(), "directory entry")?;
        let name = keys::dentry_name(key).ok_or_else(broken)?;
        if let Some(why) = obstacle(&entry)? {
            return Ok(Taken::Obstacle(name.to_owned(), why));
        }
        let inode = entry.file_id()?;
        if entry.is_directory() {
            txn.put(&keys::removal(job, inode), Bytes::new());
        } else {
            staged::arrive(txn, job, inode).await?;
            taken.files += 1;
        }
        taken.entries += 1;
    }
    if let (Some((key, _)), true) = (found.last(), taken.entries == room) {
        let name = keys::dentry_name(key).ok_or_else(broken)?;
        txn.put(&keys::removal(job, directory), Bytes::copy_from_slice(name.as_bytes()));
    }
    Ok(Taken::Entries(taken))
}

fn obstacle(entry: &records::Entry) -> Result<Option<String>, MetadataError> {
    if entry.zone()?.is_some() {
        let why = "is a zone of its own, whose files are bound to it; move it out first";
        return Ok(Some(why.to_owned()));
    }
    let moving = entry.moving()?;
    Ok(moving
        .map(|job| format!("is being moved by job {job}; wait for that, or cancel it: strongroom job cancel {job}")))
}

/// What becomes of a file on the list.
enum Listed {
    Lacks(pb::TransferItem),
    /// It went, or has its EDEK.
    Over,
}

/// Directories that were climbed to, for the files of one page.
type Parents = HashMap<FileId, Option<Found>>;

async fn page<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    id: JobId,
    after: Option<FileId>,
) -> Result<pb::ListTransferResponse, MetadataError> {
    let mut range = keys::transfers(id, Stage::Missing);
    if let Some(after) = after {
        range = range.after(&keys::transfer(id, Stage::Missing, after));
    }
    let mut view = core.store.snapshot().await?;
    let job = own(&mut view, who, id).await?;
    let zone = ZoneId::try_from(job.moves()?.from_zone.as_ref())?;
    let rows = access::page(&mut view, &range, TRANSFER_EDEKS_MAX).await?;
    let mut listed = pb::ListTransferResponse {
        found: job.moves()?.found,
        ..pb::ListTransferResponse::default()
    };
    let (mut parents, mut over) = (Parents::new(), Vec::new());
    for (key, _) in &rows {
        let file = keys::transfer_of(key).ok_or(MetadataError::Corrupt { what: "job" })?;
        match look(&mut view, who, (id, zone), file, &mut parents).await? {
            Listed::Lacks(item) => listed.files.push(item),
            Listed::Over => over.push(file),
        }
        if rows.len() == TRANSFER_EDEKS_MAX {
            listed.next = file.into();
        }
    }
    drop(view);
    for file in over {
        transact!(&core.store, [who], |txn| cross_off(txn, &who, (id, zone), file)).await?;
    }
    Ok(listed)
}

/// What is to be signed for a file of a job, which its caller has to be allowed to read, as if he copied it.
async fn look(
    reader: &mut impl Reader,
    who: &Caller,
    (job, zone): (JobId, ZoneId),
    file: FileId,
    parents: &mut Parents,
) -> Result<Listed, MetadataError> {
    let Some(place) = access::place(reader, file).await? else {
        return Ok(Listed::Over);
    };
    let id = access::file_id(&place.parent)?;
    let parent = match parents.entry(id) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(unknown) => {
            let parent = climb(reader, who, id).await?;
            unknown.insert(parent.filter(|parent| parent.moving == Some(job)))
        }
    };
    let Some(parent) = parent else {
        return Ok(Listed::Over);
    };
    let entry = access::entry(reader, id, &place.name).await?;
    let body = access::body(reader, file).await?;
    let (Some(entry), Some(body)) = (entry, body) else {
        return Ok(Listed::Over);
    };
    if staged::has_job(&body, job)? {
        return Ok(Listed::Over);
    }
    check(who, parent, Rights::PASS, &parent.path)?;
    let found = child(parent, &place.name, entry)?;
    check(who, &found, Rights::READ, &found.path)?;
    let edek = staged::needed(reader, &body, &found.path).await?;
    check_has_code(&body, &found.path)?;
    if edek.zone_id.as_ref() != zone.as_bytes() {
        return Err(MetadataError::Corrupt { what: "file" });
    }
    Ok(Listed::Lacks(item(file.into(), edek)))
}

/// Takes a file off the list, if that is still right.
async fn cross_off(txn: &mut impl Txn, who: &Caller, of: (JobId, ZoneId), file: FileId) -> Result<(), MetadataError> {
    if matches!(look(txn, who, of, file, &mut Parents::new()).await?, Listed::Over) {
        txn.delete(&keys::transfer(of.0, Stage::Missing, file));
    }
    Ok(())
}
