//! The commit of a file: all that its writer recorded shows at once, or nothing does.

use bytes::Bytes;
use strongroom_kv::{Store, Txn};
use strongroom_proto::{ExtentId, FileId, metadata::v1 as pb};

use super::{
    blocks::{Report, record},
    create::{check_room, ids, write_grant},
    lease::{lost, owned},
    manifest::{self, kept},
    rewrite,
};
use crate::{
    answers::Call,
    authority::Caller,
    core::Core,
    error::MetadataError,
    namespace::{
        permission::{born_in, check_writing},
        remove::{put_purge, unlink_file},
        resolve::{Found, climb, step},
        stat::stat,
    },
    quota::{Usage, charge, explained, links::put_new},
    schema::{access, access::transact, counted, keys, records},
    zones::source::EdekSource,
};

/// What a writer says of the file as it is now.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub(crate) call: Call,
    pub(crate) file: FileId,
    /// The extent that was granted to the writer.
    pub(crate) extent: ExtentId,
    pub(crate) who: Caller,
    pub(crate) generation: u64,
    pub(crate) extents: Vec<records::Extent>,
    /// Blocks of the writer's extent that were not recorded before.
    pub(crate) report: Option<Report>,
    pub(crate) manifest_mac: Bytes,
    pub(crate) mtime_ms: u64,
    /// For how long the writer goes on, if he does.
    pub(crate) lease_expires_ms: Option<u64>,
    /// When another writer, from whom the file is taken, can store blocks no more.
    pub(crate) dead_ms: u64,
}

/// Publishes a file.
pub(crate) async fn commit<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    commit: Commit,
) -> Result<pb::CommittedFile, MetadataError> {
    let next = ExtentId::generate();
    let who = commit.who.clone();
    let done = transact!(&core.store, [commit], |txn| commit_in(txn, &commit, next)).await;
    let done = explained(&core.store, &who, done).await?;
    let grant = match &done.grant {
        Some(grant) => {
            let (file, extent) = ids(grant)?;
            Some(write_grant(core, file, extent, &who.name))
        }
        None => None,
    };
    Ok(pb::CommittedFile { grant, ..done })
}

/// The answer's grant has the ids only.
async fn commit_in(txn: &mut impl Txn, commit: &Commit, next: ExtentId) -> Result<pb::CommittedFile, MetadataError> {
    let kept: Option<pb::CommittedFile> = commit.call.answer(txn).await?;
    if let Some(done) = kept {
        return done_before(txn, commit, done).await;
    }
    let mut open = owned(txn, commit.file, commit.extent, &commit.who.name).await?;
    if let Some(report) = &commit.report {
        record(txn, commit.file, &mut open, report).await?;
    }
    if open.arriving.is_some() {
        return Err(MetadataError::Field {
            field: "file_id",
            rule: "its ciphertext is brought in, which is committed by CommitRaw".to_owned(),
        });
    }
    let (found, body) = match (&open.replaces, open.generation) {
        (Some(replaced), _) => rewrite::put_in_place(txn, commit, &open, replaced).await?,
        (None, 0) => publish(txn, commit, &open).await?,
        (None, _) => update(txn, commit, &open).await?,
    };
    drop_unused(txn, commit, &open);
    let done = pb::CommittedFile {
        stat: Some(stat(txn, &found).await?),
        grant: go_on(txn, commit, (&found, &body), next),
    };
    commit.call.keep(txn, &done);
    Ok(done)
}

/// What was answered before: it was carried out. Not granted is what was given up since, as nobody would delete what is stored of it now.
async fn done_before(
    txn: &mut impl Txn,
    commit: &Commit,
    done: pb::CommittedFile,
) -> Result<pb::CommittedFile, MetadataError> {
    let Some(grant) = &done.grant else { return Ok(done) };
    let (file, extent) = ids(grant)?;
    match owned(txn, file, extent, &commit.who.name).await {
        Ok(_) => Ok(done),
        Err(MetadataError::LeaseLost { .. }) => Ok(pb::CommittedFile { grant: None, ..done }),
        Err(error) => Err(error),
    }
}

/// Ends the writing, or grants the next extent. Of a file that is not encrypted, in a zone that is to do that, nobody gets another.
fn go_on(
    txn: &mut impl Txn,
    commit: &Commit,
    (found, body): (&Found, &records::Body),
    next: ExtentId,
) -> Option<pb::WriteGrant> {
    let may_go_on = body.plain.is_none() || found.zone.is_none();
    let Some(lease_expires_ms) = commit.lease_expires_ms.filter(|_| may_go_on) else {
        counted::delete_open_file(txn, commit.file, commit.who.name.as_str());
        return None;
    };
    let open = records::OpenFile {
        extent_before: commit.extent.into(),
        ..records::OpenFile::again(&commit.who.name, body, next, lease_expires_ms)
    };
    access::put(txn, &keys::open_file(commit.file), &open);
    Some(pb::WriteGrant {
        file_id: commit.file.into(),
        extent_id: next.into(),
        ..pb::WriteGrant::default()
    })
}

/// Shows a new file under its path.
async fn publish(
    txn: &mut impl Txn,
    commit: &Commit,
    open: &records::OpenFile,
) -> Result<(Found, records::Body), MetadataError> {
    manifest::check(commit, open, &[])?;
    let parent = home(txn, commit.file, &commit.who, open).await?;
    let there = step(txn, &commit.who, &parent, &open.name).await?;
    check_room(&commit.who, &parent, &open.name, there.as_ref(), open.overwrite)?;
    if let Some(there) = there {
        unlink_file(txn, &there).await?;
    }
    let body = open.body(commit.extents.clone(), commit.manifest_mac.clone(), commit.generation);
    if body.plain.is_some() {
        // One that has an EDEK is in the index since that was taken for it.
        counted::enter(txn, &body, commit.file)?;
    }
    let fresh = records::Entry {
        id: commit.file.into(),
        mode: open.mode,
        owner: open.owner.clone(),
        mtime_ms: commit.mtime_ms,
        file: Some(body.size()),
        ..records::Entry::default()
    };
    let entry = born_in(&parent.entry, fresh, open.umask);
    access::put(txn, &keys::body(commit.file), &body);
    Ok((put_new(txn, &parent, &open.name, entry)?, body))
}

/// Shows what became of a file that is there. Its EDEK stays as it is: it may have been wrapped again meanwhile.
async fn update(
    txn: &mut impl Txn,
    commit: &Commit,
    open: &records::OpenFile,
) -> Result<(Found, records::Body), MetadataError> {
    let removed = || lost(commit.file, &commit.who.name, "it was removed");
    let mut body = access::body(txn, commit.file).await?.ok_or_else(removed)?;
    if body.generation != open.generation {
        return Err(MetadataError::Corrupt { what: "open file" });
    }
    let commit = &located(commit, &body.extents);
    manifest::check(commit, open, &body.extents)?;
    let mut found = climb(txn, &commit.who, commit.file).await?.ok_or_else(removed)?;
    check_writing(&commit.who, &found)?;
    put_purge(txn, FileId::generate(), &cut_off(commit, &body));
    body.extents.clone_from(&commit.extents);
    body.manifest_mac.clone_from(&commit.manifest_mac);
    body.generation = commit.generation;
    body.same_since = 0;
    let before = found.entry.file.unwrap_or_default();
    found.entry.mtime_ms = commit.mtime_ms;
    found.entry.file = Some(body.size());
    charge(txn, &found.quotas, Usage::grown(before.length, body.size().length));
    access::put(txn, &keys::body(commit.file), &body);
    access::put(txn, &found.key, &found.entry);
    Ok((found, body))
}

/// The commit with the ids under which extents are stored, where they are not those of the manifest.
fn located(commit: &Commit, base: &[records::Extent]) -> Commit {
    let mut commit = commit.clone();
    for extent in &mut commit.extents {
        let stored = base
            .iter()
            .find(|known| !known.sealed_as.is_empty() && known.sealed_as == extent.extent_id);
        if let Some(known) = stored {
            extent.sealed_as = extent.extent_id.clone();
            extent.extent_id = known.extent_id.clone();
        }
    }
    commit
}

/// The blocks of which nothing shows any more.
fn cut_off(commit: &Commit, before: &records::Body) -> records::Purge {
    let (old, dropped) = before.extents.split_at(kept(commit, &before.extents));
    let mut extents: Vec<_> = dropped.iter().map(|extent| before.purge_from(extent, 0)).collect();
    if let (Some(was), Some(is)) = (old.last(), commit.extents.get(..old.len()).and_then(<[_]>::last)) {
        extents.push(before.purge_from(was, before.shown_blocks(is)));
    }
    records::Purge { extents }
}

/// The directory that the file was opened in, wherever it is now; it must still be in the EDEK's zone, or in none if there is no EDEK.
pub(super) async fn home(
    txn: &mut impl Txn,
    file: FileId,
    who: &Caller,
    open: &records::OpenFile,
) -> Result<Found, MetadataError> {
    let lost = |why| lost(file, &who.name, why);
    let parent = climb(txn, who, open.parent.as_ref().try_into()?)
        .await?
        .ok_or_else(|| lost("its directory was removed"))?;
    if open.fits(parent.zone.as_ref().map(|at| at.id)) {
        return Ok(parent);
    }
    Err(lost(if open.is_plain() {
        "its directory became part of an encryption zone"
    } else {
        "its directory came to another zone"
    }))
}

/// Blocks recorded in extents that the file does without become garbage.
fn drop_unused(txn: &mut impl Txn, commit: &Commit, open: &records::OpenFile) {
    let used = |id: &Bytes| commit.extents.iter().any(|extent| extent.extent_id == *id);
    let mut unused = open.garbage();
    unused.extents.retain(|extent| !used(&extent.extent_id));
    // Under an id of its own: the file's id may be purged later for its own blocks.
    put_purge(txn, FileId::generate(), &unused);
}
