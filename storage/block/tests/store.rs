//! The store on a disk: what is written reads back or fails, and never reads back wrong.

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use crc_fast::crc32_iscsi;
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use strongroom_block::{BlockStore, Engine, Expected, Found, Lacking, OpenError, Position, StoreError};
use strongroom_proto::{BlockId, ExtentId, NodeId};

const CHUNK: usize = 64 << 10;

struct Fixture {
    directory: tempfile::TempDir,
    store: BlockStore,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let store = open(directory.path()).expect("open");
        Self { directory, store }
    }

    async fn put(&self, id: BlockId, data: &Bytes) -> Result<(), StoreError> {
        put(&self.store, id, data).await
    }

    fn file(&self, id: BlockId) -> PathBuf {
        let fan = format!("{:02x}", id.extent.as_bytes()[15]);
        self.directory.path().join(format!("blocks/{fan}/{id}.blk"))
    }

    fn bad(&self, id: BlockId) -> PathBuf {
        self.directory.path().join(format!("bad/{id}.bad"))
    }

    async fn blocks(&self) -> u64 {
        self.store.usage().await.expect("usage").blocks
    }
}

fn open(path: &Path) -> Result<BlockStore, OpenError> {
    BlockStore::open(path, node(), 0)
}

fn node() -> NodeId {
    "node-1".parse().expect("valid")
}

async fn put(store: &BlockStore, id: BlockId, data: &Bytes) -> Result<(), StoreError> {
    let sealed = store.seal(id, data.clone(), crc32_iscsi(data)).await?;
    store.put(sealed).await
}

fn some_id() -> BlockId {
    BlockId {
        extent: ExtentId::generate(),
        index: 7,
    }
}

/// Bytes of which no two stretches are alike.
fn some_data(length: usize) -> Bytes {
    (0..length)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect()
}

fn files_below(path: &Path) -> usize {
    fs::read_dir(path).expect("directory").count()
}

#[tokio::test]
async fn blocks_read_back_whole_and_in_ranges() {
    let fixture = Fixture::new();
    let data = some_data(3 * CHUNK + 100);
    let id = some_id();
    fixture.put(id, &data).await.expect("put");
    let end = data.len();
    for (offset, length, expected) in [
        (0, 0, 0..end),
        (0, 1, 0..1),
        (10, 20, 10..30),
        (CHUNK, CHUNK, CHUNK..2 * CHUNK),
        (CHUNK - 1, 2, CHUNK - 1..CHUNK + 1),
        (CHUNK + 5, 0, CHUNK + 5..end),
        (end - 1, 100, end - 1..end),
        (end, 100, end..end),
        (end + 1, 0, end..end),
        (u32::MAX as usize, u32::MAX as usize, end..end),
    ] {
        let (offset, length) = (
            u32::try_from(offset).expect("fits"),
            u32::try_from(length).expect("fits"),
        );
        let part = fixture.store.get(id, offset, length).await.expect("get");
        assert_eq!(part.data, data.slice(expected), "offset {offset} length {length}");
        assert_eq!(part.block_length as usize, end);
    }
}

#[tokio::test]
async fn the_same_block_twice_is_one_and_another_under_its_id_is_refused() {
    let fixture = Fixture::new();
    let (id, data) = (some_id(), some_data(1000));
    fixture.put(id, &data).await.expect("put");
    fixture.put(id, &data).await.expect("idempotent");
    assert_eq!(fixture.blocks().await, 1);
    for other in [some_data(999), data.iter().map(|byte| byte ^ 1).collect()] {
        let error = fixture.put(id, &other).await.expect_err("refused");
        assert!(matches!(error, StoreError::Exists { .. }), "{error:?}");
    }
    assert_eq!(fixture.store.get(id, 0, 0).await.expect("get").data, data);
    let damaged = fixture.store.seal(id, data.clone(), crc32_iscsi(&data) ^ 1).await;
    assert!(matches!(damaged, Err(StoreError::Damaged { .. })));
}

#[tokio::test]
async fn of_many_writers_of_one_id_one_wins_and_its_bytes_stay() {
    let fixture = Fixture::new();
    let id = some_id();
    let writers = (0..8_u8).map(|n| {
        let store = fixture.store.clone();
        tokio::spawn(async move {
            let data = Bytes::from(vec![n / 4; 100_000]);
            put(&store, id, &data).await.map(|()| data)
        })
    });
    let outcomes = futures::future::join_all(writers).await;
    let won: Vec<Bytes> = outcomes
        .into_iter()
        .filter_map(|outcome| outcome.expect("no panic").ok())
        .collect();
    assert_eq!(won.len(), 4, "all writers of the same bytes succeed, the others fail");
    assert_eq!(fixture.store.get(id, 0, 0).await.expect("get").data, won[0]);
    assert!(won.iter().all(|data| *data == won[0]));
    assert_eq!(fixture.blocks().await, 1);
    assert_eq!(files_below(&fixture.directory.path().join("tmp")), 0);
}

#[tokio::test]
async fn every_flipped_byte_of_header_and_table_shows() {
    let fixture = Fixture::new();
    let data = some_data(2 * CHUNK + 1);
    for at in 0..48 + 3 * 4 {
        let id = some_id();
        fixture.put(id, &data).await.expect("put");
        flip(&fixture.file(id), at);
        let error = fixture.store.get(id, 0, 1).await.expect_err("damaged");
        assert!(matches!(error, StoreError::Corrupt { .. }), "byte {at}: {error:?}");
    }
}

#[tokio::test]
async fn every_truncation_and_extension_shows() {
    let fixture = Fixture::new();
    let data = some_data(200);
    let whole = 48 + 4 + 200;
    for length in (0..whole).chain([whole + 1, whole + CHUNK as u64]) {
        let id = some_id();
        fixture.put(id, &data).await.expect("put");
        let file = fs::OpenOptions::new().write(true).open(fixture.file(id)).expect("open");
        file.set_len(length).expect("truncate");
        // Even the first byte alone, which may well be there.
        let error = fixture.store.get(id, 0, 1).await.expect_err("damaged");
        assert!(
            matches!(error, StoreError::Corrupt { .. }),
            "length {length}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_file_in_the_place_of_another_shows() {
    let fixture = Fixture::new();
    let (one, data) = (some_id(), some_data(100));
    let two = BlockId { index: 8, ..one };
    fixture.put(one, &data).await.expect("put");
    fs::rename(fixture.file(one), fixture.file(two)).expect("rename");
    let error = fixture.store.get(two, 0, 0).await.expect_err("another block");
    assert!(error.to_string().contains("names another block"), "{error}");
}

#[tokio::test]
async fn a_damaged_block_is_put_aside_and_can_be_written_again() {
    let fixture = Fixture::new();
    let (id, data) = (some_id(), some_data(2 * CHUNK));
    fixture.put(id, &data).await.expect("put");
    flip(&fixture.file(id), 60 + CHUNK);
    assert_eq!(
        fixture.store.get(id, 0, 1).await.expect("first chunk").data,
        data.slice(..1)
    );
    let error = fixture.store.get(id, 0, 0).await.expect_err("second chunk");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(fixture.bad(id).exists() && !fixture.file(id).exists());
    assert_eq!(fixture.blocks().await, 0);
    fixture.put(id, &data).await.expect("the place is free");
    assert_eq!(fixture.store.get(id, 0, 0).await.expect("get").data, data);
    assert_eq!(fixture.blocks().await, 1);

    flip(&fixture.file(id), 60);
    fixture
        .put(id, &data)
        .await
        .expect("a put finds the damage and repairs it");
    assert_eq!(fixture.store.get(id, 0, 0).await.expect("get").data, data);
}

#[tokio::test]
async fn a_block_that_was_put_aside_stays_corrupt_until_it_is_written_or_deleted() {
    let Fixture { directory, store } = Fixture::new();
    let (one, data) = (some_id(), some_data(10));
    let (two, unlike) = (BlockId { index: 8, ..one }, some_id());
    let fixture = Fixture { directory, store };
    for id in [one, two, unlike] {
        fixture.put(id, &data).await.expect("put");
        flip(&fixture.file(id), 60);
        fixture.store.get(id, 0, 0).await.expect_err("damaged");
    }
    let Fixture { directory, store } = fixture;
    drop(store);
    let store = open(directory.path()).expect("open again");
    let fixture = Fixture { directory, store };
    for _ in 0..2 {
        let error = fixture.store.get(one, 0, 0).await.expect_err("put aside");
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("found corrupt before and put aside"), "{text}");
    }
    fixture.put(one, &data).await.expect("the place is free");
    assert_eq!(fixture.store.get(one, 0, 0).await.expect("get").data, data);

    fixture.store.delete(one).await.expect("delete");
    assert!(!fixture.bad(one).exists() && fixture.bad(two).exists());
    fixture.store.delete_extent(two.extent).await.expect("delete");
    for id in [one, two] {
        let error = fixture.store.get(id, 0, 0).await.expect_err("deleted");
        assert!(matches!(error, StoreError::NotFound { .. }), "{error:?}");
    }
    assert!(fixture.bad(unlike).exists(), "of another extent");
    assert_eq!(fixture.blocks().await, 0);
}

#[tokio::test]
async fn deleting_is_idempotent() {
    let fixture = Fixture::new();
    let (id, data) = (some_id(), some_data(10));
    fixture.put(id, &data).await.expect("put");
    for _ in 0..2 {
        fixture.store.delete(id).await.expect("delete");
        assert_eq!(fixture.blocks().await, 0);
    }
    assert!(matches!(
        fixture.store.get(id, 0, 0).await,
        Err(StoreError::NotFound { .. })
    ));
}

#[tokio::test]
async fn a_start_keeps_blocks_and_clears_what_was_half_written() {
    let Fixture { directory, store } = Fixture::new();
    let data = some_data(10);
    let ids = [some_id(), some_id(), some_id()];
    for id in ids {
        put(&store, id, &data).await.expect("put");
    }
    drop(store);
    fs::write(directory.path().join("tmp/half.0"), b"SRMBLOCK and then the power went").expect("write");
    let store = open(directory.path()).expect("open again");
    assert_eq!(store.usage().await.expect("usage").blocks, 3);
    assert_eq!(files_below(&directory.path().join("tmp")), 0);
    assert_eq!(store.get(ids[0], 0, 0).await.expect("get").data, data);
}

#[test]
fn a_directory_that_is_not_ours_is_refused_with_the_remedy() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path();
    let refusal = |path: &Path| open(path).err().expect("refused").to_string();

    let store = open(path).expect("first");
    let message = refusal(path);
    assert!(
        message.contains(&format!("in use by process {}", std::process::id())),
        "{message}"
    );
    drop(store);

    for (format, mention) in [
        ("4 node-1 whatever\n", "run the release that wrote it"),
        ("3 node-1\n", "does not say a format and a node"),
        ("1 node-2\n", "belongs to node node-2"),
        ("hello\n", "does not say a format and a node"),
    ] {
        fs::write(path.join("FORMAT"), format).expect("write");
        let message = refusal(path);
        assert!(message.contains(mention), "{message} does not mention {mention}");
    }

    let foreign = tempfile::tempdir().expect("temporary directory");
    fs::write(foreign.path().join("thesis.tex"), "years of work").expect("write");
    let message = refusal(foreign.path());
    assert!(message.contains("holds other files, such as thesis.tex"), "{message}");
}

#[test]
fn a_directory_keeps_its_incarnation_and_an_emptied_one_has_another() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("data");
    let incarnation = || open(&path).expect("open").incarnation();
    let first = incarnation();
    assert_eq!(incarnation(), first, "the same after a restart");
    // As the releases before left it.
    fs::remove_file(path.join("blocks/INCARNATION")).expect("a mark");
    fs::write(path.join("FORMAT"), format!("2 node-1 {first}\n")).expect("write");
    assert_eq!((incarnation(), incarnation()), (first, first), "marked and kept");
    fs::remove_file(path.join("blocks/INCARNATION")).expect("a mark");
    fs::write(path.join("FORMAT"), "1 node-1\n").expect("write");
    let given = incarnation();
    assert_eq!(incarnation(), given, "given once");
    fs::remove_dir_all(&path).expect("a new disk");
    let other = incarnation();
    assert!(other != first && other != given);
}

/// What was a mount point is an empty directory while its filesystem is away: that is not a disk without blocks.
#[tokio::test]
async fn blocks_that_are_away_are_not_gone() {
    let Fixture { directory, store } = Fixture::new();
    let (blocks, away) = (directory.path().join("blocks"), directory.path().join("away"));
    let (id, data) = (some_id(), some_data(100));
    put(&store, id, &data).await.expect("put");
    let incarnation = store.incarnation();
    fs::rename(&blocks, &away).expect("unmounted");
    fs::create_dir(&blocks).expect("the mount point");
    let expected = Expected {
        id,
        length: 100,
        crc32c: crc32_iscsi(&data),
    };
    let checked = store.check(vec![expected], false).await.expect("looked");
    assert_eq!((checked.lacking.len(), checked.unreadable.len()), (0, 1), "{checked:?}");
    let message = store.get(id, 0, 0).await.expect_err("it is away").to_string();
    assert!(message.contains("cannot find the blocks in"), "{message}");
    drop(store);
    for format in ["", "2"] {
        let kept = fs::read_to_string(directory.path().join("FORMAT")).expect("a format");
        if !format.is_empty() {
            fs::write(directory.path().join("FORMAT"), kept.replacen('3', format, 1)).expect("write");
        }
        let refused = open(directory.path()).err().expect("refused").to_string();
        assert!(refused.contains("mount the filesystem"), "{refused}");
        fs::write(directory.path().join("FORMAT"), kept).expect("write");
    }
    fs::remove_dir(&blocks).expect("nothing was made in it");
    fs::rename(&away, &blocks).expect("mounted");
    let store = open(directory.path()).expect("open");
    assert_eq!(store.incarnation(), incarnation);
    assert_eq!(store.get(id, 0, 0).await.expect("readable").data, data);
}

#[tokio::test]
async fn a_survey_tells_all_that_is_there_page_by_page() {
    let fixture = Fixture::new();
    let ids: Vec<BlockId> = (0..40).map(|_| some_id()).collect();
    for (n, id) in ids.iter().enumerate() {
        fixture.put(*id, &some_data(n + 1)).await.expect("put");
    }
    // One is damaged in its header, which shows on the way, and one in its data, which does not.
    flip(&fixture.file(ids[3]), 5);
    flip(&fixture.file(ids[4]), 54);
    fs::write(fixture.directory.path().join("blocks/00/notes.txt"), "no block").expect("write");
    let mut told = survey(&fixture.store, Position::default()).await;
    told.sort_by_key(|found| ids.iter().position(|id| *id == found.id));
    assert_eq!(told.len(), 40);
    for (n, found) in told.iter().enumerate() {
        assert_eq!((found.id, found.aside), (ids[n], n == 3));
        assert!(found.age.as_secs() < 60, "{found:?}");
        if n != 3 {
            let data = some_data(n + 1);
            assert_eq!((found.length as usize, found.crc32c), (data.len(), crc32_iscsi(&data)));
        }
    }
    // From somewhere in between nothing comes twice.
    let last = ids
        .iter()
        .max_by_key(|id| (id.extent.as_bytes()[15], **id))
        .expect("some");
    let behind = Position {
        fan: u32::from(last.extent.as_bytes()[15]),
        after: Some(*last),
    };
    let rest = survey(&fixture.store, behind).await;
    assert_eq!(
        rest.iter().map(|found| found.id).collect::<Vec<_>>(),
        [ids[3]],
        "what was put aside"
    );
}

async fn survey(store: &BlockStore, from: Position) -> Vec<Found> {
    let (mut told, mut next) = (Vec::new(), Some(from));
    while let Some(from) = next {
        let page = store.survey(from).await.expect("readable");
        told.extend(page.found);
        next = page.next;
    }
    told
}

#[tokio::test]
async fn a_check_names_what_is_gone_other_or_damaged() {
    let fixture = Fixture::new();
    let data = some_data(100_000);
    let expected = |id| Expected {
        id,
        length: 100_000,
        crc32c: crc32_iscsi(&data),
    };
    let [sound, gone, cut, flipped, other] = [(); 5].map(|()| some_id());
    for id in [sound, cut, flipped] {
        fixture.put(id, &data).await.expect("put");
    }
    fixture.put(other, &some_data(99_999)).await.expect("put");
    let file = fs::OpenOptions::new().write(true).open(fixture.file(cut));
    file.expect("open").set_len(500).expect("cut");
    flip(&fixture.file(flipped), 90_000);
    let all = [sound, gone, cut, flipped, other].map(expected).to_vec();
    let quick = fixture.store.check(all.clone(), false).await.expect("readable").lacking;
    let lacking = |id, damaged| Lacking { id, damaged };
    let (is_gone, is_cut, is_other) = (lacking(gone, false), lacking(cut, true), lacking(other, true));
    assert_eq!(
        quick,
        [is_gone, is_cut, is_other],
        "headers say nothing of a flipped byte"
    );
    let deep = fixture.store.check(all, true).await.expect("readable").lacking;
    assert_eq!(deep, [is_gone, is_cut, lacking(flipped, true), is_other]);
    assert!(fixture.bad(flipped).exists(), "what is damaged is put aside");
}

/// Puts something in a block's place whose reads fail with an I/O error: this process' memory at the address 0.
fn break_medium(path: &Path) {
    fs::remove_file(path).expect("a block");
    std::os::unix::fs::symlink("/proc/self/mem", path).expect("a link");
}

#[tokio::test]
async fn a_bad_spot_is_put_aside_and_a_disk_that_is_away_costs_nothing() {
    let fixture = Fixture::new();
    let data = some_data(1000);
    let ids = [(); 3].map(|()| some_id());
    for id in ids {
        fixture.put(id, &data).await.expect("put");
    }
    break_medium(&fixture.file(ids[0]));
    let error = fixture.store.get(ids[0], 0, 0).await.expect_err("it cannot be read");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(
        !fixture.file(ids[0]).exists(),
        "the others read well, so it is the block"
    );

    // Now nothing can be read.
    for id in &ids[1..] {
        break_medium(&fixture.file(*id));
    }
    let error = fixture.store.get(ids[1], 0, 0).await.expect_err("it cannot be read");
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert!(fixture.file(ids[1]).symlink_metadata().is_ok(), "it is where it was");
}

#[tokio::test]
async fn a_block_that_was_put_aside_and_is_whole_is_taken_back() {
    let fixture = Fixture::new();
    let (id, data) = (some_id(), some_data(200_000));
    fixture.put(id, &data).await.expect("put");
    // As after a disk that was away for a minute.
    fs::rename(fixture.file(id), fixture.bad(id)).expect("put aside");
    let part = fixture.store.get(id, 0, 0).await.expect("it is whole");
    assert_eq!(part.data, data);
    assert!(fixture.file(id).exists() && !fixture.bad(id).exists());
}

/// A file system of its own, small enough to fill. Needs root, as CI has it.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(directory.path())
            .status()
            .expect("mount runs");
        assert!(mounted.success(), "cannot mount a tmpfs; run this test as root");
        Self(directory)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_blocks_and_keeps_nothing_half_written() {
    let disk = SmallDisk::mount();
    let store = open(disk.0.path()).expect("open");
    let (data, mut stored) = (some_data(1 << 20), Vec::new());
    let error = loop {
        let id = some_id();
        match put(&store, id, &data).await {
            Ok(()) => stored.push(id),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
    assert!(error.to_string().starts_with("node node-1 has no space: "), "{error}");
    assert!(
        (6..8).contains(&stored.len()),
        "{} blocks of 1 MiB in 8 MiB",
        stored.len()
    );
    assert_eq!(files_below(&disk.0.path().join("tmp")), 0);
    assert_eq!(store.usage().await.expect("usage").blocks, stored.len() as u64);
    for id in &stored {
        assert_eq!(store.get(*id, 0, 0).await.expect("get").data, data);
    }
    store.delete(stored[0]).await.expect("delete");
    put(&store, some_id(), &data).await.expect("room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_that_fills_under_writers_keeps_nothing_half_written() {
    // All pass the check for free space at about the same time, and most then run into the end of the disk.
    let disk = SmallDisk::mount();
    let store = open(disk.0.path()).expect("open");
    let data = some_data(3 << 20);
    let writers = (0..16).map(|_| {
        let (store, data) = (store.clone(), data.clone());
        tokio::spawn(async move {
            let id = some_id();
            (id, put(&store, id, &data).await)
        })
    });
    let mut stored = 0;
    for outcome in futures::future::join_all(writers).await {
        let (id, outcome) = outcome.expect("no panic");
        match outcome {
            Ok(()) => {
                stored += 1;
                assert_eq!(store.get(id, 0, 0).await.expect("get").data, data);
            }
            Err(error) => {
                assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
                assert!(matches!(store.get(id, 0, 0).await, Err(StoreError::NotFound { .. })));
            }
        }
    }
    assert_eq!(store.usage().await.expect("usage").blocks, stored);
    assert_eq!(files_below(&disk.0.path().join("tmp")), 0);
}

#[tokio::test]
async fn the_reserve_stays_free() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let store = BlockStore::open(directory.path(), node(), u64::MAX).expect("open");
    let error = put(&store, some_id(), &some_data(10))
        .await
        .expect_err("all is reserved");
    assert!(
        matches!(error, StoreError::NoSpace { free_bytes, .. } if free_bytes > 0),
        "{error:?}"
    );
    assert_eq!(store.usage().await.expect("usage").free_bytes, 0);
}

fn flip(path: &Path, at: usize) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).expect("read");
    file.write_all_at(&[byte[0] ^ 0x10], at as u64).expect("write");
}

#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, u8),
    Cut(Index),
    Extend(usize),
    Zero(Index, usize),
}

fn damages() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        any::<Index>().prop_map(Damage::Cut),
        (1..100_000_usize).prop_map(Damage::Extend),
        (any::<Index>(), 1..10_000_usize).prop_map(|(at, length)| Damage::Zero(at, length)),
    ]
}

fn apply(damage: &Damage, bytes: &mut Vec<u8>) {
    match damage {
        Damage::Flip(at, bit) => *at.get_mut(bytes) ^= 1 << bit,
        Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Damage::Extend(by) => bytes.resize(bytes.len() + by, 0),
        Damage::Zero(at, length) => {
            let start = at.index(bytes.len());
            let end = bytes.len().min(start + length);
            bytes[start..end].fill(0);
        }
    }
}

#[test]
fn damage_never_reads_as_wrong_bytes() {
    let seed: [u8; 32] = std::array::from_fn(|_| rand::random());
    let config = ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let fixture = Fixture::new();
    let lengths = prop_oneof![1..300_usize, 1..200_000_usize];
    let cases = (lengths, damages(), any::<Index>(), 0..100_000_u32);
    let outcome = runner.run(&cases, |(length, damage, offset, count)| {
        runtime.block_on(check_damaged(&fixture, length, &damage, offset.index(length), count));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("seed {seed:?}: {error}");
    }
}

/// Damages a block's file and reads `count` bytes from `start`, 0 meaning to the end.
async fn check_damaged(fixture: &Fixture, length: usize, damage: &Damage, start: usize, count: u32) {
    let (id, data) = (some_id(), some_data(length));
    fixture.put(id, &data).await.expect("put");
    let path = fixture.file(id);
    let before = fs::read(&path).expect("read");
    let mut bytes = before.clone();
    apply(damage, &mut bytes);
    fs::write(&path, &bytes).expect("write");
    let end = match count {
        0 => length,
        count => length.min(start + count as usize),
    };
    match fixture.store.get(id, u32::try_from(start).expect("fits"), count).await {
        Ok(part) => assert_eq!(part.data, data.slice(start..end)),
        Err(StoreError::Corrupt { .. }) => assert_ne!(bytes, before, "nothing was damaged"),
        Err(error) => panic!("neither right nor corrupt: {error}"),
    }
    if bytes != before {
        let whole = fixture.store.get(id, 0, 0).await;
        assert!(
            matches!(whole, Err(StoreError::Corrupt { .. } | StoreError::NotFound { .. })),
            "{whole:?}"
        );
    }
}

#[test]
fn the_directories_are_their_owners_alone() {
    let parent = tempfile::tempdir().expect("temporary directory");
    let root = parent.path().join("made/by/the/store");
    let _store = open(&root).expect("open");
    for name in ["", "blocks", "blocks/00", "blocks/ff", "tmp", "bad"] {
        let metadata = fs::metadata(root.join(name)).expect("is there");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o700, "{name}");
    }
}
