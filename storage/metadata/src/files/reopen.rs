//! Opening a file that is there for writing, and taking it from a writer who left it open.

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{ExtentId, FileId, ZonePath, metadata::v1 as pb};

use super::{
    create::{check_plain, ids, write_grant},
    lease::{dead_ms, give_up, owned},
    read::opened,
};
use crate::{
    answers::Call,
    authority::Caller,
    config::Settings,
    core::Core,
    error::MetadataError,
    namespace::{
        permission::{Rights, check},
        resolve::{Found, climb, find},
    },
    quota::explained,
    schema::{access, access::transact, counted, records},
    zones::source::EdekSource,
};

/// Opens the file at `path` for a user to go on with, which takes the rights to read and to write it.
pub(crate) async fn reopen<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    call: Call,
    path: &ZonePath,
    who: &Caller,
) -> Result<pb::ReopenedFile, MetadataError> {
    let (extent, settings) = (ExtentId::generate(), core.settings);
    let grant = transact!(&core.store, [call, path, who], |txn| reopen_in(
        txn, &call, &path, &who, extent, &settings
    ))
    .await;
    let (file, extent) = ids(&explained(&core.store, who, grant).await?)?;
    let mut txn = core.store.begin().await?;
    let found = climb(&mut txn, who, file).await?;
    let found = found.ok_or_else(|| MetadataError::NotFound(path.clone()))?;
    Ok(pb::ReopenedFile {
        file: Some(opened(core, &mut txn, &found, &who.name).await?),
        grant: Some(write_grant(core, file, extent, &who.name)),
    })
}

/// Makes the record of the writer. The grant has the ids only.
async fn reopen_in(
    txn: &mut impl Txn,
    call: &Call,
    path: &ZonePath,
    who: &Caller,
    extent: ExtentId,
    settings: &Settings,
) -> Result<pb::WriteGrant, MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        // Unless the file was taken from him since, or the right to it.
        let (file, extent) = ids(&done)?;
        owned(txn, file, extent, &who.name).await?;
        let found = climb(txn, who, file).await?;
        let found = found.ok_or_else(|| MetadataError::NotFound(path.clone()))?;
        check(who, &found, Rights::APPEND, path)?;
        return Ok(done);
    }
    let (found, body) = file_at(txn, who, path).await?;
    check(who, &found, Rights::APPEND, path)?;
    if body.plain.is_some() {
        check_plain_here(&found, settings)?;
    }
    let now_ms = call.now_ms();
    if let Some(other) = held(txn, found.id, path, now_ms).await? {
        give_up(txn, found.id, &other, dead_ms(now_ms, settings)).await?;
    }
    let open = records::OpenFile::again(&who.name, &body, extent, now_ms + settings.lease_ms);
    counted::put_open_file(txn, found.id, &open, settings.open_files_per_user);
    let grant = pb::WriteGrant {
        file_id: found.id.into(),
        extent_id: extent.into(),
        ..pb::WriteGrant::default()
    };
    call.keep(txn, &grant);
    Ok(grant)
}

/// Whether somebody may begin to write at the end of a file that is not encrypted: in a zone that adopts it, it is to be encrypted first.
fn check_plain_here(found: &Found, settings: &Settings) -> Result<(), MetadataError> {
    match &found.zone {
        Some(zone) => Err(MetadataError::NotAdopted {
            path: found.path.clone(),
            zone: zone.path.clone(),
        }),
        None => check_plain(&found.path, settings),
    }
}

/// What a writer left whose lease ran out, if there is one; refused while somebody has the file open.
pub(super) async fn held(
    txn: &mut impl Reader,
    file: FileId,
    path: &ZonePath,
    now_ms: u64,
) -> Result<Option<records::OpenFile>, MetadataError> {
    match access::open_file(txn, file).await? {
        Some(open) if open.lease_expires_ms >= now_ms => Err(MetadataError::LeaseHeld {
            path: path.clone(),
            writer: open.owner,
            left_s: (open.lease_expires_ms - now_ms).div_ceil(1000),
        }),
        lapsed => Ok(lapsed),
    }
}

/// The file at a path.
pub(super) async fn file_at(
    txn: &mut impl Reader,
    who: &Caller,
    path: &ZonePath,
) -> Result<(Found, records::Body), MetadataError> {
    let found = find(txn, who, path).await?;
    if found.entry.is_directory() {
        return Err(MetadataError::IsADirectory(path.clone()));
    }
    let body = access::body(txn, found.id).await?;
    Ok((found, body.ok_or(MetadataError::Corrupt { what: "file" })?))
}

/// Gives up what somebody writes at the end of the file at `path`. The writer, the owner and superusers may.
pub(crate) async fn recover<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    call: Call,
    path: &ZonePath,
    who: &Caller,
) -> Result<pb::RecoverFileResponse, MetadataError> {
    let dead_ms = dead_ms(call.now_ms(), &core.settings);
    transact!(&core.store, [call, path, who], |txn| recover_in(
        txn, &call, &path, &who, dead_ms
    ))
    .await
}

async fn recover_in(
    txn: &mut impl Txn,
    call: &Call,
    path: &ZonePath,
    who: &Caller,
    dead_ms: u64,
) -> Result<pb::RecoverFileResponse, MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        return Ok(done);
    }
    let (found, _) = file_at(txn, who, path).await?;
    let mut done = pb::RecoverFileResponse::default();
    if let Some(open) = access::open_file(txn, found.id).await? {
        if !who.owns(&open.owner) && !who.owns(&found.entry.owner) && !who.superuser {
            return Err(MetadataError::Denied {
                who: format!("user {}", who.name),
                what: "take a file from its writer",
                remedy: "the writer, the file's owner and the superusers in the metadata service's configuration may",
            });
        }
        give_up(txn, found.id, &open, dead_ms).await?;
        done.writer = open.owner;
    }
    call.keep(txn, &done);
    Ok(done)
}
