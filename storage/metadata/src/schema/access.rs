//! Typed reads and writes of records within one transaction.

use bytes::Bytes;
use prost::Message;
use strongroom_kv::{Reader, Txn};
use strongroom_proto::{BlockId, FileId, ZoneId};

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

pub(crate) fn decode<M: Message + Default>(bytes: Bytes, what: &'static str) -> Result<M, MetadataError> {
    M::decode(bytes).map_err(|_| MetadataError::Corrupt { what })
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

pub(crate) async fn inode(txn: &mut impl Reader, id: FileId) -> Result<Option<records::Inode>, MetadataError> {
    record(txn, &keys::inode(id), "inode").await
}

pub(crate) fn put_inode(txn: &mut impl Txn, id: FileId, inode: &records::Inode) {
    put(txn, &keys::inode(id), inode);
}

/// The inode that `name` stands for in `parent`.
pub(crate) async fn child(txn: &mut impl Reader, parent: FileId, name: &str) -> Result<Option<FileId>, MetadataError> {
    let Some(bytes) = txn.get(&keys::dentry(parent, name)).await? else {
        return Ok(None);
    };
    file_id(&bytes).map(Some)
}

/// The value of a dentry.
pub(crate) fn file_id(bytes: &[u8]) -> Result<FileId, MetadataError> {
    bytes.try_into().map_err(|_| MetadataError::Corrupt {
        what: "directory entry",
    })
}

/// Puts an inode under its parent and name.
pub(crate) fn link(txn: &mut impl Txn, id: FileId, inode: &records::Inode) -> Result<(), MetadataError> {
    txn.put(&keys::dentry(inode.parent_id()?, &inode.name), Bytes::from(id));
    put_inode(txn, id, inode);
    Ok(())
}

pub(crate) async fn open_file(txn: &mut impl Reader, id: FileId) -> Result<Option<records::OpenFile>, MetadataError> {
    record(txn, &keys::open_file(id), "open file").await
}

pub(crate) async fn zone(txn: &mut impl Reader, id: ZoneId) -> Result<Option<records::Zone>, MetadataError> {
    record(txn, &keys::zone(id), "zone").await
}

pub(crate) async fn reencryption(
    txn: &mut impl Reader,
    zone: ZoneId,
) -> Result<Option<records::Reencryption>, MetadataError> {
    record(txn, &keys::reencryption(zone), "re-encryption").await
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
