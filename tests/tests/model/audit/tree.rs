//! Entries, places, zones and jobs.

use std::collections::BTreeSet;

use super::{
    Broken,
    records::{self, JobKind, JobState, TransferPhase},
    tables::{Id, Tables},
};

pub(super) fn check(tables: &Tables, broken: &mut Broken) {
    check_entries(tables, broken);
    check_places(tables, broken);
    check_zones(tables, broken);
    check_jobs(tables, broken);
    broken.unless(tables.answers == tables.answer_times, || {
        "answers and their times are not of the same requests".to_owned()
    });
}

fn check_entries(tables: &Tables, broken: &mut Broken) {
    let mut seen = BTreeSet::from([Id::ROOT]);
    for ((parent, name), entry) in &tables.entries {
        let id = Id::of(&entry.id);
        broken.unless(seen.insert(id), || {
            format!("{id:?} has two entries, one of them {name}")
        });
        let place = tables.places.get(&id);
        let is_there =
            place.is_some_and(|place| Id::of(&place.parent) == *parent && place.name == *name && !place.unlinked);
        broken.unless(is_there, || {
            format!("entry {name} in {parent:?} has the place {place:?}")
        });
        broken.unless(is_directory(tables, *parent), || {
            format!("entry {name} is in {parent:?}, which is no directory")
        });
        let body = tables.bodies.get(&id);
        broken.unless(entry.file.is_some() == body.is_some(), || {
            format!("entry {name} says {:?} of its size, the body is {body:?}", entry.file)
        });
        if let (Some(size), Some(body)) = (&entry.file, body) {
            let length: u64 = body.extents.iter().map(|extent| extent.visible).sum();
            broken.unless(size.length == length, || {
                format!("entry {name} says {} bytes, its extents have {length}", size.length)
            });
            broken.unless(size.plain == body.plain.is_some(), || {
                format!("entry {name} says of its encryption what {body:?} does not")
            });
        }
    }
    for id in tables.bodies.keys() {
        broken.unless(seen.contains(id), || format!("body {id:?} has no entry"));
    }
}

fn is_directory(tables: &Tables, id: Id) -> bool {
    if id == Id::ROOT {
        return true;
    }
    tables.places.contains_key(&id) && !tables.bodies.contains_key(&id)
}

fn check_places(tables: &Tables, broken: &mut Broken) {
    let cut_off: BTreeSet<_> = tables.removals.keys().map(|(_, directory)| *directory).collect();
    for (id, place) in &tables.places {
        let at = (Id::of(&place.parent), place.name.clone());
        let entry = tables.entries.get(&at).filter(|entry| Id::of(&entry.id) == *id);
        let holds = match entry {
            Some(_) => !place.unlinked && !cut_off.contains(id),
            None => place.unlinked && cut_off.contains(id),
        };
        broken.unless(holds, || {
            format!("{id:?} has the place {place:?} and the entry {entry:?}")
        });
    }
    for (job, directory) in tables.removals.keys() {
        broken.unless(tables.places.contains_key(directory), || {
            format!("the removal {job:?} is to empty {directory:?}, which has no place")
        });
    }
}

/// Every zone has a root that says so, or one that a removal has yet to come to.
fn check_zones(tables: &Tables, broken: &mut Broken) {
    let entries = tables.entries.values().chain(&tables.root);
    let of_entries = entries.filter(|entry| !entry.zone_id.is_empty());
    let of_entries = of_entries.map(|entry| (Id::of(&entry.zone_id), Id::of(&entry.id)));
    let removed = tables.removals.iter();
    let of_removals = removed.filter_map(|((_, directory), zone)| zone.map(|zone| (zone, *directory)));
    let roots: BTreeSet<_> = of_entries.chain(of_removals).collect();
    let zones: BTreeSet<_> = tables
        .zones
        .iter()
        .map(|(id, zone)| (*id, Id::of(&zone.root)))
        .collect();
    broken.unless(roots == zones, || {
        format!("zones and roots {roots:?} are recorded as {zones:?}")
    });
    for (zone, job) in &tables.reencryptions {
        let known = tables.jobs.get(job).filter(|job| Id::of(&job.zone_id) == *zone);
        broken.unless(tables.zones.contains_key(zone) && known.is_some(), || {
            format!("the re-encryption {job:?} of zone {zone:?} is {known:?}")
        });
        if let Some(job) = known {
            check_reencrypted(tables, *zone, job, broken);
        }
    }
}

/// A re-encryption that is complete has left no file behind.
fn check_reencrypted(tables: &Tables, zone: Id, job: &records::Job, broken: &mut Broken) {
    let minimum = tables.zones.get(&zone).map(|zone| zone.version_min);
    broken.unless(minimum.is_some_and(|minimum| minimum >= job.target_version), || {
        format!("zone {zone:?} has the least version {minimum:?} below that of {job:?}")
    });
    if job.state() != JobState::Completed || job.failures > 0 {
        return;
    }
    let of_zone = tables.index.iter().filter(|(of, ..)| *of == zone);
    let left = of_zone.filter(|(_, version, _)| *version < job.target_version).count();
    broken.unless(left == 0, || {
        format!("{left} files of zone {zone:?} were left out by {job:?}")
    });
}

/// Work that a client does: the background has none.
fn is_the_clients(job: &records::Job) -> bool {
    let transfer = job.transfer.as_ref();
    transfer.is_some_and(|transfer| transfer.phase() == TransferPhase::Staging)
}

fn check_jobs(tables: &Tables, broken: &mut Broken) {
    let running = tables
        .jobs
        .iter()
        .filter(|(_, job)| job.state() == JobState::Running && !is_the_clients(job));
    let running: BTreeSet<_> = running.map(|(id, job)| (job.kind as u8, *id)).collect();
    broken.unless(running == tables.running, || {
        format!("the jobs {running:?} run, {:?} are listed", tables.running)
    });
    let is_over = |job: &records::Job| matches!(job.state(), JobState::Completed | JobState::Canceled);
    let unfinished: BTreeSet<_> = tables
        .jobs
        .iter()
        .filter(|(_, job)| !is_over(job))
        .map(|(id, _)| *id)
        .collect();
    broken.unless(unfinished == tables.unfinished, || {
        format!(
            "the jobs {unfinished:?} are not over, {:?} are listed",
            tables.unfinished
        )
    });
    let lists: BTreeSet<_> = tables.removals.keys().map(|(job, _)| *job).collect();
    for job in &lists {
        let known = tables.jobs.get(job);
        let works = known.is_some_and(|job| job.kind() == JobKind::Removal && job.state() != JobState::Completed);
        broken.unless(works, || {
            format!("the removal {job:?} has directories to empty and is {known:?}")
        });
    }
}
