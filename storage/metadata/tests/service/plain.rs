//! Files in no zone, through the gRPC face: where they may be, that they are files like any other, and that they neither come into a zone
//! nor leave one.

use strongroom_metadata::Settings;
use strongroom_proto::{Reason, metadata::v1 as pb};

use super::fsck::{damage, findings};
use crate::fixture::{
    NODES, World, check,
    files::{BLOCK_BYTES, behind, commit_plain, commit_request},
    quick, refused,
};

const LENGTH: u64 = BLOCK_BYTES + 10;

/// A service that allows files in no zone.
pub(super) async fn world() -> World {
    let settings = Settings {
        plain_files: true,
        // What is adopted takes EDEKs from a small stock.
        mint_wait_ms: 20_000,
        ..quick()
    };
    World::with(settings).await
}

#[tokio::test]
async fn they_take_a_setting() {
    let world = World::start().await;
    world.mkdir("/landing").await;
    let failure = world.create("/landing/f", false).await.expect_err("no zone");
    check(
        &failure,
        Reason::NotInZone,
        &["/landing/f", "zone create", "plain_files = true"],
    );
}

#[tokio::test]
async fn one_is_a_file_like_any_other_and_has_no_edek() {
    let world = world().await;
    world.mkdir("/landing").await;
    let created = world.create("/landing/f", false).await.expect("created");
    assert_eq!((created.edek, created.data_suite.as_str()), (None, "plain"));
    let grant = created.grant.expect("a grant");
    let with_code = commit_request(&grant, 10, &NODES);
    let failure = world
        .commit(with_code)
        .await
        .expect_err("nothing could have made a code");
    check(&failure, Reason::InvalidArgument, &["0 bytes"]);
    world.commit(commit_plain(&grant, 10, &NODES)).await.expect("committed");

    let stat = world.write_plain("/landing/f", LENGTH).await.expect("replaced");
    assert_eq!(
        (stat.length, stat.data_suite.as_str(), stat.key_name.as_str()),
        (LENGTH, "plain", "")
    );
    assert!(stat.zone_path.is_empty());
    let request = pb::ListRequest {
        path: "/landing".into(),
        ..pb::ListRequest::default()
    };
    let listed = world.user("alice").namespace.list(request).await.expect("a listing");
    assert!(listed.into_inner().entries[0].plain);

    let reopened = world.reopen("/landing/f").await.expect("opened");
    let (file, grant) = (reopened.file.expect("the file"), reopened.grant.expect("a grant"));
    assert_eq!(file.edek, None);
    let renewed = pb::AddBlocksRequest {
        file_id: grant.file_id.clone(),
        extent_id: grant.extent_id.clone(),
        ..pb::AddBlocksRequest::default()
    };
    let renewed = world.user("alice").files.add_blocks(renewed).await.expect("renewed");
    assert_eq!(renewed.into_inner().edek, None);
    let more = behind(&file, commit_plain(&grant, 20, &NODES));
    assert_eq!(world.commit(more).await.expect("appended").length, LENGTH + 20);

    let begun = world.rewrite("/landing/f").await.expect("begun");
    let body = begun.body.expect("a body");
    assert_eq!((body.edek, body.data_suite.as_str()), (None, "plain"));
    let mut second = commit_plain(&body.grant.expect("a grant"), LENGTH + 20, &NODES);
    second.generation = 3;
    world.commit(second).await.expect("compacted");
    world.rename("/landing/f", "/landing/g", false).await.expect("renamed");
    assert_eq!(world.read("/landing/g").await.expect("it opens").extents.len(), 1);
    assert_eq!(findings(&world, false).await, []);
    world.remove("/landing/g", false).await.expect("removed");
    world
        .until("its blocks are deleted", async |world| {
            let status = world.cluster_status().await;
            (status.blocks_to_delete, status.files_open) == (0, 0)
        })
        .await;
    assert_eq!(findings(&world, false).await, []);
}

#[tokio::test]
async fn one_neither_enters_a_zone_nor_leaves_one() {
    let world = world().await;
    world.zone("/z", "payroll").await;
    world.open_to_all("/z").await;
    world.write("/z/f", 10, &NODES).await.expect("a file of the zone");
    world.mkdir("/landing/d").await;
    world.write_plain("/landing/f", 10).await.expect("a plain file");
    world.write_plain("/landing/d/f", 10).await.expect("a plain file");
    for (from, to) in [("/landing/f", "/z/g"), ("/landing/d", "/z/d"), ("/z/f", "/landing/g")] {
        let failure = world.rename(from, to, false).await.expect_err("another zone");
        check(&failure, Reason::CrossZone, &[from, "copy it instead"]);
    }
    let move_in = pb::BeginTransferRequest {
        from: "/landing/f".into(),
        to: "/z/g".into(),
        overwrite: false,
    };
    let failure = refused(world.user("alice").transfers.begin_transfer(move_in).await);
    check(&failure, Reason::InvalidMove, &["must both be in encryption zones"]);
    let rekey = pb::StartRewritingRequest {
        path: "/landing".into(),
        kind: pb::RewritingKind::Rekeying.into(),
        holder: vec![1; 16].into(),
        ..pb::StartRewritingRequest::default()
    };
    let job = world
        .user("alice")
        .jobs
        .start_rewriting(rekey)
        .await
        .expect("a job")
        .into_inner();
    let request = pb::RewriteFileRequest {
        path: "/landing/f".into(),
        job_id: job.job_id,
        holder: vec![1; 16].into(),
        ..pb::RewriteFileRequest::default()
    };
    let failure = refused(world.user("alice").files.rewrite_file(request).await);
    check(&failure, Reason::NotEncrypted, &["/landing/f", "zone adopt"]);
}

#[tokio::test]
async fn without_the_setting_those_that_are_there_are_read_and_no_more_is_written() {
    let mut world = world().await;
    world.mkdir("/landing").await;
    world.write_plain("/landing/f", 10).await.expect("a plain file");
    world.settings.plain_files = false;
    world.restart().await;
    assert_eq!(world.read("/landing/f").await.expect("it opens").edek, None);
    for failure in [
        world.reopen("/landing/f").await.map(|_| ()),
        world.rewrite("/landing/f").await.map(|_| ()),
        world.create("/landing/g", false).await.map(|_| ()),
    ] {
        check(&failure.expect_err("not allowed"), Reason::NotInZone, &["plain_files"]);
    }
}

#[tokio::test]
async fn fsck_finds_what_the_list_lacks_and_what_it_has_too_much() {
    let mut world = world().await;
    world.mkdir("/landing").await;
    world.write_plain("/landing/f", 10).await.expect("a plain file");
    damage(&mut world, |faults| {
        let key = faults.of(b'P', "f");
        faults.puts.push(([&[b'P', 0][..], &[9; 16]].concat(), Vec::new()));
        faults.deletes.push(key);
    })
    .await;
    let words: Vec<_> = findings(&world, true)
        .await
        .into_iter()
        .map(|found| (found.repaired, found.what))
        .collect();
    for part in ["would not find it to adopt it", "is not one, or not there"] {
        assert!(
            words.iter().any(|(repaired, what)| *repaired && what.contains(part)),
            "{words:?}"
        );
    }
    assert_eq!(findings(&world, false).await, []);
}
