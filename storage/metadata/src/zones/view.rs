//! Looking at zones: one by path, or all in pages.

use bytes::Bytes;
use strongroom_kv::{Reader, Store};
use strongroom_proto::{ZoneId, ZonePath, limits::PATH_BYTES_MAX, metadata::v1 as pb};

use super::source::EdekSource;
use crate::{
    authority::Caller,
    core::Core,
    error::MetadataError,
    namespace::{above::Above, remove::zone_root, resolve::find},
    schema::{access, counted, keys, records},
};

/// Zones looked at for one page of a listing.
const LOOKED_AT_MAX: usize = 1000;
/// Files that are named of those that a zone has yet to encrypt.
const NAMED_MAX: usize = 100;

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
    let zone = wire_zone(at.id, &record, &at.path, core.stock.count(at.id));
    let mut zone = counted_in(&mut txn, at.id, zone).await?;
    if record.is_adopting() {
        zone.not_encrypted = not_encrypted(&mut txn, who, at.id).await?;
    }
    Ok(zone)
}

/// Where some of the files are that a zone has yet to encrypt, as far as somebody may know.
async fn not_encrypted(reader: &mut impl Reader, who: &Caller, zone: ZoneId) -> Result<Vec<Bytes>, MetadataError> {
    let mut files = Vec::new();
    for (key, _) in access::page(reader, &keys::plain_of(Some(zone)), NAMED_MAX).await? {
        let (_, file) = keys::plain_entry(&key).ok_or(MetadataError::Corrupt { what: "list of files" })?;
        files.push(file);
    }
    let above = Above::read(reader, &files).await?;
    let mut paths = Vec::new();
    for file in files {
        match above.listed(who, file) {
            Ok(found) => paths.extend(found.map(|found| found.path)),
            Err(MetadataError::Forbidden(_) | MetadataError::TooDeep(_)) => {}
            Err(error) => return Err(error),
        }
    }
    // Renames further up make paths that nobody could name.
    paths.retain(|path| path.as_str().len() <= PATH_BYTES_MAX);
    paths.sort();
    Ok(paths.iter().map(Bytes::from).collect())
}

/// Zones with ids greater than `after` whose roots the caller may reach, `limit` of those that are looked at for a page.
pub(crate) async fn list<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    after: Option<ZoneId>,
    limit: usize,
) -> Result<pb::ListZonesResponse, MetadataError> {
    let mut range = keys::zones();
    if let Some(after) = after {
        range = range.after(&keys::zone(after));
    }
    let mut view = core.store.snapshot().await?;
    let found = access::page(&mut view, &range, LOOKED_AT_MAX).await?;
    let mut listed = pb::ListZonesResponse::default();
    for (position, (key, _)) in found.iter().enumerate() {
        let id = keys::zone_of(key).ok_or(MetadataError::Corrupt { what: "zone" })?;
        // A zone whose directory was removed is gone, though its purge is still to come.
        if let Some((record, root)) = zone_root(&mut view, who, id).await? {
            let zone = wire_zone(id, &record, &root.path, core.stock.count(id));
            listed.zones.push(counted_in(&mut view, id, zone).await?);
        }
        let is_last = position + 1 == found.len();
        if listed.zones.len() == limit || is_last {
            if !is_last || found.len() == LOOKED_AT_MAX {
                listed.next = id.into();
            }
            break;
        }
    }
    Ok(listed)
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
        adoption: record.adoption.as_ref().map(|adoption| pb::Adoption {
            looked: adoption.looked,
            left: 0,
            ended: adoption.ended,
        }),
        not_encrypted: Vec::new(),
    }
}

/// The same with its file counts.
async fn counted_in(reader: &mut impl Reader, id: ZoneId, mut zone: pb::Zone) -> Result<pb::Zone, MetadataError> {
    zone.files = files(reader, id).await?;
    if let Some(adoption) = &mut zone.adoption {
        adoption.left = counted::plain_left(reader, id).await?;
    }
    Ok(zone)
}

/// How many files a zone has, by key version.
async fn files(reader: &mut impl Reader, zone: ZoneId) -> Result<Vec<pb::VersionCount>, MetadataError> {
    let counts = counted::files_by_version(reader, zone).await?;
    let wire = counts.into_iter().map(|(version, files)| pb::VersionCount {
        key_version: version.0,
        files,
    });
    Ok(wire.collect())
}
