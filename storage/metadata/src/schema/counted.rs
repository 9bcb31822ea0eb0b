//! Rows that are counted: files by key version, files that are not encrypted, files being written, blocks that lack replicas, blocks to delete. Each kind has
//! a counter, added to in the transaction that makes or removes a row, so that a total costs one read and every create can
//! add to it without a conflict (ADR 30).
//!
//! What is written blindly cannot be counted: here it is looked at first whether a row is there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use strongroom_kv::{Reader, Txn, counter};
use strongroom_proto::{BlockId, FileId, KeyVersion, NodeId, ZoneId};

use super::{
    access,
    keys::{self, Counted, KeyRange},
    records,
};
use crate::error::MetadataError;

/// Key versions of one zone that are read at once; a zone has one or two, and during its re-encryption one more.
const VERSIONS_PER_PAGE: usize = 1000;

/// How many rows of a kind there are.
pub(crate) async fn total(reader: &mut impl Reader, kind: Counted) -> Result<u64, MetadataError> {
    let key = keys::total(kind);
    let value = reader.get(&key).await?;
    number(&key, value.as_deref())
}

/// A zone's files by the key version of their EDEK, those being written included.
pub(crate) async fn files_by_version(
    reader: &mut impl Reader,
    zone: ZoneId,
) -> Result<BTreeMap<KeyVersion, u64>, MetadataError> {
    versions_in(reader, keys::totals_of_zone(zone)).await
}

/// How many files of a zone have EDEKs of versions before one.
pub(crate) async fn files_before(
    reader: &mut impl Reader,
    zone: ZoneId,
    version: KeyVersion,
) -> Result<u64, MetadataError> {
    let all = keys::totals_of_zone(zone);
    let before = KeyRange {
        start: all.start,
        end: keys::files_total(zone, version),
    };
    Ok(versions_in(reader, before).await?.values().sum())
}

async fn versions_in(
    reader: &mut impl Reader,
    mut range: KeyRange,
) -> Result<BTreeMap<KeyVersion, u64>, MetadataError> {
    let mut versions = BTreeMap::new();
    loop {
        let found = access::page(reader, &range, VERSIONS_PER_PAGE).await?;
        for (key, value) in &found {
            let version = keys::total_version(key).ok_or(MetadataError::Corrupt { what: "counter" })?;
            versions.insert(version, number(key, Some(value))?);
        }
        match found.last() {
            Some((last, _)) if found.len() == VERSIONS_PER_PAGE => range.start = [last, &[0_u8][..]].concat(),
            _ => return Ok(versions),
        }
    }
}

/// A counter that a defect brought below 0 says 0: it is not to keep everything else from being told.
fn number(key: &[u8], value: Option<&[u8]>) -> Result<u64, MetadataError> {
    let found = counter(key, value)?;
    Ok(u64::try_from(found).unwrap_or_else(|_| {
        tracing::error!(counter = %hex::encode(key), found, "a counter is below 0; the rows that it counts are not touched");
        0
    }))
}

/// Enters a file in the index of its zone, by the key version of its EDEK. It is not there yet.
pub(crate) fn put_index(txn: &mut impl Txn, edek: &records::Edek, file: FileId) -> Result<(), MetadataError> {
    let (zone, version) = indexed(edek)?;
    txn.put(&keys::index(zone, version, file), Bytes::new());
    add(txn, &keys::files_total(zone, version), 1);
    Ok(())
}

/// Takes a file that is there out of the index.
pub(crate) fn delete_index(txn: &mut impl Txn, edek: &records::Edek, file: FileId) -> Result<(), MetadataError> {
    let (zone, version) = indexed(edek)?;
    txn.delete(&keys::index(zone, version, file));
    add(txn, &keys::files_total(zone, version), -1);
    Ok(())
}

/// Enters a file where it is found by how it is encrypted: in the index of its zone, or in the list of files that are not. It is not
/// there yet.
pub(crate) fn enter(txn: &mut impl Txn, body: &records::Body, file: FileId) -> Result<(), MetadataError> {
    match (&body.edek, &body.plain) {
        (Some(edek), None) => put_index(txn, edek, file),
        (None, Some(plain)) => {
            let zone = plain.zone()?;
            txn.put(&keys::plain(zone, file), Bytes::new());
            add(txn, &keys::plain_total(zone), 1);
            Ok(())
        }
        _ => Err(MetadataError::Corrupt { what: "file" }),
    }
}

/// Takes a file that is there out of where [`enter`] put it.
pub(crate) fn withdraw(txn: &mut impl Txn, body: &records::Body, file: FileId) -> Result<(), MetadataError> {
    match (&body.edek, &body.plain) {
        (Some(edek), None) => delete_index(txn, edek, file),
        (None, Some(plain)) => {
            drop_plain(txn, plain.zone()?, file);
            Ok(())
        }
        _ => Err(MetadataError::Corrupt { what: "file" }),
    }
}

/// Takes a row that is there out of the list of files that are not encrypted.
pub(crate) fn drop_plain(txn: &mut impl Txn, zone: Option<ZoneId>, file: FileId) {
    txn.delete(&keys::plain(zone, file));
    add(txn, &keys::plain_total(zone), -1);
}

/// How many files that are not encrypted a zone is known to have.
pub(crate) async fn plain_left(reader: &mut impl Reader, zone: ZoneId) -> Result<u64, MetadataError> {
    let key = keys::plain_total(Some(zone));
    let value = reader.get(&key).await?;
    number(&key, value.as_deref())
}

fn indexed(edek: &records::Edek) -> Result<(ZoneId, KeyVersion), MetadataError> {
    Ok((edek.zone_id.as_ref().try_into()?, KeyVersion(edek.key_version)))
}

/// Records a file that somebody begins to write, who may have `most` of them.
pub(crate) fn put_open_file(txn: &mut impl Txn, id: FileId, open: &records::OpenFile, most: u32) {
    access::put(txn, &keys::open_file(id), open);
    add(txn, &keys::total(Counted::OpenFiles), 1);
    txn.add(&keys::open_files_of(&open.owner), 1, i64::from(most));
}

/// Removes a file that is there from those that `owner` writes.
pub(crate) fn delete_open_file(txn: &mut impl Txn, id: FileId, owner: &str) {
    txn.delete(&keys::open_file(id));
    add(txn, &keys::total(Counted::OpenFiles), -1);
    add(txn, &keys::open_files_of(owner), -1);
}

/// Leaves blocks on a node to be deleted.
pub(crate) async fn put_garbage(txn: &mut impl Txn, node: &NodeId, blocks: &[BlockId]) -> Result<(), MetadataError> {
    let rows = blocks.iter().map(|block| keys::garbage(node, *block));
    set(txn, Counted::Garbage, rows, true).await
}

/// Records that blocks on a node are deleted.
pub(crate) async fn delete_garbage(txn: &mut impl Txn, node: &NodeId, blocks: &[BlockId]) -> Result<(), MetadataError> {
    let rows = blocks.iter().map(|block| keys::garbage(node, *block));
    set(txn, Counted::Garbage, rows, false).await
}

/// Records or clears that blocks have fewer replicas than wanted.
pub(crate) async fn mark_deficits(
    txn: &mut impl Txn,
    blocks: &[BlockId],
    in_deficit: bool,
) -> Result<(), MetadataError> {
    let rows = blocks.iter().map(|block| keys::deficit(*block));
    set(txn, Counted::Deficits, rows, in_deficit).await
}

/// Has empty rows there, or not there, and counts those that this changes. Keys end in the number of a block: those of one
/// chunk differ in the last byte alone, and are looked at with one read.
async fn set(
    txn: &mut impl Txn,
    kind: Counted,
    rows: impl Iterator<Item = Vec<u8>>,
    present: bool,
) -> Result<(), MetadataError> {
    let mut groups: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for row in rows {
        let group = row.split_last().map(|(_, rest)| rest.to_vec()).unwrap_or_default();
        groups.entry(group).or_default().insert(row);
    }
    let mut changed = 0;
    for (group, rows) in groups {
        let there = rows_of(txn, group, &rows).await?;
        for row in rows.iter().filter(|row| there.contains(row.as_slice()) != present) {
            if present {
                txn.put(row, Bytes::new());
            } else {
                txn.delete(row);
            }
            changed += if present { 1 } else { -1 };
        }
    }
    if changed != 0 {
        add(txn, &keys::total(kind), changed);
    }
    Ok(())
}

/// Which rows of a group are there, of `wanted` or of all.
async fn rows_of(
    txn: &mut impl Txn,
    group: Vec<u8>,
    wanted: &BTreeSet<Vec<u8>>,
) -> Result<BTreeSet<Bytes>, MetadataError> {
    if let (Some(row), 1) = (wanted.first(), wanted.len()) {
        let there = txn.get(row).await?.map(|_| Bytes::copy_from_slice(row));
        return Ok(there.into_iter().collect());
    }
    let found = access::page(txn, &KeyRange::of(group), keys::CHUNK_BLOCKS as usize).await?;
    Ok(found.into_iter().map(|(key, _)| key).collect())
}

fn add(txn: &mut impl Txn, key: &[u8], by: i64) {
    txn.add(key, by, i64::MAX);
}
