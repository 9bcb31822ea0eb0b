//! Staging EDEKs for the zone that files are moved to.

use bytes::Bytes;
use strongroom_kv::{Reader as _, Store, Txn};
use strongroom_proto::{FileId, JobId, kms::v1 as kms, metadata::v1 as pb};

use super::{
    Route, check_staging, own,
    present::{Signed, fresh},
    staged,
};
use crate::{
    authority::Caller,
    core::Core,
    error::MetadataError,
    jobs::record,
    schema::{
        access,
        access::transact,
        keys::{self, Stage},
        records::Edek,
    },
    zones::source::EdekSource,
};

/// EDEKs that the key service gave, each with its file and its place in what was signed.
type Fresh = Vec<(usize, FileId, Edek)>;

/// Has the EDEKs of `files` moved that the caller signed for, and stages them.
pub(crate) async fn stage<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    id: JobId,
    files: &[FileId],
    signed: &Signed,
) -> Result<pb::StageTransferResponse, MetadataError> {
    let mut view = core.store.snapshot().await?;
    let job = own(&mut view, who, id).await?;
    check_staging(&job, id)?;
    let route = Route::of(&mut view, job.moves()?).await?;
    signed.check(who, &route, files.len())?;
    let missing: Vec<_> = files
        .iter()
        .map(|file| keys::transfer(id, Stage::Missing, *file))
        .collect();
    let missing = view.get_many(&missing).await?;
    drop(view);
    let mut response = pb::StageTransferResponse::default();
    if missing.iter().all(Option::is_none) {
        return Ok(response);
    }
    let answer = signed.present(core, &route).await?;
    let mut moved = Fresh::new();
    for (position, (file, result)) in files.iter().zip(&answer.results).enumerate() {
        match result {
            Ok(wrapped) => moved.push((position, *file, fresh(&route, &answer, wrapped))),
            Err(failure) => response.failures.push(pb::TransferFailure {
                file_id: Bytes::from(*file),
                failure: Some(kms::ItemFailure {
                    reason: failure.reason.as_str().to_owned(),
                    message: failure.message.clone(),
                }),
            }),
        }
    }
    let now_ms = core.clock.now_ms();
    response.staged = transact!(&core.store, [who, moved, signed], |txn| stage_in(
        txn, &who, id, &moved, &signed, now_ms
    ))
    .await?;
    Ok(response)
}

/// Stages what is still wanted. Says how many EDEKs that were.
async fn stage_in(
    txn: &mut impl Txn,
    who: &Caller,
    id: JobId,
    moved: &Fresh,
    signed: &Signed,
    now_ms: u64,
) -> Result<u32, MetadataError> {
    let mut job = own(txn, who, id).await?;
    check_staging(&job, id)?;
    let zone = job.moves()?.to_zone.as_ref().try_into()?;
    let zone = access::zone(txn, zone).await?.ok_or(MetadataError::ZoneGone(zone))?;
    let mut staged = 0;
    for (position, file, edek) in moved {
        // A call that was under way when the zone was proved free of old versions comes too late.
        if edek.key_version >= zone.version_min {
            staged += u32::from(stage_one(txn, id, *file, edek, |old| signed.names(*position, old)).await?);
        }
    }
    job.done += u64::from(staged);
    job.moves_mut()?.heard_ms = now_ms;
    record::put(txn, id, &job);
    Ok(staged)
}

/// Stages an EDEK, if the file lacks one and has the EDEK that it was made of.
async fn stage_one(
    txn: &mut impl Txn,
    job: JobId,
    file: FileId,
    edek: &Edek,
    is_signed: impl Fn(&Edek) -> bool,
) -> Result<bool, MetadataError> {
    if !access::there(txn, &keys::transfer(job, Stage::Missing, file)).await? {
        return Ok(false);
    }
    let Some(mut body) = access::body(txn, file).await? else {
        return Ok(false);
    };
    staged::settle(txn, file, &mut body).await?;
    if body.staged.is_some() || !body.edek.as_ref().is_some_and(is_signed) {
        return Ok(false);
    }
    staged::put(txn, job, file, &mut body, edek.clone())?;
    Ok(true)
}
