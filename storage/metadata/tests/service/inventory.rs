//! What is on the block nodes' disks is compared with what is recorded, both ways.

use std::time::Duration;

use strongroom_metadata::Settings;
use strongroom_proto::{BlockId, ExtentId};

use crate::fixture::{
    NODES, World,
    files::{block_id, commit_request, sealed},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Disks are compared every second.
fn often() -> Settings {
    Settings {
        inventory_ms: 1000,
        ..crate::fixture::quick()
    }
}

#[tokio::test]
async fn a_node_that_comes_back_with_an_empty_disk_is_filled_again() {
    // Never on its own.
    let settings = Settings {
        inventory_ms: 0,
        ..crate::fixture::quick()
    };
    let mut world = World::with(settings).await;
    world.zone("/z", "payroll").await;
    let large = world.write("/z/large", 9 << 20, &NODES).await.expect("a file");
    let small = world.write("/z/small", 10, &["n1", "n2"]).await.expect("a file");
    let blocks = || (0..3).map(|index| block_id(&large, index)).chain([block_id(&small, 0)]);
    world
        .until("every block has three replicas", async |world| {
            world.cluster_status().await.blocks_in_deficit == 0
        })
        .await;
    world.nodes.replace_disk("n1");
    world.restart().await;
    // The service is away again before it has looked.
    world.restart().await;
    world
        .until("the node has all of them again", async |world| {
            blocks().all(|block| world.nodes.has("n1", block))
        })
        .await;
    world
        .until("no deficit is left", async |world| {
            world.cluster_status().await.blocks_in_deficit == 0
        })
        .await;
    assert_eq!(world.nodes.blocks(), 12, "and nothing was copied elsewhere or deleted");
}

#[tokio::test]
async fn a_block_that_went_from_a_disk_without_a_word_is_copied_anew() {
    let world = World::with(often()).await;
    world.zone("/z", "payroll").await;
    let grant = world.write("/z/f", 9 << 20, &NODES).await.expect("a file");
    world.nodes.forget("n2", block_id(&grant, 1));
    world
        .until("it is back", async |world| world.nodes.has("n2", block_id(&grant, 1)))
        .await;
}

#[tokio::test]
async fn what_nothing_needs_is_deleted_and_what_somebody_may_come_to_record_is_not() {
    let world = World::with(often()).await;
    world.zone("/z", "payroll").await;
    let unknown = |id: u8| BlockId {
        extent: ExtentId::from_bytes([id; 16]),
        index: 0,
    };
    // A copy that is recorded, and one of a file that is being written, for days.
    let grant = world.write("/z/f", 10, &["n1", "n2"]).await.expect("a file");
    let whole = block_id(&grant, 0);
    world
        .until("it is on three", async |world| world.nodes.has("n3", whole))
        .await;
    let open = world.create("/z/open", false).await.expect("created");
    let open = open.grant.expect("a grant");
    for node in ["n1", "n2"] {
        world.nodes.store_aged(node, block_id(&open, 0), sealed(10), 2 * DAY);
    }
    // Of no file, old and young.
    world.nodes.store_aged("n1", unknown(1), 100, 2 * DAY);
    world.nodes.store_aged("n1", unknown(2), 100, DAY / 2);
    world
        .until("what nothing needs is gone", async |world| {
            !world.nodes.has("n1", unknown(1))
        })
        .await;
    // Another survey of all has been through since.
    for node in NODES {
        world.nodes.store_aged(node, unknown(3), 100, 2 * DAY);
    }
    world
        .until("and gone again", async |world| {
            NODES.iter().all(|node| !world.nodes.has(node, unknown(3)))
        })
        .await;
    assert!(world.nodes.has("n1", unknown(2)), "too young to be judged");
    assert!(NODES.iter().all(|node| world.nodes.has(node, whole)));
    world
        .commit(commit_request(&open, 10, &["n1", "n2"]))
        .await
        .expect("its writer goes on");
    world
        .until("it gets its third replica", async |world| {
            world.nodes.has("n3", block_id(&open, 0))
        })
        .await;
}

#[tokio::test]
async fn a_copy_of_which_nobody_heard_is_taken_into_account() {
    let mut world = World::with(often()).await;
    world.zone("/z", "payroll").await;
    for node in ["n4", "n5"] {
        world.add_node(node);
    }
    // Nobody can copy.
    for node in ["n1", "n2"] {
        world.nodes.set_failing(node, true);
    }
    let grant = world.write("/z/f", 10, &["n1", "n2"]).await.expect("a file");
    assert_eq!(world.cluster_status().await.blocks_in_deficit, 1);
    let block = block_id(&grant, 0);
    world.nodes.store_aged("n4", block, sealed(10), Duration::ZERO);
    world
        .until("it counts", async |world| {
            world.cluster_status().await.blocks_in_deficit == 0
        })
        .await;
    let blocks = world.read("/z/f").await.expect("opened").blocks.expect("blocks").blocks;
    assert!(blocks[0].nodes.contains(&"n4".to_owned()), "{blocks:?}");
    world.nodes.store_aged("n5", block, sealed(10), 2 * DAY);
    world
        .until("one too many is deleted", async |world| !world.nodes.has("n5", block))
        .await;
    assert!(["n1", "n2", "n4"].iter().all(|node| world.nodes.has(node, block)));
}
