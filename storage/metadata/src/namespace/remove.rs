//! Removal: what goes is cut off at once, in one transaction; what it held is purged afterwards, in bounded
//! steps that a restart resumes.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, stream};
use strongroom_kv::{Store, Txn};
use strongroom_proto::{BlockId, ExtentId, FileId, ZoneId, ZonePath, metadata::v1 as pb};

use super::resolve::{Found, find};
use crate::{
    answers::Call,
    error::MetadataError,
    schema::{access, access::transact, counted, keys, records},
};

/// Entries of a directory purged in one transaction.
const ENTRIES_PER_STEP: usize = 200;
/// Purges looked at in one round.
const PURGES_PER_ROUND: usize = 100;
/// Steps under way at once, so that they share the store's durable writes.
const PURGES_AT_ONCE: usize = 16;

/// Removes what is at `path`; a directory that holds something only if `recursive`.
pub(crate) async fn remove(
    store: &impl Store,
    call: &Call,
    path: &ZonePath,
    recursive: bool,
) -> Result<pb::RemoveResponse, MetadataError> {
    transact!(store, [call, path], |txn| remove_once(txn, &call, &path, recursive)).await
}

async fn remove_once(
    txn: &mut impl Txn,
    call: &Call,
    path: &ZonePath,
    recursive: bool,
) -> Result<pb::RemoveResponse, MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        return Ok(done);
    }
    remove_in(txn, path, recursive).await?;
    let done = pb::RemoveResponse {};
    call.keep(txn, &done);
    Ok(done)
}

async fn remove_in(txn: &mut impl Txn, path: &ZonePath, recursive: bool) -> Result<(), MetadataError> {
    if path.is_root() {
        return Err(MetadataError::Root("removed"));
    }
    let found = find(txn, path).await?;
    if !found.entry.is_directory() {
        return unlink_file(txn, &found).await;
    }
    if !recursive && !access::page(txn, &keys::dentries(found.id), 1).await?.is_empty() {
        return Err(MetadataError::NotEmpty(path.clone()));
    }
    txn.delete(&found.key);
    cut_off(txn, &found.entry).await
}

/// Takes a file out of the namespace and the index, and leaves its blocks to the purge.
pub(crate) async fn unlink_file(txn: &mut impl Txn, found: &Found) -> Result<(), MetadataError> {
    txn.delete(&found.key);
    drop_file(txn, found.id).await
}

async fn drop_file(txn: &mut impl Txn, id: FileId) -> Result<(), MetadataError> {
    let broken = MetadataError::Corrupt { what: "file" };
    let body = access::body(txn, id).await?.ok_or(broken.clone())?;
    counted::delete_index(txn, body.edek.as_ref().ok_or(broken)?, id)?;
    txn.delete(&keys::place(id));
    txn.delete(&keys::body(id));
    put_purge(txn, id, &body.garbage());
    Ok(())
}

/// Leaves blocks to the purge, if there are any.
pub(crate) fn put_purge(txn: &mut impl Txn, id: FileId, purge: &records::Purge) {
    if purge.directory || purge.extents.iter().any(records::PurgeExtent::is_left) {
        access::put(txn, &keys::purge(id), purge);
    }
}

/// Marks a directory whose entry is gone as such, and leaves what it holds to the purge.
async fn cut_off(txn: &mut impl Txn, entry: &records::Entry) -> Result<(), MetadataError> {
    let id = entry.file_id()?;
    let mut place = access::place(txn, id)
        .await?
        .ok_or(MetadataError::Corrupt { what: "inode" })?;
    place.unlinked = true;
    access::put(txn, &keys::place(id), &place);
    let purge = records::Purge {
        directory: true,
        extents: Vec::new(),
        zone_id: entry.zone_id.clone(),
    };
    put_purge(txn, id, &purge);
    Ok(())
}

/// One step on each of a bounded number of purges; one that fails keeps no other from its step. Says whether anything
/// was there to do.
pub(crate) async fn purge_round(store: &impl Store) -> Result<bool, MetadataError> {
    let found = access::page(&mut store.snapshot().await?, &keys::purges(), PURGES_PER_ROUND).await?;
    let any = !found.is_empty();
    let steps = stream::iter(found).map(|(key, value)| purge_step(store, key, value));
    let outcomes: Vec<_> = steps.buffer_unordered(PURGES_AT_ONCE).collect().await;
    outcomes.into_iter().collect::<Result<(), _>>()?;
    Ok(any)
}

async fn purge_step(store: &impl Store, key: Bytes, value: Bytes) -> Result<(), MetadataError> {
    let purge: records::Purge = access::decode(value, "purge")?;
    let id = access::file_id(key.get(1..).unwrap_or_default())?;
    if purge.directory {
        transact!(store, [], |txn| purge_directory(txn, id)).await
    } else {
        transact!(store, [], |txn| purge_chunk(txn, id)).await
    }
}

/// Hands some children of a cut-off directory to purges of their own; the last step takes the directory itself.
async fn purge_directory(txn: &mut impl Txn, id: FileId) -> Result<(), MetadataError> {
    let children = access::page(txn, &keys::dentries(id), ENTRIES_PER_STEP).await?;
    for (key, value) in &children {
        let entry: records::Entry = access::decode(value.clone(), "directory entry")?;
        txn.delete(key);
        if entry.is_directory() {
            cut_off(txn, &entry).await?;
        } else {
            drop_file(txn, entry.file_id()?).await?;
        }
    }
    if children.len() < ENTRIES_PER_STEP {
        drop_directory(txn, id).await?;
    }
    Ok(())
}

async fn drop_directory(txn: &mut impl Txn, id: FileId) -> Result<(), MetadataError> {
    let purge: Option<records::Purge> = access::record(txn, &keys::purge(id), "purge").await?;
    if let Some(zone) = purge.filter(|purge| !purge.zone_id.is_empty()) {
        let zone = zone.zone_id.as_ref().try_into()?;
        txn.delete(&keys::zone(zone));
        txn.delete(&keys::reencryption(zone));
    }
    txn.delete(&keys::place(id));
    txn.delete(&keys::purge(id));
    Ok(())
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
/// above it moved beyond the longest path cannot be asked for either, until another brings it back.
pub(crate) async fn zone_root(
    txn: &mut impl Txn,
    zone: ZoneId,
) -> Result<Option<(records::Zone, Found)>, MetadataError> {
    let Some(record) = access::zone(txn, zone).await? else {
        return Ok(None);
    };
    let found = super::resolve::climb(txn, record.root.as_ref().try_into()?).await;
    let reachable = match found {
        Err(MetadataError::TooDeep(_)) => None,
        Ok(Some(found)) if !found.path.is_too_long() => return Ok(Some((record, found))),
        found => found?,
    };
    if let Some(Found { path, .. }) = reachable {
        tracing::warn!(%zone, %path, "the path of a zone is too long; rename a directory above it");
    }
    Ok(None)
}
