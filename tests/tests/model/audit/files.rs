//! Files that show and files on their way: their EDEKs, the index by key version, the counters.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Broken,
    records::{self, Edek, TransferPhase},
    tables::{Id, Tables},
};
use crate::keys::Keys;

pub(super) fn check(tables: &Tables, keys: &Keys, broken: &mut Broken) {
    check_index(tables, broken);
    check_plain(tables, broken);
    check_counters(tables, broken);
    check_open(tables, broken);
    check_staged(tables, broken);
    for (id, edek) in edeks(tables) {
        check_edek(tables, keys, id, edek, broken);
    }
    for (id, body) in &tables.bodies {
        match &body.plain {
            Some(plain) => check_plain_in(tables, *id, plain, broken),
            None => check_zone(tables, *id, body, broken),
        }
    }
}

/// Of all files that show, of those that move to another zone the second one, too, and of all new files.
fn edeks(tables: &Tables) -> impl Iterator<Item = (Id, &Edek)> {
    let bodies = tables.bodies.iter().filter(|(_, body)| body.plain.is_none());
    let staged = bodies
        .clone()
        .filter_map(|(id, body)| Some((*id, body.staged.as_ref()?.edek.as_ref())));
    let bodies = bodies.map(|(id, body)| (*id, body.edek.as_ref())).chain(staged);
    let fresh = tables
        .open
        .iter()
        .filter(|(_, open)| open.generation == 0 && open.data_suite != "plain");
    let fresh = fresh.map(|(id, open)| (*id, open.edek.as_ref()));
    bodies
        .chain(fresh)
        .map(|(id, edek)| (id, edek.expect("a file has an EDEK")))
}

fn check_index(tables: &Tables, broken: &mut Broken) {
    let entry = |(id, edek): (Id, &Edek)| (Id::of(&edek.zone_id), edek.key_version, id);
    let scanned: BTreeSet<_> = edeks(tables).map(entry).collect();
    broken.unless(scanned == tables.index, || {
        let more: Vec<_> = tables.index.difference(&scanned).collect();
        let less: Vec<_> = scanned.difference(&tables.index).collect();
        format!("the index has {more:?} too much and lacks {less:?}")
    });
}

/// Files that are not encrypted are those listed as such.
fn check_plain(tables: &Tables, broken: &mut Broken) {
    let bodies = tables.bodies.iter().filter_map(|(id, body)| {
        let zone = &body.plain.as_ref()?.zone_id;
        let group = [&[u8::from(!zone.is_empty())], zone.as_ref()].concat();
        Some((group, *id))
    });
    let expected: BTreeSet<_> = bodies.collect();
    broken.unless(expected == tables.plain, || {
        format!(
            "the files {expected:?} are not encrypted, {:?} are listed",
            tables.plain
        )
    });
}

/// One is in no zone, or in one that adopts it; and if that has looked at all files, it has it on its list.
fn check_plain_in(tables: &Tables, file: Id, plain: &records::Plain, broken: &mut Broken) {
    let listed = (!plain.zone_id.is_empty()).then(|| Id::of(&plain.zone_id));
    let (zone, holds) = match zone_of(tables, file) {
        Where::In(None) => (None, listed.is_none()),
        Where::In(Some(zone)) => {
            let record = tables.zones.get(&zone);
            let adoption = record.and_then(|record| record.adoption.as_ref());
            let adoption = adoption.filter(|adoption| !adoption.ended);
            let is_known = listed == Some(zone) || (listed.is_none() && adoption.is_some_and(|it| !it.looked));
            (Some(zone), adoption.is_some() && is_known)
        }
        Where::CutOff => return,
        Where::Nowhere => (None, false),
    };
    broken.unless(holds, || {
        format!("file {file:?} is not encrypted, in zone {zone:?}, and on the list of {listed:?}")
    });
}

fn check_counters(tables: &Tables, broken: &mut Broken) {
    let mut expected = BTreeMap::<Vec<u8>, i64>::new();
    for (zone, version, _) in &tables.index {
        let key = [b"x", zone.bytes().as_slice(), &version.to_be_bytes()].concat();
        *expected.entry(key).or_default() += 1;
    }
    for (group, _) in &tables.plain {
        *expected.entry([b"P", group.as_slice()].concat()).or_default() += 1;
    }
    let rows = [
        (b"f", tables.deficits.len()),
        (b"g", tables.garbage.len()),
        (b"o", tables.open.len()),
    ];
    for (table, rows) in rows.into_iter().filter(|(_, rows)| *rows > 0) {
        expected.insert(table.to_vec(), i64::try_from(rows).expect("few"));
    }
    for open in tables.open.values() {
        *expected.entry([b"o", open.owner.as_bytes()].concat()).or_default() += 1;
    }
    // Those of quotas are looked at with them.
    let counters = tables.counters.iter().filter(|(key, _)| key[0] != b'q');
    let counters: BTreeMap<_, _> = counters.map(|(key, count)| (key.clone(), *count)).collect();
    broken.unless(expected == counters, || {
        format!("the counters are {counters:?}, rows make {expected:?}")
    });
}

fn check_open(tables: &Tables, broken: &mut Broken) {
    for (id, open) in &tables.open {
        let body = tables.bodies.get(id);
        let of_body = |extent: &Id| {
            let mut extents = body.iter().flat_map(|body| &body.extents);
            extents.any(|known| Id::of(&known.extent_id) == *extent)
        };
        let extents: Vec<_> = open.extents.iter().map(|extent| Id::of(&extent.extent_id)).collect();
        let holds = match (open.generation, body) {
            (0, body) => body.is_none(),
            (_, None) => true,
            (generation, Some(body)) => body.generation == generation,
        };
        broken.unless(holds && extents.len() == 1 && !extents.iter().any(of_body), || {
            format!("{open:?} does not go on from {body:?}")
        });
    }
}

fn check_edek(tables: &Tables, keys: &Keys, file: Id, edek: &Edek, broken: &mut Broken) {
    let sound = keys.check(&edek.key_name, edek.key_version, &edek.zone_id, &edek.wrapped);
    broken.unless(sound.is_ok(), || format!("the EDEK of file {file:?}: {sound:?}"));
    if let Some(zone) = tables.zones.get(&Id::of(&edek.zone_id)) {
        broken.unless(zone.key_name == edek.key_name, || {
            format!(
                "file {file:?} has an EDEK of key {} in a zone of {}",
                edek.key_name, zone.key_name
            )
        });
    }
}

/// A second EDEK is of a transfer that is not over, and on its list.
fn check_staged(tables: &Tables, broken: &mut Broken) {
    let staged = tables
        .bodies
        .iter()
        .filter_map(|(id, body)| Some((*id, body.staged.as_ref()?)));
    let staged: BTreeSet<_> = staged
        .map(|(file, staged)| (Id::of(&staged.job_id), true, file))
        .collect();
    for entry in &staged {
        let job = tables.jobs.get(&entry.0);
        broken.unless(tables.moving.contains(entry) && job.is_some(), || {
            format!("the EDEK {entry:?} is staged for {job:?} and on no list")
        });
    }
    for entry in tables.moving.iter().filter(|(_, is_staged, _)| *is_staged) {
        broken.unless(staged.contains(entry), || format!("{entry:?} is listed and not staged"));
    }
}

/// The EDEK that opens a file.
fn opening<'t>(tables: &'t Tables, body: &'t records::Body) -> Option<&'t Edek> {
    let folds = |staged: &&records::Staged| {
        let job = tables
            .jobs
            .get(&Id::of(&staged.job_id))
            .and_then(|job| job.transfer.as_ref());
        job.is_some_and(|transfer| transfer.phase() == TransferPhase::Folding)
    };
    let staged = body.staged.as_ref().filter(folds);
    staged.map_or(body.edek.as_ref(), |staged| staged.edek.as_ref())
}

/// It is of the zone that the file is in.
fn check_zone(tables: &Tables, file: Id, body: &records::Body, broken: &mut Broken) {
    let edek = opening(tables, body).map(|edek| Id::of(&edek.zone_id));
    match zone_of(tables, file) {
        Where::In(zone) => broken.unless(zone.is_some() && zone == edek, || {
            format!("file {file:?} is in zone {zone:?} and has an EDEK of {edek:?}")
        }),
        Where::CutOff => {}
        Where::Nowhere => broken.unless(false, || format!("file {file:?} is on no way to the root")),
    }
}

enum Where {
    In(Option<Id>),
    /// Below a directory that was removed.
    CutOff,
    Nowhere,
}

fn zone_of(tables: &Tables, file: Id) -> Where {
    let mut at = file;
    // No way is longer than there are places.
    for _ in 0..=tables.places.len() {
        if at == Id::ROOT {
            return Where::In(tables.root.as_ref().and_then(zone));
        }
        let Some(place) = tables.places.get(&at) else {
            return Where::Nowhere;
        };
        if place.unlinked {
            return Where::CutOff;
        }
        let parent = Id::of(&place.parent);
        let Some(entry) = tables.entries.get(&(parent, place.name.clone())) else {
            return Where::Nowhere;
        };
        if let Some(zone) = zone(entry) {
            return Where::In(Some(zone));
        }
        at = parent;
    }
    Where::Nowhere
}

fn zone(entry: &records::Entry) -> Option<Id> {
    (!entry.zone_id.is_empty()).then(|| Id::of(&entry.zone_id))
}
