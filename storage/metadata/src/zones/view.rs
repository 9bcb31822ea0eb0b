//! Looking at zones: one by path, or all in pages.

use strongroom_kv::{Store, Txn};
use strongroom_proto::{ZoneId, ZonePath, metadata::v1 as pb};

use super::source::EdekSource;
use crate::{
    authority::Caller,
    core::Core,
    error::MetadataError,
    namespace::{remove::zone_root, resolve::find},
    schema::{access, counted, keys, records},
};

/// Zones in one page of a listing.
const ZONES_PER_PAGE_MAX: usize = 1000;

/// The zone that holds `path`.
pub(crate) async fn get<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    path: &ZonePath,
) -> Result<pb::Zone, MetadataError> {
    let mut txn = core.store.begin().await?;
    let found = find(&mut txn, who, path).await?;
    let at = found.zone.ok_or_else(|| MetadataError::NotInZone(path.clone()))?;
    let record = access::zone(&mut txn, at.id)
        .await?
        .ok_or(MetadataError::Corrupt { what: "zone" })?;
    let mut zone = wire_zone(at.id, &record, &at.path, core.stock.count(at.id));
    zone.files = files(&mut txn, at.id).await?;
    Ok(zone)
}

/// Zones with ids greater than `after` whose roots the caller may reach.
pub(crate) async fn list<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
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
        for (key, _) in &found {
            let id = keys::zone_of(key).ok_or(MetadataError::Corrupt { what: "zone" })?;
            // A zone whose directory was removed is gone, though its purge is still to come.
            let Some((record, root)) = zone_root(&mut txn, who, id).await? else {
                continue;
            };
            if response.zones.len() == limit {
                response.more = true;
                return Ok(response);
            }
            let mut zone = wire_zone(id, &record, &root.path, core.stock.count(id));
            zone.files = files(&mut txn, id).await?;
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

/// How many files a zone has, by key version.
async fn files(txn: &mut impl Txn, zone: ZoneId) -> Result<Vec<pb::VersionCount>, MetadataError> {
    let counts = counted::files_by_version(txn, zone).await?;
    let wire = counts.into_iter().map(|(version, files)| pb::VersionCount {
        key_version: version.0,
        files,
    });
    Ok(wire.collect())
}
