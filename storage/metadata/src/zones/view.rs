//! Looking at zones: one by path, or all in pages.

use strongroom_kv::Store;
use strongroom_proto::{KeyVersion, ZoneId, ZonePath, metadata::v1 as pb};

use super::source::EdekSource;
use crate::{
    core::Core,
    error::MetadataError,
    namespace::{remove::zone_root, resolve::find},
    schema::{
        access,
        keys::{self, KeyRange},
        records,
    },
};

/// Zones in one page of a listing.
const ZONES_PER_PAGE_MAX: usize = 1000;

/// The zone that holds `path`.
pub(crate) async fn get<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    path: &ZonePath,
) -> Result<pb::Zone, MetadataError> {
    let mut txn = core.store.begin().await?;
    let found = find(&mut txn, path).await?;
    let at = found.zone.ok_or_else(|| MetadataError::NotInZone(path.clone()))?;
    let record = access::zone(&mut txn, at.id)
        .await?
        .ok_or(MetadataError::Corrupt { what: "zone" })?;
    drop(txn);
    let mut zone = wire_zone(at.id, &record, &at.path, core.stock.count(at.id));
    zone.files = files_by_version(&core.store, at.id).await?;
    Ok(zone)
}

/// Zones with ids greater than `after`.
pub(crate) async fn list<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    after: Option<ZoneId>,
    limit: usize,
) -> Result<pb::ListZonesResponse, MetadataError> {
    let limit = limit.min(ZONES_PER_PAGE_MAX);
    let mut range = keys::zones();
    if let Some(after) = after {
        range = range.after(&keys::zone(after));
    }
    let mut response = pb::ListZonesResponse::default();
    loop {
        let mut txn = core.store.begin().await?;
        let found = access::page(&mut txn, &range, limit + 1).await?;
        let mut zones = Vec::with_capacity(found.len());
        for (key, _) in &found {
            let id = keys::zone_of(key).ok_or(MetadataError::Corrupt { what: "zone" })?;
            // A zone whose directory was removed is gone, though its purge is still to come.
            if let Some((record, root)) = zone_root(&mut txn, id).await? {
                zones.push((id, wire_zone(id, &record, &root.path, core.stock.count(id))));
            }
        }
        // Counting takes transactions of its own: who holds one while he waits for another may wait for ever.
        drop(txn);
        for (id, mut zone) in zones {
            if response.zones.len() == limit {
                response.more = true;
                return Ok(response);
            }
            zone.files = files_by_version(&core.store, id).await?;
            response.zones.push(zone);
        }
        match found.last() {
            Some((last, _)) if found.len() > limit => range = keys::zones().after(last),
            _ => return Ok(response),
        }
    }
}

/// A zone without its file counts.
pub(crate) fn wire_zone(id: ZoneId, record: &records::Zone, path: &ZonePath, edeks_in_stock: usize) -> pb::Zone {
    pb::Zone {
        zone_id: id.into(),
        path: path.into(),
        key_name: record.key_name.clone(),
        edek_suite: record.edek_suite.clone(),
        data_suite: record.data_suite.clone(),
        created_ms: record.created_ms,
        files: Vec::new(),
        edeks_in_stock: u32::try_from(edeks_in_stock).unwrap_or(u32::MAX),
        frame_bytes: record.frame_bytes,
    }
}

/// Files of a zone by key version, counted off the index: a counter would make every create contend.
pub(crate) async fn files_by_version(store: &impl Store, zone: ZoneId) -> Result<Vec<pb::VersionCount>, MetadataError> {
    let mut counts = Vec::new();
    let mut range = keys::index_of_zone(zone);
    while let Some(version) = first_version(store, &range).await? {
        let of_version = keys::index_of_version(zone, version);
        range.start.clone_from(&of_version.end);
        counts.push(pb::VersionCount {
            key_version: version.0,
            files: access::count(store, of_version).await?,
        });
    }
    Ok(counts)
}

async fn first_version(store: &impl Store, range: &KeyRange) -> Result<Option<KeyVersion>, MetadataError> {
    let found = access::page(&mut store.snapshot().await?, range, 1).await?;
    let Some((key, _)) = found.first() else {
        return Ok(None);
    };
    let (version, _) = keys::index_entry(key).ok_or(MetadataError::Corrupt { what: "index entry" })?;
    Ok(Some(version))
}
