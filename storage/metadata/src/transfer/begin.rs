//! Beginning a move to another zone: everything is checked that can be before a user signs for it.

use bytes::Bytes;
use strongroom_kv::{Reader, Store, Txn};
use strongroom_proto::{JobId, ZonePath, metadata::v1 as pb, transfer::Place};

use super::{Route, check_has_code, check_staging, staged};
use crate::{
    authority::Caller,
    core::Core,
    error::MetadataError,
    jobs::record,
    namespace::{
        permission::{Rights, check},
        rename::{Ends, check_room, ends},
    },
    quota::links::check_room_for,
    schema::{
        access,
        access::transact,
        keys,
        records::{Edek, Job, JobKind, Transfer, TransferPhase},
    },
    trash::TRASH,
    zones::source::EdekSource,
};

/// A move that is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Move {
    pub(crate) from: ZonePath,
    pub(crate) to: ZonePath,
    pub(crate) overwrite: bool,
    pub(crate) who: Caller,
}

/// A move from one zone to another, with what is at its ends.
pub(super) struct Crossing {
    pub(super) ends: Ends,
    pub(super) route: Route,
}

/// Begins to move a file or directory, or says what was begun.
pub(crate) async fn begin<S: Store, E: EdekSource>(
    core: &Core<S, E>,
    asked: &Move,
) -> Result<pb::BegunTransfer, MetadataError> {
    check_quotas(core, asked).await?;
    let (id, now_ms) = (JobId::generate(), core.clock.now_ms());
    transact!(&core.store, [asked], |txn| begin_in(txn, &asked, id, now_ms)).await
}

/// Refuses what has no room at its destination, before its EDEKs are made. What was begun already goes on, and is refused at its end if
/// there is none then.
async fn check_quotas<S: Store, E: EdekSource>(core: &Core<S, E>, asked: &Move) -> Result<(), MetadataError> {
    let mut txn = core.store.begin().await?;
    let Crossing { ends, .. } = crossing(&mut txn, asked).await?;
    if ends.moved.entry.moving()?.is_some() {
        return Ok(());
    }
    check_room_for(&mut txn, &ends.moved, &ends.target).await
}

async fn begin_in(
    txn: &mut impl Txn,
    asked: &Move,
    id: JobId,
    now_ms: u64,
) -> Result<pb::BegunTransfer, MetadataError> {
    let Crossing { ends, route } = crossing(txn, asked).await?;
    let begun = pb::BegunTransfer {
        from: Some(wire_place(&route.from)),
        to: Some(wire_place(&route.to)),
        ..pb::BegunTransfer::default()
    };
    if !ends.moved.entry.is_directory() {
        check_room(txn, &asked.who, &ends.target, false, asked.overwrite).await?;
        let body = access::body(txn, ends.moved.id).await?;
        let body = body.ok_or(MetadataError::Corrupt { what: "file" })?;
        let edek = staged::needed(txn, &body, &asked.from).await?;
        check_has_code(&body, &asked.from)?;
        let file = Some(item(ends.moved.entry.id.clone(), edek));
        return Ok(pb::BegunTransfer { file, ..begun });
    }
    let job = match ends.moved.entry.moving()? {
        Some(job) => again(txn, asked, &ends, job).await?,
        None => start(txn, asked, ends, &route, id, now_ms).await?,
    };
    Ok(pb::BegunTransfer {
        job_id: job.into(),
        ..begun
    })
}

/// Both ends of a move that the caller may make, in two zones.
pub(super) async fn crossing(txn: &mut impl Txn, asked: &Move) -> Result<Crossing, MetadataError> {
    let Move { from, to, who, .. } = asked;
    let ends = ends(txn, who, from, to).await?;
    let no = |why: &str| {
        Err(MetadataError::Transfer {
            path: from.clone(),
            why: why.to_owned(),
        })
    };
    let (Some(here), Some(there)) = (&ends.parent.zone, &ends.target.parent.zone) else {
        return no(
            "source and destination must both be in encryption zones; copy it instead, with strongroom fs get and put",
        );
    };
    if here.id == there.id {
        return no("source and destination are in the same one; leave out --transfer");
    }
    if ends.moved.entry.zone()?.is_some() {
        return no("it is a zone of its own, and its files are bound to that; move what is in it");
    }
    let trash = |parent: &ZonePath, zone: &ZonePath, name: &str| parent == zone && name == TRASH;
    if from
        .split_last()
        .is_some_and(|(parent, name)| trash(&parent, &here.path, name))
        || trash(&ends.target.parent.path, &there.path, &ends.target.name)
    {
        return no("every zone has a trash of its own; move what is in it");
    }
    if !ends.moved.entry.is_directory() {
        check(who, &ends.moved, Rights::READ, from)?;
    }
    // A directory's own mark is its own transfer's, which may be gone on with.
    let above = match ends.moved.entry.is_directory() {
        true => ends.parent.moving,
        false => ends.moved.moving,
    };
    let into_moving = ends.target.parent.moving.filter(|_| ends.moved.entry.is_directory());
    if let Some((path, job)) = above.map(|job| (from, job)).or(into_moving.map(|job| (to, job))) {
        let path = path.clone();
        return Err(MetadataError::Moving { path, job });
    }
    if ends.moved.entry.is_directory() && access::zone(txn, here.id).await?.is_some_and(|zone| zone.is_adopting()) {
        return no(
            "files below it may not be encrypted yet; go on with what has its zone encrypt them: strongroom zone adopt",
        );
    }
    let route = Route::between(txn, here.id, there.id).await?;
    Ok(Crossing { ends, route })
}

/// The job that was begun with the same paths by the same caller.
async fn again(txn: &mut impl Reader, asked: &Move, ends: &Ends, id: JobId) -> Result<JobId, MetadataError> {
    let job = access::job(txn, id)
        .await?
        .ok_or(MetadataError::Corrupt { what: "job" })?;
    let transfer = job.moves()?;
    let same = transfer.to_parent.as_ref() == ends.target.parent.id.as_bytes() && transfer.to_name == ends.target.name;
    if !same || !asked.who.owns(&job.owner) {
        let path = asked.from.clone();
        return Err(MetadataError::Moving { path, job: id });
    }
    check_staging(&job, id)?;
    Ok(id)
}

async fn start(
    txn: &mut impl Txn,
    asked: &Move,
    ends: Ends,
    route: &Route,
    id: JobId,
    now_ms: u64,
) -> Result<JobId, MetadataError> {
    let Move {
        from,
        to,
        overwrite,
        who,
    } = asked;
    check_room(txn, who, &ends.target, true, *overwrite).await?;
    let transfer = Transfer {
        phase: TransferPhase::Staging.into(),
        root: ends.moved.id.into(),
        from_zone: route.from.zone.into(),
        to_zone: route.to.zone.into(),
        to_parent: ends.target.parent.id.into(),
        to_name: ends.target.name,
        to_path: to.to_string(),
        overwrite: *overwrite,
        heard_ms: now_ms,
        ..Transfer::default()
    };
    let job = Job {
        kind: JobKind::Transfer.into(),
        owner: who.name.as_str().to_owned(),
        path: from.to_string(),
        created_ms: now_ms,
        transfer: Some(transfer),
        ..Job::default()
    };
    record::begin(txn, id, job);
    let mut entry = ends.moved.entry;
    entry.moving = id.into();
    access::put(txn, &ends.moved.key, &entry);
    txn.put(&keys::removal(id, ends.moved.id), Bytes::new());
    Ok(id)
}

fn wire_place(place: &Place) -> pb::TransferPlace {
    pb::TransferPlace {
        key_name: place.key.as_str().to_owned(),
        zone_id: place.zone.into(),
    }
}

/// What is to be signed for a file.
pub(super) fn item(file_id: Bytes, edek: &Edek) -> pb::TransferItem {
    pb::TransferItem {
        file_id,
        key_version: edek.key_version,
        wrapped: edek.wrapped.clone(),
    }
}
