//! Opening a new file for writing: an EDEK from the zone's stock, a lease, and nothing to see yet. Where files may be in no zone, one that
//! is has no EDEK, and is written as it is (ADR 36).

use strongroom_kv::{CommitError, Reader, Store, Txn};
use strongroom_proto::{
    DataSuite, Edek, ExtentId, FileId, FrameSize, KeyName, KeyVersion, ZoneId, ZonePath,
    capability::Right,
    metadata::v1 as pb,
    transport::{PeerIdentity, UserName},
};

use super::{BLOCK_BYTES, lease::owned};
use crate::{
    answers::Call,
    authority::Caller,
    config::Settings,
    core::Core,
    error::MetadataError,
    namespace::{
        directories::Mode,
        permission::{Rights, check, check_taking, check_writing},
        resolve::{Found, Slot, ZoneAt, slot},
    },
    quota::{self, Usage},
    schema::{access, access::transact, counted, records},
    zones::source::EdekSource,
};

/// How often a create starts over because the zone changed while it waited for an EDEK (HDFS' figure).
pub(super) const TRIES_MAX: usize = 10;
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

/// Where a new file comes, and what its zone gives it.
struct Place {
    slot: Slot,
    terms: Terms,
}

/// What a new body is given by the place that it comes to.
pub(super) struct Terms {
    /// None in no zone: nothing is encrypted there.
    zone: Option<ZoneTerms>,
    data_suite: String,
    frame: FrameSize,
}

/// What a zone gives a new body.
struct ZoneTerms {
    id: ZoneId,
    key: KeyName,
    version_min: KeyVersion,
}

impl Terms {
    /// Those of the zone `at`, which holds `path`, or of no zone, if files may be there.
    pub(super) async fn of(
        txn: &mut impl Reader,
        at: Option<&ZoneAt>,
        path: &ZonePath,
        settings: &Settings,
    ) -> Result<Self, MetadataError> {
        let Some(at) = at else {
            check_plain(path, settings)?;
            return Ok(Self {
                zone: None,
                data_suite: DataSuite::Plain.to_string(),
                frame: FrameSize::MIN,
            });
        };
        let zone = access::zone(txn, at.id).await?;
        let zone = zone.ok_or(MetadataError::Corrupt { what: "zone" })?;
        Ok(Self {
            zone: Some(ZoneTerms {
                id: at.id,
                key: zone.key_name.parse()?,
                version_min: KeyVersion(zone.version_min),
            }),
            data_suite: zone.data_suite,
            frame: FrameSize::from_wire(zone.frame_bytes)?,
        })
    }

    pub(super) fn version_min(&self) -> KeyVersion {
        self.zone.as_ref().map_or(KeyVersion(0), |zone| zone.version_min)
    }

    /// An EDEK for a body; none where nothing is encrypted.
    pub(super) async fn take<S: Store, E: EdekSource>(&self, core: &Core<S, E>) -> Result<Option<Edek>, MetadataError> {
        match &self.zone {
            Some(zone) => core.stock.take(zone.id, &zone.key, zone.version_min).await.map(Some),
            None => Ok(None),
        }
    }

    /// What [`Self::take`] gives, if that takes no waiting.
    fn ready<S, E: EdekSource>(&self, core: &Core<S, E>) -> Option<Option<Edek>> {
        match &self.zone {
            Some(zone) => core.stock.ready(zone.id, &zone.key, zone.version_min).map(Some),
            None => Some(None),
        }
    }

    /// What these terms say of a body that is begun in `extent`.
    pub(super) fn open(&self, edek: Option<&Edek>, extent: ExtentId) -> records::OpenFile {
        records::OpenFile {
            edek: edek.map(|edek| edek.clone().into()),
            data_suite: self.data_suite.clone(),
            frame_bytes: self.frame.bytes(),
            block_bytes: BLOCK_BYTES,
            extents: vec![records::OpenExtent {
                extent_id: extent.into(),
                ..records::OpenExtent::default()
            }],
            ..records::OpenFile::default()
        }
    }

    /// Whether a body may have this EDEK, or none.
    pub(super) fn allow(&self, edek: Option<&Edek>) -> bool {
        match (&self.zone, edek) {
            (Some(zone), Some(edek)) => {
                zone.id == edek.zone && zone.key == edek.key && edek.version >= zone.version_min
            }
            (None, None) => true,
            _ => false,
        }
    }
}

/// Refuses to write what is in no zone, unless the service is told to allow it.
pub(super) fn check_plain(path: &ZonePath, settings: &Settings) -> Result<(), MetadataError> {
    if settings.plain_files {
        return Ok(());
    }
    Err(MetadataError::NoPlainFiles(path.clone()))
}

/// Opens a file for writing.
pub(crate) async fn create<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    creation: Creation,
) -> Result<pb::CreatedFile, MetadataError> {
    let mut version_min = KeyVersion(0);
    for _ in 0..TRIES_MAX {
        let mut txn = core.store.begin().await?;
        if let Some(done) = kept(&mut txn, &creation.call, &creation.who).await? {
            return granted(core, done, &creation.who.name);
        }
        let place = place(&mut txn, &creation, &core.settings).await?;
        core.cluster.check_enough()?;
        version_min = place.terms.version_min();
        let (edek, begun) = match ready(core, &place) {
            Some(edek) => (edek, Some((txn, place))),
            None => {
                let Place { slot, terms } = place;
                if slot.found.is_none() {
                    quota::check(&mut txn, &slot.parent.quotas, Usage::ONE_NAME).await?;
                }
                drop(txn);
                (terms.take(core).await?, None)
            }
        };
        let recorded = begin(core, &creation, edek, begun).await;
        if let Some(created) = quota::explained(&core.store, &creation.who, recorded).await? {
            return granted(core, created, &creation.who.name);
        }
    }
    Err(MetadataError::StaleEdek {
        tries: TRIES_MAX,
        needed: version_min,
    })
}

/// An EDEK for a new file that can be recorded at once, without waiting for one, or none where nothing is encrypted. Not below a quota: what it has used changes with every
/// file, and a transaction that has read that would conflict with all others.
fn ready<S, E: EdekSource>(core: &Core<S, E>, Place { slot, terms }: &Place) -> Option<Option<Edek>> {
    let is_free = slot.parent.quotas.is_empty();
    is_free.then(|| terms.ready(core))?
}

/// Records the open file: in the transaction that found its place, if that is still under way and nobody else was in between.
async fn begin<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    creation: &Creation,
    edek: Option<Edek>,
    begun: Option<(S::Txn, Place)>,
) -> Result<Option<pb::CreatedFile>, MetadataError> {
    let dek_ms = core.clock.now_ms();
    let opening = Opening {
        file: FileId::generate(),
        extent: ExtentId::generate(),
        dek_ms,
        settings: core.settings,
    };
    if let Some((mut txn, place)) = begun {
        let created = opening.record_at(&mut txn, creation, place, edek.as_ref())?;
        match txn.commit().await {
            Ok(()) => return Ok(created),
            Err(CommitError::Store(error)) => return Err(error.into()),
            Err(CommitError::Conflict) => {}
        }
    }
    transact!(&core.store, [creation, edek], |txn| opening.record(
        txn,
        &creation,
        edek.as_ref()
    ))
    .await
}

/// The answer to the same request before, unless its file was given up since: nobody would delete what is stored of it now.
pub(super) async fn kept(
    txn: &mut impl Txn,
    call: &Call,
    who: &Caller,
) -> Result<Option<pb::CreatedFile>, MetadataError> {
    let done: Option<pb::CreatedFile> = call.answer(txn).await?;
    if let Some(grant) = done.as_ref().and_then(|done| done.grant.as_ref()) {
        let (file, extent) = ids(grant)?;
        owned(txn, file, extent, &who.name).await?;
    }
    Ok(done)
}

/// Puts a whole grant in the place of one that has nothing but the ids.
pub(super) fn granted<S, E>(
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

async fn place(txn: &mut impl Txn, creation: &Creation, settings: &Settings) -> Result<Place, MetadataError> {
    let slot = slot(txn, &creation.who, &creation.path, "a file").await?;
    check_room(
        &creation.who,
        &slot.parent,
        &slot.name,
        slot.found.as_ref(),
        creation.overwrite,
    )?;
    let terms = Terms::of(txn, slot.parent.zone.as_ref(), &creation.path, settings).await?;
    Ok(Place { slot, terms })
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

/// A file that is about to be opened for writing: the same at every try to record it.
#[derive(Clone, Copy)]
struct Opening {
    file: FileId,
    extent: ExtentId,
    dek_ms: u64,
    settings: Settings,
}

impl Opening {
    /// Records it, unless the place moved to another zone or key version while the EDEK was fetched. The answer's grant has the ids only.
    async fn record(
        self,
        txn: &mut impl Txn,
        creation: &Creation,
        edek: Option<&Edek>,
    ) -> Result<Option<pb::CreatedFile>, MetadataError> {
        if let Some(done) = kept(txn, &creation.call, &creation.who).await? {
            return Ok(Some(done));
        }
        let place = place(txn, creation, &self.settings).await?;
        self.record_at(txn, creation, place, edek)
    }

    fn record_at(
        self,
        txn: &mut impl Txn,
        creation: &Creation,
        Place { slot, terms }: Place,
        edek: Option<&Edek>,
    ) -> Result<Option<pb::CreatedFile>, MetadataError> {
        if !terms.allow(edek) {
            return Ok(None);
        }
        let open = records::OpenFile {
            parent: slot.parent.id.into(),
            name: slot.name,
            mode: creation.mode.bits,
            umask: creation.mode.umask,
            owner: creation.who.name.as_str().to_owned(),
            overwrite: creation.overwrite,
            dek_ms: self.dek_ms,
            lease_expires_ms: self.dek_ms + self.settings.lease_ms,
            ..terms.open(edek, self.extent)
        };
        let created = begin_body(txn, self.file, &open, edek, self.settings.open_files_per_user)?;
        creation.call.keep(txn, &created);
        Ok(Some(created))
    }
}

/// Records a new body that is being written. The answer's grant has the ids only.
pub(super) fn begin_body(
    txn: &mut impl Txn,
    id: FileId,
    open: &records::OpenFile,
    edek: Option<&Edek>,
    open_max: u32,
) -> Result<pb::CreatedFile, MetadataError> {
    if let Some(edek) = &open.edek {
        counted::put_index(txn, edek, id)?;
    }
    counted::put_open_file(txn, id, open, open_max);
    let extent_id = open.extents.first().map(|extent| extent.extent_id.clone());
    Ok(pb::CreatedFile {
        grant: Some(pb::WriteGrant {
            file_id: id.into(),
            extent_id: extent_id.unwrap_or_default(),
            ..pb::WriteGrant::default()
        }),
        edek: edek.map(|edek| edek.clone().into()),
        data_suite: open.data_suite.clone(),
        frame_bytes: open.frame_bytes,
        block_bytes: open.block_bytes,
    })
}
