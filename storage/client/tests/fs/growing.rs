//! Files that grow, are cut short, and show while they are written. Whatever the order, readers see what was published last, no two
//! extents share a salt, and what the metadata service changes or brings back is refused.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};
use strongroom_fs::{CreateOptions, FileWriter, FsError, Stat};
use strongroom_proto::{DataSuite, Reason};

use crate::stand_ins::{FileRecord, World, now_ms, path};

const FRAME: usize = 4096;
const BLOCK: usize = 2 * FRAME;
const FILE: &str = "/z/f";
const NEW: CreateOptions = CreateOptions {
    mode: 0o640,
    overwrite: false,
};

fn plain(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// A world with a file of `length` bytes.
async fn with_file(length: usize) -> World {
    with_file_in(DataSuite::Gcm, length).await
}

async fn with_file_in(suite: DataSuite, length: usize) -> World {
    let world = World::start(BLOCK as u32).await;
    world.metadata.lock().data_suite = suite;
    let mut writer = world.fs.create(&path(FILE), NEW).await.expect("created");
    writer.write(&plain(length)).await.expect("written");
    writer.finish(1).await.expect("finished");
    world
}

async fn append(world: &World, from: Option<u64>, data: &[u8]) -> Result<Stat, FsError> {
    let mut writer = world.fs.append(&path(FILE), from).await?;
    match writer.write(data).await {
        Ok(()) => writer.finish(2).await,
        Err(error) => {
            writer.abandon().await?;
            Err(error)
        }
    }
}

async fn read(world: &World) -> Result<Vec<u8>, FsError> {
    let reader = world.fs.open(&path(FILE)).await?;
    let mut all = vec![0; reader.len() as usize];
    let read = reader.read_at(0, &mut all).await?;
    assert_eq!(read, all.len());
    Ok(all)
}

fn record(world: &World) -> FileRecord {
    world.metadata.lock().files[FILE.as_bytes()].clone()
}

#[tokio::test]
async fn what_is_appended_follows_in_another_extent() {
    let world = with_file(BLOCK + 5).await;
    let whole = plain(BLOCK + 5 + 3 * BLOCK);
    let stat = append(&world, None, &whole[BLOCK + 5..]).await.expect("appended");
    assert_eq!((stat.length, stat.mtime_ms), (whole.len() as u64, 2));
    assert!(read(&world).await.expect("read") == whole);
    let reader = world.fs.open(&path(FILE)).await.expect("opened");
    let mut seam = [0; 20];
    reader.read_at(BLOCK as u64 - 5, &mut seam).await.expect("read");
    assert!(seam == whole[BLOCK - 5..BLOCK + 15]);
    let file = record(&world);
    assert_eq!((file.extents.len(), file.generation), (2, 2));
    assert_ne!(file.extents[0].salt, file.extents[1].salt);
}

#[tokio::test]
async fn nothing_appended_changes_nothing() {
    let world = with_file(10).await;
    for from in [None, Some(10)] {
        let stat = append(&world, from, &[]).await.expect("finished");
        assert_eq!((stat.length, stat.mtime_ms), (10, 1));
    }
    assert_eq!(record(&world).generation, 1);
    assert!(world.metadata.lock().open.is_empty(), "it is open to others");
}

#[tokio::test]
async fn readers_see_what_was_flushed() {
    let world = World::start(BLOCK as u32).await;
    let whole = plain(3 * BLOCK);
    let mut writer = world.fs.create(&path(FILE), NEW).await.expect("created");
    let stat = writer.flush(5).await.expect("flushed");
    assert_eq!((stat.length, stat.mtime_ms), (0, 5), "a new file shows");
    let mut written = 0;
    for end in [1, FRAME, BLOCK, BLOCK + 1, 2 * BLOCK + 7] {
        writer.write(&whole[written..end]).await.expect("written");
        assert!(
            read(&world).await.expect("read") == whole[..written],
            "what was flushed before"
        );
        writer.flush(6).await.expect("flushed");
        written = end;
        assert!(read(&world).await.expect("read") == whole[..written]);
    }
    let before = record(&world).generation;
    assert_eq!(writer.flush(7).await.expect("nothing to do").mtime_ms, 6);
    assert_eq!(record(&world).generation, before);
    writer.write(&whole[written..]).await.expect("written");
    writer.finish(8).await.expect("finished");
    assert!(read(&world).await.expect("read") == whole);
    assert_eq!(record(&world).extents.len(), 6);
}

#[tokio::test]
async fn a_writer_that_is_dropped_gives_up_what_it_did_not_flush() {
    let world = World::start(BLOCK as u32).await;
    let mut writer = world.fs.create(&path(FILE), NEW).await.expect("created");
    writer.write(b"kept").await.expect("written");
    writer.flush(1).await.expect("flushed");
    writer.write(b"lost").await.expect("written");
    drop(writer);
    until("it is open to others", async || world.metadata.lock().open.is_empty()).await;
    assert_eq!(read(&world).await.expect("read"), b"kept");
    let mut writer = world.fs.append(&path(FILE), None).await.expect("opened");
    writer.write(b"lost, too").await.expect("written");
    writer.abandon().await.expect("given up");
    append(&world, None, b", and more").await.expect("nobody has it open");
    assert_eq!(read(&world).await.expect("read"), b"kept, and more");
}

/// Waits until `done`, for at most 10 s.
async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !done().await {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: it did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn who_lost_his_file_hears_of_it_at_his_next_block() {
    let world = with_file(10).await;
    world.metadata.lock().grant_ms = 1000;
    let mut writer = world.fs.append(&path(FILE), None).await.expect("opened");
    writer.write(b"a").await.expect("written");
    world.fs.recover(&path(FILE)).await.expect("taken");
    let mut refused = None;
    until("a block is refused", async || {
        refused = writer.write(&plain(BLOCK)).await.err();
        refused.is_some()
    })
    .await;
    assert_eq!(refused.expect("an error").reason(), Reason::LeaseLost);
    assert_eq!(read(&world).await.expect("read").len(), 10);
}

#[tokio::test]
async fn a_reader_that_was_there_before_a_truncation_reads_what_is_left() {
    let world = with_file(4 * BLOCK).await;
    // So that the list of blocks is not all there at the opening.
    world.metadata.lock().page = 1;
    let reader = world.fs.open(&path(FILE)).await.expect("opened");
    world.fs.truncate(&path(FILE), BLOCK as u64 + 1, 2).await.expect("cut");
    let mut left = vec![0; 2 * BLOCK];
    reader.read_at(0, &mut left).await.expect("these blocks are there");
    assert!(left[..=BLOCK] == plain(BLOCK + 1));
    let error = reader.read_at(3 * BLOCK as u64, &mut left).await.expect_err("cut off");
    assert_eq!(error.reason(), Reason::NotFound, "{error}");
    assert!(error.to_string().contains("cut short"), "{error}");
    let reader = world.fs.open(&path(FILE)).await.expect("opened");
    world.fs.truncate(&path(FILE), 0, 3).await.expect("emptied");
    let error = reader.read_at(0, &mut left).await.expect_err("nothing is left");
    assert!(matches!(error, FsError::CutShort { .. }), "{error}");
}

#[tokio::test]
async fn an_extent_that_is_granted_twice_is_refused() {
    let world = with_file(10).await;
    let mut writer = world.fs.append(&path(FILE), None).await.expect("opened");
    writer.write(b"a").await.expect("written");
    world.metadata.lock().same_extents = true;
    let error = writer.flush(1).await.expect_err("the extent that was published");
    assert!(error.to_string().contains("has already"), "{error}");
    drop(writer);
    until("it is open to others", async || world.metadata.lock().open.is_empty()).await;
    let error = world.fs.append(&path(FILE), None).await.expect_err("the same");
    assert!(error.to_string().contains("has already"), "{error}");
    assert_eq!(read(&world).await.expect("read").len(), 11, "what was published counts");
}

#[tokio::test]
async fn nobody_can_have_a_writer_go_on_under_another_dek() {
    let world = with_file(10).await;
    let mut writer = world.fs.append(&path(FILE), None).await.expect("opened");
    writer.write(b"a").await.expect("written");
    writer.flush(1).await.expect("flushed");
    let stored = || world.nodes.iter().map(|node| node.lock().blocks.len()).sum::<usize>();
    let before = stored();
    world.metadata.lock().swap_open_edek(&[99; 32]);
    let error = writer.write(&plain(3 * BLOCK)).await.expect_err("not its DEK");
    assert_eq!(error.reason(), Reason::ManifestInvalid, "{error}");
    assert_eq!(stored(), before, "nothing went out");
}

#[tokio::test]
async fn a_file_that_was_cut_short_has_its_first_bytes() {
    let whole = plain(2 * BLOCK + 100);
    for length in [
        0,
        1,
        FRAME - 1,
        FRAME,
        FRAME + 1,
        BLOCK,
        BLOCK + 1,
        2 * BLOCK + 99,
        2 * BLOCK + 100,
    ] {
        let world = with_file(whole.len()).await;
        let stat = world.fs.truncate(&path(FILE), length as u64, 9).await.expect("cut");
        assert_eq!(stat.length, length as u64);
        assert!(read(&world).await.expect("read") == whole[..length], "{length}");
        append(&world, None, b"more").await.expect("appended");
        assert!(
            read(&world).await.expect("read") == [&whole[..length], b"more"].concat(),
            "{length}"
        );
    }
    let world = with_file(10).await;
    let error = world.fs.truncate(&path(FILE), 11, 9).await.expect_err("it has ten");
    assert_eq!(error.reason(), Reason::InvalidArgument);
    assert!(error.to_string().contains("has 10 bytes"), "{error}");
    append(&world, None, b"!").await.expect("nobody has it open");
}

#[tokio::test]
async fn who_has_a_file_open_keeps_others_out_until_it_is_recovered() {
    let world = with_file(10).await;
    let mut first = world.fs.append(&path(FILE), None).await.expect("opened");
    first.write(b"lost").await.expect("written");
    let second = world.fs.append(&path(FILE), None).await;
    assert_eq!(second.expect_err("held").reason(), Reason::LeaseHeld);
    let writer = world.fs.recover(&path(FILE)).await.expect("recovered");
    assert_eq!(writer.expect("somebody had it").as_str(), "alice");
    assert_eq!(world.fs.recover(&path(FILE)).await.expect("nobody has it"), None);
    let mut second = world.fs.append(&path(FILE), None).await.expect("opened");
    assert_eq!(first.finish(3).await.expect_err("taken").reason(), Reason::LeaseLost);
    second.write(b"kept").await.expect("written");
    second.finish(4).await.expect("finished");
    assert!(read(&world).await.expect("read") == [plain(10).as_slice(), b"kept"].concat());
}

#[tokio::test]
async fn what_was_cut_off_or_changed_by_the_service_is_refused() {
    struct Change(&'static str, fn(&mut FileRecord));
    let changes = [
        Change("more of an extent shows", |file| {
            file.extents[0].visible += 1;
            file.stat.length += 1;
        }),
        Change("less of an extent shows", |file| {
            file.extents[1].visible -= 1;
            file.stat.length -= 1;
        }),
        Change("the generation is another", |file| file.generation += 1),
        Change("an extent is left out", |file| {
            let left_out = file.extents.pop().expect("two");
            file.stat.length -= left_out.visible;
        }),
        Change("the order is another", |file| file.extents.swap(0, 1)),
    ];
    for Change(what, change) in changes {
        let world = with_file(BLOCK + 5).await;
        append(&world, Some(100), b"more").await.expect("appended");
        world.metadata.change(FILE, change);
        let error = read(&world).await.expect_err(what);
        assert_eq!(error.reason(), Reason::ManifestInvalid, "{what}: {error}");
        let error = append(&world, None, b"x").await.expect_err(what);
        assert_eq!(error.reason(), Reason::ManifestInvalid, "{what}: {error}");
    }
}

#[tokio::test]
async fn the_key_is_asked_for_again_after_each_flush() {
    let world = with_file(1).await;
    let mut writer = world.fs.append(&path(FILE), None).await.expect("opened");
    writer.write(b"a").await.expect("written");
    writer.flush(1).await.expect("flushed");
    *world.failing_unwraps.lock() = u32::MAX;
    let error = writer.write(b"b").await.expect_err("the right is gone");
    assert!(matches!(error, FsError::Unwrap { .. }), "{error}");
    drop(writer);
    *world.failing_unwraps.lock() = 0;
    assert_eq!(read(&world).await.expect("what was flushed").len(), 2);
}

#[tokio::test]
async fn a_file_of_too_many_extents_says_what_to_do() {
    let world = World::start(BLOCK as u32).await;
    let mut writer = world.fs.create(&path(FILE), NEW).await.expect("created");
    for _ in 0..1023 {
        writer.write(b"x").await.expect("written");
        writer.flush(1).await.expect("flushed");
    }
    writer.write(b"y").await.expect("written");
    let error = writer.flush(1).await.expect_err("one is left to finish with");
    assert_eq!(error.reason(), Reason::InvalidArgument);
    assert!(error.to_string().contains("strongroom fs compact"), "{error}");
    writer.write(b"z").await.expect("it goes on");
    assert_eq!(writer.finish(2).await.expect("the last one").length, 1025);
    let error = append(&world, None, b"x").await.expect_err("1024");
    assert_eq!(error.reason(), Reason::InvalidArgument, "{error}");
    world.fs.truncate(&path(FILE), 3, 2).await.expect("fewer are possible");
    append(&world, None, b"x").await.expect("and then more");
}

/// Random appends, truncations and flushes against a vector of bytes.
#[tokio::test]
async fn any_order_of_changes_gives_the_bytes_of_the_model() {
    let given = std::env::var("STRONGROOM_TEST_SEED").ok();
    let seed = given.map_or_else(now_ms, |seed| seed.parse().expect("a number"));
    for suite in DataSuite::ALL {
        let outcome = tokio::spawn(random_changes(seed, suite)).await;
        outcome.unwrap_or_else(|failure| panic!("with STRONGROOM_TEST_SEED={seed}, {suite}: {failure}"));
    }
}

async fn random_changes(seed: u64, suite: DataSuite) {
    let bytes: [u8; 32] = std::array::from_fn(|i| (seed >> (i % 8 * 8)) as u8);
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut up_to = move |end: usize| rng.next_u32() as usize % end;
    let world = with_file_in(suite, BLOCK).await;
    let mut model = plain(BLOCK);
    let (mut salts, mut shown) = (HashSet::new(), Vec::new());
    for round in 0..60 {
        let from = match up_to(3) {
            0 => Some(up_to(model.len() + 1)),
            _ => None,
        };
        model.truncate(from.unwrap_or(usize::MAX));
        let writer = world.fs.append(&path(FILE), from.map(|from| from as u64)).await;
        let mut writer = writer.expect("opened");
        for _ in 0..up_to(3) {
            let more = plain(up_to(2 * BLOCK));
            writer.write(&more).await.expect("written");
            model.extend_from_slice(&more);
            if up_to(2) == 0 {
                writer.flush(round).await.expect("flushed");
                check(&world, &model, &mut salts, &mut shown).await;
            }
        }
        end(writer, round).await;
        check(&world, &model, &mut salts, &mut shown).await;
    }
}

async fn end(writer: FileWriter, mtime_ms: u64) {
    writer.finish(mtime_ms).await.expect("finished");
}

/// The bytes are the model's, every extent has a salt of its own, and none that showed less shows more again.
async fn check(world: &World, model: &[u8], salts: &mut HashSet<(Vec<u8>, Vec<u8>)>, shown: &mut Vec<(Vec<u8>, u64)>) {
    assert!(read(world).await.expect("read") == model);
    for extent in record(world).extents {
        let (id, salt) = (extent.extent_id.to_vec(), extent.salt.to_vec());
        salts.insert((id.clone(), salt.clone()));
        assert_eq!(salts.iter().filter(|(_, other)| *other == salt).count(), 1);
        match shown.iter_mut().find(|(known, _)| *known == id) {
            Some((_, visible)) => {
                assert!(extent.visible <= *visible);
                *visible = extent.visible;
            }
            None => shown.push((id, extent.visible)),
        }
    }
}
