//! What is on the block nodes' disks is compared with what is recorded, both ways.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use strongroom_kv::{AnyStore, Reader, Store, Txn};
use strongroom_metadata::Settings;
use strongroom_proto::{
    BlockId, ExtentId,
    metadata::v1::{self as pb, CheckedPart, FindingKind},
};

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
    assert!(world.nodes.checks("n1") > 0);
    assert_eq!(world.nodes.checks("n2"), 0, "only who asks for it is asked");
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

const fn unknown(id: u8) -> BlockId {
    BlockId {
        extent: ExtentId::from_bytes([id; 16]),
        index: 0,
    }
}

#[tokio::test]
async fn what_nothing_needs_is_deleted_and_what_somebody_may_come_to_record_is_not() {
    let world = World::with(often()).await;
    world.zone("/z", "payroll").await;
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
    // Nothing is deleted as long as somebody does not tell what he has.
    for node in ["n1", "n2"] {
        world.nodes.set_failing(node, false);
    }
    world.nodes.store_aged("n5", block, sealed(10), 2 * DAY);
    world
        .until("one too many is deleted", async |world| !world.nodes.has("n5", block))
        .await;
    assert!(["n1", "n2", "n4"].iter().all(|node| world.nodes.has(node, block)));
}

/// Clocks are not compared: a pass that had begun when a disk was replaced does not count for the new one, whatever the time is then.
#[tokio::test]
async fn a_clock_that_is_set_back_hides_no_emptied_disk() {
    let settings = Settings {
        inventory_ms: 0,
        ..crate::fixture::quick()
    };
    let mut world = World::with(settings).await;
    world.add_node("n4");
    world.ahead_ms.store(7_200_000, Ordering::SeqCst);
    world
        .until("all report by the new time", async |world| {
            let nodes = world.cluster_status().await.nodes;
            nodes.len() == 4 && nodes.iter().all(|node| node.alive)
        })
        .await;
    world.zone("/z", "payroll").await;
    let kept = world.write("/z/kept", 10, &["n1", "n3", "n4"]).await.expect("a file");
    world.write("/z/slow", 10, &["n2", "n3", "n4"]).await.expect("a file");
    // Nothing is copied to this one, and a pass over all waits for it.
    world.nodes.set_full("n2", true);
    world.nodes.set_lazy("n2", true);
    let asked = pb::TakeInventoryRequest::default();
    world.fsck("fsadmin").take_inventory(asked).await.expect("taken");
    let is_filled = async |world: &World| {
        world.nodes.has("n1", block_id(&kept, 0)) && world.cluster_status().await.blocks_in_deficit == 0
    };
    world.nodes.replace_disk("n1");
    world.until("the new disk is filled", is_filled).await;
    world.ahead_ms.store(0, Ordering::SeqCst);
    world.nodes.replace_disk("n1");
    world
        .until("the node reports", async |world| world.nodes.is_heard("n1"))
        .await;
    world.nodes.set_lazy("n2", false);
    world.until("the newest disk is filled, too", is_filled).await;
}

#[tokio::test]
async fn a_copy_too_many_stays_while_others_are_only_said_to_be_there() {
    let mut world = World::with(often()).await;
    world.zone("/z", "payroll").await;
    world.add_node("n4");
    let grant = world.write("/z/f", 10, &NODES).await.expect("a file");
    let other = world.write("/z/other", 10, &NODES).await.expect("a file");
    let (block, other) = (block_id(&grant, 0), block_id(&other, 0));
    // Its disk does not give back what it has.
    world.nodes.make_unreadable("n3", other);
    world
        .until("that is seen, and copied once more", async |world| {
            world.cluster_status().await.nodes[2].unreadable == 1 && world.nodes.has("n4", other)
        })
        .await;
    world.nodes.store_aged("n4", block, sealed(10), 2 * DAY);
    for round in 1..3 {
        world.nodes.store_aged("n4", unknown(round), 100, 2 * DAY);
        world
            .until("another survey is through", async |world| {
                !world.nodes.has("n4", unknown(round))
            })
            .await;
    }
    assert!(world.nodes.has("n4", block), "the third is only said to be there");
    world.nodes.make_readable("n3");
    world
        .until("it is one too many", async |world| !world.nodes.has("n4", block))
        .await;
    assert!(NODES.iter().all(|node| world.nodes.has(node, block)));
    assert!(world.nodes.has("n4", other), "it is recorded");
}

/// Which nodes did not tell what they have.
async fn untold(world: &World) -> Vec<bool> {
    let nodes = world.cluster_status().await.nodes;
    nodes.iter().map(|node| node.untold).collect()
}

/// What one does not tell may be what shows that the namespace is an old copy.
#[tokio::test]
async fn nothing_is_deleted_until_all_nodes_tell_what_they_have() {
    let world = World::with(often()).await;
    world.nodes.set_silent("n3", true);
    world
        .until("it does not tell", async |world| {
            untold(world).await == [false, false, true]
        })
        .await;
    world.nodes.store_aged("n1", unknown(1), 100, 2 * DAY);
    world
        .until("it is counted", async |world| strays(world).await == [1, 0, 0])
        .await;
    let found = node_findings(&world).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].what.contains("node n3 did not tell"), "{found:?}");
    assert_eq!(world.nodes.blocks(), 1, "nothing was deleted");
    world.nodes.set_silent("n3", false);
    world
        .until("it is deleted", async |world| {
            world.nodes.blocks() == 0 && strays(world).await == [0; 3] && untold(world).await == [false; 3]
        })
        .await;
    assert_eq!(node_findings(&world).await, []);
}

/// One that is gone has no say.
#[tokio::test]
async fn a_node_that_is_gone_keeps_nothing_from_being_deleted() {
    let settings = Settings {
        inventory_ms: 1000,
        ..crate::fixture::quick_to_give_up()
    };
    let world = World::with(settings).await;
    world.nodes.set_silent("n3", true);
    world.nodes.store_aged("n1", unknown(1), 100, 2 * DAY);
    world
        .until("it is deleted", async |world| !world.nodes.has("n1", unknown(1)))
        .await;
}

/// A new disk of which the only file that is asked for cannot be read was looked through all the same.
#[tokio::test]
async fn what_a_disk_does_not_give_back_is_copied_once_more() {
    let settings = Settings {
        inventory_ms: 0,
        ..crate::fixture::quick()
    };
    let mut world = World::with(settings).await;
    world.zone("/z", "payroll").await;
    world.add_node("n4");
    let grant = world.write("/z/f", 10, &NODES).await.expect("a file");
    let block = block_id(&grant, 0);
    world.nodes.replace_disk("n1");
    world.nodes.store_aged("n1", block, sealed(10), DAY);
    world.nodes.make_unreadable("n1", block);
    world
        .until("a copy more is made", async |world| {
            world.nodes.has("n4", block) && world.cluster_status().await.blocks_in_deficit == 0
        })
        .await;
    let blocks = world.read("/z/f").await.expect("opened").blocks.expect("blocks").blocks;
    let mut nodes = blocks[0].nodes.clone();
    nodes.sort();
    assert_eq!(nodes, ["n1", "n2", "n3", "n4"], "it may be readable some day");
}

/// Disks are compared every second, and no more than four blocks of a node are deleted unasked.
fn four_at_most() -> Settings {
    Settings {
        stray_blocks_max: 4,
        ..often()
    }
}

/// How many blocks are kept on each node that nothing needs.
async fn strays(world: &World) -> Vec<u64> {
    let nodes = world.cluster_status().await.nodes;
    nodes.iter().map(|node| node.strays).collect()
}

/// What people are to look at on nodes.
async fn node_findings(world: &World) -> Vec<pb::Finding> {
    let nodes = pb::CheckPageRequest {
        part: CheckedPart::Nodes.into(),
        ..pb::CheckPageRequest::default()
    };
    let found = world.fsck("fsadmin").check_page(nodes).await.expect("a page");
    found.into_inner().findings
}

/// A superuser has them deleted, however many they are.
async fn delete_strays(world: &World) {
    let asked = pb::TakeInventoryRequest { delete_strays: true };
    world.fsck("fsadmin").take_inventory(asked).await.expect("taken");
}

/// Else an old copy of the namespace would cost its newer blocks after all, those of some hours with each comparison.
#[tokio::test]
async fn blocks_too_young_to_be_deleted_count_all_the_same() {
    let world = World::with(four_at_most()).await;
    // Two get old at a time, and all of them are too many.
    for (id, hours) in (1..).zip([30, 26, 20, 10, 2, 0]) {
        let age = Duration::from_secs(hours * 3600);
        world.nodes.store_aged("n1", unknown(id), 100, age);
    }
    world
        .until("they are seen", async |world| strays(world).await == [6, 0, 0])
        .await;
    world.nodes.store_aged("n2", unknown(7), 100, 2 * DAY);
    world.nodes.store_aged("n1", unknown(7), 100, DAY / 2);
    world
        .until("they are seen again", async |world| strays(world).await == [7, 1, 0])
        .await;
    assert_eq!(world.nodes.blocks(), 8, "nothing was deleted");
    delete_strays(&world).await;
    world
        .until("the old ones are deleted", async |world| world.nodes.blocks() == 5)
        .await;
    world
        .until("the young ones are kept", async |world| {
            strays(world).await == [5, 0, 0]
        })
        .await;
}

#[tokio::test]
async fn what_waits_to_be_deleted_is_no_sign_of_an_old_copy() {
    let world = World::with(four_at_most()).await;
    world.zone("/z", "payroll").await;
    world.nodes.set_hoarding("n1", true);
    let mut blocks = Vec::new();
    for number in 0..6 {
        let grant = world.write(&format!("/z/{number}"), 10, &NODES).await.expect("a file");
        blocks.push(block_id(&grant, 0));
    }
    // And an extent that is deleted as a whole.
    let open = world.create("/z/open", false).await.expect("created");
    let open = open.grant.expect("a grant");
    blocks.extend((0..6).map(|index| block_id(&open, index)));
    for block in &blocks {
        world.nodes.store_aged("n1", *block, sealed(10), 2 * DAY);
    }
    for number in 0..6 {
        world.remove(&format!("/z/{number}"), false).await.expect("removed");
    }
    let abandon = pb::AbandonFileRequest {
        file_id: open.file_id.clone(),
        extent_id: open.extent_id.clone(),
    };
    world
        .user("alice")
        .files
        .abandon_file(abandon)
        .await
        .expect("abandoned");
    world
        .until("their blocks are garbage, and gone elsewhere", async |world| {
            world.cluster_status().await.blocks_to_delete == 7
        })
        .await;
    world.nodes.store_aged("n2", unknown(1), 100, 2 * DAY);
    world
        .until("what nothing needs is deleted", async |world| {
            !world.nodes.has("n2", unknown(1))
        })
        .await;
    assert_eq!(strays(&world).await, [0, 0, 0]);
    assert!(blocks.iter().all(|block| world.nodes.has("n1", *block)), "they waited");
}

/// All rows of a store.
async fn rows(store: &AnyStore) -> Vec<(Bytes, Bytes)> {
    let mut view = store.snapshot().await.expect("a view");
    view.range(&[0], &[255], 10_000).await.expect("all rows")
}

/// The namespace is put back to what it was before most of its files were written.
#[tokio::test]
async fn an_old_copy_of_the_namespace_costs_no_block() {
    let mut world = World::with(four_at_most()).await;
    world.zone("/z", "payroll").await;
    world.write("/z/old", 10, &NODES).await.expect("a file");
    world.stop().await;
    let store = world.open_store().await;
    let before = rows(&store).await;
    drop(store);
    world.run().await;
    let mut newer = Vec::new();
    for number in 0..6 {
        let grant = world.write(&format!("/z/{number}"), 10, &NODES).await.expect("a file");
        newer.push(block_id(&grant, 0));
    }
    world.stop().await;
    let store = world.open_store().await;
    let mut txn = store.begin().await.expect("a transaction");
    for (key, _) in rows(&store).await {
        txn.delete(&key);
    }
    for (key, value) in before {
        txn.put(&key, value);
    }
    txn.commit().await.expect("committed");
    drop(store);
    for (block, node) in newer.iter().flat_map(|block| NODES.map(|node| (block, node))) {
        world.nodes.store_aged(node, *block, sealed(10), 2 * DAY);
    }
    world.run().await;
    // Few on one node are kept, too, while they are too many on another.
    world.nodes.store_aged("n1", unknown(1), 100, 2 * DAY);
    world
        .until("they are seen", async |world| strays(world).await == [7, 6, 6])
        .await;
    let found = node_findings(&world).await;
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found[0].kind(), FindingKind::Node);
    assert!(found[0].what.contains("7 blocks on node n1"), "{found:?}");
    // Another one is counted, so another survey was through.
    world.nodes.store_aged("n2", unknown(2), 100, 2 * DAY);
    world
        .until("they are seen again", async |world| strays(world).await == [7, 7, 6])
        .await;
    assert_eq!(world.nodes.blocks(), 3 + 7 + 7 + 6, "nothing was deleted");
    assert!(NODES.iter().all(|node| world.nodes.deletes(node) == 0));
    // A superuser knows better.
    delete_strays(&world).await;
    world
        .until("they are deleted", async |world| {
            world.nodes.blocks() == 3 && strays(world).await == [0, 0, 0]
        })
        .await;
    world
        .until("his word has ended", async |world| {
            !world.cluster_status().await.deleting_strays
        })
        .await;
    world.read("/z/old").await.expect("it is there");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_keeps_nobody_from_looking_on() {
    let mut world = World::with(often()).await;
    world.zone("/z", "payroll").await;
    let grant = world.write("/z/f", 9 << 20, &NODES).await.expect("a file");
    let spare = world.write("/z/spare", 9 << 20, &NODES).await.expect("a file");
    world.nodes.make_unreadable("n2", block_id(&grant, 0));
    world.nodes.forget("n2", block_id(&grant, 2));
    world
        .until("what is missing is copied anew", async |world| {
            world.nodes.has("n2", block_id(&grant, 2)) && world.cluster_status().await.nodes[1].unreadable == 1
        })
        .await;
    let blocks = world.read("/z/f").await.expect("opened").blocks.expect("blocks").blocks;
    assert!(blocks[0].nodes.contains(&"n2".to_owned()), "nobody knows what is in it");
    world
        .until("it lacks a replica, and there is nowhere to make one", async |world| {
            world.cluster_status().await.blocks_in_deficit == 1
        })
        .await;
    world.nodes.make_readable("n2");
    world
        .until("it lacks none", async |world| {
            world.cluster_status().await.blocks_in_deficit == 0
        })
        .await;
    // A record that cannot be read is passed over as well, in comparisons and in what nodes report.
    world.stop().await;
    let store = world.open_store().await;
    let mut txn = store.begin().await.expect("a transaction");
    let extent = block_id(&grant, 0).extent;
    let broken = rows(&store).await.into_iter().map(|(key, _)| key);
    for key in broken.filter(|key| key[0] == b'b' && key[1..17] == *extent.as_bytes()) {
        txn.put(&key, b"no block list".to_vec());
    }
    txn.commit().await.expect("committed");
    drop(store);
    world.run().await;
    world.nodes.report_bad("n3", block_id(&grant, 1));
    world.nodes.forget("n3", block_id(&spare, 1));
    world
        .until("others are copied anew", async |world| {
            world.nodes.has("n3", block_id(&spare, 1)) && world.nodes.is_heard("n3")
        })
        .await;
    assert!(NODES.iter().all(|node| world.nodes.has(node, block_id(&grant, 1))));
}
