//! The commit of a file: all that its writer recorded shows under its path at once, or nothing does.

use bytes::Bytes;
use strongroom_kv::{Store, Txn};
use strongroom_proto::{FileId, ZoneId, limits::EXTENTS_PER_FILE_MAX, metadata::v1 as pb, transport::UserName};

use super::{
    blocks::{Report, record},
    create::check_overwrite,
    lease::owned,
    sealed_bytes,
};
use crate::{
    answers::Call,
    error::MetadataError,
    namespace::{
        remove::{put_purge, unlink_file},
        resolve::{Found, child, climb, step},
        stat::stat,
    },
    schema::{access, access::transact, counted, keys, records},
};

/// What a writer says of the file it finished.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub(crate) call: Call,
    pub(crate) file: FileId,
    pub(crate) user: UserName,
    pub(crate) extents: Vec<records::Extent>,
    /// Blocks of the last extent that were not recorded before.
    pub(crate) report: Option<Report>,
    pub(crate) manifest_mac: Bytes,
    pub(crate) mtime_ms: u64,
}

/// Publishes a file. A repeat answers with the file as it is.
pub(crate) async fn commit(store: &impl Store, commit: Commit) -> Result<pb::Stat, MetadataError> {
    transact!(store, [commit], |txn| commit_in(txn, &commit)).await
}

async fn commit_in(txn: &mut impl Txn, commit: &Commit) -> Result<pb::Stat, MetadataError> {
    if let Some(done) = commit.call.answer(txn).await? {
        return Ok(done);
    }
    if let Some(done) = committed(txn, commit).await? {
        return stat(txn, &done).await;
    }
    let mut open = owned(txn, commit.file, &commit.user).await?;
    if let Some(report) = &commit.report {
        record(txn, commit.file, &mut open, report).await?;
    }
    check_manifest(commit, &open)?;
    let parent = home(txn, commit, &open).await?;
    if let Some(there) = step(txn, &parent, &open.name).await? {
        check_overwrite(there.entry.is_directory(), &there.path, open.overwrite)?;
        unlink_file(txn, &there).await?;
    }
    drop_unused(txn, commit, &open);
    counted::delete_open_file(txn, commit.file);
    let body = body(commit, &open);
    let entry = entry(commit, &open, &parent, &body);
    access::put(txn, &keys::body(commit.file), &body);
    access::link(txn, parent.id, &open.name, &entry)?;
    let found = child(&parent, &open.name, entry)?;
    let stat = stat(txn, &found).await?;
    commit.call.keep(txn, &stat);
    Ok(stat)
}

/// The file, if this is a repeat of its commit.
async fn committed(txn: &mut impl Txn, commit: &Commit) -> Result<Option<Found>, MetadataError> {
    match access::body(txn, commit.file).await? {
        Some(body) if body.manifest_mac == commit.manifest_mac && body.extents == commit.extents => {
            let found = climb(txn, commit.file).await?;
            Ok(found.filter(|found| found.entry.owner == commit.user.as_str()))
        }
        _ => Ok(None),
    }
}

/// The directory that the file was opened in, wherever it is now; it must still be in the EDEK's zone.
async fn home(txn: &mut impl Txn, commit: &Commit, open: &records::OpenFile) -> Result<Found, MetadataError> {
    let lost = |why| MetadataError::LeaseLost {
        file: commit.file,
        user: commit.user.clone(),
        why,
    };
    let parent = climb(txn, open.parent.as_ref().try_into()?)
        .await?
        .ok_or_else(|| lost("its directory was removed"))?;
    let edek = open.edek.as_ref().ok_or(MetadataError::Corrupt { what: "open file" })?;
    let zone = ZoneId::try_from(edek.zone_id.as_ref())?;
    if parent.zone.as_ref().is_some_and(|at| at.id == zone) {
        Ok(parent)
    } else {
        Err(lost("its directory became another zone"))
    }
}

/// Checks that extents, blocks and lengths fit each other and what was recorded.
fn check_manifest(commit: &Commit, open: &records::OpenFile) -> Result<(), MetadataError> {
    let bad = |rule: String| {
        Err(MetadataError::Manifest {
            file: commit.file,
            rule,
        })
    };
    if commit.extents.len() > EXTENTS_PER_FILE_MAX {
        return bad(format!("a file has at most {EXTENTS_PER_FILE_MAX} extents"));
    }
    if commit.manifest_mac.len() != 32 {
        return bad("its manifest MAC must be 32 bytes".to_owned());
    }
    for (position, extent) in commit.extents.iter().enumerate() {
        let id = extent.id()?;
        if commit.extents[..position]
            .iter()
            .any(|e| e.extent_id == extent.extent_id)
        {
            return bad(format!("extent {id} is named twice"));
        }
        let Some(known) = open.extents.iter().find(|known| known.extent_id == extent.extent_id) else {
            return bad(format!("extent {id} was not granted to its writer"));
        };
        if let Some(rule) = broken_extent(extent, known, open) {
            return bad(format!("extent {id}: {rule}"));
        }
    }
    Ok(())
}

fn broken_extent(extent: &records::Extent, known: &records::OpenExtent, open: &records::OpenFile) -> Option<String> {
    let block_bytes = u64::from(open.block_bytes);
    if extent.salt.len() != 16 {
        return Some("its salt must be 16 bytes".to_owned());
    }
    if extent.length == 0 || extent.length.div_ceil(block_bytes) != u64::from(extent.blocks) {
        return Some(format!("{} bytes do not make {} blocks", extent.length, extent.blocks));
    }
    if known.blocks != extent.blocks {
        return Some(format!("{} blocks are recorded, not {}", known.blocks, extent.blocks));
    }
    let last_plain = u32::try_from((extent.length - 1) % block_bytes + 1).unwrap_or(open.block_bytes);
    let last = sealed_bytes(last_plain, open.frame_bytes);
    (known.last_length != last).then(|| format!("its last block has {} bytes, not {last}", known.last_length))
}

/// Blocks recorded in extents that the file does without become garbage.
fn drop_unused(txn: &mut impl Txn, commit: &Commit, open: &records::OpenFile) {
    let used = |id: &Bytes| commit.extents.iter().any(|extent| extent.extent_id == *id);
    let mut unused = open.garbage();
    unused.extents.retain(|extent| !used(&extent.extent_id));
    // Under an id of its own: the file's id may be purged later for its own blocks.
    put_purge(txn, FileId::generate(), &unused);
}

fn body(commit: &Commit, open: &records::OpenFile) -> records::Body {
    records::Body {
        edek: open.edek.clone(),
        data_suite: open.data_suite.clone(),
        frame_bytes: open.frame_bytes,
        block_bytes: open.block_bytes,
        extents: commit.extents.clone(),
        manifest_mac: commit.manifest_mac.clone(),
    }
}

fn entry(commit: &Commit, open: &records::OpenFile, parent: &Found, body: &records::Body) -> records::Entry {
    records::Entry {
        id: commit.file.into(),
        mode: open.mode,
        owner: open.owner.clone(),
        group: parent.entry.group.clone(),
        mtime_ms: commit.mtime_ms,
        zone_id: Bytes::new(),
        file: Some(body.size()),
    }
}
