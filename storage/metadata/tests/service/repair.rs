//! Repair and deletion through heartbeats of stand-in block nodes.

use strongroom_metadata::Settings;

use crate::fixture::{NODES, World, files::block_id};

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

/// Who sends a block has no say in whether it came.
#[tokio::test]
async fn a_copy_counts_when_the_node_that_should_have_it_says_so() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    for node in ["n1", "n2"] {
        world.nodes.set_lying(node, true);
    }
    let grant = world.write("/z/f", 10, &["n1", "n2"]).await.expect("a file");
    world
        .until("the third node is asked twice", async |world| {
            world.nodes.told("n3") >= 2
        })
        .await;
    let blocks = world.read("/z/f").await.expect("opened").blocks.expect("blocks").blocks;
    assert!(!blocks[0].nodes.contains(&"n3".to_owned()), "{blocks:?}");
    assert_eq!(world.cluster_status().await.blocks_in_deficit, 1);
    for node in ["n1", "n2"] {
        world.nodes.set_lying(node, false);
    }
    world
        .until("the copy is there and counts", async |world| {
            world.nodes.has("n3", block_id(&grant, 0)) && world.cluster_status().await.blocks_in_deficit == 0
        })
        .await;
}

#[tokio::test]
async fn a_bad_replica_is_made_anew_and_nothing_is_deleted() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let grant = world.write("/z/f", 10, &NODES).await.expect("a file");
    let block = block_id(&grant, 0);
    world.nodes.lose("n2", block);
    world
        .until("the replica is back", async |world| {
            world.nodes.has("n2", block) && world.cluster_status().await.blocks_in_deficit == 0
        })
        .await;
    let blocks = world.read("/z/f").await.expect("opened").blocks.expect("blocks").blocks;
    assert_eq!(blocks[0].nodes.len(), 3);
    assert_eq!(world.nodes.deletes("n2"), 0);
}

#[tokio::test]
async fn a_report_that_comes_late_costs_no_good_copy() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let grant = world.write("/z/f", 10, &["n1", "n2"]).await.expect("a file");
    let block = block_id(&grant, 0);
    world
        .until("all have it", async |world| {
            world.cluster_status().await.blocks_in_deficit == 0
        })
        .await;
    // The copy is good: the report is of one that was replaced since.
    world.nodes.report_bad("n2", block);
    world
        .until("the report was taken and the copy found again", async |world| {
            world.nodes.is_heard("n2") && world.cluster_status().await.blocks_in_deficit == 0
        })
        .await;
    assert!(world.nodes.has("n2", block));
    assert_eq!(world.nodes.deletes("n2"), 0);
}

#[tokio::test]
async fn a_node_that_stays_away_is_replaced_and_tidies_up_when_it_comes_back() {
    let mut world = World::with(crate::fixture::quick_to_give_up()).await;
    world.zone("/z", "payroll").await;
    let grant = world.write("/z/f", 9 << 20, &NODES).await.expect("a file");
    world.nodes.set_silent("n3", true);
    world
        .until("the node is given up", async |world| {
            let status = world.cluster_status().await;
            let now_ms = status.nodes.iter().map(|node| node.last_seen_ms).max();
            now_ms > Some(status.nodes[2].last_seen_ms + 4000)
        })
        .await;
    // Three are wanted and two are left: there is nowhere to copy to.
    assert_eq!(world.cluster_status().await.blocks_in_deficit, 0);
    world.add_node("n4");
    let moved = async |world: &World| (0..3).all(|index| world.nodes.has("n4", block_id(&grant, index)));
    world.until("all blocks are on the fourth node", moved).await;
    world
        .until("the deficits are gone", async |world| {
            world.cluster_status().await.blocks_in_deficit == 0
        })
        .await;
    world
        .until("the node has given up its own", async |world| {
            let blocks = world.read("/z/f").await.expect("opened").blocks.expect("blocks").blocks;
            let is_on_others = |nodes: &[String]| nodes.len() == 3 && !nodes.contains(&"n3".to_owned());
            blocks.iter().all(|block| is_on_others(&block.nodes))
        })
        .await;
    world.nodes.set_silent("n3", false);
    world
        .until("the old copies are deleted", async |world| {
            world.cluster_status().await.blocks_to_delete == 0
        })
        .await;
    assert!((0..3).all(|index| !world.nodes.has("n3", block_id(&grant, index))));
    assert_eq!(world.nodes.blocks(), 9);
}

/// Fewer nodes are left than a block should have replicas: no reason to leave it with one.
#[tokio::test]
async fn a_block_with_one_copy_left_does_not_wait_for_a_third_node() {
    let mut world = World::with(crate::fixture::quick_to_give_up()).await;
    for node in ["n4", "n5"] {
        world.add_node(node);
    }
    world.zone("/z", "payroll").await;
    let grant = world.write("/z/f", 9 << 20, &["n1", "n2", "n4"]).await.expect("a file");
    for node in ["n1", "n2", "n3"] {
        world.nodes.set_silent(node, true);
    }
    let copied = async |world: &World| (0..3).all(|index| world.nodes.has("n5", block_id(&grant, index)));
    world
        .until("all blocks are on the other node that is left", copied)
        .await;
    world.add_node("n6");
    let copied = async |world: &World| (0..3).all(|index| world.nodes.has("n6", block_id(&grant, index)));
    world.until("and on one that came later", copied).await;
}

/// One of the others cannot read one of its files: nobody knows what else it cannot. The copies that were made count, so that nothing
/// waits, and the one that may be the third is kept until that disk is mended.
#[tokio::test]
async fn a_doubted_disk_keeps_what_a_node_has_that_stays_away_and_has_nothing_wait() {
    let settings = Settings {
        inventory_ms: 1000,
        node_silence_ms: 3000,
        node_gone_ms: 5000,
        // A copy that comes late is not to be made on another node, too: then the one that stays away would not be needed.
        command_timeout_ms: 10_000,
        ..crate::fixture::quick_to_give_up()
    };
    let mut world = World::with(settings).await;
    for node in ["n4", "n5"] {
        world.add_node(node);
    }
    world.zone("/z", "payroll").await;
    let grant = world.write("/z/f", 10, &NODES).await.expect("a file");
    let other = world.write("/z/other", 10, &["n1", "n2", "n4"]).await.expect("a file");
    let block = block_id(&grant, 0);
    world.nodes.make_unreadable("n1", block_id(&other, 0));
    world
        .until("the disk is doubted", async |world| {
            world.cluster_status().await.nodes[0].unreadable == 1
        })
        .await;
    world.nodes.set_silent("n3", true);
    let nodes = async |world: &World| {
        let blocks = world.read("/z/f").await.expect("opened").blocks.expect("blocks").blocks;
        blocks[0].nodes.clone()
    };
    world
        .until("the file has a third copy, and nothing waits", async |world| {
            nodes(world).await.len() == 4 && world.cluster_status().await.blocks_in_deficit == 0
        })
        .await;
    assert!(nodes(&world).await.contains(&"n3".to_owned()), "it may be needed");
    world.nodes.make_readable("n1");
    world
        .until("it is needed no more", async |world| {
            !nodes(world).await.contains(&"n3".to_owned())
        })
        .await;
    world.nodes.set_silent("n3", false);
    world
        .until("it is deleted", async |world| !world.nodes.has("n3", block))
        .await;
    assert!(["n1", "n2"].iter().all(|node| world.nodes.has(node, block)));
}

#[tokio::test]
async fn a_node_that_comes_back_in_time_keeps_its_blocks() {
    let mut world = World::with(crate::fixture::quick_to_give_up()).await;
    world.add_node("n4");
    world.zone("/z", "payroll").await;
    let grant = world.write("/z/f", 9 << 20, &NODES).await.expect("a file");
    // Nobody can copy: the blocks stay short of a replica.
    for node in ["n1", "n2"] {
        world.nodes.set_failing(node, true);
    }
    world.nodes.set_silent("n3", true);
    world
        .until("its blocks are short", async |world| {
            world.cluster_status().await.blocks_in_deficit == 3
        })
        .await;
    world.nodes.set_silent("n3", false);
    world
        .until("its blocks count again", async |world| {
            world.cluster_status().await.blocks_in_deficit == 0
        })
        .await;
    assert_eq!(world.cluster_status().await.blocks_to_delete, 0);
    assert!((0..3).all(|index| world.nodes.has("n3", block_id(&grant, index))));
}

#[tokio::test]
async fn a_bad_replica_moves_to_a_further_node_if_there_is_one() {
    let mut world = World::start().await;
    world.add_node("n4");
    world.zone("/z", "payroll").await;
    let grant = world.write("/z/f", 10, &NODES).await.expect("a file");
    // Nothing more can be put on it.
    world.nodes.set_full("n1", true);
    let block = block_id(&grant, 0);
    world.nodes.lose("n1", block);
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
