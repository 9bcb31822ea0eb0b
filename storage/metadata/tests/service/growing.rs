//! Files that are opened again, through the gRPC face: one writer at a time, manifests that follow one another, and what is cut off
//! or given up deleted from the nodes.

use std::sync::atomic::Ordering;

use strongroom_proto::{Failure, Reason, RequestId, metadata::v1 as pb};

use crate::fixture::{
    NODES, World, check,
    files::{BLOCK_BYTES, behind, block_id, commit_request, extent, placements},
    kms::dek_of,
    refused,
};

/// A world with a file of `length` bytes, and what its writer was granted.
async fn with_file(length: u64) -> (World, pb::WriteGrant) {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let grant = world.write("/z/f", length, &NODES).await.expect("a file");
    (world, grant)
}

/// The commit of `length` more bytes in an extent of their own behind `extents`.
fn more(file: &pb::OpenedFile, grant: &pb::WriteGrant, length: u64) -> pb::CommitFileRequest {
    behind(file, commit_request(grant, length, &NODES))
}

async fn reopened(world: &World) -> (pb::OpenedFile, pb::WriteGrant) {
    let reopened = world.reopen("/z/f").await.expect("opened");
    (reopened.file.expect("the file"), reopened.grant.expect("a grant"))
}

fn store(world: &World, grant: &pb::WriteGrant, blocks: u32) {
    for index in 0..blocks {
        for node in NODES {
            world.nodes.store(node, block_id(grant, index));
        }
    }
}

async fn recover(world: &World, user: &str) -> Result<String, Failure> {
    let request = pb::RecoverFileRequest {
        path: "/z/f".into(),
        ..pb::RecoverFileRequest::default()
    };
    Ok(world.user(user).files.recover_file(request).await?.into_inner().writer)
}

#[tokio::test]
async fn a_file_that_is_appended_to_has_another_extent() {
    let (world, first) = with_file(BLOCK_BYTES + 10).await;
    let (file, grant) = reopened(&world).await;
    assert_eq!((file.generation, file.extents.len()), (1, 1));
    assert_eq!(grant.file_id, first.file_id);
    assert_ne!(grant.extent_id, first.extent_id);
    assert_eq!(world.stat("/z/f").await.expect("there").length, BLOCK_BYTES + 10);
    let stat = world.commit(more(&file, &grant, 20)).await.expect("committed");
    assert_eq!((stat.length, stat.blocks), (BLOCK_BYTES + 30, 3));
    let read = world.read("/z/f").await.expect("it opens");
    assert_eq!((read.generation, read.extents.len()), (2, 2));
    assert_eq!(world.stat("/z/f").await.expect("there"), stat);
    world.reopen("/z/f").await.expect("nobody has it open");
}

#[tokio::test]
async fn a_manifest_has_to_follow_from_the_one_before() {
    struct Change(&'static str, fn(&mut pb::CommitFileRequest), &'static str);
    let (world, _) = with_file(100).await;
    let (file, grant) = reopened(&world).await;
    world.commit(more(&file, &grant, 100)).await.expect("committed");
    let (file, grant) = reopened(&world).await;
    for Change(what, change, words) in [
        Change("the same", |it| it.generation -= 1, "manifest 3 comes next, not 2"),
        Change("one left out", |it| it.generation += 1, "manifest 3 comes next, not 4"),
        Change("another order", |it| it.extents.swap(0, 1), "not the one granted"),
        Change("new before old", |it| it.extents.swap(1, 2), "not in its place"),
        Change("one missing", |it| drop(it.extents.remove(0)), "not the one granted"),
        Change("longer", |it| it.extents[0].length += 1, "does not change"),
        Change(
            "another salt",
            |it| it.extents[1].salt = vec![9; 16].into(),
            "does not change",
        ),
        Change("more shows", |it| it.extents[1].visible += 1, "1 to 100 of its bytes"),
        Change("nothing shows", |it| it.extents[1].visible = 0, "1 to 100 of its bytes"),
        Change(
            "cut before the last",
            |it| it.extents[0].visible = 5,
            "only the last one",
        ),
        Change(
            "a new one cut",
            |it| it.extents[2].visible = 5,
            "5 of 10 bytes when it is new",
        ),
        Change(
            "an old salt",
            |it| it.extents[2].salt = it.extents[0].salt.clone(),
            "another one's salt",
        ),
        Change("twice", |it| it.extents.push(it.extents[2].clone()), "not in its place"),
        Change("no code", |it| it.manifest_mac.clear(), "32 bytes"),
    ] {
        let mut request = more(&file, &grant, 10);
        change(&mut request);
        let failure = world.commit(request).await.expect_err(what);
        check(&failure, Reason::InvalidArgument, &[words]);
    }
    world
        .commit(more(&file, &grant, 10))
        .await
        .expect("what is right is taken");
}

#[tokio::test]
async fn one_writer_at_a_time() {
    let (world, _) = with_file(10).await;
    let (file, grant) = reopened(&world).await;
    let held = world.reopen("/z/f").await.expect_err("also for the same user");
    check(
        &held,
        Reason::LeaseHeld,
        &["user alice", "/z/f", "strongroom fs recover /z/f"],
    );
    check(
        &recover(&world, "bob").await.expect_err("not his"),
        Reason::PermissionDenied,
        &["user bob"],
    );
    assert_eq!(recover(&world, "fsadmin").await.expect("superusers may"), "alice");
    assert_eq!(recover(&world, "bob").await.expect("nothing to do"), "");
    let late = world.commit(more(&file, &grant, 10)).await.expect_err("taken");
    check(&late, Reason::LeaseLost, &["recovered"]);
    let (file, newer) = reopened(&world).await;
    let late = world
        .commit(more(&file, &grant, 10))
        .await
        .expect_err("the older extent");
    check(&late, Reason::LeaseLost, &["opened anew"]);
    let abandon = pb::AbandonFileRequest {
        file_id: grant.file_id.clone(),
        extent_id: grant.extent_id.clone(),
    };
    let mut alice = world.user("alice").files;
    alice.abandon_file(abandon).await.expect("a repeat succeeds");
    world.commit(more(&file, &newer, 10)).await.expect("it ended nothing");
    for (path, reason) in [("/z", Reason::IsADirectory), ("/z/none", Reason::NotFound)] {
        check(&world.reopen(path).await.expect_err(path), reason, &[path]);
    }
}

#[tokio::test]
async fn what_is_flushed_shows_and_the_writer_goes_on() {
    let (world, _) = with_file(10).await;
    let (file, grant) = reopened(&world).await;
    let mut request = more(&file, &grant, 20);
    request.go_on = true;
    request.request_id = RequestId::generate().into();
    let mut alice = world.user("alice").files;
    let flushed = alice.commit_file(request.clone()).await.expect("flushed").into_inner();
    let next = flushed.grant.expect("to go on with");
    assert_ne!(next.extent_id, grant.extent_id);
    assert!(!next.capability.is_empty() && !next.targets.is_empty());
    let again = alice.commit_file(request).await.expect("a repeat").into_inner();
    assert_eq!(again.stat, flushed.stat);
    assert_eq!(again.grant.expect("the same").extent_id, next.extent_id);
    assert_eq!(world.stat("/z/f").await.expect("there").length, 30);
    check(
        &world.reopen("/z/f").await.expect_err("still open"),
        Reason::LeaseHeld,
        &["alice"],
    );
    let file = world.read("/z/f").await.expect("it opens");
    let stat = world.commit(more(&file, &next, 5)).await.expect("finished");
    assert_eq!(stat.length, 35);
}

#[tokio::test]
async fn what_is_cut_off_is_deleted_and_does_not_come_back() {
    let (world, first) = with_file(3 * BLOCK_BYTES).await;
    let (file, grant) = reopened(&world).await;
    store(&world, &grant, 2);
    world
        .commit(more(&file, &grant, 2 * BLOCK_BYTES))
        .await
        .expect("appended");
    assert_eq!(world.nodes.blocks(), 15);

    let (file, grant) = reopened(&world).await;
    let mut cut = more(&file, &grant, 0);
    cut.extents.truncate(1);
    cut.extents[0].visible = BLOCK_BYTES + 1;
    let stat = world.commit(cut.clone()).await.expect("cut");
    assert_eq!((stat.length, stat.blocks), (BLOCK_BYTES + 1, 2));
    world
        .until("what nobody can see is deleted", async |world| {
            world.nodes.blocks() == 6
        })
        .await;
    for (index, stays) in [(0, true), (1, true), (2, false)] {
        assert_eq!(world.nodes.has("n1", block_id(&first, index)), stays, "block {index}");
    }
    let file = world.read("/z/f").await.expect("it opens");
    assert_eq!(file.blocks.expect("where they are").blocks.len(), 2);

    let (file, grant) = reopened(&world).await;
    let mut back = commit_request(&grant, 0, &NODES);
    back.generation = file.generation + 1;
    back.extents = vec![extent(&first, 3 * BLOCK_BYTES)];
    let failure = world.commit(back).await.expect_err("it is gone");
    check(&failure, Reason::InvalidArgument, &["of its bytes can show"]);
    let stat = world.commit(more(&file, &grant, 7)).await.expect("appended");
    assert_eq!(stat.length, BLOCK_BYTES + 8);
    let (file, grant) = reopened(&world).await;
    let mut empty = more(&file, &grant, 0);
    empty.extents.clear();
    assert_eq!(world.commit(empty).await.expect("emptied").length, 0);
    world
        .until("all is deleted", async |world| world.nodes.blocks() == 0)
        .await;
    world.remove("/z/f", false).await.expect("removed");
}

#[tokio::test]
async fn an_abandoned_file_is_as_it_was_published_last() {
    let (world, _) = with_file(10).await;
    for silent in [false, true] {
        let (_, grant) = reopened(&world).await;
        store(&world, &grant, 2);
        if silent {
            world.ahead_ms.store(world.settings.lease_ms + 1000, Ordering::Relaxed);
        } else {
            let abandon = pb::AbandonFileRequest {
                file_id: grant.file_id.clone(),
                extent_id: grant.extent_id.clone(),
            };
            world.user("alice").files.abandon_file(abandon).await.expect("given up");
        }
        world
            .until("only the file's blocks are left", async |world| {
                world.nodes.blocks() == 3
            })
            .await;
        let file = world.read("/z/f").await.expect("it opens");
        assert_eq!((file.generation, file.extents.len()), (1, 1));
        assert_eq!(
            world.get_zone("/z").await.expect("a zone").into_inner().files[0].files,
            1
        );
    }
    let (file, grant) = reopened(&world).await;
    world.commit(more(&file, &grant, 10)).await.expect("open to others");
}

#[tokio::test]
async fn what_a_writer_stores_after_his_file_was_taken_is_deleted_too() {
    let (world, _) = with_file(10).await;
    let (_, grant) = reopened(&world).await;
    store(&world, &grant, 1);
    assert_eq!(recover(&world, "alice").await.expect("taken"), "alice");
    let left = async |world: &World| world.nodes.blocks() == 3;
    world.until("what he stored is deleted", left).await;
    // His capability is good for a while, and block nodes ask nobody.
    store(&world, &grant, 5);
    assert_eq!(world.nodes.blocks(), 18);
    let later_ms = world.settings.capability_ms + 61_000;
    world.ahead_ms.store(later_ms, Ordering::Relaxed);
    world.until("what came later is deleted", left).await;
}

#[tokio::test]
async fn a_writer_who_did_not_hear_that_he_may_go_on_can_give_up() {
    let (world, _) = with_file(10).await;
    let (file, grant) = reopened(&world).await;
    let mut request = more(&file, &grant, 20);
    request.go_on = true;
    let mut alice = world.user("alice").files;
    alice.commit_file(request).await.expect("flushed");
    let abandon = pb::AbandonFileRequest {
        file_id: grant.file_id.clone(),
        extent_id: grant.extent_id.clone(),
    };
    alice.abandon_file(abandon.clone()).await.expect("given up");
    let (file, newer) = reopened(&world).await;
    assert_eq!(file.generation, 2);
    alice.abandon_file(abandon).await.expect("a repeat");
    world.commit(more(&file, &newer, 5)).await.expect("which ended nothing");
}

#[tokio::test]
async fn blocks_of_an_extent_that_was_cut_off_are_not_listed() {
    let (world, first) = with_file(10).await;
    let (file, grant) = reopened(&world).await;
    let mut empty = more(&file, &grant, 0);
    empty.extents.clear();
    world.commit(empty).await.expect("emptied");
    let request = pb::ListBlocksRequest {
        file_id: first.file_id.clone(),
        extent_id: first.extent_id.clone(),
        first_index: 0,
    };
    let list = world.user("alice").files.list_blocks(request).await;
    assert_eq!(list.expect("an answer").into_inner(), pb::ListBlocksResponse::default());
}

#[tokio::test]
async fn a_file_is_re_encrypted_moved_and_restarted_over_while_it_is_open() {
    let (mut world, _) = with_file(10).await;
    let (file, grant) = reopened(&world).await;
    world.kms.roll("payroll");
    let start = pb::StartReencryptionRequest {
        path: "/z".into(),
        throttle: None,
    };
    world
        .user("fsadmin")
        .zones
        .start_reencryption(start)
        .await
        .expect("started");
    world
        .until("it is re-encrypted", async |world| {
            let zone = world.get_zone("/z").await.expect("a zone").into_inner();
            zone.files
                == [pb::VersionCount {
                    key_version: 1,
                    files: 1,
                }]
        })
        .await;
    let renewed = world.user("alice").files.add_blocks(renewal(&grant)).await;
    let edek = renewed.expect("renewed").into_inner().edek.expect("as it is now");
    assert_eq!(edek.key_version, 1);
    world.rename("/z", "/y", false).await.expect("renamed");
    world.restart().await;
    let stat = world.commit(more(&file, &grant, 10)).await.expect("committed");
    assert_eq!(
        (stat.path.as_ref(), stat.length, stat.key_version),
        (&b"/y/f"[..], 20, 1)
    );
    let edek = world.edek("/y/f").await;
    let before = file.edek.expect("an EDEK");
    assert_ne!(edek.wrapped, before.wrapped);
    assert_eq!(dek_of(&edek.wrapped), dek_of(&before.wrapped));
}

#[tokio::test]
async fn who_writes_a_file_that_is_removed_is_told() {
    let (world, _) = with_file(10).await;
    let (file, grant) = reopened(&world).await;
    store(&world, &grant, 1);
    world.remove("/z/f", false).await.expect("removed");
    let failure = world.commit(more(&file, &grant, 10)).await.expect_err("gone");
    check(&failure, Reason::LeaseLost, &["it was removed"]);
    let failure = refused(world.user("alice").files.add_blocks(renewal(&grant)).await);
    check(&failure, Reason::LeaseLost, &["it was removed"]);
    world.write("/z/f", 5, &NODES).await.expect("another file");
    let abandon = pb::AbandonFileRequest {
        file_id: grant.file_id.clone(),
        extent_id: grant.extent_id.clone(),
    };
    let mut alice = world.user("alice").files;
    alice.abandon_file(abandon).await.expect("given up");
    world
        .until("the other file's blocks are left", async |world| {
            world.nodes.blocks() == 3
        })
        .await;
    assert_eq!(world.stat("/z/f").await.expect("there").length, 5);
}

#[tokio::test]
async fn a_reopening_that_comes_again_is_answered_alike() {
    let (world, _) = with_file(10).await;
    let request = pb::ReopenFileRequest {
        path: "/z/f".into(),
        request_id: RequestId::generate().into(),
    };
    let mut alice = world.user("alice").files;
    let first = alice.reopen_file(request.clone()).await.expect("opened").into_inner();
    let again = alice.reopen_file(request.clone()).await.expect("a repeat").into_inner();
    assert_eq!(
        again.grant.expect("a grant").extent_id,
        first.grant.expect("a grant").extent_id
    );
    let other = world.user("bob").files.reopen_file(request.clone()).await;
    check(&refused(other), Reason::InvalidArgument, &["id of its own"]);
    recover(&world, "alice").await.expect("taken");
    check(
        &refused(alice.reopen_file(request).await),
        Reason::LeaseLost,
        &["recovered"],
    );
}

fn renewal(grant: &pb::WriteGrant) -> pb::AddBlocksRequest {
    pb::AddBlocksRequest {
        file_id: grant.file_id.clone(),
        extent_id: grant.extent_id.clone(),
        ..pb::AddBlocksRequest::default()
    }
}

/// What is recorded by and by stays recorded until it is committed.
#[tokio::test]
async fn blocks_of_an_appended_extent_are_recorded_as_they_come() {
    let (world, _) = with_file(10).await;
    let (file, grant) = reopened(&world).await;
    let length = 3 * BLOCK_BYTES;
    let blocks = placements(length, &NODES);
    let mut alice = world.user("alice").files;
    for (index, block) in (0..).zip(&blocks) {
        let request = pb::AddBlocksRequest {
            file_id: grant.file_id.clone(),
            extent_id: grant.extent_id.clone(),
            first_index: index,
            blocks: vec![block.clone()],
        };
        let renewed = alice.add_blocks(request).await.expect("recorded").into_inner();
        assert_eq!(renewed.extent_id, grant.extent_id);
    }
    let mut request = more(&file, &grant, length);
    request.blocks.clear();
    assert_eq!(world.commit(request).await.expect("committed").length, length + 10);
}
