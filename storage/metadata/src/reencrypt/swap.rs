//! The store's side of re-encryption: pages of stale EDEKs out, compare-and-set of re-wrapped ones in.

use bytes::Bytes;
use strongroom_kv::{Store, Txn};
use strongroom_proto::{FileId, KeyVersion, ZoneId};

use crate::{
    error::MetadataError,
    schema::{access, access::transact, counted, keys, keys::KeyRange, records},
};

/// Files re-wrapped in one call to the key service.
pub(crate) const PAGE: usize = 500;

/// A file whose EDEK is not of the target version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stale {
    pub(crate) file: FileId,
    pub(crate) version: KeyVersion,
    /// The wrapped DEK as it is; empty if the file went since it was listed.
    pub(crate) wrapped: Bytes,
}

/// A file's new EDEK, or none if it could not be re-wrapped.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) stale: Stale,
    pub(crate) fresh: Option<Bytes>,
}

/// The next page of stale files behind the job's cursor; empty at the end of the pass.
pub(crate) async fn stale_page(
    store: &impl Store,
    zone: ZoneId,
    job: &records::Reencryption,
) -> Result<Vec<Stale>, MetadataError> {
    let target = KeyVersion(job.target_version);
    let mut txn = store.begin().await?;
    let mut range = keys::index_of_zone(zone);
    if !job.cursor_file.is_empty() {
        let file = access::file_id(&job.cursor_file)?;
        range = range.after(&keys::index(zone, KeyVersion(job.cursor_version), file));
    }
    let of_target = keys::index_of_version(zone, target);
    let before = KeyRange {
        start: range.start.clone(),
        end: of_target.start,
    };
    let behind = KeyRange {
        start: range.start.max(of_target.end),
        end: range.end,
    };
    let mut found = access::page(&mut txn, &before, PAGE).await?;
    if found.len() < PAGE {
        found.extend(access::page(&mut txn, &behind, PAGE - found.len()).await?);
    }
    let mut stale = Vec::with_capacity(found.len());
    for (key, _) in &found {
        let (version, file) = keys::index_entry(key).ok_or(MetadataError::Corrupt { what: "index entry" })?;
        let edek = edek_of(&mut txn, file).await?;
        stale.push(Stale {
            file,
            version,
            wrapped: edek.map(|edek| edek.wrapped).unwrap_or_default(),
        });
    }
    Ok(stale)
}

/// Swaps in what was re-wrapped under `version`, counts, and moves the cursor, all in one transaction. Says whether it
/// did: not if somebody else dealt with the page, for which the job was `seen`, or with the job.
pub(crate) async fn apply(
    store: &impl Store,
    zone: ZoneId,
    seen: &records::Reencryption,
    version: KeyVersion,
    outcomes: &[Outcome],
) -> Result<bool, MetadataError> {
    let outcomes = outcomes.to_vec();
    transact!(store, [outcomes, seen], |txn| apply_in(
        txn, zone, &seen, version, &outcomes
    ))
    .await
}

async fn apply_in(
    txn: &mut impl Txn,
    zone: ZoneId,
    seen: &records::Reencryption,
    version: KeyVersion,
    outcomes: &[Outcome],
) -> Result<bool, MetadataError> {
    let Some(mut job) = access::reencryption(txn, zone).await?.filter(|job| is_at(job, seen)) else {
        return Ok(false);
    };
    // A call that was under way when the zone was proved free of old versions comes too late.
    let too_old = access::zone(txn, zone)
        .await?
        .is_some_and(|record| version.0 < record.version_min);
    for Outcome { stale, fresh } in outcomes {
        match fresh {
            Some(_) if too_old => {}
            Some(fresh) => job.done += u64::from(swap(txn, stale, version, fresh).await?),
            None if stale.wrapped.is_empty() => {}
            None => job.failures += 1,
        }
        job.cursor_version = stale.version.0;
        job.cursor_file = stale.file.into();
    }
    job.message.clear();
    access::put(txn, &keys::reencryption(zone), &job);
    Ok(true)
}

/// Whether a job is the one that was `seen`, and no further.
fn is_at(job: &records::Reencryption, seen: &records::Reencryption) -> bool {
    let place = |job: &records::Reencryption| (job.started_ms, job.target_version, job.cursor_version);
    job.running && place(job) == place(seen) && job.cursor_file == seen.cursor_file
}

/// Gives a file its new EDEK if it still has the old one. Says whether it did.
async fn swap(txn: &mut impl Txn, stale: &Stale, version: KeyVersion, fresh: &Bytes) -> Result<bool, MetadataError> {
    let id = stale.file;
    // A file that shows and is open too has its EDEK here.
    if let Some(mut body) = access::body(txn, id).await? {
        let changed = exchange(txn, id, body.edek.as_mut(), stale, version, fresh)?;
        if changed {
            access::put(txn, &keys::body(id), &body);
        }
        return Ok(changed);
    }
    let Some(mut open) = access::open_file(txn, id).await? else {
        return Ok(false);
    };
    let changed = exchange(txn, id, open.edek.as_mut(), stale, version, fresh)?;
    if changed {
        access::put(txn, &keys::open_file(id), &open);
    }
    Ok(changed)
}

fn exchange(
    txn: &mut impl Txn,
    file: FileId,
    edek: Option<&mut records::Edek>,
    stale: &Stale,
    version: KeyVersion,
    fresh: &Bytes,
) -> Result<bool, MetadataError> {
    let Some(edek) = edek.filter(|edek| edek.wrapped == stale.wrapped && edek.key_version == stale.version.0) else {
        return Ok(false);
    };
    counted::delete_index(txn, edek, file)?;
    edek.key_version = version.0;
    edek.wrapped = fresh.clone();
    counted::put_index(txn, edek, file)?;
    Ok(true)
}

/// Raises a job's target, because the key was rolled again while it ran, and starts its pass anew.
pub(crate) async fn raise_target(store: &impl Store, zone: ZoneId, target: KeyVersion) -> Result<(), MetadataError> {
    transact!(store, [], |txn| raise_in(txn, zone, target)).await
}

async fn raise_in(txn: &mut impl Txn, zone: ZoneId, target: KeyVersion) -> Result<(), MetadataError> {
    let job = access::reencryption(txn, zone).await?.filter(|job| job.running);
    let (Some(mut record), Some(mut job)) = (access::zone(txn, zone).await?, job) else {
        return Ok(());
    };
    record.version_min = record.version_min.max(target.0);
    access::put(txn, &keys::zone(zone), &record);
    job.target_version = job.target_version.max(target.0);
    job.failures = 0;
    job.cursor_version = 0;
    job.cursor_file.clear();
    access::put(txn, &keys::reencryption(zone), &job);
    Ok(())
}

/// Records what slows a job.
pub(crate) async fn note(store: &impl Store, zone: ZoneId, message: &str) -> Result<(), MetadataError> {
    let message = message.to_owned();
    transact!(store, [message], |txn| note_in(txn, zone, message)).await
}

async fn note_in(txn: &mut impl Txn, zone: ZoneId, message: String) -> Result<(), MetadataError> {
    if let Some(mut job) = access::reencryption(txn, zone).await? {
        job.message = message;
        access::put(txn, &keys::reencryption(zone), &job);
    }
    Ok(())
}

/// Records that a pass is over. Says whether it is: not if the job moved on since it was `seen`.
pub(crate) async fn finish(
    store: &impl Store,
    zone: ZoneId,
    seen: &records::Reencryption,
    now_ms: u64,
) -> Result<bool, MetadataError> {
    transact!(store, [seen], |txn| finish_in(txn, zone, &seen, now_ms)).await
}

async fn finish_in(
    txn: &mut impl Txn,
    zone: ZoneId,
    seen: &records::Reencryption,
    now_ms: u64,
) -> Result<bool, MetadataError> {
    let Some(mut job) = access::reencryption(txn, zone).await?.filter(|job| is_at(job, seen)) else {
        return Ok(false);
    };
    job.running = false;
    job.finished_ms = now_ms;
    job.message = match job.failures {
        0 => String::new(),
        failures => format!("{failures} files keep their old EDEK and stay readable; start again to retry them"),
    };
    access::put(txn, &keys::reencryption(zone), &job);
    Ok(true)
}

/// The EDEK of a file that shows or is being written.
async fn edek_of(txn: &mut impl Txn, file: FileId) -> Result<Option<records::Edek>, MetadataError> {
    if let Some(body) = access::body(txn, file).await? {
        return Ok(body.edek);
    }
    Ok(access::open_file(txn, file).await?.and_then(|open| open.edek))
}

#[cfg(test)]
mod tests {
    use strongroom_kv::EmbeddedStore;

    use super::*;

    async fn job(store: &EmbeddedStore, zone: ZoneId) -> records::Reencryption {
        let mut txn = store.begin().await.expect("a transaction");
        access::reencryption(&mut txn, zone)
            .await
            .expect("readable")
            .expect("there")
    }

    #[tokio::test]
    async fn of_two_who_work_on_one_page_one_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = EmbeddedStore::open(&dir.path().join("store")).expect("a store");
        let zone = ZoneId::from_bytes([1; 16]);
        let begun = records::Reencryption {
            running: true,
            target_version: 1,
            ..records::Reencryption::default()
        };
        let mut txn = store.begin().await.expect("a transaction");
        access::put(&mut txn, &keys::reencryption(zone), &begun);
        txn.commit().await.expect("committed");

        let failed = [Outcome {
            stale: Stale {
                file: FileId::from_bytes([2; 16]),
                version: KeyVersion(0),
                wrapped: Bytes::from_static(b"EDEK"),
            },
            fresh: None,
        }];
        let (target, now_ms) = (KeyVersion(1), 7);
        assert!(apply(&store, zone, &begun, target, &failed).await.expect("applied"));
        assert!(!apply(&store, zone, &begun, target, &failed).await.expect("void"));
        let moved = job(&store, zone).await;
        assert_eq!((moved.failures, moved.cursor_file.len()), (1, 16));
        assert!(!finish(&store, zone, &begun, now_ms).await.expect("void"));
        assert!(finish(&store, zone, &moved, now_ms).await.expect("finished"));
        let over = job(&store, zone).await;
        assert!(!over.running && over.finished_ms == now_ms && over.message.starts_with("1 files"));
        assert!(!finish(&store, zone, &moved, now_ms).await.expect("void"));
    }
}
