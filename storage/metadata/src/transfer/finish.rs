//! The moment in which a directory moves to another zone.

use strongroom_kv::{Store, Txn};
use strongroom_proto::{FileId, JobId, ZonePath, metadata::v1 as pb};

use super::{check_staging, own};
use crate::{
    authority::Caller,
    core::Core,
    error::MetadataError,
    jobs::record,
    namespace::{
        permission::{Rights, check, check_taking},
        rename::{Ends, relink},
        resolve::{Found, Slot, climb, step},
        stat::stat,
    },
    quota::explained,
    schema::{
        access,
        access::transact,
        keys::{self, Stage},
        records::{Transfer, TransferPhase},
    },
    zones::source::EdekSource,
};

/// Moves a directory of which no file lacks an EDEK. What moved, if it did, now or before.
pub(crate) async fn finish<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    id: JobId,
) -> Result<Option<pb::Stat>, MetadataError> {
    let now_ms = core.clock.now_ms();
    let moved = transact!(&core.store, [who], |txn| finish_in(txn, &who, id, now_ms)).await;
    let moved = explained(&core.store, who, moved).await?;
    core.work.notify_one();
    Ok(moved)
}

async fn finish_in(
    txn: &mut impl Txn,
    who: &Caller,
    id: JobId,
    now_ms: u64,
) -> Result<Option<pb::Stat>, MetadataError> {
    let mut job = own(txn, who, id).await?;
    let transfer = job.moves()?.clone();
    let root = access::file_id(&transfer.root)?;
    if job.has_moved() {
        let gone = || MetadataError::NoSuchFile(root);
        let found = climb(txn, who, root).await?.ok_or_else(gone)?;
        return stat(txn, &found).await.map(Some);
    }
    check_staging(&job, id)?;
    for list in [keys::removals(id), keys::transfers(id, Stage::Missing)] {
        if !access::page(txn, &list, 1).await?.is_empty() {
            return Ok(None);
        }
    }
    let ends = ends(txn, who, &transfer, root, id).await?;
    let moved = relink(txn, who, ends, transfer.overwrite.then_some(now_ms)).await?;
    job.moves_mut()?.phase = TransferPhase::Folding.into();
    job.message = "it is at its destination; its old EDEKs are being dropped".to_owned();
    record::put(txn, id, &job);
    stat(txn, &moved).await.map(Some)
}

/// Where the directory is and where it goes, as long as that is as it was when its files were signed for.
async fn ends(
    txn: &mut impl Txn,
    who: &Caller,
    transfer: &Transfer,
    root: FileId,
    id: JobId,
) -> Result<Ends, MetadataError> {
    let missing = || MetadataError::Corrupt { what: "inode" };
    let at = access::place(txn, root).await?.ok_or_else(missing)?;
    let parent = climb(txn, who, access::file_id(&at.parent)?)
        .await?
        .ok_or_else(missing)?;
    let mut moved = step(txn, who, &parent, &at.name).await?.ok_or_else(missing)?;
    let changed = |why: &str| MetadataError::Transfer {
        path: moved.path.clone(),
        why: format!("{why}; cancel it with: strongroom job cancel {id}"),
    };
    let gone = || changed(&format!("the directory of {} is gone", transfer.to_path));
    let into = climb(txn, who, transfer.to_parent.as_ref().try_into()?)
        .await?
        .ok_or_else(gone)?;
    let is_in = |found: &Found, zone: &[u8]| found.zone.as_ref().is_some_and(|at| at.id.as_bytes() == zone);
    if !is_in(&parent, &transfer.from_zone) || !is_in(&into, &transfer.to_zone) {
        return Err(changed(
            "it or its destination is in another zone than when it was begun",
        ));
    }
    if let Some(job) = parent.moving.or(into.moving) {
        let path = into.path;
        return Err(MetadataError::Moving { path, job });
    }
    check_taking(who, &parent, &moved)?;
    let to: ZonePath = into.path.child(&transfer.to_name)?;
    check(who, &into, Rights::CHANGE, &to)?;
    moved.entry.moving.clear();
    moved.moving = None;
    let target = Slot {
        found: step(txn, who, &into, &transfer.to_name).await?,
        name: transfer.to_name.clone(),
        parent: into,
    };
    Ok(Ends { parent, moved, target })
}
