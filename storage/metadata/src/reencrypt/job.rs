//! Starting a re-encryption and telling how far it is.

use std::time::Duration;

use strongroom_kv::{Store, Txn};
use strongroom_proto::{Failure, KeyName, KeyVersion, Reason, ZoneId, ZonePath, metadata::v1 as pb};

use crate::{
    core::Core,
    error::MetadataError,
    namespace::resolve::{Found, find},
    schema::{access, access::transact, counted, keys, records},
    zones::source::EdekSource,
};

/// Starts the re-encryption of the zone at `path`, or answers with the one that runs.
pub(crate) async fn start<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    path: &ZonePath,
) -> Result<pb::Reencryption, MetadataError> {
    let mut txn = core.store.begin().await?;
    let (zone, record) = zone_at(&mut txn, path).await?;
    let running = access::reencryption(&mut txn, zone)
        .await?
        .is_some_and(|job| job.running);
    drop(txn);
    if !running {
        let key: KeyName = record.key_name.parse()?;
        let target = newest_version(core, zone, &key).await?;
        let started_ms = core.clock.now_ms();
        transact!(&core.store, [path], |txn| persist(txn, &path, zone, target, started_ms)).await?;
        core.stock.drop_zone(zone);
        core.stock.warm(zone, &key);
        core.work.notify_one();
    }
    status(core, path).await
}

/// How far the re-encryption of the zone at `path` is.
pub(crate) async fn status<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    path: &ZonePath,
) -> Result<pb::Reencryption, MetadataError> {
    let mut txn = core.store.begin().await?;
    let (zone, _) = zone_at(&mut txn, path).await?;
    let job = access::reencryption(&mut txn, zone).await?;
    let files = counted::files_by_version(&mut txn, zone).await?;
    drop(txn);
    let Some(job) = job else {
        return Ok(pb::Reencryption {
            zone_path: path.into(),
            state: pb::ReencryptionState::None.into(),
            ..pb::Reencryption::default()
        });
    };
    let stale = files.iter().filter(|(version, _)| version.0 != job.target_version);
    let state = if job.running {
        pb::ReencryptionState::Running
    } else {
        pb::ReencryptionState::Completed
    };
    Ok(pb::Reencryption {
        zone_path: path.into(),
        state: state.into(),
        target_version: job.target_version,
        files_done: job.done,
        failures: job.failures,
        files_left: stale.map(|(_, files)| files).sum(),
        started_ms: job.started_ms,
        finished_ms: (!job.running).then_some(job.finished_ms),
        message: job.message,
    })
}

/// The zone whose root is at `path`.
pub(crate) async fn zone_at(txn: &mut impl Txn, path: &ZonePath) -> Result<(ZoneId, records::Zone), MetadataError> {
    let Found { entry, zone, .. } = find(txn, path).await?;
    let Some(id) = entry.zone()? else {
        return Err(MetadataError::NotZoneRoot {
            path: path.clone(),
            zone: zone.map(|zone| zone.path),
        });
    };
    let record = access::zone(txn, id)
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

/// Records the job, and in the zone that no new file takes an EDEK of an older version.
async fn persist(
    txn: &mut impl Txn,
    path: &ZonePath,
    zone: ZoneId,
    target: KeyVersion,
    started_ms: u64,
) -> Result<(), MetadataError> {
    let (found, mut record) = zone_at(txn, path).await?;
    if found != zone {
        return Err(MetadataError::NotFound(path.clone()));
    }
    if access::reencryption(txn, zone).await?.is_some_and(|job| job.running) {
        return Ok(());
    }
    record.version_min = record.version_min.max(target.0);
    access::put(txn, &keys::zone(zone), &record);
    let job = records::Reencryption {
        running: true,
        target_version: target.0,
        started_ms,
        ..records::Reencryption::default()
    };
    access::put(txn, &keys::reencryption(zone), &job);
    Ok(())
}
