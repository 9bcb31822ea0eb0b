//! The raw view: files that come in as ciphertext, from another cluster or from HDFS (ADR 39). What is said of them is checked as far as
//! it can be without a key; blocks are stored under ids of this cluster's own, whatever their extents are called in the manifest.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use strongroom_kv::{Store, Txn};
use strongroom_proto::{
    DataSuite, Edek, EdekSuite, ExtentId, Failure, FileId, FrameSize, KeyVersion, Reason, ZoneId, ZonePath,
    limits::EXTENTS_PER_FILE_MAX, metadata::v1 as pb,
};

use super::{
    BLOCK_BYTES,
    commit::home,
    create::{check_room, ids, write_grant},
    lease::owned,
    suite::sealed_bytes,
};
use crate::{
    answers::Call,
    authority::Caller,
    core::Core,
    error::MetadataError,
    namespace::{
        acl,
        permission::born_in,
        remove::unlink_file,
        resolve::{ZoneAt, slot, step},
        stat::stat,
        xattrs,
    },
    quota::{explained, links::put_new},
    schema::{access, access::transact, counted, keys, records},
    zones::source::EdekSource,
};

/// Of a manifest: more than there are commits, and far from where counting on would end.
const GENERATION_MAX: u64 = (1 << 48) - 1;

/// What a superuser brings.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) call: Call,
    pub(crate) path: ZonePath,
    pub(crate) file: pb::RawFile,
    pub(crate) overwrite: bool,
    pub(crate) who: Caller,
}

/// Opens a file for its ciphertext. That the caller is a superuser was checked before.
pub(crate) async fn create<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    arrival: Arrival,
) -> Result<pb::CreatedRaw, MetadataError> {
    let mut txn = core.store.begin().await?;
    let (_, zone, id) = zone_for(&mut txn, &arrival).await?;
    drop(txn);
    core.cluster.check_enough()?;
    let newest = newest(core, zone, id).await?;
    let file = FileId::generate();
    let lease_expires_ms = core.clock.now_ms() + core.settings.lease_ms;
    let (open_max, who) = (core.settings.open_files_per_user, arrival.who.clone());
    let created = transact!(&core.store, [arrival, newest], |txn| record(
        txn,
        &arrival,
        &newest,
        file,
        lease_expires_ms,
        open_max
    ))
    .await;
    let created = explained(&core.store, &who, created).await?;
    let grant = created.grant.as_ref();
    let (file, extent) = ids(grant.ok_or(MetadataError::Corrupt { what: "answer" })?)?;
    Ok(pb::CreatedRaw {
        grant: Some(write_grant(core, file, extent, &arrival.who.name)),
        ..created
    })
}

/// Where a file comes, and the zone there.
async fn zone_for(
    txn: &mut impl Txn,
    arrival: &Arrival,
) -> Result<(records::OpenFile, records::Zone, ZoneId), MetadataError> {
    let slot = slot(txn, &arrival.who, &arrival.path, "a file").await?;
    check_room(
        &arrival.who,
        &slot.parent,
        &slot.name,
        slot.found.as_ref(),
        arrival.overwrite,
    )?;
    let Some(ZoneAt { id, .. }) = slot.parent.zone else {
        return Err(MetadataError::NotInZone(arrival.path.clone()));
    };
    let zone = access::zone(txn, id).await?;
    let open = records::OpenFile {
        parent: slot.parent.id.into(),
        name: slot.name,
        mode: arrival.file.mode,
        owner: arrival.who.name.as_str().to_owned(),
        overwrite: arrival.overwrite,
        ..records::OpenFile::default()
    };
    Ok((open, zone.ok_or(MetadataError::Corrupt { what: "zone" })?, id))
}

/// The newest version of a zone's key.
#[derive(Debug, Clone)]
struct Newest {
    zone: ZoneId,
    key_name: String,
    version: KeyVersion,
}

/// Asks for it by having an EDEK made that nobody uses: from then on the key service knows the zone, and destroys no version without
/// its proof.
async fn newest<S, E: EdekSource>(core: &Core<S, E>, zone: records::Zone, id: ZoneId) -> Result<Newest, MetadataError> {
    let key = zone.key_name.parse()?;
    let wait = Duration::from_millis(core.settings.mint_wait_ms);
    let asked = tokio::time::timeout(wait, core.source.mint(&key, &id, 1)).await;
    let asked = asked.unwrap_or_else(|_| {
        let message = format!("the key service said nothing of key {key}; check that it runs, and copy the file again");
        Err(Failure::new(Reason::Unavailable, message))
    });
    Ok(Newest {
        zone: id,
        key_name: zone.key_name,
        version: asked?.version,
    })
}

async fn record(
    txn: &mut impl Txn,
    arrival: &Arrival,
    newest: &Newest,
    file: FileId,
    lease_expires_ms: u64,
    open_max: u32,
) -> Result<pb::CreatedRaw, MetadataError> {
    let kept: Option<pb::CreatedRaw> = arrival.call.answer(txn).await?;
    if let Some(done) = kept {
        // Unless the file was given up since: nobody would delete what is stored of it now.
        let grant = done.grant.as_ref().ok_or(MetadataError::Corrupt { what: "answer" })?;
        let (file, extent) = ids(grant)?;
        owned(txn, file, extent, &arrival.who.name).await?;
        return Ok(done);
    }
    let (open, zone, id) = zone_for(txn, arrival).await?;
    if newest.zone != id || newest.key_name != zone.key_name {
        return Err(bad(
            "path",
            "it came to be in another zone just now; copy the file again",
        ));
    }
    let edek = edek(&arrival.file, &zone, id, newest.version)?;
    let body = body(&arrival.file, &zone, &edek)?;
    // A file without a byte has an extent only to be called by.
    let mut granted: Vec<_> = body.extents.iter().map(|extent| extent.extent_id.clone()).collect();
    if granted.is_empty() {
        granted.push(ExtentId::generate().into());
    }
    let open = records::OpenFile {
        edek: Some(edek.clone().into()),
        data_suite: body.data_suite.clone(),
        frame_bytes: body.frame_bytes,
        block_bytes: body.block_bytes,
        lease_expires_ms,
        extents: granted
            .iter()
            .map(|id| records::OpenExtent {
                extent_id: id.clone(),
                ..records::OpenExtent::default()
            })
            .collect(),
        arriving: Some(records::Arriving {
            owner: arrival.file.owner.clone(),
            group: arrival.file.group.clone(),
            mtime_ms: arrival.file.mtime_ms,
            body: Some(body),
        }),
        ..open
    };
    counted::put_index(txn, &edek.into(), file)?;
    counted::put_open_file(txn, file, &open, open_max);
    let created = pb::CreatedRaw {
        grant: Some(pb::WriteGrant {
            file_id: file.into(),
            extent_id: granted[0].clone(),
            ..pb::WriteGrant::default()
        }),
        extent_ids: granted,
    };
    arrival.call.keep(txn, &created);
    Ok(created)
}

/// The EDEK, if the zone may have it.
fn edek(file: &pb::RawFile, zone: &records::Zone, id: ZoneId, newest: KeyVersion) -> Result<Edek, MetadataError> {
    let mut wire = file.edek.clone().ok_or_else(|| bad("edek", "there is none"))?;
    let unbound = wire.suite == EdekSuite::Hadoop.as_str();
    if unbound {
        // Nothing in it is bound to a zone.
        wire.zone_id = id.into();
    }
    let edek = Edek::try_from(wire)?;
    let version = format!("{}@{}", edek.key, edek.version);
    if edek.key.as_str() != zone.key_name {
        return Err(bad(
            "edek",
            &format!(
                "KeyVersion '{version}' does not belong to the key '{}'; copy the file into a zone under key {}",
                zone.key_name, edek.key
            ),
        ));
    }
    if edek.suite.as_str() != zone.edek_suite {
        let rule = format!(
            "it is of suite {}, the zone's are of suite {}",
            edek.suite, zone.edek_suite
        );
        return Err(bad("edek", &rule));
    }
    if edek.zone != id {
        let rule = format!(
            "it is bound to zone {}, and the zone here is {id}; make one with: strongroom zone create --id {}",
            edek.zone, edek.zone
        );
        return Err(bad("edek", &rule));
    }
    if edek.version > newest {
        let rule = format!(
            "there is no KeyVersion '{version}' here, the newest is {newest}; give this cluster's key the same versions"
        );
        return Err(bad("edek", &rule));
    }
    if edek.version.0 < zone.version_min {
        let rule = format!(
            "the zone takes no EDEKs older than version {} any more; have the file's zone re-encrypted, and copy it again: strongroom zone reencrypt",
            zone.version_min
        );
        return Err(bad("edek", &rule));
    }
    if unbound && edek.wrapped.len() <= 16 {
        return Err(bad(
            "edek",
            "an EDEK of suite hadoop is an IV of 16 bytes and a wrapped key",
        ));
    }
    Ok(edek)
}

/// The file as it will be recorded, its extents under new ids.
fn body(file: &pb::RawFile, zone: &records::Zone, edek: &Edek) -> Result<records::Body, MetadataError> {
    let suite: DataSuite = file.data_suite.parse()?;
    if file.data_suite != zone.data_suite {
        let rule = format!("the file is of suite {suite} and the zone of suite {}", zone.data_suite);
        return Err(bad("data_suite", &rule));
    }
    let frame = FrameSize::from_wire(file.frame_bytes)?;
    let whole = file.block_bytes > 0 && file.block_bytes.is_multiple_of(frame.bytes());
    holds(
        whole && file.block_bytes <= BLOCK_BYTES,
        "block_bytes",
        "a multiple of the frame up to 4194304",
    )?;
    holds(file.mode <= 0o7777, "mode", "at most 0o7777")?;
    let counted = (1..=GENERATION_MAX).contains(&file.generation);
    holds(counted, "generation", "counted from 1, and less than 2^48")?;
    let (mut seen_ids, mut seen_salts) = (BTreeSet::new(), BTreeSet::new());
    holds(file.extents.len() <= EXTENTS_PER_FILE_MAX, "extents", "at most 1024")?;
    let mut extents = Vec::with_capacity(file.extents.len());
    for (position, extent) in file.extents.iter().enumerate() {
        check_extent(file, suite, position, extent)?;
        let new = seen_ids.insert(&extent.extent_id) && seen_salts.insert(&extent.salt);
        holds(new, "extents", "no two have one id or one salt")?;
        extents.push(records::Extent {
            extent_id: ExtentId::generate().into(),
            sealed_as: extent.extent_id.clone(),
            salt: extent.salt.clone(),
            length: extent.length,
            blocks: extent.blocks,
            visible: extent.visible,
            under_dek: extent.under_dek,
        });
    }
    let length = extents.iter().map(|extent| extent.visible).fold(0, u64::saturating_add);
    holds(length == file.length, "length", "that of what its extents show")?;
    check_proof(file, edek)?;
    Ok(records::Body {
        edek: Some(edek.clone().into()),
        data_suite: file.data_suite.clone(),
        frame_bytes: frame.bytes(),
        block_bytes: file.block_bytes,
        extents,
        manifest_mac: file.manifest_mac.clone(),
        generation: file.generation,
        crypto_id: file.crypto_id.clone(),
        // Nobody knows when its DEK was made: a re-keying takes it for an old one.
        dek_ms: 0,
        same_since: 0,
        staged: None,
        plain: None,
    })
}

fn check_extent(
    file: &pb::RawFile,
    suite: DataSuite,
    position: usize,
    extent: &pb::Extent,
) -> Result<(), MetadataError> {
    ExtentId::try_from(extent.extent_id.as_ref())?;
    holds(extent.salt.len() == 16, "extents", "a salt has 16 bytes")?;
    // An extent has at most 2^32 frames.
    let longest = u64::from(file.frame_bytes) << 32;
    let blocks = extent.length.div_ceil(file.block_bytes.into());
    let fits = (1..=longest).contains(&extent.length) && u64::from(extent.blocks) == blocks;
    holds(fits, "extents", "blocks follow from the length")?;
    let shows = (1..=extent.length).contains(&extent.visible);
    holds(shows, "extents", "an extent shows 1 byte to all that it has")?;
    let may_be_under_dek = suite == DataSuite::CtrHdfs && position == 0;
    holds(
        !extent.under_dek || may_be_under_dek,
        "extents",
        "only the first of suite ctr-hdfs is under the DEK itself",
    )
}

/// A manifest's code and what it is bound to; or neither, of a file as HDFS has it.
fn check_proof(file: &pb::RawFile, edek: &Edek) -> Result<(), MetadataError> {
    let of_hdfs = || {
        let iv = edek.wrapped.get(..16).filter(|_| edek.suite == EdekSuite::Hadoop);
        let under_iv = |extent: &pb::Extent| extent.under_dek && iv == Some(extent.salt.as_ref());
        file.data_suite == DataSuite::CtrHdfs.as_str()
            && file.generation == 1
            && file.extents.len() <= 1
            && file.extents.iter().all(under_iv)
    };
    match (file.manifest_mac.len(), file.crypto_id.len()) {
        (32, 16) => Ok(()),
        (0, 0) if of_hdfs() => Ok(()),
        (0, 0) => Err(bad(
            "manifest_mac",
            "only a file as HDFS has it, one extent under the IV of its EDEK in a zone of suite ctr-hdfs, can do without",
        )),
        _ => Err(bad("manifest_mac", "32 bytes, and 16 of the id that it is bound to")),
    }
}

/// Shows a file all of whose blocks are recorded.
#[derive(Debug, Clone)]
pub(crate) struct Landing {
    pub(crate) call: Call,
    pub(crate) file: FileId,
    pub(crate) extent: ExtentId,
    pub(crate) extended: Option<Extended>,
    pub(crate) who: Caller,
}

/// What a file has beyond its mode, and no more than that.
#[derive(Debug, Clone)]
pub(crate) struct Extended {
    acl: Option<acl::Change>,
    xattrs: BTreeMap<String, Bytes>,
}

impl Extended {
    /// Parses what is to be given to a file.
    pub(crate) fn parse(wire: pb::RawExtended) -> Result<Self, MetadataError> {
        Ok(Self {
            acl: acl::Change::parse_of_file(&wire.acl)?,
            xattrs: xattrs::parse_all(wire.xattrs)?,
        })
    }

    /// Takes from an entry what its directory gave it, and gives it this.
    fn apply(&self, entry: &mut records::Entry) -> Result<(), MetadataError> {
        entry.acl = None;
        entry.has_xattrs = !self.xattrs.is_empty();
        self.acl.as_ref().map_or(Ok(()), |acl| acl.apply(entry))
    }
}

/// Shows a file that arrived. That the caller is a superuser was checked before.
pub(crate) async fn commit<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    landing: Landing,
) -> Result<pb::Stat, MetadataError> {
    let who = landing.who.clone();
    let done = transact!(&core.store, [landing], |txn| commit_in(txn, &landing)).await;
    explained(&core.store, &who, done).await
}

async fn commit_in(txn: &mut impl Txn, landing: &Landing) -> Result<pb::Stat, MetadataError> {
    let Landing {
        call,
        file,
        extent,
        extended,
        who,
    } = landing;
    if let Some(done) = call.answer(txn).await? {
        return Ok(done);
    }
    let open = owned(txn, *file, *extent, &who.name).await?;
    let arriving = open.arriving.clone().unwrap_or_default();
    let mut body = arriving
        .body
        .ok_or_else(|| bad("file_id", "it is not one whose ciphertext is brought"))?;
    for extent in &body.extents {
        check_whole(*file, &body, extent, &open)?;
    }
    // It may have been wrapped again meanwhile.
    body.edek.clone_from(&open.edek);
    let parent = home(txn, *file, who, &open).await?;
    let there = step(txn, who, &parent, &open.name).await?;
    check_room(who, &parent, &open.name, there.as_ref(), open.overwrite)?;
    if let Some(there) = there {
        unlink_file(txn, &there).await?;
    }
    let fresh = records::Entry {
        id: (*file).into(),
        mode: open.mode,
        owner: arriving.owner,
        mtime_ms: arriving.mtime_ms,
        file: Some(body.size()),
        ..records::Entry::default()
    };
    let mut entry = born_in(&parent.entry, fresh, 0);
    match extended {
        Some(extended) => {
            entry.mode = open.mode;
            extended.apply(&mut entry)?;
        }
        // Of an inherited ACL the group's bits are the mask, which is no wider than the directory says.
        None if entry.acl.is_some() => {}
        None => entry.mode = open.mode,
    }
    if !arriving.group.is_empty() {
        entry.group = arriving.group;
    }
    access::put(txn, &keys::body(*file), &body);
    let mut found = put_new(txn, &parent, &open.name, entry)?;
    if let Some(extended) = extended {
        xattrs::put(txn, &mut found, extended.xattrs.clone());
    }
    counted::delete_open_file(txn, *file, who.name.as_str());
    let done = stat(txn, &found).await?;
    call.keep(txn, &done);
    Ok(done)
}

/// Whether every block that has a byte of the file is recorded, each as long as it has to be.
fn check_whole(
    file: FileId,
    body: &records::Body,
    extent: &records::Extent,
    open: &records::OpenFile,
) -> Result<(), MetadataError> {
    let shown = body.shown_blocks(extent);
    let known = open.extents.iter().find(|known| known.extent_id == extent.extent_id);
    let known = known.ok_or(MetadataError::Corrupt { what: "open file" })?;
    let before = u64::from(shown - 1) * u64::from(body.block_bytes);
    let plain = u32::try_from(extent.length - before).map_or(body.block_bytes, |rest| rest.min(body.block_bytes));
    let last = sealed_bytes(open.suite()?, plain, body.frame_bytes);
    if (known.blocks, known.last_length) == (shown, last) {
        return Ok(());
    }
    Err(MetadataError::Manifest {
        file,
        rule: format!(
            "{} blocks are recorded, the last of {} bytes, and there have to be {shown}, the last of {last}",
            known.blocks, known.last_length
        ),
    })
}

fn holds(rule: bool, field: &'static str, says: &str) -> Result<(), MetadataError> {
    if rule { Ok(()) } else { Err(bad(field, says)) }
}

fn bad(field: &'static str, rule: &str) -> MetadataError {
    MetadataError::Field {
        field,
        rule: rule.to_owned(),
    }
}
