//! Making a zone of a directory that holds something (ADR 36). From the transaction that makes it, what is new in it is encrypted, and
//! nothing that is not comes to it or leaves it: the files that are left to encrypt only become fewer. They are found by going through all
//! files that are not encrypted once, by their ids, which no rename changes; each that is in the zone is entered in the zone's own list, and
//! leaves that in the transaction that encrypts or removes it. Once all were looked at and the list is empty, the zone is one like any other.

use std::time::Duration;

use strongroom_kv::{Store, Txn};
use strongroom_proto::{FileId, FrameSize, ZoneId, ZonePath, metadata::v1 as pb};
use tokio::time::Instant;

use super::{
    create::{Making, Wanted, make, record_of},
    source::EdekSource,
    view,
};
use crate::{
    authority::Caller,
    core::Core,
    error::MetadataError,
    namespace::{
        above::Above,
        attributes::Attributes,
        permission::{Rights, check},
        resolve::find,
    },
    schema::{access, access::transact, counted, keys, records},
};

/// Files that are not encrypted, looked at together, and how often in one call.
const PAGE: usize = 500;
const PAGES_MAX: usize = 10;
/// Files entered in one transaction: with 1024 extents each they are half of what it may write.
const BATCH: usize = 100;
/// After so long a call looks no further: it is answered, and made again, long before its caller gives up waiting.
const LOOKS_FOR: Duration = Duration::from_secs(5);

/// Makes a directory a zone that adopts what it holds, if it is none, and takes the next step of what there is to do.
pub(crate) async fn advance<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    path: &ZonePath,
    wanted: Wanted<'_>,
) -> Result<pb::Zone, MetadataError> {
    let zone = match begun(core, who, path, wanted).await? {
        Some(zone) => zone,
        None => begin(core, who, path, wanted).await?,
    };
    let until = Instant::now() + LOOKS_FOR;
    for _ in 0..PAGES_MAX {
        if look(&core.store, zone, until).await? || Instant::now() >= until {
            break;
        }
    }
    transact!(&core.store, [], |txn| end(txn, zone)).await?;
    view::get(core, who, path).await
}

/// The zone that was made of the directory by this call before.
async fn begun<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    path: &ZonePath,
    wanted: Wanted<'_>,
) -> Result<Option<ZoneId>, MetadataError> {
    let mut txn = core.store.begin().await?;
    let found = find(&mut txn, who, path).await?;
    let Some(zone) = found.entry.zone()? else {
        return Ok(None);
    };
    let record = access::zone(&mut txn, zone).await?;
    let record = record.ok_or(MetadataError::Corrupt { what: "zone" })?;
    if record.adoption.is_none() {
        return Err(MetadataError::AlreadyZone(path.clone()));
    }
    check(who, &found, Rights::LIST, path)?;
    check_same(&record, wanted)?;
    Ok(Some(zone))
}

/// Whether the zone is what is asked for now.
fn check_same(record: &records::Zone, wanted: Wanted<'_>) -> Result<(), MetadataError> {
    let frame_bytes = FrameSize::from_wire(record.frame_bytes)?.bytes();
    let suite = Some(wanted.data_suite).filter(|suite| !suite.is_empty());
    let other = |field, had: &str| MetadataError::Field {
        field,
        rule: format!("the zone was begun with {had}; go on with that"),
    };
    if !wanted.key_name.is_empty() && wanted.key_name != record.key_name {
        return Err(other("key_name", &record.key_name));
    }
    if suite.is_some_and(|suite| suite != record.data_suite) {
        return Err(other("data_suite", &record.data_suite));
    }
    if ![0, frame_bytes].contains(&wanted.frame_bytes) {
        return Err(other("frame_bytes", &frame_bytes.to_string()));
    }
    Ok(())
}

async fn begin<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    who: &Caller,
    path: &ZonePath,
    wanted: Wanted<'_>,
) -> Result<ZoneId, MetadataError> {
    if !who.superuser {
        return Err(MetadataError::Denied {
            who: format!("user {}", who.name),
            what: "make encryption zones",
            remedy: "the superusers in the metadata service's configuration may",
        });
    }
    let zone = ZoneId::generate();
    let (key, record) = record_of(core, wanted, zone).await?;
    let making = Making {
        path: path.clone(),
        zone,
        record: records::Zone {
            adoption: Some(records::Adoption::default()),
            ..record
        },
        handed: Attributes::default(),
        provision_trash: false,
    };
    match transact!(&core.store, [who, making], |txn| make(txn, &who, &making)).await {
        Ok(_) => {
            core.stock.warm(zone, &key);
            tracing::info!(by = %who.name, %path, %key, "encryption zone made, which adopts what its directory holds");
            Ok(zone)
        }
        // By the same call at once, or by one whose answer was lost.
        Err(error @ MetadataError::AlreadyZone(_)) => begun(core, who, path, wanted).await?.ok_or(error),
        Err(error) => Err(error),
    }
}

/// Goes through the next of the files that are not encrypted and in no zone that is known. Says whether all were looked at. However late it is,
/// some are, and what was seen of them is kept.
async fn look(store: &impl Store, zone: ZoneId, until: Instant) -> Result<bool, MetadataError> {
    let Some((round, files, above)) = unseen(store, zone).await? else {
        return Ok(true);
    };
    let mut rest = files.as_slice();
    loop {
        let (batch, later) = rest.split_at(rest.len().min(BATCH));
        let is_last = later.is_empty();
        let mut seen = Seen {
            round,
            mine: Vec::new(),
            last: batch.last().copied(),
            all: is_last && files.len() < PAGE,
        };
        for file in batch {
            if above.zone(*file)? == Some(zone) {
                seen.mine.push(*file);
            }
        }
        if is_last || !seen.mine.is_empty() {
            transact!(store, [seen], |txn| note(txn, zone, &seen)).await?;
            if is_last || Instant::now() >= until {
                return Ok(seen.all);
            }
        }
        rest = later;
    }
}

/// The next files to look at, what is above them, and in which round; none once all were looked at. Read in a view, as most may be elsewhere. Nothing comes to
/// the zone or leaves it any more, so that what is seen of that stays true.
async fn unseen(store: &impl Store, zone: ZoneId) -> Result<Option<(u64, Vec<FileId>, Above)>, MetadataError> {
    let mut view = store.snapshot().await?;
    let record = access::zone(&mut view, zone).await?;
    let record = record.ok_or(MetadataError::ZoneGone(zone))?;
    let Some(adoption) = record.adoption.filter(records::Adoption::is_looking) else {
        return Ok(None);
    };
    let mut range = keys::plain_of(None);
    if !adoption.after.is_empty() {
        range = range.after(&keys::plain(None, access::file_id(&adoption.after)?));
    }
    let mut files = Vec::new();
    for (key, _) in access::page(&mut view, &range, PAGE).await? {
        let (_, file) = keys::plain_entry(&key).ok_or(MetadataError::Corrupt { what: "list of files" })?;
        files.push(file);
    }
    let above = Above::read(&mut view, &files).await?;
    Ok(Some((adoption.round, files, above)))
}

/// What came of looking at some files.
#[derive(Debug, Clone)]
struct Seen {
    /// Of the adoption.
    round: u64,
    /// Those in the zone.
    mine: Vec<FileId>,
    /// The last one of all.
    last: Option<FileId>,
    /// None is left to look at.
    all: bool,
}

/// Enters files in the list of their zone, and how far all were looked at. Of two calls at once each has looked at all up to where it says,
/// but not what comes before that in a round that began since.
async fn note(txn: &mut impl Txn, zone: ZoneId, seen: &Seen) -> Result<(), MetadataError> {
    let record = access::zone(txn, zone).await?;
    let mut record = record.ok_or(MetadataError::ZoneGone(zone))?;
    let goes_on = |adoption: &&mut records::Adoption| adoption.is_looking() && adoption.round == seen.round;
    let Some(adoption) = record.adoption.as_mut().filter(goes_on) else {
        return Ok(());
    };
    adoption.looked = seen.all;
    if let Some(last) = seen.last
        && adoption.after.as_ref() < last.as_bytes().as_slice()
    {
        adoption.after = last.into();
    }
    access::put(txn, &keys::zone(zone), &record);
    let keys: Vec<_> = seen.mine.iter().map(|file| keys::body(*file)).collect();
    let bodies: Vec<Option<records::Body>> = access::records(txn, &keys, "file").await?;
    for (file, body) in seen.mine.iter().zip(bodies) {
        // Others were removed or encrypted meanwhile, or entered by another call.
        let body = body.filter(|body| matches!(&body.plain, Some(plain) if plain.zone_id.is_empty()));
        if let Some(body) = body {
            counted::withdraw(txn, &body, *file)?;
            enlist(txn, *file, body, Some(zone))?;
        }
    }
    Ok(())
}

/// Enters a file that is not encrypted in the list of a zone, or of none, in which it is not.
pub(crate) fn enlist(
    txn: &mut impl Txn,
    file: FileId,
    mut body: records::Body,
    zone: Option<ZoneId>,
) -> Result<(), MetadataError> {
    body.plain = Some(records::Plain {
        zone_id: zone.map(Into::into).unwrap_or_default(),
    });
    counted::enter(txn, &body, file)?;
    access::put(txn, &keys::body(file), &body);
    Ok(())
}

/// Has a zone adopt what it holds, also if it was through with that, or never did: a file in it was found that is not encrypted. Says whether
/// it does; there may be no such zone.
pub(crate) async fn readopt(txn: &mut impl Txn, zone: ZoneId) -> Result<bool, MetadataError> {
    let Some(mut record) = access::zone(txn, zone).await? else {
        return Ok(false);
    };
    if !record.is_adopting() {
        // All files are looked at again: where there is one, there may be others.
        record.adoption = Some(records::Adoption {
            round: record.adoption.unwrap_or_default().round + 1,
            ..records::Adoption::default()
        });
        access::put(txn, &keys::zone(zone), &record);
        tracing::warn!(%zone, "the zone adopts again, since a file in it is not encrypted");
    }
    Ok(true)
}

/// Ends the adoption if no file is left that is not encrypted.
async fn end(txn: &mut impl Txn, zone: ZoneId) -> Result<(), MetadataError> {
    let Some(mut record) = access::zone(txn, zone).await? else {
        return Err(MetadataError::ZoneGone(zone));
    };
    let Some(adoption) = record.adoption.as_mut() else {
        return Ok(());
    };
    let is_early = adoption.ended || !adoption.looked;
    if is_early || !access::page(txn, &keys::plain_of(Some(zone)), 1).await?.is_empty() {
        return Ok(());
    }
    adoption.ended = true;
    adoption.after = Default::default();
    access::put(txn, &keys::zone(zone), &record);
    tracing::info!(%zone, "every file of the zone is encrypted");
    Ok(())
}

#[cfg(test)]
mod tests {
    use strongroom_kv::EmbeddedStore;

    use super::*;
    use crate::{meddled::Meddled, planted::Planted};

    async fn adoption(store: &EmbeddedStore, zone: ZoneId) -> records::Adoption {
        let mut view = store.snapshot().await.expect("a view");
        let record = access::zone(&mut view, zone).await.expect("readable");
        record.expect("there").adoption.expect("it adopts")
    }

    /// How many files the zone has in its list, and says that it has.
    async fn left(store: &EmbeddedStore, zone: ZoneId) -> (usize, u64) {
        let mut view = store.snapshot().await.expect("a view");
        let listed = access::page(&mut view, &keys::plain_of(Some(zone)), 10_000).await;
        let counted = counted::plain_left(&mut view, zone).await;
        (listed.expect("readable").len(), counted.expect("readable"))
    }

    /// Over a store of which each call is too late as soon as it begins.
    #[tokio::test]
    async fn however_slow_it_is_each_call_gets_further() {
        let planted = Planted::new().await;
        let mine = planted.directory("/mine", "alice", 0o755).await;
        let zone = planted.adopting(&mine).await;
        let deep = planted.directory("/mine/deep", "alice", 0o755).await;
        let files = 4 * BATCH;
        // Every other one is elsewhere.
        planted
            .plain_files(&[&deep, &planted.at("/").await.expect("there")], files)
            .await;
        let store = &planted.store;
        let (mut calls, mut before) = (1, adoption(store, zone).await);
        while !look(store, zone, Instant::now()).await.expect("looked") {
            let now = adoption(store, zone).await;
            assert!(now.after > before.after && !now.looked, "{now:?}");
            (calls, before) = (calls + 1, now);
        }
        assert_eq!(calls, files / BATCH);
        assert!(adoption(store, zone).await.looked);
        assert_eq!(left(store, zone).await, (files / 2, files as u64 / 2));
    }

    /// Nobody knows whether it is in the zone, so that the zone is not through.
    #[tokio::test]
    async fn a_file_that_is_too_deep_is_not_passed_over() {
        let planted = Planted::new().await;
        let mine = planted.directory("/mine", "alice", 0o755).await;
        let zone = planted.adopting(&mine).await;
        let bottom = planted.chain(&mine, 2100).await;
        planted.plain_files(&[&bottom], 1).await;
        let outcome = look(&planted.store, zone, Instant::now()).await;
        assert!(matches!(outcome, Err(MetadataError::TooDeep(_))), "{outcome:?}");
        assert_eq!(adoption(&planted.store, zone).await, records::Adoption::default());
    }

    /// While one call looks at the files, another one ends the adoption, and fsck begins it anew.
    #[tokio::test]
    async fn what_was_seen_in_one_round_is_not_taken_for_seen_in_the_next() {
        let planted = Planted::new().await;
        let mine = planted.directory("/mine", "alice", 0o755).await;
        let zone = planted.adopting(&mine).await;
        planted.plain_files(&[&mine], 3).await;
        let mut is_first = true;
        let store = Meddled::new(&planted.store).after_view(move |store| {
            let begins_anew = std::mem::replace(&mut is_first, false);
            Box::pin(async move {
                if !begins_anew {
                    return;
                }
                transact!(&store, [], |txn| async move {
                    let record = access::zone(txn, zone).await?;
                    let mut record = record.ok_or(MetadataError::ZoneGone(zone))?;
                    record.adoption.get_or_insert_default().ended = true;
                    access::put(txn, &keys::zone(zone), &record);
                    readopt(txn, zone).await
                })
                .await
                .expect("begun anew");
            })
        });
        let later = Instant::now() + LOOKS_FOR;
        look(&store, zone, later).await.expect("looked");
        let anew = adoption(&planted.store, zone).await;
        assert!(anew.round == 1 && anew.after.is_empty() && !anew.looked, "{anew:?}");
        assert_eq!(left(&planted.store, zone).await, (0, 0));
        assert!(look(&store, zone, later).await.expect("looked"));
        assert!(adoption(&planted.store, zone).await.looked);
        assert_eq!(left(&planted.store, zone).await, (3, 3));
    }
}
