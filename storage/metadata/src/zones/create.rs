//! Making a zone. The checks come in HDFS' order: who asks, the key, the path, what is there.

use std::time::Duration;

use strongroom_kv::{Store, Txn};
use strongroom_proto::{DataSuite, Failure, FileId, KeyName, Reason, ZoneId, ZonePath, metadata::v1 as pb};

use super::{source::EdekSource, source::Minted, view::wire_zone};
use crate::{
    answers::Call,
    authority::Caller,
    core::Core,
    error::MetadataError,
    files::suite,
    namespace::{
        attributes::Attributes,
        remove::is_empty,
        resolve::{Found, find},
    },
    schema::{access, access::transact, keys, records},
    trash::provision,
};

/// What is made of a directory.
#[derive(Debug, Clone)]
pub(super) struct Making {
    pub(super) path: ZonePath,
    pub(super) zone: ZoneId,
    pub(super) record: records::Zone,
    pub(super) handed: Attributes,
    pub(super) provision_trash: bool,
}

/// What a zone is asked to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) key_name: &'a str,
    /// Empty for the default.
    pub(crate) data_suite: &'a str,
    /// 0 for the default.
    pub(crate) frame_bytes: u32,
}

/// Makes an empty directory a zone, and its root what is `handed` over. That the caller is a superuser was checked before.
pub(crate) async fn create<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    call: &Call,
    path: &ZonePath,
    asked: &pb::CreateZoneRequest,
    handed: &Attributes,
) -> Result<pb::Zone, MetadataError> {
    if let Some(done) = call.answer(&mut core.store.begin().await?).await? {
        return Ok(done);
    }
    let wanted = Wanted {
        key_name: &asked.key_name,
        data_suite: &asked.data_suite,
        frame_bytes: asked.frame_bytes,
    };
    let zone = match asked.zone_id.as_ref() {
        [] => ZoneId::generate(),
        id => ZoneId::try_from(id)?,
    };
    let (key, record) = record_of(core, wanted, zone).await?;
    let making = Making {
        path: path.clone(),
        zone,
        record,
        handed: handed.clone(),
        provision_trash: asked.provision_trash,
    };
    let made = transact!(&core.store, [who, call, making], |txn| make_once(
        txn, &who, &call, &making
    ))
    .await?;
    if made.zone_id.as_ref() == zone.as_bytes() {
        core.stock.warm(zone, &key);
    }
    Ok(made)
}

/// The record of a zone that has no root yet, if its key may be used.
pub(super) async fn record_of<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    wanted: Wanted<'_>,
    zone: ZoneId,
) -> Result<(KeyName, records::Zone), MetadataError> {
    if wanted.key_name.is_empty() {
        return Err(MetadataError::NoKeyGiven);
    }
    let key: KeyName = wanted.key_name.parse()?;
    let data_suite: DataSuite = match wanted.data_suite {
        "" => DataSuite::default(),
        named => named.parse()?,
    };
    let frame = suite::frame(data_suite, wanted.frame_bytes)?;
    let current = look_at_key(core, &key, zone).await?;
    // EDEKs are bound to the key's own name; an alias may name another key tomorrow.
    let key = current.key;
    suite::check_key(data_suite, &key, current.suite)?;
    let record = records::Zone {
        root: FileId::from_bytes([0; 16]).into(),
        key_name: key.as_str().to_owned(),
        edek_suite: current.suite.as_str().to_owned(),
        data_suite: data_suite.as_str().to_owned(),
        created_ms: core.clock.now_ms(),
        frame_bytes: frame.bytes(),
        ..records::Zone::default()
    };
    Ok((key, record))
}

/// The key service's word that the key exists and may be used here. No EDEK is made yet: the key service keeps every zone that
/// has EDEKs until that zone's proof is there, and of one that is not made in the end nobody could give it.
async fn look_at_key<S, E: EdekSource>(
    core: &Core<S, E>,
    key: &KeyName,
    zone: ZoneId,
) -> Result<Minted, MetadataError> {
    let wait = Duration::from_millis(core.settings.mint_wait_ms);
    match tokio::time::timeout(wait, core.source.mint(key, &zone, 0)).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Failure::new(
            Reason::Unavailable,
            format!(
                "the key service said nothing of key {key} for {} ms; check that it runs",
                wait.as_millis()
            ),
        )
        .into()),
    }
}

async fn make_once(txn: &mut impl Txn, who: &Caller, call: &Call, making: &Making) -> Result<pb::Zone, MetadataError> {
    if let Some(done) = call.answer(txn).await? {
        return Ok(done);
    }
    let made = make(txn, who, making).await?;
    call.keep(txn, &made);
    Ok(made)
}

pub(super) async fn make(txn: &mut impl Txn, who: &Caller, making: &Making) -> Result<pb::Zone, MetadataError> {
    let Making { path, zone, .. } = making;
    let mut found = find(txn, who, path).await?;
    if !found.entry.is_directory() {
        return Err(MetadataError::ZoneOnFile(path.clone()));
    }
    if found.entry.zone()?.is_some() {
        return Err(MetadataError::AlreadyZone(path.clone()));
    }
    if let Some(job) = found.moving {
        let path = path.clone();
        return Err(MetadataError::Moving { path, job });
    }
    check_content(txn, &found, making).await?;
    if is_taken(txn, *zone).await? {
        return Err(MetadataError::Field {
            field: "zone_id",
            rule: format!(
                "there is a zone {zone}, or there are files of one yet; leave the id out, or see: strongroom zone list"
            ),
        });
    }
    found.entry.zone_id = (*zone).into();
    making.handed.apply(&mut found.entry);
    access::put(txn, &found.key, &found.entry);
    if making.provision_trash {
        provision::ensure(txn, &found, making.record.created_ms).await?;
    }
    let record = records::Zone {
        root: found.id.into(),
        version_min: version_min(txn, making).await?,
        ..making.record.clone()
    };
    access::put(txn, &keys::zone(*zone), &record);
    Ok(wire_zone(*zone, &record, &found.path, 0))
}

/// A new zone holds nothing that it does not encrypt; one that adopts what its directory holds does so with what is in no zone.
async fn check_content(txn: &mut impl Txn, found: &Found, making: &Making) -> Result<(), MetadataError> {
    let path = making.path.clone();
    if making.record.adoption.is_some() {
        if let Some(zone) = &found.zone {
            let zone = zone.path.clone();
            return Err(MetadataError::AdoptedAlready { path, zone });
        }
        // It would become the trash of all who use the zone, with what somebody put there as his own.
        return match provision::is_in_the_way(txn, found).await? {
            true => Err(MetadataError::TrashInTheWay(path)),
            false => Ok(()),
        };
    }
    // A trash that is empty would not be anybody else's work; with something in it, that is in no zone or in another.
    if provision::is_all(txn, found).await? || is_empty(txn, found).await? {
        return Ok(());
    }
    Err(MetadataError::ZoneNotEmpty(path))
}

/// The least key version of its files: as it was if there was a zone of this id before, of which proofs may have been given.
async fn version_min(txn: &mut impl Txn, making: &Making) -> Result<u32, MetadataError> {
    let Some(before) = access::removed_zone(txn, making.zone).await? else {
        return Ok(0);
    };
    if before.key_name == making.record.key_name {
        return Ok(before.version_min);
    }
    Err(MetadataError::Field {
        field: "zone_id",
        rule: format!(
            "a zone of this id was under key {}; make it under that key again, or leave the id out",
            before.key_name
        ),
    })
}

/// Whether there is a zone with this id, or files whose EDEKs are bound to one.
async fn is_taken(txn: &mut impl Txn, zone: ZoneId) -> Result<bool, MetadataError> {
    let files = access::page(txn, &keys::index_of_zone(zone), 1).await?;
    Ok(!files.is_empty() || access::zone(txn, zone).await?.is_some())
}
