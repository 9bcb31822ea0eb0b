//! What directories hold: each entry against the place of its inode, its body, its zone and its blocks.

use bytes::Bytes;
use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{FileId, metadata::v1 as pb};

use super::{Directories, Directory, Question, blocks::Collected, body, finding, rows};
use crate::{
    core::Core,
    error::MetadataError,
    schema::{ROOT, access, access::transact, keys, records},
    zones::source::EdekSource,
};

/// An entry where it stands.
struct Entry {
    key: Bytes,
    parent: FileId,
    name: String,
    path: Bytes,
    record: records::Entry,
    id: FileId,
}

/// A page of entries, of all directories or of one.
pub(super) async fn check<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    question: &Question,
) -> Result<pb::CheckPageResponse, MetadataError> {
    let mut view = core.store.snapshot().await?;
    let range = question.directory.map_or_else(keys::all_dentries, keys::dentries);
    let (found, next) = rows(&mut view, range, &question.after).await?;
    let mut page = pb::CheckPageResponse {
        next,
        looked_at: found.len() as u64,
        ..pb::CheckPageResponse::default()
    };
    let (mut directories, mut collected) = (Directories::default(), Collected::default());
    for (key, value) in found {
        let Some((parent, name)) = split(&key) else {
            let what = format!("the name of the entry {} cannot be read", hex::encode(&key));
            page.findings
                .push(finding(pb::FindingKind::Unreadable, Bytes::new(), what));
            continue;
        };
        // What is being removed is in nobody's way, and what is cut off is found by its place.
        let Some(directory) = directories.get(&mut view, &question.who, parent).await? else {
            continue;
        };
        let Some(entry) = read(key, value, parent, name, &directory, &mut page.findings) else {
            continue;
        };
        if question.directory.is_some() && entry.record.is_directory() {
            page.directories.push(entry.id.into());
        }
        let mut found = of_entry(&mut view, &entry, &directory).await?;
        if !entry.record.is_directory()
            && let Ok(Some(body)) = access::body(&mut view, entry.id).await
        {
            found.extend(body::check(&mut view, entry.id, &body, directory.zone, &entry.path).await?);
            let wanted = core.settings.replicas as usize;
            found.extend(collected.add(&mut view, entry.id, &entry.path, &body, wanted).await?);
        }
        page.findings.extend(repaired(core, question, &entry, found).await?);
    }
    drop(view);
    (page.files, page.replicas) = collected.finish(core, &question.who).await?;
    Ok(page)
}

fn split(key: &[u8]) -> Option<(FileId, String)> {
    let parent = FileId::try_from(key.get(1..17)?).ok()?;
    Some((parent, keys::dentry_name(key)?.to_owned()))
}

fn read(
    key: Bytes,
    value: Bytes,
    parent: FileId,
    name: String,
    directory: &Directory,
    findings: &mut Vec<pb::Finding>,
) -> Option<Entry> {
    let path = directory
        .path
        .child(&name)
        .map_or_else(|_| Bytes::from(name.clone()), |path| (&path).into());
    let record: Option<records::Entry> = access::decode(value, "directory entry").ok();
    let id = record.as_ref().and_then(|record| record.file_id().ok());
    let (Some(record), Some(id)) = (record, id) else {
        let what = "the entry cannot be read";
        findings.push(finding(pb::FindingKind::Unreadable, path, what));
        return None;
    };
    Some(Entry {
        key,
        parent,
        name,
        path,
        record,
        id,
    })
}

/// What is wrong with an entry, by the records that it leads to.
async fn of_entry(
    reader: &mut impl Reader,
    entry: &Entry,
    directory: &Directory,
) -> Result<Vec<pb::Finding>, MetadataError> {
    let mut found = Vec::new();
    found.extend(of_place(reader, entry).await?);
    if entry.record.is_directory() {
        found.extend(of_zone(reader, entry).await?);
    } else {
        found.extend(of_body(reader, entry, directory).await?);
    }
    Ok(found)
}

async fn of_place(reader: &mut impl Reader, entry: &Entry) -> Result<Option<pb::Finding>, MetadataError> {
    let problem = |what: &str| finding(pb::FindingKind::Namespace, entry.path.clone(), what);
    let place = match access::place(reader, entry.id).await {
        Ok(place) => place,
        Err(MetadataError::Corrupt { .. }) => return Ok(Some(problem("the place of its inode cannot be read"))),
        Err(error) => return Err(error),
    };
    let Some(place) = place else {
        return Ok(Some(problem("its inode has no place: it is not found from below")));
    };
    let is_here = place.parent.as_ref() == entry.parent.as_bytes() && place.name == entry.name;
    if is_here && !place.unlinked {
        return Ok(None);
    }
    if is_here {
        return Ok(Some(problem("its inode is marked as removed")));
    }
    let what = match stands_there(reader, &place, entry.id).await? {
        true => "its inode has another name, too; remove one of the two names after looking at both",
        false => "the place of its inode is another one, where it is not",
    };
    Ok(Some(problem(what)))
}

/// Whether an entry at a place leads to the inode.
async fn stands_there(reader: &mut impl Reader, place: &records::Place, id: FileId) -> Result<bool, MetadataError> {
    let Ok(parent) = access::file_id(&place.parent) else {
        return Ok(false);
    };
    let there = access::entry(reader, parent, &place.name).await;
    Ok(matches!(there, Ok(Some(there)) if there.id.as_ref() == id.as_bytes()))
}

async fn of_zone(reader: &mut impl Reader, entry: &Entry) -> Result<Option<pb::Finding>, MetadataError> {
    let problem = |what: String| Some(finding(pb::FindingKind::Zone, entry.path.clone(), what));
    let zone = match entry.record.zone() {
        Ok(Some(zone)) => zone,
        Ok(None) => return Ok(None),
        Err(error) => {
            return Ok(problem(format!(
                "the id of the zone whose root it is cannot be read: {error}"
            )));
        }
    };
    Ok(match access::zone(reader, zone).await {
        Ok(Some(record)) if record.root.as_ref() == entry.id.as_bytes() => None,
        Ok(Some(_)) => problem(format!("zone {zone}, whose root it is, has another one on record")),
        Ok(None) => problem(format!(
            "zone {zone}, whose root it is, has no record: no file can be made in it"
        )),
        Err(_) => problem(format!("the record of zone {zone}, whose root it is, cannot be read")),
    })
}

async fn of_body(
    reader: &mut impl Reader,
    entry: &Entry,
    directory: &Directory,
) -> Result<Option<pb::Finding>, MetadataError> {
    let problem = |kind, what: String| Some(finding(kind, entry.path.clone(), what));
    let body = match access::body(reader, entry.id).await {
        Ok(Some(body)) => body,
        Ok(None) => {
            let what = "the file has no body: nothing of it is known; restore it from a copy".to_owned();
            return Ok(problem(pb::FindingKind::Namespace, what));
        }
        Err(MetadataError::Corrupt { .. }) => {
            let what = format!(
                "the body of the file in {} cannot be read; restore it from a copy",
                directory.path
            );
            return Ok(problem(pb::FindingKind::Unreadable, what));
        }
        Err(error) => return Err(error),
    };
    let (told, real) = (entry.record.file.unwrap_or_default(), body.size());
    if told == real {
        return Ok(None);
    }
    let what = format!("listings say {} bytes, the file has {}", told.length, real.length);
    Ok(problem(pb::FindingKind::Size, what))
}

/// Repairs what can be of what was found, if that was asked for.
async fn repaired<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    question: &Question,
    entry: &Entry,
    mut found: Vec<pb::Finding>,
) -> Result<Vec<pb::Finding>, MetadataError> {
    if !question.repair {
        return Ok(found);
    }
    let (store, wanted) = (&core.store, core.settings.replicas as usize);
    for finding in &mut found {
        finding.repaired = match finding.kind() {
            pb::FindingKind::Namespace | pb::FindingKind::Size => mend(store, entry).await?,
            pb::FindingKind::Index => body::enter(store, &question.who, entry.id).await?,
            pb::FindingKind::Edek => body::adopt(store, &question.who, entry.id).await?,
            pb::FindingKind::Deficit => super::blocks::mark_deficits(store, entry.id, wanted).await?,
            _ => false,
        };
    }
    Ok(found)
}

/// Makes the place and the size of an inode anew from what its entry and its body say now. Says whether that changed anything.
async fn mend(store: &impl Store, entry: &Entry) -> Result<bool, MetadataError> {
    let (key, id) = (entry.key.clone(), entry.id);
    let (parent, name) = (entry.parent, entry.name.clone());
    transact!(store, [key, name], |txn| mend_in(txn, &key, id, parent, &name)).await
}

async fn mend_in(
    txn: &mut impl Txn,
    key: &[u8],
    id: FileId,
    parent: FileId,
    name: &str,
) -> Result<bool, MetadataError> {
    let record: Option<records::Entry> = access::record(txn, key, "directory entry").await?;
    let Some(mut record) = record.filter(|record| record.id.as_ref() == id.as_bytes()) else {
        return Ok(false);
    };
    let place = access::place(txn, id).await.unwrap_or_default();
    let here = records::Place {
        parent: parent.into(),
        name: name.to_owned(),
        unlinked: false,
    };
    let mut changed = false;
    if place.as_ref() != Some(&here) {
        if let Some(place) = &place
            && (place.unlinked || stands_there(txn, place, id).await?)
        {
            return Ok(false);
        }
        access::put(txn, &keys::place(id), &here);
        changed = true;
    }
    if let (Some(told), Ok(Some(body))) = (record.file, access::body(txn, id).await)
        && told != body.size()
    {
        record.file = Some(body.size());
        access::put(txn, key, &record);
        changed = true;
    }
    Ok(changed)
}

/// The root's own entry, which is in no directory.
pub(super) async fn root(reader: &mut impl Reader) -> Result<Option<pb::Finding>, MetadataError> {
    let entry: Result<Option<records::Entry>, _> = access::record(reader, &keys::root(), "root directory").await;
    Ok(match entry {
        Ok(Some(entry)) if entry.is_directory() && entry.id.as_ref() == ROOT.as_bytes() => None,
        _ => Some(finding(
            pb::FindingKind::Unreadable,
            "/",
            "the root directory cannot be read",
        )),
    })
}
