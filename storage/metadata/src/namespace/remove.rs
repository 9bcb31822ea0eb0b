//! Removal: what goes is cut off at once, in one transaction; what a directory held is cleared away by a job ([`super::removal`]),
//! and blocks are purged, in bounded steps that a restart resumes.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, stream};
use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{BlockId, ExtentId, FileId, JobId, ZoneId, ZonePath, metadata::v1 as pb, transport::UserName};

use super::{
    clearing::{IN_A_TRANSACTION_MAX, check_small, check_tree},
    permission::{check_clearing, check_taking},
    removal,
    resolve::{Found, Slot, slot},
    walkers::Walkers,
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

/// How often a directory is looked through before it is removed, at most: each time another one was in its place then.
const LOOKS_MAX: usize = 3;

/// How something is removed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    /// Also a directory that holds something.
    pub(crate) recursive: bool,
    /// Into the trash of who removes it, unless it is in one already.
    pub(crate) to_trash: bool,
}

/// What a transaction comes to.
enum Turn {
    Done(pb::RemoveResponse),
    /// Nothing was done: what this holds has to be looked through first.
    Look(Box<Found>),
}

/// Removes what is at `path`; what a directory holds that is gone for good is cleared away by a job.
pub(crate) async fn remove(
    store: &impl Store,
    walkers: &Walkers,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    how: How,
) -> Result<pb::RemoveResponse, MetadataError> {
    let removed = look_and_remove(store, walkers, who, call, path, how).await;
    if how.to_trash {
        return moving::explained(store, who, path, how.recursive, removed).await;
    }
    removed
}

async fn look_and_remove(
    store: &impl Store,
    walkers: &Walkers,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    how: How,
) -> Result<pb::RemoveResponse, MetadataError> {
    let turn = async |looked| {
        transact!(store, [who, call, path], |txn| remove_once(
            txn, &who, &call, &path, how, looked
        ))
        .await
    };
    let mut found = match turn(None).await? {
        Turn::Done(done) => return Ok(done),
        Turn::Look(found) => found,
    };
    let leave = walkers.begin(who).await?;
    for _ in 0..LOOKS_MAX {
        check_tree(store, who, &found, leave.deadline()).await?;
        found = match turn(Some(found.id)).await? {
            Turn::Done(done) => return Ok(done),
            Turn::Look(found) => found,
        };
    }
    Err(MetadataError::ReplacedMeanwhile(path.clone()))
}

/// `looked` is the directory that the caller may clear with all it holds, as far as that was looked through before.
async fn remove_once(
    txn: &mut impl Txn,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    how: How,
    looked: Option<FileId>,
) -> Result<Turn, MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        return Ok(Turn::Done(done));
    }
    let turn = remove_in(txn, who, path, how, looked, call.now_ms()).await?;
    if let Turn::Done(done) = &turn {
        call.keep(txn, done);
    }
    Ok(turn)
}

async fn remove_in(
    txn: &mut impl Txn,
    who: &Caller,
    path: &ZonePath,
    how: How,
    looked: Option<FileId>,
    now_ms: u64,
) -> Result<Turn, MetadataError> {
    let Slot { parent, found, .. } = slot(txn, who, path, "removed").await?;
    let found = found.ok_or_else(|| MetadataError::NotFound(path.clone()))?;
    check_taking(who, &parent, &found)?;
    let clears = found.entry.is_directory() && !is_empty(txn, &found).await?;
    if clears {
        if !how.recursive {
            return Err(MetadataError::NotEmpty(path.clone()));
        }
        check_clearing(who, &found, path)?;
    }
    if how.to_trash
        && let Some(moved) = moving::put(txn, who, &parent, &found, now_ms).await?
    {
        return Ok(Turn::Done(pb::RemoveResponse {
            trash_path: (&moved.path).into(),
            ..pb::RemoveResponse::default()
        }));
    }
    if clears && !is_looked_through(txn, who, &found, looked).await? {
        return Ok(Turn::Look(Box::new(found)));
    }
    let job = clear(txn, &found, &who.name, now_ms).await?;
    Ok(Turn::Done(pb::RemoveResponse {
        job_id: job.map(Into::into).unwrap_or_default(),
        ..pb::RemoveResponse::default()
    }))
}

/// Whether it is known that somebody may clear a directory with all it holds: it was looked through before, or is small enough for that to
/// be done in the transaction. Refuses whoever may not.
async fn is_looked_through(
    txn: &mut impl Txn,
    who: &Caller,
    found: &Found,
    looked: Option<FileId>,
) -> Result<bool, MetadataError> {
    if who.superuser || looked == Some(found.id) {
        return Ok(true);
    }
    let mut names = IN_A_TRANSACTION_MAX;
    check_small(txn, who, found, &mut names).await
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

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use strongroom_proto::groups::Groups;

    use super::*;
    use crate::{
        meddled::{Meddled, once},
        planted::{Planted, moved, parsed},
    };

    /// More names than are looked through in the transaction.
    const LARGE: usize = IN_A_TRANSACTION_MAX + 200;

    async fn by_alice(store: &impl Store, path: &str) -> Result<(), MetadataError> {
        let who = Caller::of("alice", Groups::default(), false);
        let call = Call::of("remove", &who.name, &[], &pb::RemoveRequest::default(), 1).expect("a call");
        let how = How {
            recursive: true,
            to_trash: false,
        };
        remove(store, &Walkers::new(), &who, &call, &parsed(path), how)
            .await
            .map(drop)
    }

    #[tokio::test]
    async fn what_is_removed_is_what_was_looked_through() {
        let planted = Planted::with_bobs().await;
        planted.fill("/a", "alice", LARGE).await;
        let store = Meddled::new(&planted.store).after_view(once(|store| {
            Box::pin(async move {
                moved(&store, "/a", "/c").await;
                moved(&store, "/b", "/a").await;
            })
        }));
        let outcome = by_alice(&store, "/a").await;
        assert!(matches!(outcome, Err(MetadataError::Forbidden(_))), "{outcome:?}");
        assert!(planted.at("/a/private/x").await.is_some(), "it is bob's");
        by_alice(&store, "/c").await.expect("it is hers");
        assert!(planted.at("/c").await.is_none());
    }

    #[tokio::test]
    async fn what_is_replaced_again_and_again_is_not_looked_through_for_ever() {
        let planted = Planted::new().await;
        for path in ["/a", "/b"] {
            planted.directory(path, "alice", 0o755).await;
            planted.fill(path, "alice", LARGE).await;
        }
        let looks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&looks);
        let store = Meddled::new(&planted.store).after_view(move |store| {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                moved(&store, "/a", "/c").await;
                moved(&store, "/b", "/a").await;
                moved(&store, "/c", "/b").await;
            })
        });
        let outcome = by_alice(&store, "/a").await;
        assert!(
            matches!(outcome, Err(MetadataError::ReplacedMeanwhile(_))),
            "{outcome:?}"
        );
        assert_eq!(looks.load(Ordering::Relaxed), LOOKS_MAX);
        by_alice(&planted.store, "/a")
            .await
            .expect("nobody renames it any more");
        assert!(planted.at("/a").await.is_none() && planted.at("/b").await.is_some());
    }

    #[tokio::test]
    async fn nothing_comes_into_a_small_tree_while_it_is_removed() {
        let planted = Planted::with_bobs().await;
        planted.fill("/a", "alice", IN_A_TRANSACTION_MAX / 2).await;
        let store = Meddled::new(&planted.store).before_commit(once(|store| {
            Box::pin(async move { moved(&store, "/b/private", "/a/0007/private").await })
        }));
        let outcome = by_alice(&store, "/a").await;
        assert!(matches!(outcome, Err(MetadataError::Forbidden(_))), "{outcome:?}");
        assert!(planted.at("/a/0007/private/x").await.is_some(), "it is bob's");
    }
}
