//! Counters against the rows that they count. Both are read in one view, however long that takes; a repair adds the difference, which
//! stays right whatever is added and removed meanwhile.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use strongroom_kv::{Reader, Store, StoreError, Txn, counter};
use strongroom_proto::{QuotaId, ZoneId, metadata::v1 as pb};
use tokio::{task::yield_now, time::Instant};

use super::{Question, finding, quotas};
use crate::{
    core::Core,
    error::MetadataError,
    schema::{
        access,
        access::transact,
        keys::{self, Counted, KeyRange},
        records,
    },
    zones::source::EdekSource,
};

/// Rows read at once.
const ROWS: usize = 5_000;
/// How long one count may take: a call has to be answered.
const COUNT_MAX: Duration = Duration::from_secs(10);

/// What one page is about, by the cursor that leads to it.
enum Subject {
    Table(Counted),
    Plain,
    Zone(ZoneId),
    Quota(QuotaId),
}

/// Begins the cursors of quotas, which are longer than those of zones.
const QUOTAS: u8 = b'q';

/// A counter that is wrong.
pub(super) struct Wrong {
    pub(super) key: Vec<u8>,
    pub(super) told: i64,
    pub(super) rows: i64,
}

/// One counter of rows, or the counters of one zone.
pub(super) async fn check<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    question: &Question,
) -> Result<pb::CheckPageResponse, MetadataError> {
    let mut view = core.store.snapshot().await?;
    let (subject, next) = match question.after.as_slice() {
        [] => (Some(Subject::Table(Counted::Deficits)), vec![1]),
        [1] => (Some(Subject::Table(Counted::Garbage)), vec![2]),
        [2] => (Some(Subject::Table(Counted::OpenFiles)), vec![3]),
        [QUOTAS, after @ ..] if after.is_empty() || after.len() == 16 => next_quota(&mut view, after).await?,
        [3] => (Some(Subject::Plain), vec![4]),
        after => next_zone(&mut view, after).await?,
    };
    let mut page = pb::CheckPageResponse {
        next: next.into(),
        ..pb::CheckPageResponse::default()
    };
    let deadline = Instant::now() + COUNT_MAX;
    let (what, counts) = match subject {
        None => return Ok(page),
        Some(Subject::Table(table)) => (table_name(table).to_owned(), of_table(&mut view, table, deadline).await),
        Some(Subject::Plain) => (
            "files that are not encrypted".to_owned(),
            of_plain(&mut view, deadline).await,
        ),
        Some(Subject::Zone(zone)) => (
            format!("files of zone {zone} by key version"),
            of_zone(&mut view, zone, deadline).await,
        ),
        Some(Subject::Quota(quota)) => (
            format!("names and bytes of quota {quota}"),
            quotas::check(&mut view, &question.who, quota, deadline).await,
        ),
    };
    drop(view);
    let counts = match counts {
        Err(MetadataError::Store(StoreError::NotACounter { key })) => {
            let what = format!("{what}: the counter {} cannot be read", hex::encode(key));
            page.findings
                .push(finding(pb::FindingKind::Unreadable, Bytes::new(), what));
            return Ok(page);
        }
        Err(MetadataError::Corrupt { what: broken }) => {
            let what = format!("{what} cannot be counted: a {broken} cannot be read");
            page.findings
                .push(finding(pb::FindingKind::Unreadable, Bytes::new(), what));
            return Ok(page);
        }
        Err(error @ MetadataError::TooDeep(_)) => {
            let what = format!("{what} cannot be counted: {error}");
            page.findings
                .push(finding(pb::FindingKind::Counter, Bytes::new(), what));
            return Ok(page);
        }
        counts => counts?,
    };
    let Some((looked_at, wrong)) = counts else {
        let what = format!(
            "{what} are too many to be counted in {} s; count an export of the namespace",
            COUNT_MAX.as_secs()
        );
        page.findings
            .push(finding(pb::FindingKind::Counter, Bytes::new(), what));
        return Ok(page);
    };
    page.looked_at = looked_at;
    for counter in wrong {
        let text = format!(
            "{what}: the counter {} says {}, there are {}",
            hex::encode(&counter.key),
            counter.told,
            counter.rows
        );
        let mut found = finding(pb::FindingKind::Counter, Bytes::new(), text);
        found.repaired = question.repair && repair(&core.store, &counter).await?;
        page.findings.push(found);
    }
    Ok(page)
}

const fn table_name(table: Counted) -> &'static str {
    match table {
        Counted::Deficits => "blocks that lack replicas",
        Counted::Garbage => "replicas to delete",
        Counted::OpenFiles => "files being written",
    }
}

/// The next zone that has an index entry or a counter, with the cursor behind it.
async fn next_zone(reader: &mut impl Reader, after: &[u8]) -> Result<(Option<Subject>, Vec<u8>), MetadataError> {
    let last = ZoneId::try_from(after).ok();
    let first = |range: KeyRange, prefix: KeyRange| KeyRange {
        start: prefix.end.max(range.start),
        end: range.end,
    };
    let rows = last.map_or_else(keys::indexes, |zone| first(keys::indexes(), keys::index_of_zone(zone)));
    let totals = last.map_or_else(keys::zone_totals, |zone| {
        first(keys::zone_totals(), keys::totals_of_zone(zone))
    });
    let of_row = access::page(reader, &rows, 1).await?;
    let of_total = access::page(reader, &totals, 1).await?;
    let zones = [
        of_row.first().and_then(|(key, _)| keys::zone_of(key)),
        of_total.first().and_then(|(key, _)| keys::total_zone(key)),
    ];
    let Some(zone) = zones.into_iter().flatten().min_by_key(|zone| *zone.as_bytes()) else {
        return Ok((None, vec![QUOTAS]));
    };
    Ok((Some(Subject::Zone(zone)), zone.as_bytes().to_vec()))
}

/// The next quota, with the cursor behind it.
async fn next_quota(reader: &mut impl Reader, after: &[u8]) -> Result<(Option<Subject>, Vec<u8>), MetadataError> {
    let range = match QuotaId::try_from(after) {
        Ok(last) => keys::quotas().after(&keys::quota(last)),
        Err(_) => keys::quotas(),
    };
    let found = access::page(reader, &range, 1).await?;
    let Some(quota) = found.first().and_then(|(key, _)| keys::quota_of(key)) else {
        return Ok((None, Vec::new()));
    };
    Ok((Some(Subject::Quota(quota)), [&[QUOTAS], &quota.as_bytes()[..]].concat()))
}

/// What was counted and what is wrong; none if there is too much to count.
pub(super) type Counts = Option<(u64, Vec<Wrong>)>;

async fn of_table(reader: &mut impl Reader, table: Counted, deadline: Instant) -> Result<Counts, MetadataError> {
    let mut rows = 0;
    let mut of_users: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    let is_whole = each_pair(reader, keys::counted(table), deadline, |(_, value)| {
        rows += 1;
        if let (Counted::OpenFiles, Ok(open)) = (table, access::decode::<records::OpenFile>(value, "open file")) {
            *of_users.entry(keys::open_files_of(&open.owner)).or_default() += 1;
        }
    })
    .await?;
    let key = keys::total(table);
    let told = counter(&key, reader.get(&key).await?.as_deref())?;
    let total = (told != rows).then_some(Wrong { key, told, rows });
    let is_whole = is_whole
        && match table {
            Counted::OpenFiles => with_totals(reader, keys::open_files_of_all(), deadline, &mut of_users).await?,
            Counted::Deficits | Counted::Garbage => true,
        };
    let wrong = total.into_iter().chain(wrong(reader, of_users).await?);
    Ok(is_whole.then(|| (rows.unsigned_abs(), wrong.collect())))
}

/// Adds the counters of a range that count nothing to what was counted. Says whether that was done in time.
async fn with_totals(
    reader: &mut impl Reader,
    totals: KeyRange,
    deadline: Instant,
    rows: &mut BTreeMap<Vec<u8>, i64>,
) -> Result<bool, MetadataError> {
    each(reader, totals, deadline, |key| {
        rows.entry(key.to_vec()).or_default();
    })
    .await
}

/// Those counters that say something else than was counted.
async fn wrong(reader: &mut impl Reader, rows: BTreeMap<Vec<u8>, i64>) -> Result<Vec<Wrong>, MetadataError> {
    let mut wrong = Vec::new();
    for (key, rows) in rows {
        let told = counter(&key, reader.get(&key).await?.as_deref())?;
        if told != rows {
            wrong.push(Wrong { key, told, rows });
        }
    }
    Ok(wrong)
}

async fn of_plain(reader: &mut impl Reader, deadline: Instant) -> Result<Counts, MetadataError> {
    let counter = |key: &[u8]| keys::plain_entry(key).map(|(zone, _)| keys::plain_total(zone));
    of_groups(reader, keys::all_plain(), counter, keys::plain_totals(), deadline).await
}

async fn of_zone(reader: &mut impl Reader, zone: ZoneId, deadline: Instant) -> Result<Counts, MetadataError> {
    let counter = |key: &[u8]| keys::index_entry(key).map(|(version, _)| keys::files_total(zone, version));
    let totals = keys::totals_of_zone(zone);
    of_groups(reader, keys::index_of_zone(zone), counter, totals, deadline).await
}

/// Rows of which each is counted by the counter that it names, against all counters of their kind.
async fn of_groups(
    reader: &mut impl Reader,
    range: KeyRange,
    counter_of: impl Fn(&[u8]) -> Option<Vec<u8>>,
    totals_range: KeyRange,
    deadline: Instant,
) -> Result<Counts, MetadataError> {
    let mut rows: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    let is_whole = each(reader, range, deadline, |key| {
        if let Some(counter) = counter_of(key) {
            *rows.entry(counter).or_default() += 1;
        }
    })
    .await?;
    let looked_at: i64 = rows.values().sum();
    let is_whole = is_whole && with_totals(reader, totals_range, deadline, &mut rows).await?;
    let wrong = wrong(reader, rows).await?;
    Ok(is_whole.then(|| (looked_at.unsigned_abs(), wrong)))
}

async fn each(
    reader: &mut impl Reader,
    range: KeyRange,
    deadline: Instant,
    mut see: impl FnMut(&[u8]),
) -> Result<bool, MetadataError> {
    each_pair(reader, range, deadline, |(key, _)| see(&key)).await
}

/// Goes through a range. Says whether that was done in time.
async fn each_pair(
    reader: &mut impl Reader,
    mut range: KeyRange,
    deadline: Instant,
    mut see: impl FnMut((Bytes, Bytes)),
) -> Result<bool, MetadataError> {
    loop {
        // The embedded store keeps its caller's thread.
        yield_now().await;
        if Instant::now() > deadline {
            return Ok(false);
        }
        let found = access::page(reader, &range, ROWS).await?;
        let last = found.last().filter(|_| found.len() == ROWS).map(|(key, _)| key.clone());
        found.into_iter().for_each(&mut see);
        match last {
            Some(last) => range = range.after(&last),
            None => return Ok(true),
        }
    }
}

/// Adds what a counter lacks, if it says what it said: somebody else may have repaired it.
async fn repair(store: &impl Store, wrong: &Wrong) -> Result<bool, MetadataError> {
    let (key, told, lacks) = (wrong.key.clone(), wrong.told, wrong.rows - wrong.told);
    transact!(store, [key], |txn| repair_in(txn, &key, told, lacks)).await
}

async fn repair_in(txn: &mut impl Txn, key: &[u8], told: i64, lacks: i64) -> Result<bool, MetadataError> {
    if counter(key, txn.get(key).await?.as_deref())? != told {
        return Ok(false);
    }
    txn.add(key, lacks, i64::MAX);
    Ok(true)
}
