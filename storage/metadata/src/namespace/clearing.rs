//! Whether somebody may remove a directory with all it holds. As in HDFS (`FSPermissionChecker`, `subAccess`), that takes all rights on each
//! directory in it that is not empty, and in one with the sticky bit to own it or what is in it.
//!
//! A tree may have millions of names, so one state of the store is looked through before the transaction that cuts it off.

use std::time::Duration;

use strongroom_kv::Reader;
use strongroom_proto::FileId;
use tokio::time::timeout;

use super::{
    permission::{Rights, forbidden, is_sticky_for, may},
    resolve::{Found, climb},
};
use crate::{
    authority::Caller,
    error::MetadataError,
    schema::{access, keys, records},
};

/// How long a tree is looked through: less than its caller waits.
const LOOKED_FOR: Duration = Duration::from_secs(20);
/// Entries read at once.
const PAGE: usize = 1000;

/// A directory that is still to be looked through. The user may list it.
struct Left {
    id: FileId,
    /// Everything in it has to be the user's.
    sticky: bool,
}

/// Refuses whoever may not remove a directory with what it holds, or if that is too much to be looked through.
pub(crate) async fn check_tree(reader: &mut impl Reader, who: &Caller, top: &Found) -> Result<(), MetadataError> {
    if who.superuser {
        return Ok(());
    }
    match timeout(LOOKED_FOR, look_through(reader, who, top)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(MetadataError::TooLongToCheck(top.path.clone())),
    }
}

async fn look_through(reader: &mut impl Reader, who: &Caller, top: &Found) -> Result<(), MetadataError> {
    let mut left = Vec::new();
    enter(reader, who, &top.entry, &mut left).await?;
    while let Some(Left { id, sticky }) = left.pop() {
        let mut range = keys::dentries(id);
        loop {
            let page = access::page(reader, &range, PAGE).await?;
            for (_, value) in &page {
                let entry: records::Entry = access::decode(value.clone(), "directory entry")?;
                if sticky && !who.owns(&entry.owner) {
                    return Err(refused(reader, who, id, "to own it and what is in it, as the sticky bit").await?);
                }
                if entry.is_directory() {
                    enter(reader, who, &entry, &mut left).await?;
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => range = range.after(last),
                _ => break,
            }
        }
    }
    Ok(())
}

/// Leaves a directory to be looked through, if the user has all rights on it or nothing is in it.
async fn enter(
    reader: &mut impl Reader,
    who: &Caller,
    entry: &records::Entry,
    left: &mut Vec<Left>,
) -> Result<(), MetadataError> {
    let id = entry.file_id()?;
    if may(who, entry, Rights::ALL) {
        let sticky = is_sticky_for(who, entry);
        left.push(Left { id, sticky });
        return Ok(());
    }
    if access::page(reader, &keys::dentries(id), 1).await?.is_empty() {
        return Ok(());
    }
    Err(refused(reader, who, id, &Rights::ALL.to_string()).await?)
}

/// Why a directory is not the user's to remove. Its path may be told: he may list the one that it is in.
async fn refused(
    reader: &mut impl Reader,
    who: &Caller,
    id: FileId,
    right: &str,
) -> Result<MetadataError, MetadataError> {
    let keeper = Caller::keeper(who.name.clone());
    let found = climb(reader, &keeper, id).await?;
    let found = found.ok_or(MetadataError::Corrupt { what: "inode" })?;
    Ok(forbidden(who, &found, right.to_owned(), &found.path))
}
