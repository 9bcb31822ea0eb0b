//! Zones: their records against their roots, and a sample of their EDEKs against the key service.

use std::time::Duration;

use bytes::Bytes;
use strongroom_kv::{Reader, Store};
use strongroom_proto::{FileId, KeyName, KeyVersion, ZoneId, metadata::v1 as pb};
use tokio::time::timeout;

use super::{
    Directories, Question,
    body::{edeks_of, is_of},
    finding,
    orphans::is_zone_root,
};
use crate::{
    core::Core,
    error::MetadataError,
    schema::{access, keys, records},
    zones::source::EdekSource,
};

/// Zones in one page: of each some EDEKs may be tried.
const ZONES_PER_PAGE: usize = 20;
/// How long the key service may take for the EDEKs of one zone.
const TRY_MAX: Duration = Duration::from_secs(5);

/// An EDEK that is tried.
struct Sample {
    file: FileId,
    version: KeyVersion,
    wrapped: Bytes,
}

/// A page of zones.
pub(super) async fn check<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    question: &Question,
) -> Result<pb::CheckPageResponse, MetadataError> {
    let mut page = pb::CheckPageResponse::default();
    let mut view = core.store.snapshot().await?;
    if question.after.is_empty() {
        page.findings.extend(super::entries::root(&mut view).await?);
    }
    let range = if question.after.is_empty() {
        keys::zones()
    } else {
        keys::zones().after(&question.after)
    };
    let found = access::page(&mut view, &range, ZONES_PER_PAGE).await?;
    drop(view);
    page.looked_at = found.len() as u64;
    for (key, value) in &found {
        let record: Option<records::Zone> = access::decode(value.clone(), "zone").ok();
        let (Some(zone), Some(record)) = (keys::zone_of(key), record) else {
            let what = format!("the record of zone {} cannot be read", hex::encode(&key[1..]));
            page.findings
                .push(finding(pb::FindingKind::Unreadable, Bytes::new(), what));
            continue;
        };
        page.findings.extend(of_zone(core, question, zone, &record).await?);
    }
    if let Some((last, _)) = found.last().filter(|_| found.len() == ZONES_PER_PAGE) {
        page.next = last.clone();
    }
    Ok(page)
}

async fn of_zone<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    question: &Question,
    zone: ZoneId,
    record: &records::Zone,
) -> Result<Vec<pb::Finding>, MetadataError> {
    let mut view = core.store.snapshot().await?;
    let is_sound = match is_zone_root(&mut view, zone, record).await {
        Ok(is_sound) => is_sound,
        Err(MetadataError::Corrupt { .. }) => false,
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    if !is_sound {
        let what = format!(
            "zone {zone} under key {} has a record, and no directory is its root",
            record.key_name
        );
        found.push(finding(pb::FindingKind::Zone, Bytes::new(), what));
    }
    let samples = samples(&mut view, zone, question.sample_edeks).await?;
    drop(view);
    if samples.is_empty() {
        return Ok(found);
    }
    let attempted = match record.key_name.parse() {
        Ok(key) => attempt(core, zone, &key, &samples).await,
        Err(error) => Err(error.to_string()),
    };
    match attempted {
        Ok(refused) => {
            let mut view = core.store.snapshot().await?;
            for (file, why) in refused {
                let at = Directories::default().get(&mut view, &question.who, file).await?;
                let path = at.map_or_else(Bytes::new, |at| (&at.path).into());
                let what = format!("the EDEK of file {file} does not open in the key service: {why}");
                found.push(finding(pb::FindingKind::Edek, path, what));
            }
        }
        Err(why) => {
            let what = format!(
                "EDEKs of zone {zone} under key {} cannot be tried: {why}",
                record.key_name
            );
            found.push(finding(pb::FindingKind::Edek, Bytes::new(), what));
        }
    }
    Ok(found)
}

/// Some EDEKs of a zone: the first of its index, which are of the oldest versions.
async fn samples(reader: &mut impl Reader, zone: ZoneId, count: usize) -> Result<Vec<Sample>, MetadataError> {
    let mut samples = Vec::new();
    for (key, _) in access::page(reader, &keys::index_of_zone(zone), count).await? {
        let Some((version, file)) = keys::index_entry(&key) else {
            continue;
        };
        let edeks = edeks_of(reader, file).await.unwrap_or_default();
        if let Some(edek) = edeks.into_iter().find(|edek| is_of(edek, zone, version)) {
            let wrapped = edek.wrapped;
            samples.push(Sample { file, version, wrapped });
        }
    }
    Ok(samples)
}

/// Has EDEKs re-wrapped, and throws away what comes back: what can be re-wrapped opens. Those that cannot be, and why.
async fn attempt<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    zone: ZoneId,
    key: &KeyName,
    samples: &[Sample],
) -> Result<Vec<(FileId, String)>, String> {
    let edeks: Vec<(KeyVersion, Bytes)> = samples
        .iter()
        .map(|sample| (sample.version, sample.wrapped.clone()))
        .collect();
    let answer = match timeout(TRY_MAX, core.source.rewrap(key, &zone, &edeks)).await {
        Ok(answer) => answer.map_err(|failure| failure.message)?,
        Err(_) => return Err(format!("the key service did not answer for {} s", TRY_MAX.as_secs())),
    };
    let outcomes = samples.iter().zip(answer.results);
    let refused = outcomes.filter_map(|(sample, outcome)| Some((sample.file, outcome.err()?.message)));
    Ok(refused.collect())
}
