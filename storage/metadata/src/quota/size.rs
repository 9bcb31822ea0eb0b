//! What a tree holds, name by name, or by the counters of quotas in it.

use strongroom_kv::Reader;
use tokio::time::Instant;

use super::{Usage, used};
use crate::{
    error::MetadataError,
    namespace::resolve::Found,
    schema::{access, keys, records},
};

/// Names that are counted within a transaction, at most: each page of them is read, and whoever changes one undoes it.
const IN_A_TRANSACTION_MAX: i64 = 50_000;
/// Entries read at once.
const PAGE: usize = 1000;

/// What was found holds with all below it, as it is in a transaction.
pub(super) async fn of_one(reader: &mut impl Reader, found: &Found) -> Result<Usage, MetadataError> {
    if let Some(usage) = known(reader, &found.entry).await? {
        return Ok(usage);
    }
    let counted = Usage::of(&found.entry) + below(reader, &found.entry, IN_A_TRANSACTION_MAX).await?;
    if counted.names > IN_A_TRANSACTION_MAX {
        return Err(MetadataError::TooManyToCount {
            path: found.path.clone(),
            most: IN_A_TRANSACTION_MAX.unsigned_abs(),
        });
    }
    Ok(counted)
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
    let mut left = vec![directory.file_id()?];
    while let Some(id) = left.pop() {
        let mut range = keys::dentries(id);
        loop {
            if Instant::now() > deadline {
                return Ok(None);
            }
            let page = access::page(reader, &range, PAGE).await?;
            for (_, value) in &page {
                // With one that cannot be read nobody knows what there is.
                let entry: records::Entry = access::decode(value.clone(), "directory entry")?;
                usage = usage + Usage::of(&entry);
                if entry.is_directory() {
                    left.push(entry.file_id()?);
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => range = range.after(last),
                _ => break,
            }
        }
    }
    Ok(Some(usage))
}

/// What is below a directory. Ends early with more than `most` names if there are more.
pub(super) async fn below(
    reader: &mut impl Reader,
    directory: &records::Entry,
    most: i64,
) -> Result<Usage, MetadataError> {
    let mut usage = Usage::default();
    let mut left = vec![directory.file_id()?];
    while let Some(id) = left.pop() {
        let mut range = keys::dentries(id);
        loop {
            let page = access::page(reader, &range, PAGE).await?;
            for (_, value) in &page {
                let entry: records::Entry = access::decode(value.clone(), "directory entry")?;
                match known(reader, &entry).await? {
                    Some(known) => usage = usage + known,
                    None => {
                        usage = usage + Usage::of(&entry);
                        left.push(entry.file_id()?);
                    }
                }
            }
            if usage.names > most {
                return Ok(usage);
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => range = range.after(last),
                _ => break,
            }
        }
    }
    Ok(usage)
}
