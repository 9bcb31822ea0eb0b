//! What a tree holds, name by name, or by the counters of quotas in it.

use strongroom_kv::Reader;
use tokio::time::Instant;

use super::{Usage, used};
use crate::{
    error::MetadataError,
    namespace::{
        resolve::Found,
        walk::{Bound, Step, Walk},
    },
    schema::records,
};

/// Names that are counted within a transaction, at most: each page of them is read, and whoever changes one undoes it.
const IN_A_TRANSACTION_MAX: usize = 50_000;

/// What was found holds with all below it, as it is in a transaction.
pub(super) async fn of_one(reader: &mut impl Reader, found: &Found) -> Result<Usage, MetadataError> {
    if let Some(usage) = known(reader, &found.entry).await? {
        return Ok(usage);
    }
    let below = below(reader, &found.entry, Bound::Names(IN_A_TRANSACTION_MAX - 1)).await?;
    below
        .map(|below| Usage::of(&found.entry) + below)
        .ok_or_else(|| MetadataError::TooManyToCount {
            path: found.path.clone(),
            most: IN_A_TRANSACTION_MAX as u64,
        })
}

/// What is known without looking below: a file, or a directory whose quota has counted it.
async fn known(reader: &mut impl Reader, entry: &records::Entry) -> Result<Option<Usage>, MetadataError> {
    match &entry.quota {
        Some(quota) if quota.counted => used(reader, quota.quota_id()?).await.map(Some),
        _ if entry.is_directory() => Ok(None),
        _ => Ok(Some(Usage::of(entry))),
    }
}

/// What a directory holds with all below it, counted name by name, whatever quotas in it say; none if that takes longer than until `deadline`.
pub(crate) async fn walked(
    reader: &mut impl Reader,
    directory: &records::Entry,
    deadline: Instant,
) -> Result<Option<Usage>, MetadataError> {
    let mut usage = Usage::of(directory);
    let mut walk = Walk::of(directory.file_id()?, (), Bound::Until(deadline));
    loop {
        // With an entry that cannot be read nobody knows what there is.
        let entries = match walk.step(reader).await? {
            Step::Page { entries, .. } => entries,
            Step::End => return Ok(Some(usage)),
            Step::Beyond => return Ok(None),
        };
        for entry in &entries {
            usage = usage + Usage::of(entry);
            if entry.is_directory() {
                walk.enter(entry.file_id()?, ());
            }
        }
    }
}

/// What is below a directory, if the bound allows to count all of it.
pub(super) async fn below(
    reader: &mut impl Reader,
    directory: &records::Entry,
    bound: Bound,
) -> Result<Option<Usage>, MetadataError> {
    let mut usage = Usage::default();
    let mut walk = Walk::of(directory.file_id()?, (), bound);
    loop {
        let entries = match walk.step(reader).await? {
            Step::Page { entries, .. } => entries,
            Step::End => return Ok(Some(usage)),
            Step::Beyond => return Ok(None),
        };
        for entry in &entries {
            if let Some(known) = known(reader, entry).await? {
                usage = usage + known;
            } else {
                usage = usage + Usage::of(entry);
                walk.enter(entry.file_id()?, ());
            }
        }
    }
}
