//! Files as the metadata service keeps them: which rows an operation reads and writes, with keys and values of the sizes that
//! `docs/formats/metadata-store.md` has. A thousand files are in a directory; ids of files and requests
//! are in the order in which they were drawn.

use crate::{
    engine::{Engine, View, Writes},
    group::{Change, Committer},
};

pub(crate) const PER_DIRECTORY: u64 = 1000;
/// Bytes of a directory's entry, a place, a file's body and a kept answer.
const ENTRY_BYTES: usize = 70;
const PLACE_BYTES: usize = 42;
const BODY_BYTES: usize = 330;
const ANSWER_BYTES: usize = 150;
const ZONE: [u8; 16] = [9; 16];
const TOP: [u8; 16] = [1; 16];

/// A number that looks like chance (splitmix64).
pub(crate) const fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An id as the service draws them: behind all that were drawn before.
fn id(kind: u64, number: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    id[8..].copy_from_slice(&mix(number.wrapping_mul(4).wrapping_add(kind)).to_be_bytes());
    id
}

fn directory(number: u64) -> [u8; 16] {
    id(0, number / PER_DIRECTORY)
}

fn entry(parent: [u8; 16], name: &str) -> Vec<u8> {
    [b"d", parent.as_slice(), name.as_bytes()].concat()
}

fn row(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[table][..], &parts.concat()].concat()
}

fn name(number: u64) -> String {
    format!("part-{:05}.parquet", number % PER_DIRECTORY)
}

fn renamed(number: u64) -> String {
    format!("part-{:05}.renamed", number % PER_DIRECTORY)
}

/// What a row holds: an id first, by which it is known again.
fn value(id: [u8; 16], bytes: usize) -> Vec<u8> {
    let mut value = id.to_vec();
    value.extend((0..bytes - id.len()).map(|at| id[at % 16].wrapping_mul(31).wrapping_add(at as u8)));
    value
}

/// The directories of so many files, and the zone.
pub(crate) fn directories(files: u64) -> Writes {
    let top = entry([0; 16], "warehouse");
    let mut rows = Writes::from([
        (top, Some(value(TOP, ENTRY_BYTES))),
        (row(b'z', &[&ZONE]), Some(value(ZONE, 60))),
    ]);
    for number in (0..files).step_by(PER_DIRECTORY as usize) {
        let id = directory(number);
        rows.insert(entry(TOP, &directory_name(number)), Some(value(id, ENTRY_BYTES)));
        rows.insert(row(b'i', &[&id]), Some(value(TOP, PLACE_BYTES)));
    }
    rows
}

fn directory_name(number: u64) -> String {
    format!("day-{:06}", number / PER_DIRECTORY)
}

/// The rows of a file that is made.
pub(crate) fn made(number: u64) -> Change {
    let file = id(1, number);
    let writes = Writes::from([
        (entry(directory(number), &name(number)), Some(value(file, ENTRY_BYTES))),
        (row(b'i', &[&file]), Some(value(directory(number), PLACE_BYTES))),
        (row(b'e', &[&file]), Some(value(file, BODY_BYTES))),
        (row(b'x', &[&ZONE, &1_u32.to_be_bytes(), &file]), Some(Vec::new())),
        (row(b'a', &[&id(2, number)]), Some(value(file, ANSWER_BYTES))),
    ]);
    Change {
        writes,
        adds: vec![(row(b'c', &[b"x", &ZONE]), 1), (row(b'c', &[b"bytes"]), 1 << 20)],
    }
}

/// How many files the counter says there are.
pub(crate) fn counted(view: &mut dyn View) -> i64 {
    crate::group::counter(view.get(&row(b'c', &[b"x", &ZONE])))
}

/// The walk to a file's directory.
fn walk(view: &mut dyn View, number: u64) -> [u8; 16] {
    let top = view.get(&entry([0; 16], "warehouse")).expect("the top");
    let parent: [u8; 16] = top[..16].try_into().expect("an id");
    let found = view.get(&entry(parent, &directory_name(number)));
    let found = found.expect("the directory");
    found[..16].try_into().expect("an id")
}

/// Makes a file that is not there yet: four reads, five rows, two counters.
pub(crate) fn create(engine: &dyn Engine, committer: &Committer, number: u64) {
    let mut view = engine.view();
    let parent = walk(view.as_mut(), number);
    view.get(&row(b'z', &[&ZONE])).expect("the zone");
    assert!(view.get(&entry(parent, &name(number))).is_none(), "{number} is there");
    drop(view);
    committer.commit(made(number));
}

/// Opens a file: four reads.
pub(crate) fn open(engine: &dyn Engine, number: u64) {
    let mut view = engine.view();
    let parent = walk(view.as_mut(), number);
    let found = view.get(&entry(parent, &name(number)));
    let found = found.or_else(|| view.get(&entry(parent, &renamed(number))));
    let file: [u8; 16] = found.expect("the file")[..16].try_into().expect("an id");
    let body = view.get(&row(b'e', &[&file])).expect("its body");
    assert_eq!(body.len(), BODY_BYTES, "{number}");
}

/// Lists a directory: its walk and one range of a thousand.
pub(crate) fn list(engine: &dyn Engine, number: u64) -> usize {
    let mut view = engine.view();
    let parent = walk(view.as_mut(), number);
    let end = [b"d", parent.as_slice(), &[255]].concat();
    view.scan(&entry(parent, ""), &end, PER_DIRECTORY as usize).len()
}

/// Gives a file its other name: four or five reads, one row gone and two written.
pub(crate) fn rename(engine: &dyn Engine, committer: &Committer, number: u64) {
    let mut view = engine.view();
    let parent = walk(view.as_mut(), number);
    let (mut from, mut to) = (entry(parent, &name(number)), entry(parent, &renamed(number)));
    let mut found = view.get(&from);
    if found.is_none() {
        std::mem::swap(&mut from, &mut to);
        found = view.get(&from);
    }
    let found = found.expect("the file");
    assert!(view.get(&to).is_none(), "{number} has one name");
    drop(view);
    let file: [u8; 16] = found[..16].try_into().expect("an id");
    committer.commit(Change {
        writes: Writes::from([
            (from, None),
            (to, Some(found)),
            (row(b'i', &[&file]), Some(value(parent, PLACE_BYTES))),
        ]),
        adds: Vec::new(),
    });
}
