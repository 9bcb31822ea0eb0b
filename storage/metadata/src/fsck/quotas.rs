//! What quotas have used against a walk through their directories that believes no counter.

use strongroom_kv::Reader;
use strongroom_proto::QuotaId;
use tokio::time::Instant;

use super::counters::{Counts, Wrong};
use crate::{
    authority::Caller,
    error::MetadataError,
    namespace::resolve::climb,
    quota::{self, size},
    schema::keys::{self, Measure},
};

/// The counters of one quota. One that is being counted, or whose directory is being removed, is left alone.
pub(super) async fn check(
    reader: &mut impl Reader,
    who: &Caller,
    id: QuotaId,
    deadline: Instant,
) -> Result<Counts, MetadataError> {
    let nothing = || Some((0, Vec::new()));
    let Some(directory) = quota::directory(reader, id).await? else {
        return Ok(nothing());
    };
    let Some(found) = climb(reader, who, directory).await? else {
        return Ok(nothing());
    };
    let of_entry = found.entry.quota.as_ref();
    let Some(of_entry) = of_entry.filter(|quota| quota.id.as_ref() == id.as_bytes()) else {
        return Err(MetadataError::Corrupt { what: "quota" });
    };
    if !of_entry.counted {
        return Ok(nothing());
    }
    let Some(there) = size::walked(reader, &found.entry, deadline).await? else {
        return Ok(None);
    };
    let told = quota::used(reader, id).await?;
    let wrong = Measure::ALL.into_iter().filter_map(|measure| {
        let (told, rows) = (told.of_measure(measure), there.of_measure(measure));
        let key = keys::used(id, measure);
        (told != rows).then_some(Wrong { key, told, rows })
    });
    Ok(Some((there.of_measure(Measure::Names).unsigned_abs(), wrong.collect())))
}
