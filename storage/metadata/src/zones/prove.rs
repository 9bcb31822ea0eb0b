//! Proving that a zone uses no old version of its key, and seeing to it that this stays so.
//!
//! The transaction that finds no index entry of an old version also raises the zone's `version_min`: an EDEK that was taken
//! from the stock before it, or re-wrapped by a call that was under way, cannot be recorded after it. So what the proof
//! says holds from its date on, and not only at one moment.

use std::time::Duration;

use strongroom_kv::{Store, Txn};
use strongroom_proto::{
    Failure, KeyName, KeyVersion, Reason, ZoneId, ZonePath,
    proof::{SignedProof, ZoneProof},
};

use super::source::EdekSource;
use crate::{
    authority::Caller,
    core::Core,
    error::MetadataError,
    namespace::remove::zone_root,
    reencrypt::job::zone_at,
    schema::{
        access,
        access::transact,
        counted,
        keys::{self, KeyRange},
        records,
    },
};

/// Index entries that are looked at to tell how many of the files are still being written.
const OPEN_LOOKED_AT_MAX: usize = 1000;

/// Which zone a proof is asked of.
#[derive(Debug, Clone)]
pub(crate) enum Which {
    /// The one whose root is at a path.
    At(ZonePath),
    /// By its id, also one that was removed; then `key` is the key that it had.
    Id { zone: ZoneId, key: Option<KeyName> },
}

/// A zone as the proof names it.
#[derive(Debug, Clone)]
struct Subject {
    zone: ZoneId,
    key: KeyName,
    known: bool,
    /// How messages call it.
    name: String,
}

/// A signed proof that the zone uses no version of its key up to `through`. That the caller is a superuser was checked
/// before.
pub(crate) async fn prove<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    which: &Which,
    through: KeyVersion,
) -> Result<SignedProof, MetadataError> {
    let least = through.next().ok_or_else(|| MetadataError::Field {
        field: "through_version",
        rule: format!("at most {}", u32::MAX - 1),
    })?;
    let subject = subject(&mut core.store.begin().await?, who, which).await?;
    if subject.known {
        check_newest(core, &subject, through).await?;
        core.stock.raise(subject.zone, least);
    }
    // Before the look: what is true at the commit and stays true is then true of any later date.
    let issued_ms = core.clock.now_ms();
    let zone = subject.zone;
    let key = subject.key.clone();
    if !transact!(&core.store, [key], |txn| close(txn, zone, &key, least)).await? {
        return Err(in_use(core, who, &subject, through, least).await?);
    }
    let proof = ZoneProof {
        zone,
        key: subject.key,
        through,
        issued_ms,
        known: subject.known,
        issuer: core.identity.identity().clone(),
    };
    Ok(proof.sign(&core.identity)?)
}

async fn subject(txn: &mut impl Txn, who: &Caller, which: &Which) -> Result<Subject, MetadataError> {
    match which {
        Which::At(path) => {
            let (zone, record) = zone_at(txn, who, path).await?;
            check_adopted(txn, zone, &record, path).await?;
            Ok(Subject {
                zone,
                key: record.key_name.parse()?,
                known: true,
                name: path.to_string(),
            })
        }
        Which::Id { zone, key } => {
            let record = access::zone(txn, *zone).await?;
            if let Some(record) = &record {
                check_adopted(txn, *zone, record, zone).await?;
            }
            let known = record.is_some();
            let recorded = record.map(|record| record.key_name.parse::<KeyName>()).transpose()?;
            Ok(Subject {
                zone: *zone,
                key: agreed(recorded, key.clone())?,
                known,
                name: zone.to_string(),
            })
        }
    }
}

/// Refuses while files of the zone are not encrypted: they use no version of its key, and whoever reads the proof would take them for
/// safe. A zone that is through with that begins again only if a defect is found in it.
async fn check_adopted(
    txn: &mut impl Txn,
    zone: ZoneId,
    record: &records::Zone,
    name: &impl std::fmt::Display,
) -> Result<(), MetadataError> {
    if !record.is_adopting() {
        return Ok(());
    }
    Err(MetadataError::ZoneAdopting {
        zone: name.to_string(),
        left: counted::plain_left(txn, zone).await?,
    })
}

/// The zone's key, of what is recorded and what the caller says.
fn agreed(recorded: Option<KeyName>, said: Option<KeyName>) -> Result<KeyName, MetadataError> {
    let field = |rule: String| MetadataError::Field {
        field: "key_name",
        rule,
    };
    match (recorded, said) {
        (Some(recorded), Some(said)) if recorded != said => {
            Err(field(format!("the zone's key is {recorded}, not {said}")))
        }
        (Some(key), _) | (None, Some(key)) => Ok(key),
        (None, None) => Err(field(
            "the zone was removed, so its key has to be named; give it with --key".to_owned(),
        )),
    }
}

/// Refuses while `through` is what new files would get. A key that mints nothing any more is no obstacle.
async fn check_newest<S, E: EdekSource>(
    core: &Core<S, E>,
    subject: &Subject,
    through: KeyVersion,
) -> Result<(), MetadataError> {
    let wait = Duration::from_millis(core.settings.mint_wait_ms);
    let minted = tokio::time::timeout(wait, core.source.mint(&subject.key, &subject.zone, 1)).await;
    match minted {
        Ok(Ok(minted)) => {
            core.stock.learned(&subject.key, minted.version);
            if minted.version > through {
                return Ok(());
            }
            Err(MetadataError::NewestVersion {
                zone: subject.name.clone(),
                key: subject.key.clone(),
                newest: minted.version,
            })
        }
        Ok(Err(failure)) if matches!(failure.reason, Reason::KeyVersionUnusable | Reason::KeyNotFound) => Ok(()),
        Ok(Err(failure)) => Err(failure.into()),
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

/// Sees to it that the zone records no EDEK older than `least` again. False, and nothing changed, if it holds one.
async fn close(txn: &mut impl Txn, zone: ZoneId, key: &KeyName, least: KeyVersion) -> Result<bool, MetadataError> {
    if !access::page(txn, &older_than(zone, least), 1).await?.is_empty() {
        return Ok(false);
    }
    match access::zone(txn, zone).await? {
        Some(mut record) if record.version_min < least.0 => {
            record.version_min = least.0;
            access::put(txn, &keys::zone(zone), &record);
        }
        Some(_) => {}
        // One may be made with its id again.
        None => {
            let before = access::removed_zone(txn, zone).await?.unwrap_or_default();
            let left = records::RemovedZone {
                key_name: key.as_str().to_owned(),
                version_min: before.version_min.max(least.0),
            };
            access::put(txn, &keys::removed_zone(zone), &left);
        }
    }
    Ok(true)
}

fn older_than(zone: ZoneId, least: KeyVersion) -> KeyRange {
    KeyRange {
        start: keys::index_of_zone(zone).start,
        end: keys::index_of_version(zone, least).start,
    }
}

/// How many files stand in the way.
async fn in_use<S: Store, E>(
    core: &Core<S, E>,
    who: &Caller,
    subject: &Subject,
    through: KeyVersion,
    least: KeyVersion,
) -> Result<MetadataError, MetadataError> {
    let mut view = core.store.snapshot().await?;
    let counts = counted::files_by_version(&mut view, subject.zone).await?;
    let old = counts.iter().filter(|(version, _)| **version <= through);
    let files = old.map(|(_, files)| files).sum();
    if zone_root(&mut view, who, subject.zone).await?.is_none() {
        return Ok(MetadataError::ZoneBeingRemoved {
            zone: subject.name.clone(),
            key: subject.key.clone(),
            through,
            files,
        });
    }
    let looked_at = access::page(&mut view, &older_than(subject.zone, least), OPEN_LOOKED_AT_MAX).await?;
    let mut open = 0;
    for (key, _) in &looked_at {
        let (_, file) = keys::index_entry(key).ok_or(MetadataError::Corrupt { what: "index entry" })?;
        let is_new = |open: records::OpenFile| open.generation == 0;
        open += usize::from(access::open_file(&mut view, file).await?.is_some_and(is_new));
    }
    Ok(MetadataError::ZoneUsesVersion {
        zone: subject.name.clone(),
        key: subject.key.clone(),
        through,
        files,
        open,
    })
}
