//! Who is writing a file, and what becomes of a file that nobody writes any more.

use bytes::Bytes;
use strongroom_kv::{Store, Txn};
use strongroom_proto::{BlockId, ExtentId, FileId, transport::UserName};

use crate::{
    config::Settings,
    error::MetadataError,
    namespace::remove::put_purge,
    schema::{NODES_MAX, access, access::transact, counted, keys, records},
};

/// Open files, and extents to delete once more, looked at in one page.
const PAGE: usize = 500;
/// A block that a node began to take under a capability may be stored that long after it, in milliseconds.
const PUT_MAX_MS: u64 = 60_000;

/// When nobody can store blocks any more of an extent that is given up at `now_ms`.
pub(crate) const fn dead_ms(now_ms: u64, settings: &Settings) -> u64 {
    now_ms + settings.capability_ms + PUT_MAX_MS
}

/// The open file `id`, if `user` is writing `extent` of it.
pub(crate) async fn owned(
    txn: &mut impl Txn,
    file: FileId,
    extent: ExtentId,
    user: &UserName,
) -> Result<records::OpenFile, MetadataError> {
    let lost = |why| lost(file, user, why);
    let open = access::open_file(txn, file)
        .await?
        .ok_or_else(|| {
            lost("it was abandoned or recovered, its writer was silent for too long, or its zone waited so long to encrypt it")
        })?;
    if open.owner != user.as_str() {
        return Err(lost("another user is"));
    }
    if open.has(extent) {
        Ok(open)
    } else {
        Err(lost("it was recovered, and opened anew"))
    }
}

pub(crate) fn lost(file: FileId, user: &UserName, why: &'static str) -> MetadataError {
    MetadataError::LeaseLost {
        file,
        user: user.clone(),
        why,
    }
}

/// Gives up what is written of a file in `extent`. A repeat succeeds.
pub(crate) async fn abandon(
    store: &impl Store,
    file: FileId,
    extent: ExtentId,
    user: &UserName,
    dead_ms: u64,
) -> Result<(), MetadataError> {
    transact!(store, [user], |txn| abandon_in(txn, file, extent, &user, dead_ms)).await
}

async fn abandon_in(
    txn: &mut impl Txn,
    file: FileId,
    extent: ExtentId,
    user: &UserName,
    dead_ms: u64,
) -> Result<(), MetadataError> {
    match access::open_file(txn, file).await? {
        Some(open) if open.owner != user.as_str() => Err(lost(file, user, "another user is")),
        // He who never heard that his commit was carried out names the extent before.
        Some(open) if open.has(extent) || open.extent_before.as_ref() == extent.as_bytes() => {
            give_up(txn, file, &open, dead_ms).await
        }
        _ => Ok(()),
    }
}

/// Ends the writing of a file: a new one is gone, another one is as it was committed last. Its writer may store blocks until
/// `dead_ms`, whether he knows or not.
pub(crate) async fn give_up(
    txn: &mut impl Txn,
    file: FileId,
    open: &records::OpenFile,
    dead_ms: u64,
) -> Result<(), MetadataError> {
    counted::delete_open_file(txn, file, &open.owner);
    if open.generation == 0
        && let Some(edek) = &open.edek
    {
        counted::delete_index(txn, edek, file)?;
    }
    // Under an id of its own: the file's id may be purged for its own blocks.
    put_purge(txn, FileId::generate(), &open.garbage());
    for extent in &open.extents {
        let extent = extent.extent_id.as_ref().try_into()?;
        delete_everywhere(txn, extent).await?;
        txn.put(&keys::dead(dead_ms, extent), Bytes::new());
    }
    Ok(())
}

/// Its writer may have stored blocks that it never recorded, on any node.
async fn delete_everywhere(txn: &mut impl Txn, extent: ExtentId) -> Result<(), MetadataError> {
    let index = keys::EVERY_BLOCK;
    for (key, _) in access::page(txn, &keys::nodes(), NODES_MAX).await? {
        let node = keys::node_of(&key).ok_or(MetadataError::Corrupt { what: "node" })?;
        counted::put_garbage(txn, &node, &[BlockId { extent, index }]).await?;
    }
    Ok(())
}

/// Deletes extents once more whose writers could go on after they were given up, and cannot now. Says how many.
pub(crate) async fn bury(store: &impl Store, now_ms: u64) -> Result<u64, MetadataError> {
    let due = access::page(&mut store.snapshot().await?, &keys::dead_before(now_ms), PAGE).await?;
    let buried = due.len() as u64;
    for (key, _) in due {
        transact!(store, [key], |txn| bury_one(txn, &key)).await?;
    }
    Ok(buried)
}

async fn bury_one(txn: &mut impl Txn, key: &[u8]) -> Result<(), MetadataError> {
    let extent = keys::dead_extent(key).ok_or(MetadataError::Corrupt { what: "extent" })?;
    txn.delete(key);
    delete_everywhere(txn, extent).await
}

/// Gives up every open file whose lease ran out before `now_ms`; one that fails keeps no other. Says how many.
pub(crate) async fn reap(store: &impl Store, now_ms: u64, dead_ms: u64) -> Result<u64, MetadataError> {
    let mut range = keys::open_files();
    let (mut reaped, mut outcome) = (0, Ok(()));
    loop {
        let found = access::page(&mut store.snapshot().await?, &range, PAGE).await?;
        for (key, value) in &found {
            match reap_one(store, key, value, (now_ms, dead_ms)).await {
                Ok(is_reaped) => reaped += u64::from(is_reaped),
                Err(error) => outcome = Err(error),
            }
        }
        match found.last() {
            Some((last, _)) if found.len() == PAGE => range = range.after(last),
            _ => return outcome.map(|()| reaped),
        }
    }
}

async fn reap_one(
    store: &impl Store,
    key: &[u8],
    value: &Bytes,
    (now_ms, dead_ms): (u64, u64),
) -> Result<bool, MetadataError> {
    let open: records::OpenFile = access::decode(value.clone(), "open file")?;
    if open.lease_expires_ms >= now_ms {
        return Ok(false);
    }
    let file = access::file_id(key.get(1..).unwrap_or_default())?;
    transact!(store, [], |txn| reap_in(txn, file, now_ms, dead_ms)).await?;
    Ok(true)
}

async fn reap_in(txn: &mut impl Txn, file: FileId, now_ms: u64, dead_ms: u64) -> Result<(), MetadataError> {
    match access::open_file(txn, file).await? {
        Some(open) if open.lease_expires_ms < now_ms => give_up(txn, file, &open, dead_ms).await,
        _ => Ok(()),
    }
}
