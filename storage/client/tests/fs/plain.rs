//! Files that are not encrypted: where the client takes part in them, and that a metadata service which says that a file is plain gets
//! neither plaintext nor belief anywhere else.

use strongroom_fs::{CreateOptions, FsError};
use strongroom_proto::{DataSuite, Reason};

use crate::stand_ins::{World, path};

const BLOCK: usize = 8192;
const NEW: CreateOptions = CreateOptions {
    mode: 0o640,
    overwrite: false,
};

fn text(length: usize) -> Vec<u8> {
    b"plain as day, ".iter().copied().cycle().take(length).collect()
}

/// A world whose metadata service says that new files are plain, for a client that expects it below /landing.
async fn world() -> World {
    let world = World::start(BLOCK as u32).await;
    world.metadata.lock().data_suite = DataSuite::Plain;
    world.fs.allow_plain(vec![path("/landing")]);
    world
}

async fn read(world: &World, name: &str) -> Result<Vec<u8>, FsError> {
    let reader = world.fs.open(&path(name)).await?;
    let mut all = vec![0; reader.len() as usize];
    reader.read_at(0, &mut all).await?;
    Ok(all)
}

async fn put(world: &World, name: &str, data: &[u8]) {
    let mut writer = world.fs.create(&path(name), NEW).await.expect("created");
    writer.write(data).await.expect("written");
    writer.finish(7).await.expect("finished");
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, FsError>, name: &str) {
    let error = outcome.expect_err("it must be refused");
    assert_eq!(error.reason(), Reason::NotEncrypted, "{error}");
    for word in [name, "plain = ["] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn where_it_is_listed_a_plain_file_is_written_and_read_as_any_other() {
    let world = world().await;
    let (name, mut model) = ("/landing/f", text(3 * BLOCK + 5));
    put(&world, name, &model).await;
    assert!(read(&world, name).await.expect("read") == model);
    let stored: Vec<u8> = world.nodes[0].lock().blocks.values().flatten().copied().collect();
    assert!(stored == model, "the nodes have it as it is");
    let mut writer = world.fs.append(&path(name), None).await.expect("opened");
    for length in [1, BLOCK] {
        writer.write(&text(length)).await.expect("written");
        writer.flush(8).await.expect("flushed");
        model.extend_from_slice(&text(length));
    }
    writer.finish(9).await.expect("finished");
    world.fs.truncate(&path(name), BLOCK as u64 + 1, 10).await.expect("cut");
    model.truncate(BLOCK + 1);
    assert!(read(&world, name).await.expect("read") == model);
    let stat = world.fs.rewrite(&path(name)).await.expect("compacted");
    assert_eq!(
        (stat.length, stat.data_suite),
        (model.len() as u64, Some(DataSuite::Plain))
    );
    assert!(read(&world, name).await.expect("read") == model);
    let info = world.fs.encryption_info(&path(name)).await.expect("told");
    assert_eq!(info, None);
}

#[tokio::test]
async fn who_may_not_go_on_is_told_why_and_loses_nothing_that_he_flushed() {
    let world = world().await;
    let name = "/landing/f";
    let mut writer = world.fs.create(&path(name), NEW).await.expect("created");
    writer.write(&text(BLOCK + 1)).await.expect("written");
    world.metadata.lock().lets_go = true;
    assert_eq!(writer.flush(7).await.expect("it is shown").length, BLOCK as u64 + 1);
    let puts = world.nodes[0].lock().puts;
    let error = writer.write(b"more").await.expect_err("no more");
    assert_eq!(error.reason(), Reason::LeaseLost);
    for word in [name, "zone info"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    assert_eq!(world.nodes[0].lock().puts, puts, "no byte was sent");
    for stat in [writer.flush(8).await, writer.finish(9).await] {
        assert_eq!(stat.expect("nothing is missing").length, BLOCK as u64 + 1);
    }
    assert!(read(&world, name).await.expect("read") == text(BLOCK + 1));
}

#[tokio::test]
async fn elsewhere_neither_is_plaintext_written_nor_a_plain_file_believed() {
    let world = world().await;
    for name in ["/z/f", "/landings/f"] {
        refused(world.fs.create(&path(name), NEW).await.map(|_| ()), name);
    }
    assert!(world.nodes.iter().all(|node| node.lock().puts == 0), "no byte was sent");
    put(&world, "/landing/f", b"forged").await;
    {
        let mut state = world.metadata.lock();
        let forged = state.files[b"/landing/f".as_slice()].clone();
        // It even says that the file is where plain ones are expected.
        state.files.insert("/z/f".into(), forged);
    }
    refused(read(&world, "/z/f").await, "/z/f");
    refused(world.fs.append(&path("/z/f"), None).await.map(|_| ()), "/z/f");
    refused(world.fs.truncate(&path("/z/f"), 1, 2).await, "/z/f");
    refused(world.fs.rewrite(&path("/z/f")).await, "/z/f");
    assert!(read(&world, "/landing/f").await.expect("read") == b"forged");
    let error = world.fs.open_raw(&path("/landing/f")).await.expect_err("no ciphertext");
    assert!(error.to_string().contains("strongroom fs get"), "{error}");
}

#[tokio::test]
async fn what_was_encrypted_stays_so_even_where_plain_files_are_expected() {
    let world = world().await;
    world.metadata.lock().data_suite = DataSuite::Gcm;
    let (name, data) = ("/landing/f", text(2 * BLOCK));
    put(&world, name, &data).await;
    let reader = world.fs.open(&path(name)).await.expect("opened");
    world.metadata.lock().data_suite = DataSuite::Plain;
    refused(world.fs.rewrite(&path(name)).await, name);
    put(&world, "/landing/forged", &data).await;
    {
        let mut state = world.metadata.lock();
        let mut forged = state.files[b"/landing/forged".as_slice()].clone();
        let real = &state.files[name.as_bytes()];
        forged.stat = strongroom_proto::metadata::v1::Stat {
            data_suite: "plain".to_owned(),
            ..real.stat.clone()
        };
        (forged.generation, forged.same_since) = (real.generation + 1, real.same_since);
        state.files.insert(name.into(), forged);
    }
    for node in &world.nodes {
        node.lock().blocks.clear();
    }
    // A reader of the encrypted file is led to what it is said to be rewritten to.
    let mut bytes = [0; 10];
    refused(reader.read_at(0, &mut bytes).await, name);
}

#[tokio::test]
async fn a_reader_of_a_plain_file_goes_on_when_it_is_encrypted() {
    let world = world().await;
    let (name, data) = ("/landing/f", text(2 * BLOCK + 9));
    put(&world, name, &data).await;
    let reader = world.fs.open(&path(name)).await.expect("opened");
    let before = world.metadata.lock().files[name.as_bytes()].clone();
    world.metadata.lock().data_suite = DataSuite::Gcm;
    let stat = world.fs.rewrite(&path(name)).await.expect("encrypted");
    assert_eq!(stat.data_suite, Some(DataSuite::Gcm));
    for node in &world.nodes {
        let mut node = node.lock();
        node.blocks
            .retain(|id, _| !before.blocks.contains_key(&(id.extent, id.index)));
        let stored: Vec<u8> = node.blocks.values().flatten().copied().collect();
        assert!(!stored.windows(14).any(|window| window == b"plain as day, "));
    }
    let mut all = vec![0; data.len()];
    reader.read_at(0, &mut all).await.expect("from the file as it is now");
    assert!(all == data);
    world.fs.allow_plain(Vec::new());
    assert!(
        read(&world, name).await.expect("read") == data,
        "nothing needs to be listed any more"
    );
}
