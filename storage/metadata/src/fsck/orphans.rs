//! Records that nothing leads to: places, bodies, open files, index entries and rows of the list of files that are not encrypted.

use bytes::Bytes;
use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{Edek, FileId, KeyVersion, ZoneId, metadata::v1 as pb};

use super::{
    Directories, Question,
    body::{edeks_of, enter, is_of},
    finding, rows,
};
use crate::{
    core::Core,
    error::MetadataError,
    schema::{ROOT, access, access::transact, counted, keys, records},
    zones::source::EdekSource,
};

fn page(found: &[(Bytes, Bytes)], next: Bytes) -> pb::CheckPageResponse {
    pb::CheckPageResponse {
        next,
        looked_at: found.len() as u64,
        ..pb::CheckPageResponse::default()
    }
}

fn unreadable(what: &str, key: &[u8]) -> pb::Finding {
    let what = format!(
        "the {what} {} cannot be read",
        hex::encode(key.get(1..).unwrap_or_default())
    );
    finding(pb::FindingKind::Unreadable, Bytes::new(), what)
}

/// Places of inodes that no entry leads to. What is cut off from the root as a whole waits for its removal.
pub(super) async fn places<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    question: &Question,
) -> Result<pb::CheckPageResponse, MetadataError> {
    let mut view = core.store.snapshot().await?;
    let (found, next) = rows(&mut view, keys::places(), &question.after).await?;
    let mut page = page(&found, next);
    for (key, value) in found {
        let place: Option<records::Place> = access::decode(value, "inode").ok();
        let (Ok(id), Some(place)) = (access::file_id(key.get(1..).unwrap_or_default()), place) else {
            page.findings.push(unreadable("place of the inode", &key));
            continue;
        };
        if place.unlinked || is_entered(&mut view, &place, id).await? {
            continue;
        }
        let holds = access::page(&mut view, &keys::dentries(id), 1).await?;
        let is_empty = holds.is_empty() && view.get(&keys::body(id)).await?.is_none();
        let what = match (is_empty, holds.is_empty()) {
            (true, _) => format!("inode {id}, once {:?}, has no entry and holds nothing", place.name),
            (false, true) => continue, // Its body is found by itself.
            (false, false) => format!(
                "directory {id}, once {:?}, has no entry, and holds something",
                place.name
            ),
        };
        let mut found = finding(pb::FindingKind::Namespace, Bytes::new(), what);
        if question.repair && is_empty {
            found.repaired = transact!(&core.store, [], |txn| drop_place(txn, id)).await?;
        }
        page.findings.push(found);
    }
    Ok(page)
}

/// Whether the entry at a place leads to the inode.
async fn is_entered(reader: &mut impl Reader, place: &records::Place, id: FileId) -> Result<bool, MetadataError> {
    let Ok(parent) = access::file_id(&place.parent) else {
        return Ok(false);
    };
    match access::entry(reader, parent, &place.name).await {
        Ok(entry) => Ok(entry.is_some_and(|entry| entry.id.as_ref() == id.as_bytes())),
        // It is found as an entry that cannot be read.
        Err(MetadataError::Corrupt { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

async fn drop_place(txn: &mut impl Txn, id: FileId) -> Result<bool, MetadataError> {
    let Some(place) = access::place(txn, id).await? else {
        return Ok(false);
    };
    let holds = !access::page(txn, &keys::dentries(id), 1).await?.is_empty();
    if place.unlinked || holds || is_entered(txn, &place, id).await? || txn.get(&keys::body(id)).await?.is_some() {
        return Ok(false);
    }
    txn.delete(&keys::place(id));
    Ok(true)
}

/// Bodies of files that no entry leads to.
pub(super) async fn bodies<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    question: &Question,
) -> Result<pb::CheckPageResponse, MetadataError> {
    let mut view = core.store.snapshot().await?;
    let (found, next) = rows(&mut view, keys::bodies(), &question.after).await?;
    let mut page = page(&found, next);
    for (key, value) in found {
        let body: Option<records::Body> = access::decode(value, "file").ok();
        let (Ok(id), Some(body)) = (access::file_id(key.get(1..).unwrap_or_default()), body) else {
            page.findings.push(unreadable("body of the file", &key));
            continue;
        };
        let place = access::place(&mut view, id).await.unwrap_or_default();
        let is_named = match &place {
            Some(place) => is_entered(&mut view, place, id).await?,
            None => false,
        };
        if !is_named {
            let length = body.size().length;
            let what = format!("file {id} of {length} bytes has no entry: it cannot be reached, and is kept");
            page.findings
                .push(finding(pb::FindingKind::Namespace, Bytes::new(), what));
        }
    }
    Ok(page)
}

/// Files being written: a new one is in the index.
pub(super) async fn open_files<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    question: &Question,
) -> Result<pb::CheckPageResponse, MetadataError> {
    let mut view = core.store.snapshot().await?;
    let (found, next) = rows(&mut view, keys::open_files(), &question.after).await?;
    let mut page = page(&found, next);
    for (key, value) in found {
        let open: Option<records::OpenFile> = access::decode(value, "open file").ok();
        let (Ok(id), Some(open)) = (access::file_id(key.get(1..).unwrap_or_default()), open) else {
            page.findings.push(unreadable("open file", &key));
            continue;
        };
        let edek = open.edek.filter(|_| open.generation == 0);
        let Some(Ok(edek)) = edek.as_ref().map(Edek::try_from) else {
            continue;
        };
        if view.get(&keys::index(edek.zone, edek.version, id)).await?.is_none() {
            let what = format!(
                "file {id}, which user {} is writing, is not in the index of its zone",
                open.owner
            );
            let mut found = finding(pb::FindingKind::Index, Bytes::new(), what);
            found.repaired = question.repair && enter(&core.store, &question.who, id).await?;
            page.findings.push(found);
        }
    }
    Ok(page)
}

/// Index entries of no file, or of another version or zone than the file's EDEK is.
pub(super) async fn index<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    question: &Question,
) -> Result<pb::CheckPageResponse, MetadataError> {
    let mut view = core.store.snapshot().await?;
    let (found, next) = rows(&mut view, keys::indexes(), &question.after).await?;
    let mut page = page(&found, next);
    let mut directories = Directories::default();
    for (key, _) in found {
        let (Some(zone), Some((version, file))) = (keys::zone_of(&key), keys::index_entry(&key)) else {
            page.findings.push(unreadable("index entry", &key));
            continue;
        };
        if is_indexed(&mut view, zone, version, file).await? {
            continue;
        }
        let name = directories.get(&mut view, &question.who, file).await?;
        let path = name.map_or_else(Bytes::new, |found| (&found.path).into());
        let what =
            format!("the index of zone {zone} has file {file} under version {version}, which its EDEK does not have");
        let mut found = finding(pb::FindingKind::Index, path, what);
        if question.repair {
            found.repaired = transact!(&core.store, [], |txn| drop_index(txn, zone, version, file)).await?;
        }
        page.findings.push(found);
    }
    Ok(page)
}

/// Rows of files that are not encrypted, of no such file, or of one that is listed elsewhere.
pub(super) async fn plain<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    question: &Question,
) -> Result<pb::CheckPageResponse, MetadataError> {
    let mut view = core.store.snapshot().await?;
    let (found, next) = rows(&mut view, keys::all_plain(), &question.after).await?;
    let mut page = page(&found, next);
    for (key, _) in found {
        let Some((zone, file)) = keys::plain_entry(&key) else {
            page.findings
                .push(unreadable("row of a file that is not encrypted", &key));
            continue;
        };
        if is_plain(&mut view, zone, file).await? {
            continue;
        }
        let what = format!("file {file} is on the list of those that are not encrypted, and is not one, or not there");
        let mut found = finding(pb::FindingKind::Index, Bytes::new(), what);
        if question.repair {
            found.repaired = transact!(&core.store, [], |txn| drop_plain(txn, zone, file)).await?;
        }
        page.findings.push(found);
    }
    Ok(page)
}

/// Whether a file is not encrypted and listed with `zone`.
async fn is_plain(reader: &mut impl Reader, zone: Option<ZoneId>, file: FileId) -> Result<bool, MetadataError> {
    match access::body(reader, file).await {
        Ok(body) => Ok(body
            .and_then(|body| body.plain)
            .is_some_and(|plain| plain.zone().is_ok_and(|listed| listed == zone))),
        // What cannot be read is not to be forgotten.
        Err(MetadataError::Corrupt { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

async fn drop_plain(txn: &mut impl Txn, zone: Option<ZoneId>, file: FileId) -> Result<bool, MetadataError> {
    if !access::there(txn, &keys::plain(zone, file)).await? || is_plain(txn, zone, file).await? {
        return Ok(false);
    }
    counted::drop_plain(txn, zone, file);
    Ok(true)
}

async fn is_indexed(
    reader: &mut impl Reader,
    zone: ZoneId,
    version: KeyVersion,
    file: FileId,
) -> Result<bool, MetadataError> {
    match edeks_of(reader, file).await {
        Ok(edeks) => Ok(edeks.iter().any(|edek| is_of(edek, zone, version))),
        // What cannot be read is not to be forgotten.
        Err(MetadataError::Corrupt { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

async fn drop_index(
    txn: &mut impl Txn,
    zone: ZoneId,
    version: KeyVersion,
    file: FileId,
) -> Result<bool, MetadataError> {
    let is_there = txn.get(&keys::index(zone, version, file)).await?.is_some();
    if !is_there || is_indexed(txn, zone, version, file).await? {
        return Ok(false);
    }
    let edek = records::Edek {
        zone_id: zone.into(),
        key_version: version.0,
        ..records::Edek::default()
    };
    counted::delete_index(txn, &edek, file)?;
    Ok(true)
}

/// Where the root of a zone is, if it is reached or waits for its removal.
pub(super) async fn is_zone_root(
    reader: &mut impl Reader,
    zone: ZoneId,
    record: &records::Zone,
) -> Result<bool, MetadataError> {
    let root = access::file_id(&record.root)?;
    let is_this = |entry: records::Entry| entry.zone_id.as_ref() == zone.as_bytes();
    if root == ROOT {
        let entry: Option<records::Entry> = access::record(reader, &keys::root(), "root directory").await?;
        return Ok(entry.is_some_and(is_this));
    }
    let Some(place) = access::place(reader, root).await? else {
        return Ok(false);
    };
    if place.unlinked {
        return Ok(true);
    }
    let entry = access::entry(reader, access::file_id(&place.parent)?, &place.name).await?;
    Ok(entry.is_some_and(is_this))
}
