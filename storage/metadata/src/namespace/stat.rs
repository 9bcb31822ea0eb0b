//! What is said on the wire of what was found.

use strongroom_kv::Reader;
use strongroom_proto::{FileId, metadata::v1 as pb};

use super::resolve::Found;
use crate::{
    error::MetadataError,
    schema::{access, keys, records},
    transfer::staged::current,
};

/// All that there is to say, but for missing replicas. A path that is too long to be asked for is left out.
pub(crate) async fn stat(txn: &mut impl Reader, found: &Found) -> Result<pb::Stat, MetadataError> {
    if found.entry.is_directory() {
        return Ok(placed(found));
    }
    let body = access::body(txn, found.id).await?;
    let body = body.ok_or(MetadataError::Corrupt { what: "file" })?;
    Ok(shown(found, &body, current(txn, &body).await?))
}

/// The same of a file whose body, and the EDEK that opens it if there is one, are known.
pub(crate) fn shown(found: &Found, body: &records::Body, edek: Option<&records::Edek>) -> pb::Stat {
    pb::Stat {
        key_name: edek.map(|edek| edek.key_name.clone()).unwrap_or_default(),
        key_version: edek.map(|edek| edek.key_version).unwrap_or_default(),
        data_suite: body.data_suite.clone(),
        ..placed(found)
    }
}

/// What is said where it stands.
fn placed(found: &Found) -> pb::Stat {
    let entry = &found.entry;
    let size = entry.file.unwrap_or_default();
    pb::Stat {
        path: Some(&found.path)
            .filter(|path| !path.is_too_long())
            .map(Into::into)
            .unwrap_or_default(),
        kind: kind(entry).into(),
        mode: entry.mode,
        owner: entry.owner.clone(),
        group: entry.group.clone(),
        mtime_ms: entry.mtime_ms,
        file_id: entry.id.clone(),
        zone_path: found.zone.as_ref().map(|zone| (&zone.path).into()).unwrap_or_default(),
        zone_root: !entry.zone_id.is_empty(),
        has_acl: has_acl(entry),
        length: size.length,
        blocks: size.blocks,
        ..pb::Stat::default()
    }
}

/// How many blocks of a file have fewer replicas than wanted. Takes a look for each extent.
pub(crate) async fn deficits(reader: &mut impl Reader, file: FileId) -> Result<u32, MetadataError> {
    let mut found = 0;
    for extent in access::body(reader, file).await?.unwrap_or_default().extent_ids()? {
        // A page is enough: whoever sees thousands does not need the exact figure.
        let deficits = access::page(reader, &keys::deficits_of(extent), 10_000).await?;
        found += u32::try_from(deficits.len()).unwrap_or(u32::MAX);
    }
    Ok(found)
}

/// What a listing says: no more than is in the directory.
pub(crate) fn listed(name: &str, entry: &records::Entry) -> pb::Entry {
    let size = entry.file.unwrap_or_default();
    pb::Entry {
        name: name.to_owned(),
        kind: kind(entry).into(),
        length: size.length,
        mode: entry.mode,
        owner: entry.owner.clone(),
        group: entry.group.clone(),
        mtime_ms: entry.mtime_ms,
        file_id: entry.id.clone(),
        zone_root: !entry.zone_id.is_empty(),
        blocks: size.blocks,
        has_acl: has_acl(entry),
        plain: size.plain,
    }
}

const fn has_acl(entry: &records::Entry) -> bool {
    entry.acl.is_some() || entry.default_acl.is_some()
}

const fn kind(entry: &records::Entry) -> pb::FileKind {
    if entry.is_directory() {
        pb::FileKind::Directory
    } else {
        pb::FileKind::File
    }
}
