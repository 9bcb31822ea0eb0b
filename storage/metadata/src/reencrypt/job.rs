//! Starting and canceling a re-encryption, and telling how far it is.

use std::time::Duration;

use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{Failure, JobId, KeyName, KeyVersion, Reason, ZoneId, ZonePath, metadata::v1 as pb};

use crate::{
    authority::Caller,
    core::Core,
    error::MetadataError,
    jobs::{
        control::{Action, change, files_left},
        record,
    },
    namespace::{
        remove::zone_root,
        resolve::{Found, climb, find},
    },
    schema::{
        access,
        access::transact,
        keys,
        records::{self, Job, JobKind, JobState},
    },
    zones::source::EdekSource,
};

/// Re-encryptions in one page of a listing.
const PAGE_MAX: usize = 1000;

/// Starts the re-encryption of the zone at `path`, or goes on with the one that was begun and is not over.
pub(crate) async fn start<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    path: &ZonePath,
    throttle: Option<u32>,
) -> Result<pb::Reencryption, MetadataError> {
    let mut view = core.store.snapshot().await?;
    let (zone, record) = zone_at(&mut view, who, path).await?;
    drop(view);
    let now_ms = core.clock.now_ms();
    match transact!(&core.store, [], |txn| go_on(txn, zone, throttle, now_ms)).await? {
        Some(_) => {}
        None => {
            let key: KeyName = record.key_name.parse()?;
            let target = newest_version(core, zone, &key).await?;
            let job = Job {
                kind: JobKind::Reencryption.into(),
                owner: who.name.as_str().to_owned(),
                path: path.to_string(),
                created_ms: now_ms,
                throttle: throttle.unwrap_or(0),
                zone_id: zone.into(),
                target_version: target.0,
                ..Job::default()
            };
            transact!(&core.store, [who, path, job], |txn| persist(
                txn, &who, &path, zone, job, throttle
            ))
            .await?;
            core.stock.drop_zone(zone);
            core.stock.warm(zone, &key);
        }
    }
    core.work.notify_one();
    status(core, who, path).await
}

/// Ends the re-encryption of the zone at `path`, if one is under way.
pub(crate) async fn cancel<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    path: &ZonePath,
) -> Result<pb::Reencryption, MetadataError> {
    let mut view = core.store.snapshot().await?;
    let (zone, _) = zone_at(&mut view, who, path).await?;
    let begun = access::reencryption(&mut view, zone).await?;
    drop(view);
    if let Some((id, _)) = begun {
        change(&core.store, id, Action::Cancel, core.clock.now_ms()).await?;
    }
    status(core, who, path).await
}

/// How far the re-encryption of the zone at `path` is.
pub(crate) async fn status<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    path: &ZonePath,
) -> Result<pb::Reencryption, MetadataError> {
    let mut view = core.store.snapshot().await?;
    let (zone, record) = zone_at(&mut view, who, path).await?;
    match access::reencryption(&mut view, zone).await? {
        Some((id, job)) => wire(&mut view, who, path, (id, &job), &record, core.clock.now_ms()).await,
        None => Ok(pb::Reencryption {
            zone_path: path.into(),
            state: pb::ReencryptionState::None.into(),
            key_name: record.key_name,
            ..pb::Reencryption::default()
        }),
    }
}

/// The newest re-encryptions of zones with ids greater than `after`.
pub(crate) async fn list<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    after: Option<ZoneId>,
    limit: usize,
) -> Result<pb::ListReencryptionsResponse, MetadataError> {
    let limit = limit.min(PAGE_MAX);
    let mut range = keys::reencryptions();
    if let Some(after) = after {
        range = range.after(&keys::reencryption(after));
    }
    let mut view = core.store.snapshot().await?;
    let found = access::page(&mut view, &range, limit).await?;
    let mut listed = pb::ListReencryptionsResponse::default();
    for (key, _) in &found {
        let zone = keys::zone_of(key).ok_or(MetadataError::Corrupt { what: "re-encryption" })?;
        let root = zone_root(&mut view, who, zone).await?;
        let job = access::reencryption(&mut view, zone).await?;
        if let (Some((record, root)), Some((id, job))) = (root, job) {
            let now_ms = core.clock.now_ms();
            let status = wire(&mut view, who, &root.path, (id, &job), &record, now_ms).await?;
            listed.reencryptions.push(status);
        }
        if found.len() == limit {
            listed.next = zone.into();
        }
    }
    Ok(listed)
}

async fn wire(
    reader: &mut impl Reader,
    who: &Caller,
    path: &ZonePath,
    (id, job): (JobId, &Job),
    zone: &records::Zone,
    now_ms: u64,
) -> Result<pb::Reencryption, MetadataError> {
    let state = match job.state() {
        JobState::Unspecified => pb::ReencryptionState::Unspecified,
        JobState::Running => pb::ReencryptionState::Running,
        JobState::Paused => pb::ReencryptionState::Paused,
        JobState::Completed => pb::ReencryptionState::Completed,
        JobState::Canceled => pb::ReencryptionState::Canceled,
    };
    let files_left = files_left(reader, job).await?;
    let rate = job.rate(now_ms);
    Ok(pb::Reencryption {
        zone_path: path.into(),
        state: state.into(),
        target_version: job.target_version,
        files_done: job.done,
        failures: job.failures,
        files_left,
        started_ms: job.created_ms,
        finished_ms: job.is_over().then_some(job.finished_ms),
        message: job.message.clone(),
        job_id: id.into(),
        key_name: zone.key_name.clone(),
        last_file: last_file(reader, who, job).await?,
        throttle: job.throttle,
        rate,
        seconds_left: (rate > 0).then(|| files_left.div_ceil(rate.max(1))),
    })
}

/// Where the file is that was dealt with last; empty if it went, or the caller may not reach it.
async fn last_file(reader: &mut impl Reader, who: &Caller, job: &Job) -> Result<bytes::Bytes, MetadataError> {
    let Some((_, file)) = job.cursor()? else {
        return Ok(bytes::Bytes::new());
    };
    match climb(reader, who, file).await {
        Ok(found) => Ok(found.map(|found| (&found.path).into()).unwrap_or_default()),
        Err(MetadataError::TooDeep(_) | MetadataError::Forbidden(_)) => Ok(bytes::Bytes::new()),
        Err(error) => Err(error),
    }
}

/// The zone whose root is at `path`.
pub(crate) async fn zone_at(
    reader: &mut impl Reader,
    who: &Caller,
    path: &ZonePath,
) -> Result<(ZoneId, records::Zone), MetadataError> {
    let Found { entry, zone, .. } = find(reader, who, path).await?;
    let Some(id) = entry.zone()? else {
        return Err(MetadataError::NotZoneRoot {
            path: path.clone(),
            zone: zone.map(|zone| zone.path),
        });
    };
    let record = access::zone(reader, id)
        .await?
        .ok_or(MetadataError::Corrupt { what: "zone" })?;
    Ok((id, record))
}

/// Mints one EDEK, which nobody gets, to learn the newest version. The stock is dropped first: what is in it may
/// be of an older one.
async fn newest_version<S, E: EdekSource>(
    core: &Core<S, E>,
    zone: ZoneId,
    key: &KeyName,
) -> Result<KeyVersion, MetadataError> {
    core.stock.drop_zone(zone);
    let wait = Duration::from_millis(core.settings.mint_wait_ms);
    match tokio::time::timeout(wait, core.source.mint(key, &zone, 1)).await {
        Ok(outcome) => {
            let version = outcome?.version;
            core.stock.learned(key, version);
            Ok(version)
        }
        Err(_) => Err(Failure::new(
            Reason::Unavailable,
            format!(
                "the key service did not answer for {} ms; check that it runs",
                wait.as_millis()
            ),
        )
        .into()),
    }
}

/// Has the re-encryption of a zone that was begun and is not over go on, at another pace if one is given. None if there is none.
async fn go_on(
    txn: &mut impl Txn,
    zone: ZoneId,
    throttle: Option<u32>,
    now_ms: u64,
) -> Result<Option<JobId>, MetadataError> {
    let begun = access::reencryption(txn, zone).await?;
    let Some((id, mut job)) = begun.filter(|(_, job)| !job.is_over()) else {
        return Ok(None);
    };
    if job.state() != JobState::Running || throttle.is_some() {
        job.throttle = throttle.unwrap_or(job.throttle);
        job.resume(now_ms);
        record::put(txn, id, &job);
    }
    Ok(Some(id))
}

/// Records the job, and in the zone that no new file takes an EDEK of an older version. If somebody else began one meanwhile, that
/// one goes on.
async fn persist(
    txn: &mut impl Txn,
    who: &Caller,
    path: &ZonePath,
    zone: ZoneId,
    job: Job,
    throttle: Option<u32>,
) -> Result<(), MetadataError> {
    let (found, mut record) = zone_at(txn, who, path).await?;
    if found != zone {
        return Err(MetadataError::NotFound(path.clone()));
    }
    if go_on(txn, zone, throttle, job.created_ms).await?.is_some() {
        return Ok(());
    }
    record.version_min = record.version_min.max(job.target_version);
    access::put(txn, &keys::zone(zone), &record);
    let id = JobId::generate();
    txn.put(&keys::reencryption(zone), bytes::Bytes::from(id));
    record::begin(txn, id, job);
    Ok(())
}
