//! Files that are rewritten in place, through the gRPC face: all or nothing, never over what somebody wrote meanwhile, and with
//! nothing left behind.

use std::sync::atomic::Ordering;

use strongroom_proto::{Reason, RequestId, metadata::v1 as pb};

use crate::fixture::{
    NODES, World, check,
    files::{BLOCK_BYTES, behind, block_id, commit_request, placements},
    refused,
};

const LENGTH: u64 = BLOCK_BYTES + 10;

async fn with_file() -> (World, pb::WriteGrant) {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let grant = world.write("/z/f", LENGTH, &NODES).await.expect("a file");
    (world, grant)
}

/// The commit of a second body of `length` bytes, whose blocks are stored.
fn second(world: &World, begun: &pb::RewritingFile, length: u64) -> pb::CommitFileRequest {
    let grant = begun
        .body
        .as_ref()
        .and_then(|body| body.grant.as_ref())
        .expect("a grant");
    let mut request = commit_request(grant, length, &NODES);
    for index in 0..u32::try_from(request.blocks.len()).expect("few") {
        for node in NODES {
            world.nodes.store(node, block_id(grant, index));
        }
    }
    request.generation = begun.file.as_ref().expect("the file").generation + 1;
    request
}

/// Appends 20 bytes to a file that was opened.
async fn append(world: &World, reopened: pb::ReopenedFile) -> pb::Stat {
    let (file, grant) = (reopened.file.expect("the file"), reopened.grant.expect("a grant"));
    let more = commit_request(&grant, 20, &NODES);
    world.commit(behind(&file, more)).await.expect("appended")
}

async fn only_blocks_of(world: &World, path: &str) {
    let file = world.read(path).await.expect("it opens");
    let blocks: usize = file.extents.iter().map(|extent| extent.blocks as usize).sum();
    world
        .until("the other blocks are deleted", async |world| {
            world.nodes.blocks() == blocks * NODES.len()
        })
        .await;
}

#[tokio::test]
async fn a_second_body_takes_the_place_of_the_first() {
    let (world, _) = with_file().await;
    append(&world, world.reopen("/z/f").await.expect("opened")).await;
    let before = world.stat("/z/f").await.expect("there");
    let edek = world.edek("/z/f").await;
    let begun = world.rewrite("/z/f").await.expect("begun");
    assert_eq!(
        world.read("/z/f").await.expect("it opens").extents.len(),
        2,
        "nothing shows yet"
    );
    let stat = world
        .commit(second(&world, &begun, LENGTH + 20))
        .await
        .expect("put in place");
    assert_eq!(
        stat,
        pb::Stat {
            blocks: 2,
            ..before.clone()
        },
        "but for the blocks all is as it was"
    );
    let after = world.read("/z/f").await.expect("it opens");
    assert_eq!((after.generation, after.extents.len(), after.same_since), (3, 1, 2));
    assert_ne!(world.edek("/z/f").await, edek);
    let zone = world.get_zone("/z").await.expect("a zone").into_inner();
    assert_eq!(zone.files.iter().map(|count| count.files).sum::<u64>(), 1);
    assert_eq!(world.cluster_status().await.files_open, 0);
    only_blocks_of(&world, "/z/f").await;

    append(&world, world.reopen("/z/f").await.expect("opened")).await;
    let after = world.read("/z/f").await.expect("it opens");
    assert_eq!((after.generation, after.same_since), (4, 4), "the bytes are others");
}

#[tokio::test]
async fn whoever_changes_the_file_meanwhile_wins() {
    struct Case(&'static str, Reason, &'static str, u64);
    for Case(between, reason, words, length) in [
        Case("appended", Reason::FileChanged, "was changed while", LENGTH + 20),
        Case(
            "being appended to",
            Reason::LeaseHeld,
            "user alice has /z/f open",
            LENGTH,
        ),
        Case("rewritten", Reason::FileChanged, "rewrite it again", LENGTH),
        Case("overwritten", Reason::LeaseLost, "it was removed", 5),
        Case("renamed over", Reason::LeaseLost, "it was removed", 6),
    ] {
        let (world, _) = with_file().await;
        let begun = world.rewrite("/z/f").await.expect("begun");
        let commit = second(&world, &begun, LENGTH);
        let mut open = None;
        match between {
            "appended" => _ = append(&world, world.reopen("/z/f").await.expect("opened")).await,
            "being appended to" => open = Some(world.reopen("/z/f").await.expect("opened")),
            "rewritten" => {
                let other = world.rewrite("/z/f").await.expect("two at once");
                world
                    .commit(second(&world, &other, LENGTH))
                    .await
                    .expect("the first one");
            }
            "overwritten" => _ = world.write("/z/f", 5, &NODES).await.expect("overwritten"),
            _ => {
                world.write("/z/g", 6, &NODES).await.expect("another");
                world.rename("/z/g", "/z/f", true).await.expect("renamed");
            }
        }
        let shown = world.read("/z/f").await.expect("it opens");
        let failure = world.commit(commit.clone()).await.expect_err(between);
        check(&failure, reason, &[words]);
        let still = world.read("/z/f").await.expect("it opens");
        assert_eq!((still.extents, still.edek), (shown.extents, shown.edek), "{between}");
        assert_eq!(world.stat("/z/f").await.expect("there").length, length, "{between}");
        if let Some(open) = open {
            assert_eq!(append(&world, open).await.length, LENGTH + 20, "he loses nothing");
        }
        let request = pb::AbandonFileRequest {
            file_id: commit.file_id,
            extent_id: commit.extent_id,
        };
        world.user("alice").files.abandon_file(request).await.expect("given up");
        assert_eq!(world.cluster_status().await.files_open, 0, "{between}");
    }
}

#[tokio::test]
async fn a_rewriting_follows_its_file_and_takes_it_from_nobody() {
    let (world, _) = with_file().await;
    let begun = world.rewrite("/z/f").await.expect("begun");
    world.rename("/z/f", "/z/g", false).await.expect("renamed");
    let stat = world
        .commit(second(&world, &begun, LENGTH))
        .await
        .expect("put in place");
    assert_eq!(stat.path, "/z/g");
    assert!(world.stat("/z/f").await.is_err());

    let open = world.reopen("/z/g").await.expect("opened");
    check(
        &world.rewrite("/z/g").await.expect_err("refused"),
        Reason::LeaseHeld,
        &["user alice has /z/g open"],
    );
    world.ahead_ms.fetch_add(world.settings.lease_ms + 1, Ordering::SeqCst);
    world
        .until("the nodes are heard again", async |world| {
            world.cluster_status().await.nodes.iter().all(|node| node.alive)
        })
        .await;
    // He is gone: the lease ended, whether his record was reaped or not.
    let begun = world.rewrite("/z/g").await.expect("begun");
    world
        .commit(second(&world, &begun, LENGTH))
        .await
        .expect("put in place");
    let late = commit_request(&open.grant.expect("a grant"), 1, &NODES);
    check(&world.commit(late).await.expect_err("refused"), Reason::LeaseLost, &[]);
    check(
        &world.rewrite("/z").await.expect_err("refused"),
        Reason::IsADirectory,
        &[],
    );
    check(
        &world.rewrite("/z/none").await.expect_err("refused"),
        Reason::NotFound,
        &[],
    );
}

#[tokio::test]
async fn a_second_body_has_the_bytes_of_the_first_and_ends_with_its_commit() {
    let (world, _) = with_file().await;
    let begun = world.rewrite("/z/f").await.expect("begun");
    let right = second(&world, &begun, LENGTH);
    let other = second(&world, &begun, LENGTH - 1);
    check(
        &world.commit(other).await.expect_err("refused"),
        Reason::InvalidArgument,
        &["is not rewritten with"],
    );
    let going_on = pb::CommitFileRequest {
        go_on: true,
        ..right.clone()
    };
    check(
        &world.commit(going_on).await.expect_err("refused"),
        Reason::InvalidArgument,
        &["go_on"],
    );
    let stale = pb::CommitFileRequest {
        generation: 1,
        ..right.clone()
    };
    check(
        &world.commit(stale).await.expect_err("refused"),
        Reason::InvalidArgument,
        &["manifest 2 comes next"],
    );
    world.commit(right).await.expect("put in place");
}

#[tokio::test]
async fn a_second_body_has_no_more_blocks_than_the_first() {
    let (world, _) = with_file().await;
    let begun = world.rewrite("/z/f").await.expect("begun");
    let grant = begun.body.and_then(|body| body.grant).expect("a grant");
    let report = |length: u64| pb::AddBlocksRequest {
        file_id: grant.file_id.clone(),
        extent_id: grant.extent_id.clone(),
        first_index: 0,
        blocks: placements(length, &NODES),
    };
    let mut files = world.user("alice").files;
    let longer = refused(files.add_blocks(report(LENGTH + BLOCK_BYTES)).await);
    check(&longer, Reason::InvalidArgument, &["the file that is rewritten makes"]);
    files.add_blocks(report(LENGTH)).await.expect("as many");
}

#[tokio::test]
async fn a_rewriting_that_is_asked_for_twice_is_one() {
    let (world, _) = with_file().await;
    let request = pb::RewriteFileRequest {
        path: "/z/f".into(),
        request_id: RequestId::generate().into(),
        ..pb::RewriteFileRequest::default()
    };
    let ask = async || -> Result<pb::RewritingFile, strongroom_proto::Failure> {
        Ok(world
            .user("alice")
            .files
            .rewrite_file(request.clone())
            .await?
            .into_inner())
    };
    let (first, again) = (ask().await.expect("begun"), ask().await.expect("the same"));
    let grant = |begun: &pb::RewritingFile| {
        begun
            .body
            .as_ref()
            .and_then(|body| body.grant.clone())
            .expect("a grant")
    };
    assert_eq!(grant(&first).extent_id, grant(&again).extent_id);
    assert_eq!(world.cluster_status().await.files_open, 1);
    let attributes = pb::SetAttributesRequest {
        path: "/z/f".into(),
        mode: Some(0o600),
        owner: "bob".to_owned(),
        ..pb::SetAttributesRequest::default()
    };
    let set = world.user("fsadmin").namespace.set_attributes(attributes).await;
    set.expect("given away");
    check(
        &ask().await.expect_err("refused"),
        Reason::PermissionDenied,
        &["user alice needs rw"],
    );
    assert_eq!(world.cluster_status().await.files_open, 0, "it is given up");
}

#[tokio::test]
async fn a_rewriting_is_re_encrypted_and_survives_a_restart() {
    let (mut world, _) = with_file().await;
    let begun = world.rewrite("/z/f").await.expect("begun");
    world.kms.roll("payroll");
    let request = pb::StartReencryptionRequest {
        path: "/z".into(),
        throttle: None,
    };
    world
        .user("fsadmin")
        .zones
        .start_reencryption(request)
        .await
        .expect("started");
    world
        .until("both EDEKs are new", async |world| {
            let zone = world.get_zone("/z").await.expect("a zone").into_inner();
            zone.files.iter().all(|count| count.key_version == 1)
        })
        .await;
    world.restart().await;
    world
        .commit(second(&world, &begun, LENGTH))
        .await
        .expect("put in place");
    let edek = world.edek("/z/f").await;
    assert_eq!(edek.key_version, 1);
    let given = begun.body.and_then(|body| body.edek).expect("an EDEK");
    assert_eq!(
        crate::fixture::kms::dek_of(&edek.wrapped),
        crate::fixture::kms::dek_of(&given.wrapped)
    );
}

#[tokio::test]
async fn a_body_that_is_left_behind_is_cleared_away() {
    let (world, _) = with_file().await;
    let begun = world.rewrite("/z/f").await.expect("begun");
    _ = second(&world, &begun, LENGTH);
    world.ahead_ms.fetch_add(world.settings.lease_ms + 1, Ordering::SeqCst);
    world
        .until("it is reaped", async |world| {
            world.cluster_status().await.files_open == 0
        })
        .await;
    only_blocks_of(&world, "/z/f").await;
    let zone = world.get_zone("/z").await.expect("a zone").into_inner();
    assert_eq!(zone.files.iter().map(|count| count.files).sum::<u64>(), 1);
}
