//! Whether somebody may remove a directory with all it holds. As in HDFS (`FSPermissionChecker`, `subAccess`), that takes all rights on each
//! directory in it that is not empty, and in one with the sticky bit to own it or what is in it.
//!
//! A small tree is looked through in the transaction that cuts it off, so that nothing comes in between. One of millions of names cannot be:
//! then one state of the store is looked through before, and the transaction removes the very directory that was looked through, or nothing.
//! What came to be in it meanwhile goes along (ADR 29).

use strongroom_kv::{Reader, Store};
use strongroom_proto::FileId;
use tokio::time::{Instant, timeout_at};

use super::{
    permission::{Rights, forbidden, is_sticky_for, may},
    resolve::{Found, climb},
    walk::{Bound, Step, Walk},
};
use crate::{
    authority::Caller,
    error::MetadataError,
    schema::{access, keys, records},
};

/// Names that are looked through in a transaction, at most.
pub(crate) const IN_A_TRANSACTION_MAX: usize = 1000;

/// Refuses whoever may not remove a directory with what it holds, as it is in a transaction, and takes the names that it saw from those
/// that are `left` to it. Says whether these were enough; otherwise somebody has to look before ([`check_tree`]).
pub(crate) async fn check_small(
    txn: &mut impl Reader,
    who: &Caller,
    top: &Found,
    left: &mut usize,
) -> Result<bool, MetadataError> {
    let mut seen = 0;
    let outcome = look_through(txn, who, top, Bound::Names(*left), &mut seen).await;
    *left = left.saturating_sub(seen);
    outcome
}

/// Refuses whoever may not remove a directory with what it holds now, or if that is too much to be looked through by then.
pub(crate) async fn check_tree(
    store: &impl Store,
    who: &Caller,
    top: &Found,
    deadline: Instant,
) -> Result<(), MetadataError> {
    let look = async {
        let mut view = store.snapshot().await?;
        look_through(&mut view, who, top, Bound::Until(deadline), &mut 0).await
    };
    if timeout_at(deadline, look).await.unwrap_or(Ok(false))? {
        return Ok(());
    }
    Err(MetadataError::TooLongToCheck(top.path.clone()))
}

/// Says whether the bound allowed to see all of it, and how many names it saw.
async fn look_through(
    reader: &mut impl Reader,
    who: &Caller,
    top: &Found,
    bound: Bound,
    seen: &mut usize,
) -> Result<bool, MetadataError> {
    let Some(sticky) = is_open(reader, who, top, &top.entry).await? else {
        return Ok(true);
    };
    let mut walk = Walk::of(top.id, sticky, bound);
    loop {
        let step = walk.step(reader).await?;
        *seen = walk.names();
        let (of, sticky, entries) = match step {
            Step::Page { of, known, entries } => (of, known, entries),
            Step::End => return Ok(true),
            Step::Beyond => return Ok(false),
        };
        for entry in &entries {
            if sticky && !who.owns(&entry.owner) {
                let right = "to own it and what is in it, as the sticky bit";
                return Err(refused(reader, who, top, of, right).await?);
            }
            if entry.is_directory()
                && let Some(sticky) = is_open(reader, who, top, entry).await?
            {
                walk.enter(entry.file_id()?, sticky);
            }
        }
    }
}

/// Whether everything in a directory has to be the user's; none if nothing is in it. Refuses one that is closed to the user.
async fn is_open(
    reader: &mut impl Reader,
    who: &Caller,
    top: &Found,
    directory: &records::Entry,
) -> Result<Option<bool>, MetadataError> {
    if may(who, directory, Rights::ALL) {
        return Ok(Some(is_sticky_for(who, directory)));
    }
    let id = directory.file_id()?;
    if access::page(reader, &keys::dentries(id), 1).await?.is_empty() {
        return Ok(None);
    }
    Err(refused(reader, who, top, id, &Rights::ALL.to_string()).await?)
}

/// Why a directory in `top` is not the user's to remove. Its path may be told: he may list the one that it is in.
async fn refused(
    reader: &mut impl Reader,
    who: &Caller,
    top: &Found,
    id: FileId,
    right: &str,
) -> Result<MetadataError, MetadataError> {
    let keeper = Caller::keeper(who.name.clone());
    let found = climb(reader, &keeper, id).await?;
    // Somebody else may have removed it before this view.
    let found = found.ok_or_else(|| MetadataError::NotFound(top.path.clone()))?;
    Ok(forbidden(who, &found, right.to_owned(), &found.path))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use strongroom_proto::groups::Groups;

    use super::*;
    use crate::planted::Planted;

    /// The store is the embedded one, whose reads never wait: no timer ends what does not let go.
    #[tokio::test]
    async fn what_takes_too_long_is_refused() {
        let planted = Planted::new().await;
        let top = planted.directory("/d", "alice", 0o755).await;
        planted.fill("/d", "alice", 3000).await;
        let alice = Caller::of("alice", Groups::default(), false);
        for (given, is_enough) in [
            (Duration::ZERO, false),
            (Duration::from_millis(1), false),
            (Duration::from_secs(600), true),
        ] {
            let outcome = check_tree(&planted.store, &alice, &top, Instant::now() + given).await;
            match outcome {
                Ok(()) => assert!(is_enough, "{given:?} was enough for 3,001 pages"),
                Err(MetadataError::TooLongToCheck(path)) => assert!(!is_enough && path == top.path),
                Err(error) => panic!("{error}"),
            }
        }
    }
}
