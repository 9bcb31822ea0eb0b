//! Files go in and come out the same, whatever fails meanwhile; what was tampered with does not come out.

use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};
use strongroom_fs::{CreateOptions, FileReader, FsError, Stat};
use strongroom_proto::Reason;

use crate::stand_ins::{FileRecord, Health, World, path};

const FRAME: usize = 4096;
const BLOCK: usize = 2 * FRAME;
const NEW: CreateOptions = CreateOptions {
    mode: 0o640,
    overwrite: false,
};

fn plain(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

async fn world() -> World {
    World::start(BLOCK as u32).await
}

async fn write(world: &World, name: &str, data: &[u8]) -> Result<Stat, FsError> {
    let mut writer = world.fs.create(&path(name), NEW).await?;
    for part in data.chunks(5000) {
        writer.write(part).await?;
    }
    writer.finish(1234).await
}

async fn put(world: &World, name: &str, data: &[u8]) -> Stat {
    write(world, name, data).await.expect("written")
}

async fn read_all(world: &World, name: &str) -> Result<Vec<u8>, FsError> {
    drain(world.fs.open(&path(name)).await?, 0).await
}

async fn drain(reader: FileReader, from: u64) -> Result<Vec<u8>, FsError> {
    let mut stream = reader.stream(from);
    let mut all = Vec::new();
    while let Some(part) = stream.next().await {
        all.extend_from_slice(&part?);
    }
    Ok(all)
}

/// Waits until `done`, for at most 10 s.
async fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn every_size_comes_back() {
    let world = world().await;
    for length in [
        0,
        1,
        FRAME - 1,
        FRAME,
        FRAME + 1,
        BLOCK - 1,
        BLOCK,
        BLOCK + 1,
        2 * BLOCK,
        11 * BLOCK + FRAME + 3,
    ] {
        let (name, data) = (format!("/z/{length}"), plain(length));
        let stat = put(&world, &name, &data).await;
        assert_eq!((stat.length, stat.mode, stat.mtime_ms), (length as u64, 0o640, 1234));
        let reader = world.fs.open(&path(&name)).await.expect("opened");
        assert_eq!((reader.len(), reader.is_empty()), (length as u64, length == 0));
        let mut buf = vec![0; length + 10];
        assert_eq!(reader.read_at(0, &mut buf).await.expect("read"), length);
        assert!(buf[..length] == data, "{length} differs");
        assert!(
            read_all(&world, &name).await.expect("read") == data,
            "{length} differs in the stream"
        );
    }
    let state = world.metadata.lock();
    for file in state.files.values() {
        assert_eq!(file.blocks.len(), (file.stat.length as usize).div_ceil(BLOCK));
        assert!(file.blocks.values().all(|block| block.nodes.len() == 3));
    }
}

#[tokio::test]
async fn random_reads_are_slices_of_the_original() {
    let world = world().await;
    let data = plain(20 * BLOCK + 77);
    put(&world, "/z/a", &data).await;
    let reader = world.fs.open(&path("/z/a")).await.expect("opened");
    let seed: [u8; 32] = std::array::from_fn(|i| (crate::stand_ins::now_ms() >> (i % 8)) as u8);
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    for _ in 0..200 {
        let offset = rand(&mut rng) % (data.len() + 100);
        let mut buf = vec![0xee; rand(&mut rng) % (3 * BLOCK)];
        let read = reader.read_at(offset as u64, &mut buf).await.expect("read");
        let from = offset.min(data.len());
        let expected = &data[from..(from + buf.len()).min(data.len())];
        assert!(
            buf[..read] == *expected,
            "{offset}+{} differs, seed {seed:?}",
            buf.len()
        );
    }
    for from in [
        0,
        1,
        BLOCK,
        7 * BLOCK + FRAME + 1,
        data.len() - 1,
        data.len(),
        data.len() + 1,
    ] {
        let tail = drain(reader.clone(), from as u64).await.expect("read");
        assert!(tail == data[from.min(data.len())..], "the stream from {from} differs");
    }
}

fn rand(rng: &mut TestRng) -> usize {
    rng.next_u32() as usize
}

#[tokio::test]
async fn a_small_read_fetches_one_frame() {
    let world = world().await;
    put(&world, "/z/a", &plain(4 * BLOCK)).await;
    let reader = world.fs.open(&path("/z/a")).await.expect("opened");
    let mut byte = [0];
    reader.read_at((BLOCK + FRAME) as u64, &mut byte).await.expect("read");
    let served: usize = world.nodes.iter().map(|node| node.lock().served_bytes).sum();
    assert_eq!(served, FRAME + 16);
    assert_eq!(byte[0], plain(4 * BLOCK)[BLOCK + FRAME]);
}

#[tokio::test]
async fn reads_go_on_past_nodes_that_are_down_or_have_lost_or_spoilt_a_block() {
    let world = world().await;
    let data = plain(6 * BLOCK);
    put(&world, "/z/a", &data).await;
    world.set_health([Health::Down, Health::Up, Health::Up]);
    assert!(read_all(&world, "/z/a").await.expect("two nodes are up") == data);
    world.nodes[1].lock().blocks.clear();
    assert!(read_all(&world, "/z/a").await.expect("one node has it") == data);
    world.set_health([Health::Up; 3]);
    spoil(&world, &[0, 1]);
    assert!(read_all(&world, "/z/a").await.expect("one node is sound") == data);
}

/// Flips a bit in every block of some nodes.
fn spoil(world: &World, nodes: &[usize]) {
    for &node in nodes {
        for block in world.nodes[node].lock().blocks.values_mut() {
            let mut bytes = block.to_vec();
            bytes[7] ^= 1;
            *block = bytes.into();
        }
    }
}

#[tokio::test]
async fn a_block_that_no_node_has_sound_is_named_with_its_nodes() {
    let world = world().await;
    put(&world, "/z/a", &plain(3 * BLOCK)).await;
    spoil(&world, &[0, 1]);
    world.nodes[2].lock().blocks.clear();
    let error = read_all(&world, "/z/a").await.expect_err("nobody has it");
    assert_eq!(error.reason(), Reason::BlockCorrupt);
    let text = error.to_string();
    for part in [
        "/z/a",
        "-0 of",
        "is corrupt or missing on every node",
        "node-1: frame 0 is not what was written",
        "node-3: no such block",
    ] {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
    let reader = world.fs.open(&path("/z/a")).await.expect("the manifest is sound");
    let mut buf = [0xee; 100];
    reader.read_at(50, &mut buf).await.expect_err("nobody has it");
    assert_eq!(buf, [0xee; 100], "a failed read wrote into the buffer");
}

#[tokio::test]
async fn swapped_and_truncated_blocks_are_refused() {
    let world = world().await;
    put(&world, "/z/a", &plain(3 * BLOCK)).await;
    for node in &world.nodes {
        let mut node = node.lock();
        let mut blocks: Vec<Bytes> = node.blocks.values().cloned().collect();
        blocks.swap(0, 1);
        blocks[2].truncate(FRAME + 16);
        for (known, block) in node.blocks.values_mut().zip(blocks) {
            *known = block;
        }
    }
    let reader = world.fs.open(&path("/z/a")).await.expect("the manifest is sound");
    for block in 0..3 {
        let mut buf = vec![0; BLOCK];
        let error = reader
            .read_at(block * BLOCK as u64, &mut buf)
            .await
            .expect_err("not its block");
        assert_eq!(error.reason(), Reason::BlockCorrupt, "block {block}: {error}");
    }
}

#[tokio::test]
async fn a_frame_size_that_is_not_the_writers_is_refused() {
    let world = World::start(4 * FRAME as u32).await;
    let data = plain(3 * FRAME);
    put(&world, "/z/a", &data).await;
    for other in [8192, 16_384] {
        world.metadata.lock().frame_bytes = other;
        let error = world
            .fs
            .open(&path("/z/a"))
            .await
            .expect_err("the manifest has another");
        assert_eq!(error.reason(), Reason::ManifestInvalid, "{error}");
    }
    world.metadata.lock().frame_bytes = FRAME as u32;
    assert!(read_all(&world, "/z/a").await.expect("read") == data);
}

#[tokio::test]
async fn a_write_needs_two_nodes_and_no_more() {
    let world = world().await;
    world.set_health([Health::Up, Health::Down, Health::Up]);
    let data = plain(9 * BLOCK + 5);
    put(&world, "/z/a", &data).await;
    assert!(read_all(&world, "/z/a").await.expect("read") == data);
    let state = world.metadata.lock();
    let mut placed = state.files.values().flat_map(|file| file.blocks.values());
    assert!(placed.all(|block| block.nodes == ["node-1", "node-3"]));
}

#[tokio::test]
async fn a_write_waits_for_nodes_that_come_back() {
    let world = world().await;
    world.set_health([Health::Up, Health::Down, Health::Down]);
    let node = world.nodes[2].clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        node.lock().health = Health::Up;
    });
    let data = plain(2 * BLOCK);
    put(&world, "/z/a", &data).await;
    assert!(read_all(&world, "/z/a").await.expect("read") == data);
}

#[tokio::test]
async fn full_nodes_end_a_write_at_once_and_leave_no_file() {
    let world = world().await;
    world.set_health([Health::Full, Health::Up, Health::Full]);
    let start = Instant::now();
    let error = write(&world, "/z/a", &plain(BLOCK))
        .await
        .expect_err("one node is not enough");
    assert_eq!(error.reason(), Reason::NoSpace);
    let text = error.to_string();
    for part in [
        "/z/a",
        "on 1 nodes where 2 are needed",
        "node-1: no room left",
        "node-3: no room left",
    ] {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    until("giving up the file", || world.metadata.lock().open.is_empty()).await;
    let gone = world.fs.stat(&path("/z/a")).await.expect_err("never published");
    assert_eq!(gone.reason(), Reason::NotFound);
}

#[tokio::test]
async fn after_a_failed_write_the_writer_refuses_to_go_on() {
    let world = world().await;
    let mut writer = world.fs.create(&path("/z/a"), NEW).await.expect("created");
    world.set_health([Health::Full; 3]);
    let mut failed = false;
    for _ in 0..20 {
        failed |= writer.write(&plain(BLOCK)).await.is_err();
    }
    assert!(failed, "no write reported the failure");
    let error = writer.finish(0).await.expect_err("a block is missing");
    assert!(matches!(error, FsError::WriterFailed { .. }), "{error}");
}

#[tokio::test]
async fn a_restart_of_the_metadata_service_costs_no_error() {
    let world = world().await;
    let data = plain(3 * BLOCK);
    let fail = || world.metadata.lock().failing_calls = 3;
    fail();
    let mut writer = world.fs.create(&path("/z/a"), NEW).await.expect("created");
    writer.write(&data).await.expect("buffered");
    fail();
    writer.finish(0).await.expect("finished");
    fail();
    world.fs.stat(&path("/z/a")).await.expect("there");
    fail();
    assert!(read_all(&world, "/z/a").await.expect("read") == data);
}

#[tokio::test]
async fn a_call_that_was_never_sent_is_repeated() {
    let world = World::start_late(BLOCK as u32, Duration::from_millis(600)).await;
    let error = world.fs.remove(&path("/z/a"), false).await.expect_err("nothing there");
    assert_eq!(error.reason(), Reason::NotFound, "{error}");
}

#[tokio::test]
async fn a_restart_of_the_key_service_costs_no_error() {
    let world = world().await;
    *world.failing_unwraps.lock() = 8;
    put(&world, "/z/a", b"data").await;
    assert_eq!(*world.failing_unwraps.lock(), 0);
    assert!(read_all(&world, "/z/a").await.expect("read") == b"data");
}

#[tokio::test]
async fn a_call_that_must_not_run_twice_is_repeated_under_its_id() {
    let world = world().await;
    put(&world, "/z/a", b"data").await;
    world.metadata.lock().failing_calls = 2;
    world.fs.remove(&path("/z/a"), false).await.expect("removed");
    world.fs.remove(&path("/z/a"), false).await.expect_err("is gone");
    let ids = world.metadata.lock().removals.clone();
    assert_eq!(ids.len(), 4);
    assert!(ids[0].len() == 16 && ids[1] == ids[0] && ids[2] == ids[0]);
    assert_ne!(ids[3], ids[0], "another request");
}

#[tokio::test]
async fn capabilities_that_ran_out_are_renewed() {
    let world = world().await;
    let data = plain(8 * BLOCK);
    put(&world, "/z/a", &data).await;
    let reader = world.fs.open(&path("/z/a")).await.expect("opened");
    let mut writer = world.fs.create(&path("/z/b"), NEW).await.expect("created");
    expire(&world, "capability 1");
    writer.write(&data).await.expect("buffered");
    writer.finish(0).await.expect("finished");
    assert!(drain(reader, 0).await.expect("read") == data);
    assert!(read_all(&world, "/z/b").await.expect("read") == data);
    assert!(
        world.metadata.lock().block_lists <= 2,
        "each block fetched a capability of its own"
    );
}

fn expire(world: &World, fresh: &'static str) {
    world.metadata.lock().capability = fresh.into();
    for node in &world.nodes {
        node.lock().capability = fresh.into();
    }
}

#[tokio::test]
async fn an_idle_writer_keeps_its_lease() {
    let world = world().await;
    world.metadata.lock().grant_ms = 1000;
    let mut writer = world.fs.create(&path("/z/a"), NEW).await.expect("created");
    writer.write(b"first").await.expect("buffered");
    until("a renewal", || world.metadata.lock().added == [0]).await;
    writer.finish(0).await.expect("finished");
    let renewals = world.metadata.lock().added.len();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(world.metadata.lock().added.len(), renewals, "renewed after the end");
}

#[tokio::test]
async fn a_lease_is_renewed_again_after_the_metadata_service_was_away() {
    let world = world().await;
    world.metadata.lock().grant_ms = 1000;
    let mut writer = world.fs.create(&path("/z/a"), NEW).await.expect("created");
    writer.write(b"first").await.expect("buffered");
    // A refusal of another kind than a lost lease, which ends the attempts of one renewal.
    world.metadata.lock().refused_calls = 1;
    until("the refusal", || world.metadata.lock().refused_calls == 0).await;
    until("a renewal after it", || !world.metadata.lock().added.is_empty()).await;
    writer.finish(0).await.expect("finished");
}

#[tokio::test]
async fn a_write_that_was_cancelled_cannot_be_finished() {
    let world = world().await;
    world.set_health([Health::Down; 3]);
    let mut writer = world.fs.create(&path("/z/a"), NEW).await.expect("created");
    let data = plain(10 * BLOCK);
    let cancelled = tokio::time::timeout(Duration::from_millis(200), writer.write(&data)).await;
    assert!(cancelled.is_err(), "it waits for nodes");
    world.set_health([Health::Up; 3]);
    let error = writer.write(b"more").await.expect_err("refused");
    assert!(matches!(error, FsError::WriterFailed { .. }), "{error}");
    assert!(matches!(writer.finish(0).await, Err(FsError::WriterFailed { .. })));
}

#[tokio::test]
async fn a_node_that_does_not_answer_holds_up_only_the_first_blocks() {
    let world = world().await;
    world.set_health([Health::Up, Health::Up, Health::Silent]);
    let data = plain(40 * BLOCK);
    put(&world, "/z/a", &data).await;
    let puts = world.nodes[2].lock().puts;
    assert!(
        (1..=8).contains(&puts),
        "{puts} of 40 blocks were put to the silent node"
    );
    assert!(read_all(&world, "/z/a").await.expect("read") == data);
    // Two are needed: with only one that answers, the silent one is asked all the same.
    world.set_health([Health::Up, Health::Down, Health::Up]);
    put(&world, "/z/b", &data).await;
    let state = world.metadata.lock();
    let mut blocks = state.files[b"/z/b".as_slice()].blocks.values();
    assert!(blocks.all(|block| block.nodes.len() == 2));
}

#[tokio::test]
async fn a_node_does_not_answer_for_others() {
    let world = world().await;
    world.set_health([Health::Liar, Health::Up, Health::Up]);
    let data = plain(12 * BLOCK);
    put(&world, "/z/a", &data).await;
    // Whoever is on record has the block.
    let state = world.metadata.lock();
    let mut replicas = 0;
    for block in state.files[b"/z/a".as_slice()].blocks.values() {
        assert!(block.nodes.len() >= 2);
        replicas += block.nodes.len();
    }
    let stored: usize = world.nodes.iter().map(|node| node.lock().blocks.len()).sum();
    assert_eq!(stored, replicas, "no replica is on record that no node has");
}

#[tokio::test]
async fn a_writer_that_is_dropped_or_abandoned_leaves_nothing() {
    let world = world().await;
    let mut dropped = world.fs.create(&path("/z/a"), NEW).await.expect("created");
    dropped.write(&plain(3 * BLOCK)).await.expect("written");
    drop(dropped);
    until("giving up the file", || world.metadata.lock().open.is_empty()).await;
    let abandoned = world.fs.create(&path("/z/a"), NEW).await.expect("created");
    abandoned.abandon().await.expect("abandoned");
    assert!(world.metadata.lock().open.is_empty());
    assert!(world.metadata.lock().files.is_empty());
}

#[tokio::test]
async fn blocks_beyond_one_call_are_recorded_and_listed_in_several() {
    let world = World::start(FRAME as u32).await;
    world.metadata.lock().page = 500;
    let data = plain(1100 * FRAME + 1);
    put(&world, "/z/a", &data).await;
    assert_eq!(world.metadata.lock().added, [1024]);
    assert!(read_all(&world, "/z/a").await.expect("read") == data);
    // 500 and 500 and 24, then 77; the first came with the opening but is not a whole page.
    assert_eq!(world.metadata.lock().block_lists, 4);
}

struct Lie(&'static str, fn(&mut FileRecord, &FileRecord));

#[tokio::test]
async fn a_lying_metadata_service_gets_nothing_read() {
    let world = world().await;
    put(&world, "/z/a", &plain(2 * BLOCK)).await;
    put(&world, "/z/b", &plain(2 * BLOCK)).await;
    let lies = [
        Lie("the code is another's", |file, other| file.code = other.code.clone()),
        Lie("the code is gone", |file, _| file.code = Bytes::new()),
        Lie("the length is less", |file, _| file.stat.length -= 1),
        Lie("the extent is shorter", |file, _| {
            file.extents[0].length -= 1;
            file.stat.length -= 1;
        }),
        Lie("the extent is cut at a block", |file, _| {
            file.extents[0].length -= BLOCK as u64;
            file.extents[0].blocks -= 1;
            file.stat.length -= BLOCK as u64;
        }),
        Lie("the extent is gone", |file, _| {
            file.extents.clear();
            file.stat.length = 0;
        }),
        Lie("the extent is another's", |file, other| {
            file.extents = other.extents.clone();
        }),
        Lie("the extent is there twice", |file, _| {
            file.extents.push(file.extents[0].clone());
        }),
        Lie("the salt is another", |file, _| {
            file.extents[0].salt = Bytes::from_static(&[1; 16]);
        }),
        Lie("the EDEK is another's", |file, other| file.edek = other.edek.clone()),
        Lie("the file id is another's", |file, other| {
            file.stat.file_id = other.stat.file_id.clone();
        }),
    ];
    let (honest, other) = {
        let state = world.metadata.lock();
        (
            state.files[b"/z/a".as_slice()].clone(),
            state.files[b"/z/b".as_slice()].clone(),
        )
    };
    for Lie(what, lie) in lies {
        world.metadata.change("/z/a", |file| lie(file, &other));
        let error = world.fs.open(&path("/z/a")).await.expect_err(what);
        assert_eq!(error.reason(), Reason::ManifestInvalid, "{what}: {error}");
        assert!(error.to_string().contains("/z/a"), "{what}: {error}");
        world.metadata.change("/z/a", |file| *file = honest.clone());
    }
    read_all(&world, "/z/a").await.expect("honest again");
}

#[tokio::test]
async fn a_flipped_edek_is_named_with_key_zone_and_file() {
    let world = world().await;
    put(&world, "/z/a", b"data").await;
    world.metadata.change("/z/a", |file| {
        let mut wrapped = file.edek.wrapped.to_vec();
        wrapped[3] ^= 1;
        file.edek.wrapped = wrapped.into();
    });
    let error = world.fs.open(&path("/z/a")).await.expect_err("flipped");
    assert_eq!(error.reason(), Reason::EdekInvalid);
    let text = error.to_string();
    for part in ["/z/a", "payroll@0", "07070707", "does not open"] {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}
