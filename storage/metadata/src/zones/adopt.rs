//! Making a zone of a directory that holds something (ADR 36). From the transaction that makes it, what is new in it is encrypted, and
//! nothing that is not comes to it or leaves it: the files that are left to encrypt only become fewer. They are found by going through all
//! files that are not encrypted once, by their ids, which no rename changes; each that is in the zone is entered in the zone's own list, and
//! leaves that in the transaction that encrypts or removes it. Once all were looked at and the list is empty, the zone is one like any other.

use strongroom_kv::{Store, Txn};
use strongroom_proto::{FileId, FrameSize, ZoneId, ZonePath, metadata::v1 as pb};

use super::{
    create::{Making, Wanted, make, record_of},
    source::EdekSource,
    view,
};
use crate::{
    authority::Caller,
    core::Core,
    error::MetadataError,
    namespace::{
        attributes::Attributes,
        permission::{Rights, check},
        resolve::{climb, find},
    },
    schema::{access, access::transact, counted, keys, records},
};

/// Files that are not encrypted, looked at in one call.
const LOOKED_AT_MAX: usize = 500;

/// Makes a directory a zone that adopts what it holds, if it is none, and takes the next step of what there is to do.
pub(crate) async fn advance<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    path: &ZonePath,
    wanted: Wanted<'_>,
) -> Result<pb::Zone, MetadataError> {
    let zone = match begun(core, who, path, wanted).await? {
        Some(zone) => zone,
        None => begin(core, who, path, wanted).await?,
    };
    look(core, who, zone).await?;
    transact!(&core.store, [], |txn| end(txn, zone)).await?;
    view::get(core, who, path).await
}

/// The zone that was made of the directory by this call before.
async fn begun<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    path: &ZonePath,
    wanted: Wanted<'_>,
) -> Result<Option<ZoneId>, MetadataError> {
    let mut txn = core.store.begin().await?;
    let found = find(&mut txn, who, path).await?;
    let Some(zone) = found.entry.zone()? else {
        return Ok(None);
    };
    let record = access::zone(&mut txn, zone).await?;
    let record = record.ok_or(MetadataError::Corrupt { what: "zone" })?;
    if record.adoption.is_none() {
        return Err(MetadataError::AlreadyZone(path.clone()));
    }
    check(who, &found, Rights::LIST, path)?;
    check_same(&record, wanted)?;
    Ok(Some(zone))
}

/// Whether the zone is what is asked for now.
fn check_same(record: &records::Zone, wanted: Wanted<'_>) -> Result<(), MetadataError> {
    let frame_bytes = FrameSize::from_wire(record.frame_bytes)?.bytes();
    let suite = Some(wanted.data_suite).filter(|suite| !suite.is_empty());
    let other = |field, had: &str| MetadataError::Field {
        field,
        rule: format!("the zone was begun with {had}; go on with that"),
    };
    if !wanted.key_name.is_empty() && wanted.key_name != record.key_name {
        return Err(other("key_name", &record.key_name));
    }
    if suite.is_some_and(|suite| suite != record.data_suite) {
        return Err(other("data_suite", &record.data_suite));
    }
    if ![0, frame_bytes].contains(&wanted.frame_bytes) {
        return Err(other("frame_bytes", &frame_bytes.to_string()));
    }
    Ok(())
}

async fn begin<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    path: &ZonePath,
    wanted: Wanted<'_>,
) -> Result<ZoneId, MetadataError> {
    if !who.superuser {
        return Err(MetadataError::Denied {
            who: format!("user {}", who.name),
            what: "make encryption zones",
            remedy: "the superusers in the metadata service's configuration may",
        });
    }
    let zone = ZoneId::generate();
    let (key, record) = record_of(core, wanted, zone).await?;
    let making = Making {
        path: path.clone(),
        zone,
        record: records::Zone {
            adoption: Some(records::Adoption::default()),
            ..record
        },
        handed: Attributes::default(),
        provision_trash: false,
    };
    match transact!(&core.store, [who, making], |txn| make(txn, &who, &making)).await {
        Ok(_) => {
            core.stock.warm(zone, &key);
            tracing::info!(by = %who.name, %path, %key, "encryption zone made, which adopts what its directory holds");
            Ok(zone)
        }
        // By the same call at once, or by one whose answer was lost.
        Err(error @ MetadataError::AlreadyZone(_)) => begun(core, who, path, wanted).await?.ok_or(error),
        Err(error) => Err(error),
    }
}

/// Goes through the next of the files that are not encrypted and in no zone that is known.
async fn look<S: Store, E: EdekSource>(core: &Core<S, E>, who: &Caller, zone: ZoneId) -> Result<(), MetadataError> {
    let mut view = core.store.snapshot().await?;
    let record = access::zone(&mut view, zone).await?;
    let adoption = record.and_then(|record| record.adoption);
    let adoption = adoption.ok_or(MetadataError::Corrupt { what: "zone" })?;
    if adoption.looked {
        return Ok(());
    }
    let mut range = keys::plain_of(None);
    if !adoption.after.is_empty() {
        range = range.after(&keys::plain(None, access::file_id(&adoption.after)?));
    }
    let found = access::page(&mut view, &range, LOOKED_AT_MAX).await?;
    drop(view);
    let keeper = Caller::keeper(who.name.clone());
    let mut last = None;
    for (key, _) in &found {
        let (_, file) = keys::plain_entry(key).ok_or(MetadataError::Corrupt { what: "list of files" })?;
        transact!(&core.store, [keeper], |txn| take_in(txn, &keeper, Some(zone), file)).await?;
        last = Some(file);
    }
    let looked = found.len() < LOOKED_AT_MAX;
    transact!(&core.store, [], |txn| note(txn, zone, last, looked)).await
}

/// Enters a file in the list of its zone, if that is `wanted` or any will do. Says whether it was not there.
pub(crate) async fn take_in(
    txn: &mut impl Txn,
    keeper: &Caller,
    wanted: Option<ZoneId>,
    file: FileId,
) -> Result<bool, MetadataError> {
    let Some(mut body) = access::body(txn, file).await? else {
        return Ok(false);
    };
    let is_listed = !matches!(&body.plain, Some(plain) if plain.zone_id.is_empty());
    if is_listed {
        return Ok(false);
    }
    let found = climb(txn, keeper, file).await?;
    let at = found.and_then(|found| found.zone).map(|zone| zone.id);
    let Some(zone) = at.filter(|at| wanted.is_none_or(|wanted| wanted == *at)) else {
        return Ok(false);
    };
    counted::withdraw(txn, &body, file)?;
    body.plain = Some(records::Plain { zone_id: zone.into() });
    counted::enter(txn, &body, file)?;
    access::put(txn, &keys::body(file), &body);
    Ok(true)
}

/// Notes how far the files were looked at. Of two calls at once each has looked at all up to where it says, so either is right.
async fn note(txn: &mut impl Txn, zone: ZoneId, last: Option<FileId>, looked: bool) -> Result<(), MetadataError> {
    let Some(mut record) = access::zone(txn, zone).await? else {
        return Err(MetadataError::ZoneGone(zone));
    };
    if let Some(adoption) = record.adoption.as_mut().filter(|adoption| !adoption.looked) {
        adoption.looked = looked;
        if let Some(last) = last {
            adoption.after = last.into();
        }
        access::put(txn, &keys::zone(zone), &record);
    }
    Ok(())
}

/// Ends the adoption if no file is left that is not encrypted.
async fn end(txn: &mut impl Txn, zone: ZoneId) -> Result<(), MetadataError> {
    let Some(mut record) = access::zone(txn, zone).await? else {
        return Err(MetadataError::ZoneGone(zone));
    };
    let Some(adoption) = record.adoption.as_mut() else {
        return Ok(());
    };
    let is_over = adoption.ended || !adoption.looked;
    if is_over || !access::page(txn, &keys::plain_of(Some(zone)), 1).await?.is_empty() {
        return Ok(());
    }
    adoption.ended = true;
    adoption.after = Default::default();
    access::put(txn, &keys::zone(zone), &record);
    tracing::info!(%zone, "every file of the zone is encrypted");
    Ok(())
}
