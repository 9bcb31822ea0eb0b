//! The store's side of re-encryption: pages of stale EDEKs out, compare-and-set of re-wrapped ones in.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;
use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{FileId, JobId, KeyVersion, ZoneId};

use crate::{
    error::MetadataError,
    jobs::record,
    schema::{
        access,
        access::transact,
        counted, keys,
        keys::KeyRange,
        records::{self, Job, JobState},
    },
};

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
    pub(crate) fresh: Option<Fresh>,
}

/// A re-wrapped DEK, and under which version of the key. Those of one page may be of several: the key may be rolled in between.
#[derive(Debug, Clone)]
pub(crate) struct Fresh {
    pub(crate) version: KeyVersion,
    pub(crate) wrapped: Bytes,
}

/// An index entry: the pass goes on behind it.
pub(crate) type Cursor = Option<(KeyVersion, FileId)>;

impl Job {
    /// Where a re-encryption goes on.
    pub(crate) fn cursor(&self) -> Result<Cursor, MetadataError> {
        if self.cursor_file.is_empty() {
            return Ok(None);
        }
        Ok(Some((
            KeyVersion(self.cursor_version),
            access::file_id(&self.cursor_file)?,
        )))
    }
}

/// The next `limit` stale files of a zone behind `cursor`; none at the end of the pass.
pub(crate) async fn stale_page(
    reader: &mut impl Reader,
    zone: ZoneId,
    target: KeyVersion,
    cursor: Cursor,
    limit: usize,
) -> Result<Vec<Stale>, MetadataError> {
    let mut range = keys::index_of_zone(zone);
    if let Some((version, file)) = cursor {
        range = range.after(&keys::index(zone, version, file));
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
    let mut found = access::page(reader, &before, limit).await?;
    if found.len() < limit {
        found.extend(access::page(reader, &behind, limit - found.len()).await?);
    }
    let listed: Option<Vec<(KeyVersion, FileId)>> = found.iter().map(|(key, _)| keys::index_entry(key)).collect();
    let listed = listed.ok_or(MetadataError::Corrupt { what: "index entry" })?;
    let mut holders = Holders::of(reader, listed.iter().map(|(_, file)| *file)).await?;
    let stale = listed.into_iter().map(|(version, file)| {
        let edek = holders.edek_mut(file, zone);
        let wrapped = edek.map(|edek| edek.wrapped.clone()).unwrap_or_default();
        Stale { file, version, wrapped }
    });
    Ok(stale.collect())
}

/// What has the EDEKs of a page's files, read together: where the store is a database, one by one would take longer than the re-wrapping.
struct Holders {
    /// Those of files that show, though they may be open too.
    bodies: HashMap<FileId, records::Body>,
    /// Those of files that do not show yet.
    open: HashMap<FileId, records::OpenFile>,
}

impl Holders {
    async fn of(reader: &mut impl Reader, files: impl Iterator<Item = FileId>) -> Result<Self, MetadataError> {
        let mut files: Vec<FileId> = files.collect();
        let bodies = found(reader, &files, keys::body, "file").await?;
        files.retain(|file| !bodies.contains_key(file));
        let open = found(reader, &files, keys::open_file, "open file").await?;
        Ok(Self { bodies, open })
    }

    /// The EDEK of a file for a zone.
    fn edek_mut(&mut self, file: FileId, zone: ZoneId) -> Option<&mut records::Edek> {
        match self.bodies.get_mut(&file) {
            Some(body) => body.edek_of_mut(zone),
            None => self.open.get_mut(&file)?.edek.as_mut(),
        }
    }

    /// Gives a file its new EDEK if it still has the old one. Says whether it did.
    fn swap(&mut self, txn: &mut impl Txn, zone: ZoneId, stale: &Stale, fresh: &Fresh) -> Result<bool, MetadataError> {
        let file = stale.file;
        let edek = self.edek_mut(file, zone);
        let changed = exchange(txn, file, edek, stale, fresh)?;
        match (self.bodies.get(&file), self.open.get(&file)) {
            (Some(body), _) if changed => access::put(txn, &keys::body(file), body),
            (None, Some(open)) if changed => access::put(txn, &keys::open_file(file), open),
            _ => {}
        }
        Ok(changed)
    }
}

/// The records of those of `files` that have one.
async fn found<M: Message + Default>(
    reader: &mut impl Reader,
    files: &[FileId],
    key: fn(FileId) -> Vec<u8>,
    what: &'static str,
) -> Result<HashMap<FileId, M>, MetadataError> {
    let keys: Vec<Vec<u8>> = files.iter().map(|file| key(*file)).collect();
    let records = access::records(reader, &keys, what).await?;
    let found = files.iter().zip(records);
    Ok(found.filter_map(|(file, record)| Some((*file, record?))).collect())
}

/// Swaps in what was re-wrapped, counts, and moves the cursor, all in one transaction; a version above the target becomes the target,
/// and the pass starts anew. The job as it is then; none, and nothing done, if somebody else dealt with the page, for which the job
/// was `seen`, or with the job.
pub(crate) async fn apply(
    store: &impl Store,
    id: JobId,
    seen: &Job,
    outcomes: &[Outcome],
) -> Result<Option<Job>, MetadataError> {
    let outcomes = outcomes.to_vec();
    transact!(store, [outcomes, seen], |txn| apply_in(txn, id, &seen, &outcomes)).await
}

async fn apply_in(
    txn: &mut impl Txn,
    id: JobId,
    seen: &Job,
    outcomes: &[Outcome],
) -> Result<Option<Job>, MetadataError> {
    let Some(mut job) = record::running(txn, id).await?.filter(|job| is_at(job, seen)) else {
        return Ok(None);
    };
    let zone = job.zone_id.as_ref().try_into()?;
    let least = access::zone(txn, zone).await?.map_or(0, |record| record.version_min);
    let to_swap = outcomes.iter().filter(|outcome| outcome.fresh.is_some());
    let mut holders = Holders::of(txn, to_swap.map(|outcome| outcome.stale.file)).await?;
    for Outcome { stale, fresh } in outcomes {
        match fresh {
            Some(fresh) if fresh.version.0 < job.target_version => return Err(older(&job, fresh.version)),
            // A call that was under way when the zone was proved free of old versions comes too late.
            Some(fresh) if fresh.version.0 < least => {}
            Some(fresh) => job.done += u64::from(holders.swap(txn, zone, stale, fresh)?),
            None if stale.wrapped.is_empty() => {}
            None => job.failures += 1,
        }
        job.cursor_version = stale.version.0;
        job.cursor_file = stale.file.into();
    }
    let newest = outcomes
        .iter()
        .filter_map(|outcome| outcome.fresh.as_ref())
        .map(|fresh| fresh.version.0)
        .max();
    if let Some(newest) = newest.filter(|newest| *newest > job.target_version) {
        raise(txn, &mut job, zone, newest).await?;
    }
    job.message.clear();
    record::put(txn, id, &job);
    Ok(Some(job))
}

fn older(job: &Job, answered: KeyVersion) -> MetadataError {
    MetadataError::OlderVersion {
        zone: job.path.clone(),
        answered,
        target: KeyVersion(job.target_version),
    }
}

/// Has a job aim at a newer version, because the key was rolled again while it ran, in a pass from the start.
async fn raise(txn: &mut impl Txn, job: &mut Job, zone: ZoneId, target: u32) -> Result<(), MetadataError> {
    if let Some(mut record) = access::zone(txn, zone).await? {
        record.version_min = record.version_min.max(target);
        access::put(txn, &keys::zone(zone), &record);
    }
    job.target_version = target;
    job.failures = 0;
    job.cursor_version = 0;
    job.cursor_file.clear();
    Ok(())
}

/// Whether a job is as far as the one that was `seen`.
fn is_at(job: &Job, seen: &Job) -> bool {
    let place = |job: &Job| (job.target_version, job.cursor_version);
    place(job) == place(seen) && job.cursor_file == seen.cursor_file
}

fn exchange(
    txn: &mut impl Txn,
    file: FileId,
    edek: Option<&mut records::Edek>,
    stale: &Stale,
    fresh: &Fresh,
) -> Result<bool, MetadataError> {
    let Some(edek) = edek.filter(|edek| edek.wrapped == stale.wrapped && edek.key_version == stale.version.0) else {
        return Ok(false);
    };
    counted::delete_index(txn, edek, file)?;
    edek.key_version = fresh.version.0;
    edek.wrapped = fresh.wrapped.clone();
    counted::put_index(txn, edek, file)?;
    Ok(true)
}

/// Records that a pass is over. Says whether it is: not if the job moved on since it was `seen`.
pub(crate) async fn finish(store: &impl Store, id: JobId, seen: &Job, now_ms: u64) -> Result<bool, MetadataError> {
    transact!(store, [seen], |txn| finish_in(txn, id, &seen, now_ms)).await
}

async fn finish_in(txn: &mut impl Txn, id: JobId, seen: &Job, now_ms: u64) -> Result<bool, MetadataError> {
    let Some(mut job) = record::running(txn, id).await?.filter(|job| is_at(job, seen)) else {
        return Ok(false);
    };
    // What was passed over without a word, if anything could be, is not to be called done.
    let zone = job.zone_id.as_ref().try_into()?;
    let left = counted::files_before(txn, zone, KeyVersion(job.target_version)).await?;
    job.failures = job.failures.max(left);
    let message = match job.failures {
        0 => String::new(),
        failures => format!("{failures} files keep their old EDEK and stay readable; start again to retry them"),
    };
    job.end(JobState::Completed, now_ms, message);
    record::put(txn, id, &job);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use strongroom_kv::EmbeddedStore;

    use super::*;

    async fn job(store: &EmbeddedStore, id: JobId) -> Job {
        let mut view = store.snapshot().await.expect("a view");
        access::job(&mut view, id).await.expect("readable").expect("there")
    }

    #[tokio::test]
    async fn of_two_who_work_on_one_page_one_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = EmbeddedStore::open(&dir.path().join("store")).expect("a store");
        let id = JobId::generate();
        let begun = Job {
            kind: records::JobKind::Reencryption.into(),
            state: JobState::Running.into(),
            zone_id: ZoneId::from_bytes([1; 16]).into(),
            target_version: 1,
            ..Job::default()
        };
        let mut txn = store.begin().await.expect("a transaction");
        record::begin(&mut txn, id, begun.clone());
        txn.commit().await.expect("committed");

        let failed = [Outcome {
            stale: Stale {
                file: FileId::from_bytes([2; 16]),
                version: KeyVersion(0),
                wrapped: Bytes::from_static(b"EDEK"),
            },
            fresh: None,
        }];
        let now_ms = 7;
        let applied = apply(&store, id, &begun, &failed).await.expect("readable");
        let again = apply(&store, id, &begun, &failed).await.expect("readable");
        assert_eq!(again, None, "somebody else has dealt with the page");
        let moved = applied.expect("done");
        assert_eq!((moved.failures, moved.cursor_file.len()), (1, 16));
        assert!(!finish(&store, id, &begun, now_ms).await.expect("void"));
        assert!(finish(&store, id, &moved, now_ms).await.expect("finished"));
        let over = job(&store, id).await;
        assert!(over.state() == JobState::Completed && over.finished_ms == now_ms);
        assert!(over.message.starts_with("1 files"), "{}", over.message);
        assert!(!finish(&store, id, &moved, now_ms).await.expect("void"));
    }
}
