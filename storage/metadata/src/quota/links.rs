//! What comes into directories, goes out of them and is moved between them, with what that does to the quotas above and to moves to
//! other zones that it comes into or leaves.

use strongroom_kv::{Reader, Txn};
use strongroom_proto::FileId;

use super::{QuotaAt, Usage, above, charge, check, size};
use crate::{
    error::MetadataError,
    namespace::resolve::{Found, Slot, child},
    schema::{access, keys, records},
    transfer::staged,
};

/// Puts something new under a name that nothing has in `parent`.
pub(crate) fn put_new(
    txn: &mut impl Txn,
    parent: &Found,
    name: &str,
    entry: records::Entry,
) -> Result<Found, MetadataError> {
    charge(txn, &parent.quotas, Usage::of(&entry));
    staged::begin_in(txn, parent, &entry)?;
    link(txn, parent.id, name, &entry)?;
    child(parent, name, entry)
}

/// Takes what was found out of its directory and puts it into another, under a name that nothing has there.
pub(crate) async fn put_elsewhere(
    txn: &mut impl Txn,
    moved: Found,
    parent: &Found,
    name: &str,
) -> Result<Found, MetadataError> {
    staged::carry(txn, &moved, parent).await?;
    let left = without(above(&moved), &parent.quotas);
    let entered = without(&parent.quotas, above(&moved));
    if !left.is_empty() || !entered.is_empty() {
        let size = size::of_one(txn, &moved).await?;
        charge(txn, &left, -size);
        charge(txn, &entered, size);
    }
    txn.delete(&moved.key);
    link(txn, parent.id, name, &moved.entry)?;
    child(parent, name, moved.entry)
}

/// Refuses what would exceed a quota at its target now, in the place of what is there. For a transaction that is not committed; the
/// one that moves it refuses it, too.
pub(crate) async fn check_room_for(
    reader: &mut impl Reader,
    moved: &Found,
    target: &Slot,
) -> Result<(), MetadataError> {
    let entered = without(&target.parent.quotas, above(moved));
    if entered.is_empty() {
        return Ok(());
    }
    let replaced = target.found.as_ref().map(|there| Usage::of(&there.entry));
    let change = size::of_one(reader, moved).await? - replaced.unwrap_or_default();
    check(reader, &entered, change).await
}

/// Takes what was found, with all below it, out of its directory.
pub(crate) async fn take_out(txn: &mut impl Txn, found: &Found) -> Result<(), MetadataError> {
    let quotas = above(found);
    if !quotas.is_empty() {
        let size = size::of_one(txn, found).await?;
        charge(txn, quotas, -size);
    }
    txn.delete(&found.key);
    Ok(())
}

fn without(quotas: &[QuotaAt], others: &[QuotaAt]) -> Vec<QuotaAt> {
    let is_other = |quota: &&QuotaAt| others.iter().any(|other| other.id == quota.id);
    quotas.iter().filter(|quota| !is_other(quota)).cloned().collect()
}

/// Puts an inode under a directory and a name.
fn link(txn: &mut impl Txn, parent: FileId, name: &str, entry: &records::Entry) -> Result<(), MetadataError> {
    let place = records::Place {
        parent: parent.into(),
        name: name.to_owned(),
        unlinked: false,
    };
    access::put(txn, &keys::dentry(parent, name), entry);
    access::put(txn, &keys::place(entry.file_id()?), &place);
    Ok(())
}
