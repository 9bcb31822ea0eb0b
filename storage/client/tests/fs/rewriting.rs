//! Files that are rewritten: under another DEK and in one extent, with the same bytes, which readers who were there before go on to
//! read.

use strongroom_fs::{CreateOptions, FsError};
use strongroom_proto::Reason;

use crate::stand_ins::{FileRecord, Health, World, path};

const BLOCK: usize = 8192;
const FILE: &str = "/z/f";
const NEW: CreateOptions = CreateOptions {
    mode: 0o640,
    overwrite: false,
};

fn plain(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// A world with a file of several extents, and what it holds.
async fn with_pieces(pieces: &[usize]) -> (World, Vec<u8>) {
    let world = World::start(BLOCK as u32).await;
    let whole = plain(pieces.iter().sum());
    let mut writer = world.fs.create(&path(FILE), NEW).await.expect("created");
    let mut rest = whole.as_slice();
    for length in pieces {
        let (piece, behind) = rest.split_at(*length);
        writer.write(piece).await.expect("written");
        writer.flush(1).await.expect("flushed");
        rest = behind;
    }
    writer.finish(7).await.expect("finished");
    (world, whole)
}

fn record(world: &World) -> FileRecord {
    world.metadata.lock().files[FILE.as_bytes()].clone()
}

async fn read(world: &World) -> Vec<u8> {
    let reader = world.fs.open(&path(FILE)).await.expect("opened");
    let mut all = vec![0; reader.len() as usize];
    reader.read_at(0, &mut all).await.expect("read");
    all
}

/// Deletes the blocks of a file as it was.
fn delete(world: &World, before: &FileRecord) {
    for node in &world.nodes {
        node.lock()
            .blocks
            .retain(|id, _| !before.blocks.contains_key(&(id.extent, id.index)));
    }
}

#[tokio::test]
async fn a_rewritten_file_has_the_same_bytes_under_another_dek_in_one_extent() {
    for pieces in [[1, BLOCK, 3 * BLOCK + 5].as_slice(), &[10], &[0], &[BLOCK, BLOCK]] {
        let (world, whole) = with_pieces(pieces).await;
        let before = record(&world);
        let stat = world.fs.rewrite(&path(FILE)).await.expect("rewritten");
        let after = record(&world);
        assert_eq!(stat.file_id.as_bytes().as_slice(), before.stat.file_id.as_ref());
        assert_eq!(after.extents.len(), usize::from(!whole.is_empty()));
        assert_eq!(after.generation, before.generation + 1);
        assert_ne!(after.edek, before.edek);
        let salts = |file: &FileRecord| {
            file.extents
                .iter()
                .map(|extent| extent.salt.clone())
                .collect::<Vec<_>>()
        };
        assert!(salts(&after).iter().all(|salt| !salts(&before).contains(salt)));
        delete(&world, &before);
        assert!(read(&world).await == whole, "{pieces:?}");
        assert!(world.metadata.lock().open.is_empty());
    }
}

#[tokio::test]
async fn a_reader_goes_on_in_what_the_file_was_rewritten_to() {
    let (world, whole) = with_pieces(&[BLOCK + 1, 4 * BLOCK, 3]).await;
    let reader = world.fs.open(&path(FILE)).await.expect("opened");
    let mut stream = reader.clone().stream(0);
    let mut streamed = stream.next().await.expect("bytes").expect("read").to_vec();
    // Twice, so that what he is led to is gone as well when he comes back.
    for _ in 0..2 {
        let before = record(&world);
        world.fs.rewrite(&path(FILE)).await.expect("rewritten");
        delete(&world, &before);
    }
    while let Some(part) = stream.next().await {
        streamed.extend_from_slice(&part.expect("read"));
    }
    assert!(streamed == whole);
    let mut seam = [0; 40];
    reader.read_at(BLOCK as u64 - 10, &mut seam).await.expect("read");
    assert!(seam == whole[BLOCK - 10..BLOCK + 30]);

    let before = record(&world);
    world.fs.rewrite(&path(FILE)).await.expect("rewritten");
    delete(&world, &before);
    reader.read_at(1, &mut seam).await.expect("from the file as it is now");
    assert!(seam == whole[1..41]);
}

#[tokio::test]
async fn a_reader_is_not_led_to_other_bytes() {
    let (world, _) = with_pieces(&[BLOCK, BLOCK]).await;
    let reader = world.fs.open(&path(FILE)).await.expect("opened");
    world.fs.truncate(&path(FILE), 1, 2).await.expect("cut");
    let mut writer = world.fs.append(&path(FILE), None).await.expect("opened");
    writer.write(&vec![0; 2 * BLOCK - 1]).await.expect("written");
    writer.finish(3).await.expect("finished");
    let before = record(&world);
    world.fs.rewrite(&path(FILE)).await.expect("rewritten");
    delete(&world, &before);
    let mut bytes = [0; 10];
    let error = reader.read_at(BLOCK as u64, &mut bytes).await.expect_err("other bytes");
    assert!(matches!(error, FsError::CutShort { .. }), "{error}");
}

#[tokio::test]
async fn nobody_can_have_a_file_seem_to_be_under_another_dek() {
    let (world, whole) = with_pieces(&[10, 10]).await;
    world.metadata.lock().same_deks = true;
    let error = world.fs.rewrite(&path(FILE)).await.expect_err("the same DEK");
    assert!(
        error.to_string().contains("the DEK that the file has already"),
        "{error}"
    );
    assert!(world.metadata.lock().open.is_empty(), "it is given up");
    assert!(read(&world).await == whole);
}

#[tokio::test]
async fn what_fails_leaves_the_file_as_it_was() {
    let (world, whole) = with_pieces(&[2 * BLOCK, 1]).await;
    let before = record(&world);
    for health in [Health::Full, Health::Down] {
        for node in &world.nodes[1..] {
            node.lock().health = health;
        }
        let error = world.fs.rewrite(&path(FILE)).await.expect_err("no room");
        assert!(
            [Reason::NoSpace, Reason::TooFewNodes].contains(&error.reason()),
            "{error}"
        );
        assert!(world.metadata.lock().open.is_empty(), "it is given up");
    }
    assert_eq!(record(&world).extents, before.extents);
    assert!(read(&world).await == whole);
}
