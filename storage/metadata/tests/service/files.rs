//! Files through the gRPC face: created, written, committed, overwritten, abandoned, read.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use strongroom_proto::{
    ExtentId, Reason, RequestId,
    capability::{Right, verify},
    metadata::v1 as pb,
    transport::PeerIdentity,
};

use crate::fixture::{
    NODES, World, check,
    files::{BLOCK_BYTES, block_id, commit_request, extent, placements, sealed},
    refused,
};

#[tokio::test]
async fn a_file_shows_at_its_commit_and_not_before() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let created = world.create("/z/f", false).await.expect("created");
    assert_eq!((created.frame_bytes, created.block_bytes), (64 << 10, 4 << 20));
    assert_eq!(created.data_suite, "gcm");
    let grant = created.grant.expect("a grant");
    let names: BTreeSet<_> = grant.targets.iter().map(|target| target.node_id.as_str()).collect();
    assert_eq!(names, NODES.into_iter().collect());
    assert_eq!((grant.replicas, grant.min_replicas), (3, 2));
    check(
        &world.stat("/z/f").await.expect_err("invisible"),
        Reason::NotFound,
        &["/z/f"],
    );
    assert_eq!(world.names("/z").await, [""; 0]);
    assert_eq!(world.cluster_status().await.files_open, 1);

    let mut request = commit_request(&grant, 9 << 20, &NODES);
    request.request_id = RequestId::generate().into();
    let stat = world.commit(request.clone()).await.expect("committed");
    assert_eq!(
        (stat.length, stat.blocks, stat.path.as_ref()),
        (9 << 20, 3, &b"/z/f"[..])
    );
    assert_eq!(world.commit(request).await.expect("a repeat answers the same"), stat);
    assert_eq!(world.stat("/z/f").await.expect("visible"), stat);
    assert_eq!(world.cluster_status().await.files_open, 0);

    let opened = world.read("/z/f").await.expect("opened");
    assert_eq!(opened.edek, created.edek);
    assert_eq!(opened.extents, [extent(&grant, 9 << 20)]);
    assert_eq!(opened.manifest_mac, [1; 32].as_slice());
    let blocks = opened.blocks.expect("blocks");
    assert_eq!(
        blocks.blocks.iter().map(|block| block.length).collect::<Vec<_>>(),
        [sealed(BLOCK_BYTES), sealed(BLOCK_BYTES), sealed(1 << 20)]
    );
    assert_eq!(blocks.nodes.len(), 3);
    assert_eq!(blocks.nodes[0].address, "n1.test:7620");
}

#[tokio::test]
async fn an_empty_file_has_no_extent_and_what_was_recorded_is_deleted() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let grant = world
        .create("/z/f", false)
        .await
        .expect("created")
        .grant
        .expect("a grant");
    world.nodes.store("n1", block_id(&grant, 0));
    add_blocks(&world, &grant, 0, placements(10, &NODES))
        .await
        .expect("recorded");
    world.commit(commit_request(&grant, 0, &[])).await.expect("committed");
    let opened = world.read("/z/f").await.expect("opened");
    assert!(opened.extents.is_empty() && opened.stat.expect("a stat").length == 0);
    world
        .until("the block is deleted", async |world| world.nodes.blocks() == 0)
        .await;
}

#[tokio::test]
async fn capabilities_name_right_holder_and_extent() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let grant = world.write("/z/f", 10, &NODES).await.expect("a file");
    let heartbeat = pb::HeartbeatRequest {
        node_id: "n4".to_owned(),
        address: "n4.test:1".to_owned(),
        ..pb::HeartbeatRequest::default()
    };
    let mut n4 = world.as_identity("service/block/n4").cluster;
    let keys = n4
        .heartbeat(heartbeat.clone())
        .await
        .expect("answered")
        .into_inner()
        .capability_keys;
    let blocks = world.read("/z/f").await.expect("opened").blocks.expect("blocks");
    for (signed, right, expires_ms) in [
        (&grant.capability, Right::Write, grant.expires_ms),
        (&blocks.capability, Right::Read, blocks.expires_ms),
    ] {
        let capability = verify(signed, &keys, expires_ms).expect("signed");
        assert_eq!((capability.right, capability.expires_ms), (right, expires_ms));
        assert_eq!(capability.holder, PeerIdentity::User("alice".parse().expect("valid")));
        assert_eq!(
            capability.extents,
            [ExtentId::try_from(grant.extent_id.as_ref()).expect("an id")]
        );
    }
    for rest in ["service/block/n1", "user/alice", "service/kms"] {
        let failure = refused(world.as_identity(rest).cluster.heartbeat(heartbeat.clone()).await);
        check(&failure, Reason::PermissionDenied, &["reports for itself"]);
    }
}

#[tokio::test]
async fn blocks_may_come_in_parts_and_again() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    // 700 blocks: three chunks of the block list.
    let length = 699 * BLOCK_BYTES + 5;
    let all = placements(length, &["n1", "n2"]);
    let grant = world
        .create("/z/f", false)
        .await
        .expect("created")
        .grant
        .expect("a grant");
    add_blocks(&world, &grant, 0, all[..300].to_vec())
        .await
        .expect("recorded");
    add_blocks(&world, &grant, 0, Vec::new()).await.expect("renewed");
    let again = add_blocks(&world, &grant, 290, all[290..310].to_vec())
        .await
        .expect("a repeat");
    assert_eq!(again.extent_id, grant.extent_id);
    let failure = add_blocks(&world, &grant, 311, all[311..].to_vec())
        .await
        .expect_err("a gap");
    check(
        &failure,
        Reason::InvalidArgument,
        &["block 310 comes next, not block 311"],
    );
    let mut other = all[5].clone();
    other.crc32c = 99;
    let failure = add_blocks(&world, &grant, 5, vec![other])
        .await
        .expect_err("other bytes");
    check(&failure, Reason::InvalidArgument, &["-5 was recorded with other bytes"]);

    let mut request = commit_request(&grant, length, &["n1", "n2"]);
    request.first_index = 310;
    request.blocks.drain(..310);
    world.commit(request).await.expect("committed");
    let stat = world.stat("/z/f").await.expect("there");
    assert_eq!((stat.blocks, stat.blocks_in_deficit), (700, 700));

    let mut read = Vec::new();
    while read.len() < 700 {
        let request = pb::ListBlocksRequest {
            file_id: grant.file_id.clone(),
            extent_id: grant.extent_id.clone(),
            first_index: u32::try_from(read.len()).expect("few"),
        };
        let page = world
            .user("alice")
            .files
            .list_blocks(request)
            .await
            .expect("a page")
            .into_inner();
        assert!(!page.blocks.is_empty() && !page.capability.is_empty());
        read.extend(page.blocks.into_iter().map(|block| (block.length, block.crc32c)));
    }
    assert_eq!(
        read,
        all.iter().map(|block| (block.length, block.crc32c)).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_commit_that_does_not_add_up_is_refused_and_changes_nothing() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let grant = world
        .create("/z/f", false)
        .await
        .expect("created")
        .grant
        .expect("a grant");
    let good = commit_request(&grant, 9 << 20, &NODES);
    let with = |change: &dyn Fn(&mut pb::CommitFileRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    for (request, words) in [
        (with(&|r| _ = r.blocks.pop()), "2 blocks are recorded, not 3"),
        (with(&|r| r.extents[0].blocks = 2), "do not make 2 blocks"),
        (
            with(&|r| (r.extents[0].length, r.extents[0].visible) = ((9 << 20) + 1, (9 << 20) + 1)),
            "its last block has",
        ),
        (
            with(&|r| r.extents[0].salt = vec![1; 15].into()),
            "salt must be 16 bytes",
        ),
        (
            with(&|r| r.extents[0].extent_id = vec![1; 16].into()),
            "is not the one granted",
        ),
        (with(&|r| r.extents.push(r.extents[0].clone())), "not in its place"),
        (with(&|r| r.manifest_mac = vec![1; 31].into()), "32 bytes"),
        (with(&|r| r.blocks[0].length -= 1), "is not full"),
        (with(&|r| r.blocks[2].length = 0), "0 bytes"),
        (
            with(&|r| r.blocks[0].nodes = vec!["n1".to_owned(), "n1".to_owned()]),
            "is on 1 nodes, at least 2",
        ),
        (
            with(&|r| r.blocks[0].nodes.push("stranger".to_owned())),
            "stranger, which never reported",
        ),
        (with(&|r| r.first_index = 1), "block 0 comes next"),
    ] {
        check(
            &world.commit(request).await.expect_err(words),
            Reason::InvalidArgument,
            &[words],
        );
    }
    let failure = refused(world.user("bob").files.commit_file(good.clone()).await);
    check(&failure, Reason::LeaseLost, &["user bob", "another user is"]);
    world.stat("/z/f").await.expect_err("still invisible");
    world.commit(good).await.expect("the right one is taken");
}

#[tokio::test]
async fn an_overwritten_file_stays_until_the_new_one_is_committed() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.write("/z/f", 10, &NODES).await.expect("a file");
    let old = world.stat("/z/f").await.expect("there");
    let grant = world
        .create("/z/f", true)
        .await
        .expect("created")
        .grant
        .expect("a grant");
    assert_eq!(world.stat("/z/f").await.expect("there"), old);
    let new = world
        .commit(commit_request(&grant, 20, &NODES))
        .await
        .expect("committed");
    assert_eq!(world.stat("/z/f").await.expect("there"), new);
    assert_ne!(new.file_id, old.file_id);
    world
        .until("the old blocks are deleted", async |world| world.nodes.blocks() == 0)
        .await;
    let files = world.get_zone("/z").await.expect("a zone").into_inner().files;
    assert_eq!(
        files,
        [pb::VersionCount {
            key_version: 0,
            files: 1
        }]
    );
}

#[tokio::test]
async fn of_many_writers_of_one_path_one_wins() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let mut commits = Vec::new();
    for _ in 0..8 {
        let grant = world
            .create("/z/f", false)
            .await
            .expect("created")
            .grant
            .expect("a grant");
        let mut files = world.user("alice").files;
        commits.push(async move { files.commit_file(commit_request(&grant, 10, &NODES)).await });
    }
    let (won, lost): (Vec<_>, Vec<_>) = futures::future::join_all(commits)
        .await
        .into_iter()
        .partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 7));
    for outcome in lost {
        check(&refused(outcome), Reason::AlreadyExists, &["/z/f exists"]);
    }
    let winner = won.into_iter().next().expect("one").expect("won").into_inner();
    assert_eq!(world.stat("/z/f").await.expect("there"), winner.stat.expect("its stat"));
}

#[tokio::test]
async fn a_writer_that_gives_up_or_goes_silent_leaves_nothing() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let mut files = world.user("alice").files;
    let mut grants = Vec::new();
    for name in ["abandoned", "silent"] {
        let grant = world
            .create(&format!("/z/{name}"), false)
            .await
            .expect("created")
            .grant
            .expect("a grant");
        for node in NODES {
            world.nodes.store(node, block_id(&grant, 0));
            // The metadata service never hears of this one.
            world.nodes.store(node, block_id(&grant, 1));
        }
        add_blocks(&world, &grant, 0, placements(10, &NODES))
            .await
            .expect("recorded");
        grants.push(grant);
    }
    let abandon = pb::AbandonFileRequest {
        file_id: grants[0].file_id.clone(),
        extent_id: grants[0].extent_id.clone(),
    };
    let failure = refused(world.user("bob").files.abandon_file(abandon.clone()).await);
    check(&failure, Reason::LeaseLost, &["another user"]);
    files.abandon_file(abandon.clone()).await.expect("abandoned");
    files.abandon_file(abandon).await.expect("a repeat succeeds");
    world
        .until("the abandoned blocks are deleted", async |world| {
            world.nodes.blocks() == 6
        })
        .await;

    world.ahead_ms.store(world.settings.lease_ms + 1000, Ordering::Relaxed);
    world
        .until("the silent writer's blocks are deleted", async |world| {
            world.nodes.blocks() == 0
        })
        .await;
    for grant in &grants {
        let failure = world
            .commit(commit_request(grant, 10, &NODES))
            .await
            .expect_err("too late");
        check(&failure, Reason::LeaseLost, &["write it again"]);
    }
    assert!(
        world
            .get_zone("/z")
            .await
            .expect("a zone")
            .into_inner()
            .files
            .is_empty()
    );
}

#[tokio::test]
async fn too_few_healthy_nodes_are_counted() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.nodes.set_silent("n1", true);
    world
        .until("one node is silent", async |world| {
            !world.cluster_status().await.nodes[0].alive
        })
        .await;
    world.write("/z/f", 10, &["n2", "n3"]).await.expect("two are enough");
    let grant = world
        .create("/z/open", false)
        .await
        .expect("created")
        .grant
        .expect("a grant");
    world.nodes.set_full("n2", true);
    world
        .until("one node is full", async |world| {
            world.cluster_status().await.nodes[1].free_bytes == 0
        })
        .await;
    let failure = world.create("/z/g", false).await.expect_err("one is not enough");
    check(
        &failure,
        Reason::TooFewNodes,
        &["1 of 3 block nodes are healthy, at least 2 are needed"],
    );
    world.read("/z/f").await.expect("reads go on");
    let renewed = add_blocks(&world, &grant, 0, Vec::new())
        .await
        .expect("a writer may wait for nodes");
    assert_eq!(renewed.targets.len(), 1);
}

#[tokio::test]
async fn a_file_opened_in_a_directory_that_becomes_a_zone_is_refused() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.mkdir("/z/d").await;
    let grant = world
        .create("/z/d/f", false)
        .await
        .expect("created")
        .grant
        .expect("a grant");
    world.zone("/z/d", "other").await;
    let failure = world
        .commit(commit_request(&grant, 10, &NODES))
        .await
        .expect_err("another zone now");
    check(&failure, Reason::LeaseLost, &["came to another zone"]);
    let moved = world
        .create("/z/g", false)
        .await
        .expect("created")
        .grant
        .expect("a grant");
    world.rename("/z", "/y", false).await.expect("renamed");
    let stat = world
        .commit(commit_request(&moved, 10, &NODES))
        .await
        .expect("it follows its directory");
    assert_eq!(stat.path, "/y/g");
}

async fn add_blocks(
    world: &World,
    grant: &pb::WriteGrant,
    first_index: u32,
    blocks: Vec<pb::BlockPlacement>,
) -> Result<pb::WriteGrant, strongroom_proto::Failure> {
    let request = pb::AddBlocksRequest {
        file_id: grant.file_id.clone(),
        extent_id: grant.extent_id.clone(),
        first_index,
        blocks,
    };
    Ok(world.user("alice").files.add_blocks(request).await?.into_inner())
}
