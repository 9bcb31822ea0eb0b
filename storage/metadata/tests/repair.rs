//! Repair and deletion through heartbeats of stand-in block nodes.

mod fixture;

use fixture::{NODES, World, files::block_id};

#[tokio::test]
async fn a_deficit_is_repaired_when_the_node_is_back() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.nodes.set_silent("n3", true);
    world
        .until("the node is gone", async |world| {
            !world.cluster_status().await.nodes[2].alive
        })
        .await;
    let grant = world
        .write("/z/f", 9 << 20, &["n1", "n2"])
        .await
        .expect("two are enough");
    assert_eq!(world.stat("/z/f").await.expect("there").blocks_in_deficit, 3);
    assert_eq!(world.cluster_status().await.blocks_in_deficit, 3);
    world.nodes.set_silent("n3", false);
    world
        .until("the deficit is gone", async |world| {
            world.cluster_status().await.blocks_in_deficit == 0
        })
        .await;
    assert!((0..3).all(|index| world.nodes.has("n3", block_id(&grant, index))));
    let blocks = world.read("/z/f").await.expect("opened").blocks.expect("blocks").blocks;
    assert!(blocks.iter().all(|block| block.nodes.len() == 3));
    assert_eq!(world.stat("/z/f").await.expect("there").blocks_in_deficit, 0);
}

#[tokio::test]
async fn a_bad_replica_is_deleted_and_made_anew() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let grant = world.write("/z/f", 10, &NODES).await.expect("a file");
    let block = block_id(&grant, 0);
    world.nodes.report_bad("n2", block);
    world
        .until("the loss is seen", async |world| world.nodes.told("n2") > 0)
        .await;
    world
        .until("the replica is back", async |world| {
            let status = world.cluster_status().await;
            status.blocks_in_deficit == 0 && status.blocks_to_delete == 0
        })
        .await;
    assert!(world.nodes.has("n2", block));
    let blocks = world.read("/z/f").await.expect("opened").blocks.expect("blocks").blocks;
    assert_eq!(blocks[0].nodes.len(), 3);
}

#[tokio::test]
async fn a_bad_replica_moves_to_a_further_node_if_there_is_one() {
    let mut world = World::start().await;
    world.add_node("n4");
    world.zone("/z", "payroll").await;
    let grant = world.write("/z/f", 10, &NODES).await.expect("a file");
    // It cannot delete the bad copy, so it cannot take a good one.
    world.nodes.set_failing("n1", true);
    let block = block_id(&grant, 0);
    world.nodes.report_bad("n1", block);
    world
        .until("the replica is on the fourth node", async |world| {
            world.nodes.has("n4", block)
        })
        .await;
}

#[tokio::test]
async fn the_last_replica_is_never_given_up() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let grant = world.write("/z/f", 10, &["n1", "n2"]).await.expect("a file");
    let block = block_id(&grant, 0);
    world.nodes.set_failing("n1", true);
    world.nodes.set_failing("n2", true);
    world.nodes.report_bad("n1", block);
    world
        .until("one replica is left", async |world| {
            let blocks = world.read("/z/f").await.expect("opened").blocks.expect("blocks").blocks;
            blocks[0].nodes.len() == 1
        })
        .await;
    world.nodes.report_bad("n2", block);
    let told = world.nodes.told("n2");
    world
        .until("the node is asked for its copy all the same", async |world| {
            world.nodes.told("n2") > told
        })
        .await;
    let blocks = world.read("/z/f").await.expect("opened").blocks.expect("blocks").blocks;
    assert_eq!(blocks[0].nodes, ["n2"]);
    assert!(world.nodes.has("n2", block));
}

#[tokio::test]
async fn deletes_are_sent_until_they_are_answered_also_after_a_restart() {
    let mut world = World::start().await;
    world.zone("/z", "payroll").await;
    world.write("/z/f", 6 << 20, &NODES).await.expect("a file");
    for node in NODES {
        world.nodes.set_lazy(node, true);
    }
    world.remove("/z/f", false).await.expect("removed");
    world
        .until("a delete is sent again", async |world| world.nodes.told("n1") >= 3)
        .await;
    assert_eq!(
        (world.nodes.blocks(), world.cluster_status().await.blocks_to_delete),
        (6, 6)
    );
    world.restart().await;
    assert_eq!(world.cluster_status().await.blocks_to_delete, 6);
    for node in NODES {
        world.nodes.set_lazy(node, false);
    }
    world
        .until("all is deleted", async |world| {
            world.cluster_status().await.blocks_to_delete == 0
        })
        .await;
    assert_eq!(world.nodes.blocks(), 0);
}
