//! Removal: what goes is cut off at once, in one transaction; what a directory held is cleared away by a job ([`super::removal`]),
//! and blocks are purged, in bounded steps that a restart resumes.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, stream};
use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{BlockId, ExtentId, FileId, JobId, ZoneId, ZonePath, metadata::v1 as pb, transport::UserName};

use super::{
    clearing::check_tree,
    permission::{check_clearing, check_taking},
    removal,
    resolve::{Found, Slot, slot},
    xattrs,
};
use crate::{
    answers::Call,
    authority::Caller,
    error::MetadataError,
    jobs::record,
    quota::{self, links::take_out},
    schema::{
        access,
        access::transact,
        counted, keys,
        records::{self, JobState},
    },
    transfer::{staged::drop_index, tidy},
    trash::moving,
};

/// Purges looked at in one round.
const PURGES_PER_ROUND: usize = 100;
/// Steps under way at once, so that they share the store's durable writes.
const PURGES_AT_ONCE: usize = 16;

/// How something is removed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    /// Also a directory that holds something.
    pub(crate) recursive: bool,
    /// Into the trash of who removes it, unless it is in one already.
    pub(crate) to_trash: bool,
}

/// Removes what is at `path`; what a directory holds that is gone for good is cleared away by a job.
pub(crate) async fn remove(
    store: &impl Store,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    how: How,
) -> Result<pb::RemoveResponse, MetadataError> {
    if how.recursive && !who.superuser {
        check_below(store, who, path, how).await?;
    }
    let removed = transact!(store, [who, call, path], |txn| remove_once(
        txn, &who, &call, &path, how
    ))
    .await;
    if how.to_trash {
        return moving::explained(store, who, path, how.recursive, removed).await;
    }
    removed
}

/// Refuses to remove for good what the caller may not remove of all that a directory holds. Whatever else is in the way is left to the
/// transaction.
async fn check_below(store: &impl Store, who: &Caller, path: &ZonePath, how: How) -> Result<(), MetadataError> {
    let mut view = store.snapshot().await?;
    let Ok(Slot { parent, found, .. }) = slot(&mut view, who, path, "removed").await else {
        return Ok(());
    };
    let may_take = |found: &Found| {
        let clears = check_clearing(who, found, path);
        found.entry.is_directory() && check_taking(who, &parent, found).and(clears).is_ok()
    };
    let Some(found) = found.filter(may_take) else {
        return Ok(());
    };
    if how.to_trash && !moving::is_in_trash(&mut view, who, path).await? {
        return Ok(());
    }
    check_tree(&mut view, who, &found).await
}

async fn remove_once(
    txn: &mut impl Txn,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    how: How,
) -> Result<pb::RemoveResponse, MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        return Ok(done);
    }
    let done = remove_in(txn, who, path, how, call.now_ms()).await?;
    call.keep(txn, &done);
    Ok(done)
}

async fn remove_in(
    txn: &mut impl Txn,
    who: &Caller,
    path: &ZonePath,
    how: How,
    now_ms: u64,
) -> Result<pb::RemoveResponse, MetadataError> {
    let Slot { parent, found, .. } = slot(txn, who, path, "removed").await?;
    let found = found.ok_or_else(|| MetadataError::NotFound(path.clone()))?;
    check_taking(who, &parent, &found)?;
    if found.entry.is_directory() && !is_empty(txn, &found).await? {
        if !how.recursive {
            return Err(MetadataError::NotEmpty(path.clone()));
        }
        check_clearing(who, &found, path)?;
    }
    if how.to_trash
        && let Some(moved) = moving::put(txn, who, &parent, &found, now_ms).await?
    {
        return Ok(pb::RemoveResponse {
            trash_path: (&moved.path).into(),
            ..pb::RemoveResponse::default()
        });
    }
    let job = clear(txn, &found, &who.name, now_ms).await?;
    Ok(pb::RemoveResponse {
        job_id: job.map(Into::into).unwrap_or_default(),
        ..pb::RemoveResponse::default()
    })
}

/// Takes what was found out of the namespace for good. What a directory holds is cleared away by a job of `by`.
pub(crate) async fn clear(
    txn: &mut impl Txn,
    found: &Found,
    by: &UserName,
    now_ms: u64,
) -> Result<Option<JobId>, MetadataError> {
    if !found.entry.is_directory() {
        unlink_file(txn, found).await?;
        return Ok(None);
    }
    if is_empty(txn, found).await? {
        unlink_empty(txn, found, now_ms).await?;
        return Ok(None);
    }
    let job = removal::begin(txn, found, by, now_ms).await?;
    Ok(Some(job))
}

/// Whether a directory holds nothing that shows.
pub(crate) async fn is_empty(txn: &mut impl Reader, directory: &Found) -> Result<bool, MetadataError> {
    Ok(access::page(txn, &keys::dentries(directory.id), 1).await?.is_empty())
}

/// Takes an empty directory out of the namespace.
pub(crate) async fn unlink_empty(txn: &mut impl Txn, found: &Found, now_ms: u64) -> Result<(), MetadataError> {
    take_out(txn, found).await?;
    quota::forget(txn, &found.entry)?;
    tidy::lose(txn, &found.entry, now_ms).await?;
    xattrs::forget(txn, &found.entry)?;
    drop_directory(txn, found.id, &found.entry.zone_id, now_ms).await
}

/// Takes a file out of the namespace and the index, and leaves its blocks to the purge.
pub(crate) async fn unlink_file(txn: &mut impl Txn, found: &Found) -> Result<(), MetadataError> {
    take_out(txn, found).await?;
    drop_file(txn, &found.entry).await
}

/// Removes an inode that is a file without an entry, which was `entry`.
pub(super) async fn drop_file(txn: &mut impl Txn, entry: &records::Entry) -> Result<(), MetadataError> {
    let id = entry.file_id()?;
    let body = access::body(txn, id)
        .await?
        .ok_or(MetadataError::Corrupt { what: "file" })?;
    counted::withdraw(txn, &body, id)?;
    drop_index(txn, id, &body)?;
    xattrs::forget(txn, entry)?;
    txn.delete(&keys::place(id));
    txn.delete(&keys::body(id));
    put_purge(txn, id, &body.garbage());
    Ok(())
}

/// Leaves blocks to the purge, if there are any.
pub(crate) fn put_purge(txn: &mut impl Txn, id: FileId, purge: &records::Purge) {
    if purge.extents.iter().any(records::PurgeExtent::is_left) {
        access::put(txn, &keys::purge(id), purge);
    }
}

/// Removes an inode that is an empty directory without an entry, and the zone whose root it is.
pub(super) async fn drop_directory(
    txn: &mut impl Txn,
    id: FileId,
    zone: &[u8],
    now_ms: u64,
) -> Result<(), MetadataError> {
    if !zone.is_empty() {
        drop_zone(txn, zone.try_into()?, now_ms).await?;
    }
    txn.delete(&keys::place(id));
    Ok(())
}

async fn drop_zone(txn: &mut impl Txn, zone: ZoneId, now_ms: u64) -> Result<(), MetadataError> {
    if let Some((id, mut job)) = access::reencryption(txn, zone).await?
        && !job.is_over()
    {
        job.end(JobState::Canceled, now_ms, "the zone was removed");
        record::put(txn, id, &job);
    }
    if let Some(record) = access::zone(txn, zone).await? {
        let left = records::RemovedZone {
            key_name: record.key_name,
            version_min: record.version_min,
        };
        access::put(txn, &keys::removed_zone(zone), &left);
    }
    txn.delete(&keys::zone(zone));
    txn.delete(&keys::reencryption(zone));
    Ok(())
}

/// Where the last round stopped among the purges.
#[derive(Debug, Default)]
pub(crate) struct Purges {
    after: Option<Bytes>,
}

impl Purges {
    /// One step on each of a bounded number of purges; one that fails keeps no other from its step, nor do many keep those behind
    /// them. Says whether anything was there to do.
    pub(crate) async fn round(&mut self, store: &impl Store) -> Result<bool, MetadataError> {
        let after = self.after.take();
        let is_first = after.is_none();
        let range = after.map_or_else(keys::purges, |after| keys::purges().after(&after));
        let found = access::page(&mut store.snapshot().await?, &range, PURGES_PER_ROUND).await?;
        if found.len() == PURGES_PER_ROUND {
            self.after = found.last().map(|(key, _)| key.clone());
        }
        let any = !found.is_empty() || !is_first;
        let steps = stream::iter(found).map(|(key, _)| purge_step(store, key));
        let outcomes: Vec<_> = steps.buffer_unordered(PURGES_AT_ONCE).collect().await;
        outcomes.into_iter().collect::<Result<(), _>>()?;
        Ok(any)
    }
}

async fn purge_step(store: &impl Store, key: Bytes) -> Result<(), MetadataError> {
    let id = access::file_id(key.get(1..).unwrap_or_default())?;
    transact!(store, [], |txn| purge_chunk(txn, id)).await
}

/// Turns the last chunk of a removed file's blocks into garbage, or ends the purge when none is left.
async fn purge_chunk(txn: &mut impl Txn, id: FileId) -> Result<(), MetadataError> {
    let Some(mut purge) = access::record::<records::Purge>(txn, &keys::purge(id), "purge").await? else {
        return Ok(());
    };
    purge.extents.retain(records::PurgeExtent::is_left);
    let Some(last) = purge.extents.last_mut() else {
        txn.delete(&keys::purge(id));
        return Ok(());
    };
    let extent = ExtentId::try_from(last.extent_id.as_ref())?;
    let first = ((last.blocks - 1) / keys::CHUNK_BLOCKS * keys::CHUNK_BLOCKS).max(last.first);
    last.blocks = first;
    drop_from(txn, BlockId { extent, index: first }).await?;
    if !purge.extents.iter().any(records::PurgeExtent::is_left) {
        txn.delete(&keys::purge(id));
    } else {
        access::put(txn, &keys::purge(id), &purge);
    }
    Ok(())
}

/// Turns a block and those behind it in its chunk into garbage.
async fn drop_from(txn: &mut impl Txn, first: BlockId) -> Result<(), MetadataError> {
    let mut chunk = access::chunk(txn, first).await?;
    let keeps = access::chunk_position(first.index).min(chunk.blocks.len());
    let dropped = chunk.blocks.split_off(keeps);
    let (mut all, mut of_nodes) = (Vec::new(), BTreeMap::<&String, Vec<BlockId>>::new());
    for (block, index) in dropped.iter().zip(first.index..) {
        let id = BlockId { index, ..first };
        all.push(id);
        for node in &block.nodes {
            of_nodes.entry(node).or_default().push(id);
        }
    }
    for (node, blocks) in of_nodes {
        counted::put_garbage(txn, &node.parse()?, &blocks).await?;
    }
    counted::mark_deficits(txn, &all, false).await?;
    let key = keys::chunk(first.extent, first.index);
    if chunk.blocks.is_empty() {
        txn.delete(&key);
    } else {
        access::put(txn, &key, &chunk);
    }
    Ok(())
}

/// A zone and its root, if that is still reachable; a removed one is gone though its purge has not come to it. One that a rename
/// above it moved beyond the longest path cannot be asked for either, until another brings it back; and one that the caller may not
/// reach is none of theirs.
pub(crate) async fn zone_root(
    txn: &mut impl Reader,
    who: &Caller,
    zone: ZoneId,
) -> Result<Option<(records::Zone, Found)>, MetadataError> {
    let Some(record) = access::zone(txn, zone).await? else {
        return Ok(None);
    };
    let found = super::resolve::climb(txn, who, record.root.as_ref().try_into()?).await;
    let reachable = match found {
        Err(MetadataError::TooDeep(_) | MetadataError::Forbidden(_)) => None,
        Ok(Some(found)) if !found.path.is_too_long() => return Ok(Some((record, found))),
        found => found?,
    };
    if let Some(Found { path, .. }) = reachable {
        tracing::warn!(%zone, %path, "the path of a zone is too long; rename a directory above it");
    }
    Ok(None)
}
