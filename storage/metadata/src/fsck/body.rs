//! A file's body against its index entry and the zone that it is in.

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{Edek, FileId, KeyVersion, ZoneId, metadata::v1 as pb};

use super::finding;
use crate::{
    authority::Caller,
    error::MetadataError,
    namespace::resolve::climb,
    schema::{access, access::transact, counted, keys, records},
    transfer::staged::current,
    zones::adopt::{enlist, readopt},
};

/// Checks the EDEKs of a file in `zone` and their index entries.
pub(super) async fn check(
    reader: &mut impl Reader,
    file: FileId,
    body: &records::Body,
    zone: Option<ZoneId>,
    path: &bytes::Bytes,
) -> Result<Option<pb::Finding>, MetadataError> {
    let kind = pb::FindingKind::Edek;
    if let Some(plain) = &body.plain {
        return check_plain(reader, file, plain, zone, path).await;
    }
    let unreadable = || {
        Some(finding(
            kind,
            path.clone(),
            "the file's EDEK cannot be read; restore the file from a copy",
        ))
    };
    let current = match current(reader, body).await {
        Ok(Some(current)) => Edek::try_from(current),
        Ok(None) => return Ok(unreadable()),
        Err(MetadataError::Corrupt { .. } | MetadataError::Parse(_)) => return Ok(unreadable()),
        Err(error) => return Err(error),
    };
    let Ok(current) = current else {
        return Ok(unreadable());
    };
    if zone.is_some_and(|zone| zone != current.zone) {
        let what = format!("the file's EDEK is of zone {}, in which the file is not", current.zone);
        return Ok(Some(finding(kind, path.clone(), what)));
    }
    for edek in edeks(body) {
        let Ok(edek) = Edek::try_from(edek) else {
            return Ok(unreadable());
        };
        if reader.get(&keys::index(edek.zone, edek.version, file)).await?.is_none() {
            let what = format!(
                "the file is not in the index of its zone under version {} of key {}: re-encryption would pass it over",
                edek.version, edek.key
            );
            return Ok(Some(finding(pb::FindingKind::Index, path.clone(), what)));
        }
    }
    Ok(None)
}

/// A file that is not encrypted: it is in no zone or in one that adopts it, and on the list.
async fn check_plain(
    reader: &mut impl Reader,
    file: FileId,
    plain: &records::Plain,
    zone: Option<ZoneId>,
    path: &bytes::Bytes,
) -> Result<Option<pb::Finding>, MetadataError> {
    let problem = |kind, what: &str| Ok(Some(finding(kind, path.clone(), what)));
    let adopting = match zone {
        Some(zone) => access::zone(reader, zone).await?.and_then(|record| record.adoption),
        None => None,
    };
    let adopting = adopting.filter(|adoption| !adoption.ended);
    let Ok(listed) = plain.zone() else {
        return problem(
            pb::FindingKind::Unreadable,
            "the zone that adopts the file cannot be read",
        );
    };
    if zone.is_some() && adopting.is_none() {
        let what = "the file is not encrypted, in a zone that does not adopt it: nobody can read it; fsck --repair has the zone do so, and then: strongroom zone adopt";
        return problem(pb::FindingKind::Edek, what);
    }
    if listed.is_some() && listed != zone {
        let what = "the file is not encrypted, and on the list of a zone in which it is not";
        return problem(pb::FindingKind::Index, what);
    }
    let missed = listed.is_none() && adopting.is_some_and(|adoption| adoption.looked);
    if missed || reader.get(&keys::plain(listed, file)).await?.is_none() {
        let what = "the file is not on the list of those that are not encrypted: a zone would not find it to adopt it";
        return problem(pb::FindingKind::Index, what);
    }
    Ok(None)
}

/// The EDEK of a file, and that for the zone that it is being moved to.
fn edeks(body: &records::Body) -> impl Iterator<Item = &records::Edek> {
    let staged = body.staged.as_ref().and_then(|staged| staged.edek.as_ref());
    body.edek.as_ref().into_iter().chain(staged)
}

/// Enters a file in the index, by the EDEKs that it has now, or in the list of those without. Says whether it was not there.
pub(super) async fn enter(store: &impl Store, who: &Caller, file: FileId) -> Result<bool, MetadataError> {
    let keeper = Caller::keeper(who.name.clone());
    transact!(store, [keeper], |txn| enter_in(txn, &keeper, file)).await
}

async fn enter_in(txn: &mut impl Txn, keeper: &Caller, file: FileId) -> Result<bool, MetadataError> {
    let mut is_missing = enter_plain(txn, keeper, file).await?.unwrap_or_default();
    for edek in edeks_of(txn, file).await? {
        let zone = edek.zone_id.as_ref().try_into()?;
        let row = keys::index(zone, KeyVersion(edek.key_version), file);
        if txn.get(&row).await?.is_none() {
            counted::put_index(txn, &edek, file)?;
            is_missing = true;
        }
    }
    Ok(is_missing)
}

/// Has the zone of a file that is not encrypted adopt it, if it did not. Says whether the file is one of those.
pub(super) async fn adopt(store: &impl Store, who: &Caller, file: FileId) -> Result<bool, MetadataError> {
    let keeper = Caller::keeper(who.name.clone());
    let entered = transact!(store, [keeper], |txn| enter_plain(txn, &keeper, file)).await;
    entered.map(|entered| entered.is_some())
}

/// Sees to it that a file that is not encrypted is on the list of the zone that it is in, which adopts it, or on that of none. Says whether
/// it was not; nothing of a file that is encrypted, gone, or cut off.
async fn enter_plain(txn: &mut impl Txn, keeper: &Caller, file: FileId) -> Result<Option<bool>, MetadataError> {
    let Some(body) = access::body(txn, file).await? else {
        return Ok(None);
    };
    let Some(plain) = &body.plain else { return Ok(None) };
    let Some(found) = climb(txn, keeper, file).await? else {
        return Ok(None);
    };
    let (listed, zone) = (plain.zone()?, found.zone.map(|zone| zone.id));
    if let Some(zone) = zone
        && !readopt(txn, zone).await?
    {
        return Ok(None);
    }
    let is_there = access::there(txn, &keys::plain(listed, file)).await?;
    if is_there && listed == zone {
        return Ok(Some(false));
    }
    if is_there {
        counted::drop_plain(txn, listed, file);
    }
    if listed != zone && access::there(txn, &keys::plain(zone, file)).await? {
        counted::drop_plain(txn, zone, file);
    }
    enlist(txn, file, body, zone)?;
    Ok(Some(true))
}

/// The EDEKs that a file is in the index with: those of one that shows, or that of a new one that is being written.
pub(super) async fn edeks_of(reader: &mut impl Reader, file: FileId) -> Result<Vec<records::Edek>, MetadataError> {
    if let Some(body) = access::body(reader, file).await? {
        return Ok(edeks(&body).cloned().collect());
    }
    let open = access::open_file(reader, file).await?;
    let new = open.filter(|open| open.generation == 0);
    Ok(new.and_then(|open| open.edek).into_iter().collect())
}

/// Whether an EDEK is of a zone and a version.
pub(super) fn is_of(edek: &records::Edek, zone: ZoneId, version: KeyVersion) -> bool {
    edek.zone_id.as_ref() == zone.as_bytes() && edek.key_version == version.0
}
