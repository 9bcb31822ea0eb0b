//! Opening a file for reading.

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{
    Edek, ExtentId, FileId, ZonePath,
    capability::Right,
    metadata::v1 as pb,
    transport::{PeerIdentity, UserName},
};

use super::blocks::page;
use crate::{
    authority::Caller,
    core::Core,
    error::MetadataError,
    namespace::{
        permission::{Rights, check},
        resolve::{Found, climb, find},
        stat::shown,
    },
    schema::{access, records},
    transfer::staged::current,
    zones::source::EdekSource,
};

/// Which file is to be opened.
#[derive(Debug)]
pub(crate) enum Which {
    At(ZonePath),
    /// One that was opened before, wherever it is now.
    Id(FileId),
}

/// All that a reader needs of a file: EDEK, extents, and the first blocks with a capability.
pub(crate) async fn open<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    which: &Which,
    who: &Caller,
) -> Result<pb::OpenedFile, MetadataError> {
    let mut txn = core.store.begin().await?;
    let found = match which {
        Which::At(path) => {
            let found = find(&mut txn, who, path).await?;
            check(who, &found, Rights::READ, path)?;
            found
        }
        Which::Id(id) => still(&mut txn, who, *id).await?,
    };
    opened(core, &mut txn, &found, &who.name).await
}

/// The same of a file that was found, and that the user may read.
pub(crate) async fn opened<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    txn: &mut impl Txn,
    found: &Found,
    user: &UserName,
) -> Result<pb::OpenedFile, MetadataError> {
    if found.entry.is_directory() {
        return Err(MetadataError::IsADirectory(found.path.clone()));
    }
    let file = access::body(txn, found.id)
        .await?
        .ok_or(MetadataError::Corrupt { what: "file" })?;
    let edek = current(txn, &file).await?;
    if edek.is_none() {
        check_adopting(txn, found).await?;
    }
    let blocks = match file.extents.first() {
        Some(extent) => Some(readable(core, txn, &file, extent, 0, user).await?),
        None => None,
    };
    Ok(pb::OpenedFile {
        stat: Some(shown(found, &file, edek)),
        edek: edek.map(Edek::try_from).transpose()?.map(Into::into),
        frame_bytes: file.frame_bytes,
        block_bytes: file.block_bytes,
        extents: file.extents.iter().map(wire_extent).collect(),
        crypto_id: file.crypto_id.clone(),
        same_since: file.same_since(),
        manifest_mac: file.manifest_mac,
        generation: file.generation,
        blocks,
    })
}

/// Refuses a file that is not encrypted in a zone whose files all are.
async fn check_adopting(txn: &mut impl Reader, found: &Found) -> Result<(), MetadataError> {
    let Some(at) = &found.zone else { return Ok(()) };
    if access::zone(txn, at.id).await?.is_some_and(|zone| zone.is_adopting()) {
        return Ok(());
    }
    Err(MetadataError::PlainInZone {
        path: found.path.clone(),
        zone: at.path.clone(),
    })
}

/// Further blocks of an opened file and a fresh capability.
pub(crate) async fn list_blocks<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    id: FileId,
    extent: ExtentId,
    first: u32,
    who: &Caller,
) -> Result<pb::ListBlocksResponse, MetadataError> {
    let mut txn = core.store.begin().await?;
    still(&mut txn, who, id).await?;
    let file = access::body(&mut txn, id).await?.ok_or(MetadataError::NoSuchFile(id))?;
    let known = file.extents.iter().find(|e| e.extent_id.as_ref() == extent.as_bytes());
    match known {
        Some(extent) => readable(core, &mut txn, &file, extent, first, &who.name).await,
        // It was cut off since the file was opened.
        None => Ok(pb::ListBlocksResponse::default()),
    }
}

/// Whoever goes on reading needs the rights on the file and on the way to it, as they are now, wherever it was moved since. Where that
/// is, a refusal does not say.
async fn still(txn: &mut impl Reader, who: &Caller, id: FileId) -> Result<Found, MetadataError> {
    let found = match climb(txn, who, id).await {
        Ok(found) => found.ok_or(MetadataError::NoSuchFile(id))?,
        Err(MetadataError::Forbidden(_)) => return Err(no_more(who)),
        Err(error) => return Err(error),
    };
    check(who, &found, Rights::READ, &found.path).map_err(|_| no_more(who))?;
    Ok(found)
}

fn no_more(who: &Caller) -> MetadataError {
    MetadataError::Denied {
        who: format!("user {}", who.name),
        what: "read this file any more",
        remedy: "its owner or a superuser can grant it, or that of a directory above it: strongroom fs chmod or setfacl",
    }
}

async fn readable<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    txn: &mut impl Txn,
    file: &records::Body,
    extent: &records::Extent,
    first: u32,
    user: &UserName,
) -> Result<pb::ListBlocksResponse, MetadataError> {
    let (blocks, nodes) = page(core, txn, extent, file.shown_blocks(extent), first).await?;
    let holder = PeerIdentity::User(user.clone());
    let (capability, expires_ms) = core.cluster.capability(Right::Read, holder, file.extent_ids()?);
    Ok(pb::ListBlocksResponse {
        blocks,
        capability,
        expires_ms,
        nodes,
    })
}

fn wire_extent(extent: &records::Extent) -> pb::Extent {
    pb::Extent {
        extent_id: extent.extent_id.clone(),
        salt: extent.salt.clone(),
        length: extent.length,
        blocks: extent.blocks,
        visible: extent.visible,
        under_dek: extent.under_dek,
        sealed_as: extent.sealed_as.clone(),
    }
}
