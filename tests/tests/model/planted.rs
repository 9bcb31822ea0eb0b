//! Faults that are put into the store, each of which one of the checks at the end has to find. That a keystream which is used twice is found is
//! tested with the ledger.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use prost::Message;

use crate::{
    audit::records,
    chosen_store,
    operation::{files_in_no_zone, one_file, two_zones},
    play::Game,
    world::{Identities, Plant, Rows, World},
};

/// What the store is said to have broken after a fault.
async fn broken_by(plant: Plant) -> String {
    let world = World::start(&Identities::new(), chosen_store()).await;
    let mut game = Game::new(world);
    game.play(&one_file()).await.expect("as the oracle says");
    game.world.plant(plant).await;
    game.world.stop().await.join("\n")
}

/// The same where three files are in no zone.
async fn broken_in_no_zone(plant: Plant) -> String {
    let world = World::with_plain_files(&Identities::new(), chosen_store()).await;
    let mut game = Game::with_plain_files(world);
    game.play(&files_in_no_zone()).await.expect("as the oracle says");
    game.world.plant(plant).await;
    game.world.stop().await.join("\n")
}

fn has(broken: &str, words: &str) {
    assert!(broken.contains(words), "{words:?} is not in:\n{broken}");
}

fn of_table(rows: Rows, table: u8) -> impl Iterator<Item = (Bytes, Bytes)> {
    let rows = rows.into_iter().filter(move |(key, _)| key[0] == table);
    rows.map(|(key, value)| (key, value.expect("as it was read")))
}

#[tokio::test]
async fn an_index_without_a_file_is_found() {
    let plant = |rows| of_table(rows, b'x').map(|(key, _)| (key, None)).collect();
    let broken = broken_by(Box::new(plant)).await;
    has(&broken, "the index has [] too much and lacks [");
}

#[tokio::test]
async fn a_list_without_a_file_that_is_not_encrypted_is_found() {
    let plant = |rows| of_table(rows, b'P').map(|(key, _)| (key, None)).collect();
    let broken = broken_in_no_zone(Box::new(plant)).await;
    has(&broken, "are not encrypted, {} are listed");
}

#[tokio::test]
async fn a_file_that_is_not_encrypted_in_a_zone_that_adopts_nothing_is_found() {
    let plant = |rows| {
        let directory = |(key, value): (Bytes, Bytes)| {
            let mut entry = records::Entry::decode(value).expect("a record");
            entry.zone_id = vec![9; 16].into();
            (key.len() == 18 && entry.file.is_none()).then(|| (key, Some(entry.encode_to_vec().into())))
        };
        of_table(rows, b'd').filter_map(directory).collect()
    };
    let broken = broken_in_no_zone(Box::new(plant)).await;
    has(&broken, "is not encrypted, in zone Some(");
}

#[tokio::test]
async fn an_edek_of_a_version_that_its_zone_never_had_is_found() {
    let plant = |rows| {
        let bodies = of_table(rows, b'e').map(|(key, value)| {
            let mut body = records::Body::decode(value).expect("a record");
            body.edek.as_mut().expect("a file has an EDEK").key_version = 7;
            (key, Some(body.encode_to_vec().into()))
        });
        bodies.collect()
    };
    let broken = broken_by(Box::new(plant)).await;
    has(&broken, "never had an EDEK of version 7");
}

#[tokio::test]
async fn a_block_that_is_gone_from_the_records_is_found() {
    let plant = |rows| of_table(rows, b'b').map(|(key, _)| (key, None)).collect();
    let broken = broken_by(Box::new(plant)).await;
    has(&broken, "0 blocks are recorded, 1 show");
    has(&broken, "for ever");
}

/// A store that is sound and has forgotten what was acknowledged: nothing but the oracle can tell.
#[tokio::test]
async fn a_file_that_is_forgotten_with_all_its_rows_is_found() {
    let world = World::start(&Identities::new(), chosen_store()).await;
    let mut game = Game::new(world);
    game.play(&two_zones()).await.expect("as the oracle says");
    let before = Arc::new(Mutex::new(Rows::new()));
    let kept = Arc::clone(&before);
    let keep = move |rows: Rows| {
        kept.lock().expect("no panic under the lock").clone_from(&rows);
        Rows::new()
    };
    game.world.plant(Box::new(keep)).await;
    game.play(&one_file()[two_zones().len()..])
        .await
        .expect("as the oracle says");
    game.compare().await.expect("the file is there");
    let restore = move |rows: Rows| {
        let gone = rows.into_iter().map(|(key, _)| (key, None));
        let before = std::mem::take(&mut *before.lock().expect("no panic under the lock"));
        gone.chain(before).collect()
    };
    game.world.plant(Box::new(restore)).await;
    let lost = game.compare().await.expect_err("the file is lost");
    has(&lost, "holds [], expected");
}
