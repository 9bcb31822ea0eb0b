//! Opening a new file for writing: an EDEK from the zone's stock, a lease, and nothing to see yet.

use bytes::Bytes;
use strongroom_kv::{Store, Txn};
use strongroom_proto::{
    Edek, ExtentId, FileId, FrameSize, KeyName, KeyVersion, ZoneId, ZonePath,
    capability::Right,
    metadata::v1 as pb,
    transport::{PeerIdentity, UserName},
};

use super::{BLOCK_BYTES, lease::owned};
use crate::{
    answers::Call,
    authority::Caller,
    core::Core,
    error::MetadataError,
    namespace::{
        directories::Mode,
        permission::{Rights, check, check_taking, check_writing},
        resolve::{Found, Slot, ZoneAt, slot},
    },
    schema::{access, access::transact, counted, records},
    zones::source::EdekSource,
};

/// How often a create starts over because the zone changed while it waited for an EDEK (HDFS' figure).
const TRIES_MAX: usize = 10;
/// Nodes named to a writer: enough to go round those that fail, few enough for a message.
const TARGETS_MAX: usize = 32;

/// What a caller asks to be created.
#[derive(Debug, Clone)]
pub(crate) struct Creation {
    pub(crate) call: Call,
    pub(crate) path: ZonePath,
    pub(crate) mode: Mode,
    pub(crate) overwrite: bool,
    pub(crate) who: Caller,
}

/// The zone that a new file falls into, as far as creating needs it.
struct Place {
    slot: Slot,
    zone: ZoneId,
    key: KeyName,
    version_min: KeyVersion,
    data_suite: String,
    frame: FrameSize,
}

/// Opens a file for writing.
pub(crate) async fn create<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    creation: Creation,
) -> Result<pb::CreatedFile, MetadataError> {
    let mut version_min = KeyVersion(0);
    for _ in 0..TRIES_MAX {
        let mut txn = core.store.begin().await?;
        if let Some(done) = kept(&mut txn, &creation).await? {
            return granted(core, done, &creation.who.name);
        }
        let place = place(&mut txn, &creation).await?;
        drop(txn);
        core.cluster.check_enough()?;
        version_min = place.version_min;
        let edek = core.stock.take(place.zone, &place.key, version_min).await?;
        let lease_expires_ms = core.clock.now_ms() + core.settings.lease_ms;
        let (file, extent) = (FileId::generate(), ExtentId::generate());
        let recorded = transact!(&core.store, [creation, edek], |txn| record(
            txn,
            &creation,
            &edek,
            file,
            extent,
            lease_expires_ms
        ))
        .await?;
        if let Some(created) = recorded {
            return granted(core, created, &creation.who.name);
        }
    }
    Err(MetadataError::StaleEdek { needed: version_min })
}

/// The answer to the same request before, unless its file was given up since: nobody would delete what is stored of it now.
async fn kept(txn: &mut impl Txn, creation: &Creation) -> Result<Option<pb::CreatedFile>, MetadataError> {
    let done: Option<pb::CreatedFile> = creation.call.answer(txn).await?;
    if let Some(grant) = done.as_ref().and_then(|done| done.grant.as_ref()) {
        let (file, extent) = ids(grant)?;
        owned(txn, file, extent, &creation.who.name).await?;
    }
    Ok(done)
}

/// Puts a whole grant in the place of one that has nothing but the ids.
fn granted<S, E>(
    core: &Core<S, E>,
    created: pb::CreatedFile,
    owner: &UserName,
) -> Result<pb::CreatedFile, MetadataError> {
    let grant = created
        .grant
        .as_ref()
        .ok_or(MetadataError::Corrupt { what: "answer" })?;
    let (file, extent) = ids(grant)?;
    Ok(pb::CreatedFile {
        grant: Some(write_grant(core, file, extent, owner)),
        ..created
    })
}

/// The file and the extent of a grant.
pub(crate) fn ids(grant: &pb::WriteGrant) -> Result<(FileId, ExtentId), MetadataError> {
    Ok((grant.file_id.as_ref().try_into()?, grant.extent_id.as_ref().try_into()?))
}

/// What the writer of an extent needs: targets and a capability.
pub(crate) fn write_grant<S, E>(core: &Core<S, E>, file: FileId, extent: ExtentId, owner: &UserName) -> pb::WriteGrant {
    let healthy = core.cluster.healthy().into_iter();
    let targets = healthy.map(|(_, target)| target).take(TARGETS_MAX).collect();
    let holder = PeerIdentity::User(owner.clone());
    let (capability, expires_ms) = core.cluster.capability(Right::Write, holder, vec![extent]);
    pb::WriteGrant {
        file_id: file.into(),
        extent_id: extent.into(),
        capability,
        expires_ms,
        targets,
        replicas: core.settings.replicas,
        min_replicas: core.settings.min_replicas,
        edek: None,
    }
}

async fn place(txn: &mut impl Txn, creation: &Creation) -> Result<Place, MetadataError> {
    let slot = slot(txn, &creation.who, &creation.path, "a file").await?;
    check_room(
        &creation.who,
        &slot.parent,
        &slot.name,
        slot.found.as_ref(),
        creation.overwrite,
    )?;
    let Some(ZoneAt { id, .. }) = slot.parent.zone else {
        return Err(MetadataError::NotInZone(creation.path.clone()));
    };
    let zone = access::zone(txn, id)
        .await?
        .ok_or(MetadataError::Corrupt { what: "zone" })?;
    Ok(Place {
        zone: id,
        key: zone.key_name.parse()?,
        version_min: KeyVersion(zone.version_min),
        data_suite: zone.data_suite,
        frame: FrameSize::from_wire(zone.frame_bytes)?,
        slot,
    })
}

/// Whether `who` may put a file under `name`, where `there` is what stands there now. Asked at the create and again at the commit.
pub(crate) fn check_room(
    who: &Caller,
    parent: &Found,
    name: &str,
    there: Option<&Found>,
    overwrite: bool,
) -> Result<(), MetadataError> {
    let Some(there) = there else {
        return check(who, parent, Rights::CHANGE, &parent.path.child(name)?);
    };
    if there.entry.is_directory() {
        return Err(MetadataError::IsADirectory(there.path.clone()));
    }
    if !overwrite {
        return Err(MetadataError::Exists(there.path.clone()));
    }
    check_taking(who, parent, there)?;
    check_writing(who, there)
}

/// Records the open file, unless the place moved to another zone or key version while the EDEK was fetched. The answer's
/// grant has the ids only.
async fn record(
    txn: &mut impl Txn,
    creation: &Creation,
    edek: &Edek,
    file: FileId,
    extent: ExtentId,
    lease_expires_ms: u64,
) -> Result<Option<pb::CreatedFile>, MetadataError> {
    if let Some(done) = kept(txn, creation).await? {
        return Ok(Some(done));
    }
    let place = place(txn, creation).await?;
    if place.zone != edek.zone || edek.version < place.version_min {
        return Ok(None);
    }
    let open = records::OpenFile {
        parent: place.slot.parent.id.into(),
        name: place.slot.name,
        mode: creation.mode.bits,
        umask: creation.mode.umask,
        owner: creation.who.name.as_str().to_owned(),
        overwrite: creation.overwrite,
        edek: Some(edek.clone().into()),
        data_suite: place.data_suite,
        frame_bytes: place.frame.bytes(),
        block_bytes: BLOCK_BYTES,
        lease_expires_ms,
        generation: 0,
        extent_before: Bytes::new(),
        extents: vec![records::OpenExtent {
            extent_id: extent.into(),
            blocks: 0,
            last_length: 0,
        }],
    };
    counted::put_index(txn, &edek.clone().into(), file)?;
    counted::put_open_file(txn, file, &open);
    let created = pb::CreatedFile {
        grant: Some(pb::WriteGrant {
            file_id: file.into(),
            extent_id: extent.into(),
            ..pb::WriteGrant::default()
        }),
        edek: Some(edek.clone().into()),
        data_suite: open.data_suite,
        frame_bytes: open.frame_bytes,
        block_bytes: open.block_bytes,
    };
    creation.call.keep(txn, &created);
    Ok(Some(created))
}
