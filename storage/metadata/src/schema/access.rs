//! Typed reads and writes of records within one transaction.

use bytes::Bytes;
use prost::Message;
use strongroom_kv::{Reader, Txn};
use strongroom_proto::{BlockId, FileId, JobId, ZoneId};

use super::{
    keys::{self, KeyRange},
    records,
};
use crate::error::MetadataError;

/// Runs `$body` (a future over `$txn`) in a transaction until it commits. The names in brackets are cloned for
/// each run, since the body may run several times.
macro_rules! transact {
    ($store:expr, [$($name:ident),*], |$txn:ident| $body:expr) => {
        strongroom_kv::transact($store, |$txn| {
            $(let $name = $name.clone();)*
            Box::pin(async move { $body.await })
        })
    };
}
pub(crate) use transact;

/// Reads the record at `key`.
pub(crate) async fn record<M: Message + Default>(
    txn: &mut impl Reader,
    key: &[u8],
    what: &'static str,
) -> Result<Option<M>, MetadataError> {
    txn.get(key).await?.map(|bytes| decode(bytes, what)).transpose()
}

/// The records at `keys`, each at its key's place, read together.
pub(crate) async fn records<M: Message + Default>(
    txn: &mut impl Reader,
    keys: &[Vec<u8>],
    what: &'static str,
) -> Result<Vec<Option<M>>, MetadataError> {
    let found = txn.get_many(keys).await?.into_iter();
    found
        .map(|bytes| bytes.map(|bytes| decode(bytes, what)).transpose())
        .collect()
}

pub(crate) fn decode<M: Message + Default>(bytes: Bytes, what: &'static str) -> Result<M, MetadataError> {
    M::decode(bytes).map_err(|_| MetadataError::Corrupt { what })
}

/// Passes over what cannot be read, with a word to the log.
pub(crate) fn told<T>(read: Result<T, MetadataError>, of: &str) -> Result<Option<T>, MetadataError> {
    match read {
        Ok(record) => Ok(Some(record)),
        Err(error @ (MetadataError::Corrupt { .. } | MetadataError::Parse(_))) => {
            tracing::error!(of, %error, "a record cannot be read and is passed over; see strongroom fsck");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether there is something at `key`.
pub(crate) async fn there(txn: &mut impl Reader, key: &[u8]) -> Result<bool, MetadataError> {
    Ok(txn.get(key).await?.is_some())
}

/// Sets the record at `key`.
pub(crate) fn put(txn: &mut impl Txn, key: &[u8], record: &impl Message) {
    txn.put(key, record.encode_to_vec());
}

/// The first `limit` pairs of `range`.
pub(crate) async fn page(
    txn: &mut impl Reader,
    range: &KeyRange,
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, MetadataError> {
    if range.start >= range.end {
        return Ok(Vec::new());
    }
    Ok(txn.range(&range.start, &range.end, limit).await?)
}

/// What stands in `parent` under `name`.
pub(crate) async fn entry(
    txn: &mut impl Reader,
    parent: FileId,
    name: &str,
) -> Result<Option<records::Entry>, MetadataError> {
    record(txn, &keys::dentry(parent, name), "directory entry").await
}

/// Where an inode is; none for the root.
pub(crate) async fn place(txn: &mut impl Reader, id: FileId) -> Result<Option<records::Place>, MetadataError> {
    record(txn, &keys::place(id), "inode").await
}

pub(crate) async fn body(txn: &mut impl Reader, id: FileId) -> Result<Option<records::Body>, MetadataError> {
    record(txn, &keys::body(id), "file").await
}

/// The id that a key has behind its table letter, or that a field has.
pub(crate) fn file_id(bytes: &[u8]) -> Result<FileId, MetadataError> {
    bytes.try_into().map_err(|_| MetadataError::Corrupt { what: "id" })
}

pub(crate) async fn open_file(txn: &mut impl Reader, id: FileId) -> Result<Option<records::OpenFile>, MetadataError> {
    record(txn, &keys::open_file(id), "open file").await
}

pub(crate) async fn zone(txn: &mut impl Reader, id: ZoneId) -> Result<Option<records::Zone>, MetadataError> {
    record(txn, &keys::zone(id), "zone").await
}

/// What is left of a zone that was removed.
pub(crate) async fn removed_zone(
    txn: &mut impl Reader,
    id: ZoneId,
) -> Result<Option<records::RemovedZone>, MetadataError> {
    record(txn, &keys::removed_zone(id), "removed zone").await
}

pub(crate) async fn job(txn: &mut impl Reader, id: JobId) -> Result<Option<records::Job>, MetadataError> {
    record(txn, &keys::job(id), "job").await
}

/// The newest re-encryption of a zone.
pub(crate) async fn reencryption(
    txn: &mut impl Reader,
    zone: ZoneId,
) -> Result<Option<(JobId, records::Job)>, MetadataError> {
    let Some(id) = txn.get(&keys::reencryption(zone)).await? else {
        return Ok(None);
    };
    let id = JobId::try_from(id.as_ref())?;
    Ok(job(txn, id).await?.map(|job| (id, job)))
}

pub(crate) async fn import(txn: &mut impl Reader) -> Result<Option<records::Import>, MetadataError> {
    record(txn, &keys::import(), "import").await
}

pub(crate) async fn duty(txn: &mut impl Reader) -> Result<Option<records::Duty>, MetadataError> {
    record(txn, &keys::duty(), "lease").await
}

/// The chunk that holds `block`; empty when there is none yet.
pub(crate) async fn chunk(txn: &mut impl Reader, block: BlockId) -> Result<records::BlockChunk, MetadataError> {
    let found = record(txn, &keys::chunk(block.extent, block.index), "block list").await?;
    Ok(found.unwrap_or_default())
}

/// Position of a block in its chunk.
pub(crate) const fn chunk_position(index: u32) -> usize {
    (index % keys::CHUNK_BLOCKS) as usize
}
