//! Moving files and directories to another zone: what is refused, what holds while it is under way, and what is left after it.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use strongroom_proto::{Failure, Reason, metadata::v1 as pb};

use crate::{
    fixture::{NODES, World, check, files::commit_request, kms::dek_of, transfers::Begun},
    quotas,
};

async fn two_zones() -> World {
    let world = World::start().await;
    world.zone("/a", "payroll").await;
    world.zone("/b", "other").await;
    world
}

/// A directory of `files` files in `/a`, half of them one level down.
async fn with_files(world: &World, files: usize) {
    world.mkdir("/a/d/e").await;
    for number in 0..files {
        let below = if number % 2 == 0 { "" } else { "e/" };
        world
            .write(&format!("/a/d/{below}f{number}"), 10, &NODES)
            .await
            .expect("a file");
    }
}

/// Files of a zone by the index, those of all versions.
async fn indexed(world: &World, zone: &str) -> u64 {
    let zone = world.get_zone(zone).await.expect("a zone").into_inner();
    zone.files.iter().map(|count| count.files).sum()
}

async fn prove(world: &World, path: &str, through_version: u32) -> Result<(), Failure> {
    let request = pb::ProveZoneRequest {
        path: path.to_owned().into(),
        through_version,
        ..pb::ProveZoneRequest::default()
    };
    world.user("fsadmin").zones.prove_zone(request).await?;
    Ok(())
}

async fn stage_all(world: &World, begun: &Begun) -> u32 {
    let files = world.list_transfer(begun).await.expect("files");
    let mut staged = 0;
    for files in files.chunks(200) {
        staged += world.stage(begun, files).await.expect("staged").staged;
    }
    staged
}

#[tokio::test]
async fn a_file_moves_with_its_dek_and_its_blocks() {
    let world = two_zones().await;
    world.write("/a/f", 10, &NODES).await.expect("a file");
    let before = world.read("/a/f").await.expect("it opens");
    let refused = world.rename("/a/f", "/b/g", false).await.expect_err("another zone");
    check(
        &refused,
        Reason::CrossZone,
        &["strongroom fs mv --transfer /a/f /b/g", "to mint"],
    );
    let stat = world.transfer("alice", "/a/f", "/b/g").await.expect("moved");
    assert_eq!((stat.path.as_ref(), stat.key_name.as_str()), (&b"/b/g"[..], "other"));
    let after = world.read("/b/g").await.expect("it opens");
    let (old, new) = (before.edek.expect("an EDEK"), after.edek.expect("an EDEK"));
    assert_eq!(dek_of(&old.wrapped), dek_of(&new.wrapped));
    assert_ne!((old.key_name, old.zone_id), (new.key_name, new.zone_id));
    assert_eq!(
        (before.extents, before.manifest_mac),
        (after.extents, after.manifest_mac)
    );
    assert_eq!(world.stat("/a/f").await.expect_err("it moved").reason, Reason::NotFound);
    assert_eq!((indexed(&world, "/a").await, indexed(&world, "/b").await), (0, 1));
}

#[tokio::test]
async fn a_repeated_move_of_a_file_is_answered_and_what_changed_is_signed_for_again() {
    let world = two_zones().await;
    world.write("/a/f", 10, &NODES).await.expect("a file");
    let begun = world.begin_transfer("alice", "/a/f", "/b/g").await.expect("begun");
    let file = begun.answer.file.clone().expect("a file");
    let request = pb::TransferFileRequest {
        from: "/a/f".into(),
        to: "/b/g".into(),
        overwrite: false,
        request_id: vec![7; 16].into(),
        signed: Some(world.sign(&begun, std::slice::from_ref(&file))),
    };
    // Another file took its place.
    world.write("/a/f", 20, &NODES).await.expect("a file");
    let changed: Failure = world
        .user("alice")
        .transfers
        .transfer_file(request.clone())
        .await
        .expect_err("changed")
        .into();
    check(&changed, Reason::FileChanged, &["/a/f", "changed", "move it again"]);
    let begun = world.begin_transfer("alice", "/a/f", "/b/g").await.expect("begun");
    let again = |signed| pb::TransferFileRequest {
        signed: Some(signed),
        ..request.clone()
    };
    let file = begun.answer.file.clone().expect("a file");
    for _ in 0..2 {
        let signed = world.sign(&begun, std::slice::from_ref(&file));
        let stat = world
            .user("alice")
            .transfers
            .transfer_file(again(signed))
            .await
            .expect("moved");
        assert_eq!(stat.into_inner().length, 20);
    }
    assert_eq!(
        world.kms.transferred(),
        2,
        "the one that changed, and the one that moved"
    );
}

#[tokio::test]
async fn a_directory_moves_at_once_with_what_came_to_it_meanwhile() {
    let world = two_zones().await;
    with_files(&world, 10).await;
    world.write("/a/out", 10, &NODES).await.expect("a file");
    let begun = world.begin_transfer("alice", "/a/d", "/b/d").await.expect("begun");
    let first = world.list_transfer(&begun).await.expect("files");
    assert_eq!(first.len(), 10);
    assert_eq!(world.stage(&begun, &first[..4]).await.expect("staged").staged, 4);
    assert_eq!(
        world.stage(&begun, &first[..6]).await.expect("staged").staged,
        2,
        "four have theirs"
    );

    // New files, one written over, one that comes, one that leaves, one that goes, one that is appended to.
    world.write("/a/d/new", 10, &NODES).await.expect("a file");
    world.write("/a/d/f0", 20, &NODES).await.expect("a file");
    world.rename("/a/out", "/a/d/in", false).await.expect("renamed");
    world.rename("/a/d/f2", "/a/left", false).await.expect("renamed");
    world.rename("/a/d/f4", "/a/d/e/g4", false).await.expect("renamed");
    world.remove("/a/d/e/f1", false).await.expect("removed");
    let appended = world.reopen("/a/d/f6").await.expect("opened");
    assert_eq!(
        world.finish_transfer(&begun).await.expect("asked"),
        None,
        "files lack EDEKs"
    );
    assert_eq!(
        world
            .read("/a/d/f8")
            .await
            .expect("readable")
            .edek
            .expect("an EDEK")
            .key_name,
        "payroll"
    );

    stage_all(&world, &begun).await;
    let stat = world.finish_transfer(&begun).await.expect("asked").expect("moved");
    assert_eq!(stat.path.as_ref(), b"/b/d");
    let again = world.finish_transfer(&begun).await.expect("asked").expect("moved");
    assert_eq!(again.file_id, stat.file_id);
    let names = ["e", "f0", "f6", "f8", "in", "new"];
    assert_eq!(world.names("/b/d").await, names);
    assert_eq!(world.names("/b/d/e").await, ["f3", "f5", "f7", "f9", "g4"]);
    for name in ["f0", "f6", "f8", "in", "new", "e/f3", "e/g4"] {
        let edek = world
            .read(&format!("/b/d/{name}"))
            .await
            .expect("readable")
            .edek
            .expect("an EDEK");
        assert_eq!(edek.key_name, "other", "{name}");
    }
    assert_eq!(
        world
            .read("/a/left")
            .await
            .expect("readable")
            .edek
            .expect("an EDEK")
            .key_name,
        "payroll"
    );

    // Who had one open goes on with it.
    let mut commit = commit_request(&appended.grant.expect("a grant"), 10, &NODES);
    let before = appended.file.expect("a file");
    commit.extents = before.extents.into_iter().chain(commit.extents).collect();
    commit.generation = before.generation + 1;
    assert_eq!(world.commit(commit).await.expect("committed").path.as_ref(), b"/b/d/f6");

    world
        .until_transfer("alice", &begun.answer.job_id, pb::JobState::Completed)
        .await;
    assert_eq!((indexed(&world, "/a").await, indexed(&world, "/b").await), (1, 10));
}

#[tokio::test]
async fn the_source_zone_is_proved_free_only_when_all_is_folded() {
    let world = two_zones().await;
    with_files(&world, 6).await;
    let begun = world.begin_transfer("alice", "/a/d", "/b/d").await.expect("begun");
    assert_eq!(stage_all(&world, &begun).await, 6);
    // Both zones count what is staged.
    assert_eq!((indexed(&world, "/a").await, indexed(&world, "/b").await), (6, 6));
    for (zone, key) in [("/a", "payroll"), ("/b", "other")] {
        world.kms.roll(key);
        let refused = prove(&world, zone, 0).await.expect_err("in use");
        check(&refused, Reason::KeyInUse, &["6 files", key]);
    }
    // Pausing the job keeps the old EDEKs where they are.
    let id = &begun.answer.job_id;
    world
        .control_transfer("alice", id, pb::JobAction::Pause)
        .await
        .expect("paused");
    let refused = world.finish_transfer(&begun).await.expect_err("paused");
    check(&refused, Reason::InvalidMove, &["is paused", "strongroom job resume"]);
    world
        .control_transfer("alice", id, pb::JobAction::Resume)
        .await
        .expect("resumed");
    world.finish_transfer(&begun).await.expect("asked").expect("moved");
    world.until_transfer("alice", id, pb::JobState::Completed).await;
    prove(&world, "/a", 0).await.expect("nothing uses the old key");
    let refused = prove(&world, "/b", 0).await.expect_err("staged under version 0");
    check(&refused, Reason::KeyInUse, &["6 files"]);
}

#[tokio::test]
async fn re_encryption_of_either_zone_goes_on_meanwhile() {
    let world = two_zones().await;
    with_files(&world, 8).await;
    let begun = world.begin_transfer("alice", "/a/d", "/b/d").await.expect("begun");
    let files = world.list_transfer(&begun).await.expect("files");
    world.stage(&begun, &files[..5]).await.expect("staged");
    for (zone, key) in [("/a", "payroll"), ("/b", "other")] {
        world.kms.roll(key);
        let path = Bytes::from_static(zone.as_bytes());
        let request = pb::StartReencryptionRequest {
            path: path.clone(),
            throttle: None,
        };
        world
            .user("fsadmin")
            .zones
            .start_reencryption(request)
            .await
            .expect("started");
        world
            .until("re-encrypted", async |world| {
                let request = pb::GetReencryptionRequest { path: path.clone() };
                let status = world.user("alice").zones.get_reencryption(request).await;
                status.expect("a status").into_inner().state() == pb::ReencryptionState::Completed
            })
            .await;
        prove(&world, zone, 0).await.expect("all are re-wrapped");
    }
    // What was listed before is of an EDEK that is no more.
    assert_eq!(world.stage(&begun, &files[5..]).await.expect("answered").staged, 0);
    stage_all(&world, &begun).await;
    world.finish_transfer(&begun).await.expect("asked").expect("moved");
    for name in ["f0", "f2", "f4", "f6", "e/f1", "e/f3"] {
        let edek = world.edek(&format!("/b/d/{name}")).await;
        assert_eq!((edek.key_name.as_str(), edek.key_version), ("other", 1), "{name}");
    }
}

#[tokio::test]
async fn a_canceled_or_lapsed_transfer_leaves_nothing_behind() {
    let world = two_zones().await;
    with_files(&world, 6).await;
    for lapsed in [false, true] {
        let begun = world.begin_transfer("alice", "/a/d", "/b/d").await.expect("begun");
        let files = world.list_transfer(&begun).await.expect("files");
        world.stage(&begun, &files[..3]).await.expect("staged");
        assert_eq!(indexed(&world, "/b").await, 3);
        let id = &begun.answer.job_id;
        if lapsed {
            // Jobs are looked through when the service starts, and then every ten minutes.
            world.ahead_ms.store(25 * 3_600_000, Ordering::SeqCst);
            let mut world = world;
            world.restart().await;
            world.until_transfer("alice", id, pb::JobState::Canceled).await;
            assert_eq!(indexed(&world, "/b").await, 0);
            world.rename("/a/d", "/a/d2", false).await.expect("nothing holds it");
            return;
        }
        world
            .control_transfer("alice", id, pb::JobAction::Cancel)
            .await
            .expect("canceled");
        world.until_transfer("alice", id, pb::JobState::Canceled).await;
        assert_eq!((indexed(&world, "/a").await, indexed(&world, "/b").await), (6, 0));
        let refused = world.stage(&begun, &files).await.expect_err("canceled");
        check(&refused, Reason::InvalidMove, &["was canceled"]);
        assert_eq!(world.transfer_job("alice", id).await.expect("a job").done, 0);
    }
}

#[tokio::test]
async fn what_is_removed_meanwhile_is_staged_no_more() {
    let world = two_zones().await;
    with_files(&world, 6).await;
    let begun = world.begin_transfer("alice", "/a/d", "/b/d").await.expect("begun");
    stage_all(&world, &begun).await;
    world.remove("/a/d/e", true).await.expect("removed");
    world
        .until("the files are gone", async |world| indexed(world, "/b").await == 3)
        .await;
    // The directory above, with the one that moves.
    world.remove("/a/d", true).await.expect("removed");
    world
        .until_transfer("alice", &begun.answer.job_id, pb::JobState::Canceled)
        .await;
    world
        .until("nothing is left", async |world| {
            indexed(world, "/a").await == 0 && indexed(world, "/b").await == 0
        })
        .await;
}

#[tokio::test]
async fn what_cannot_be_moved_is_refused_with_the_way_out() {
    let world = two_zones().await;
    with_files(&world, 4).await;
    world.mkdir("/plain").await;
    world.mkdir("/a/nested").await;
    world.mkdir("/a/.Trash").await;
    world.mkdir("/b/full/of").await;
    let cases: [(&str, &str, Reason, &[&str]); 9] = [
        ("/a/none", "/b/x", Reason::NotFound, &["/a/none"]),
        (
            "/a/d",
            "/plain/d",
            Reason::InvalidMove,
            &["both be in encryption zones"],
        ),
        ("/plain", "/b/d", Reason::InvalidMove, &["both be in encryption zones"]),
        ("/a/d", "/a/x", Reason::InvalidMove, &["leave out --transfer"]),
        ("/a/d", "/a/d/x", Reason::InvalidMove, &["below itself"]),
        ("/a", "/b/x", Reason::InvalidMove, &["both be in encryption zones"]),
        ("/a/.Trash", "/b/x", Reason::InvalidMove, &["trash"]),
        ("/a/d", "/b/.Trash", Reason::InvalidMove, &["trash"]),
        ("/a/d", "/b/full", Reason::AlreadyExists, &["/b/full"]),
    ];
    for (from, to, reason, words) in cases {
        let refused = world.begin_transfer("alice", from, to).await.expect_err(from);
        check(&refused, reason, words);
    }
    world.create_zone("/a/nested", "other").await.expect("a zone");
    let refused = world
        .begin_transfer("alice", "/a/nested", "/b/x")
        .await
        .expect_err("a zone");
    check(&refused, Reason::InvalidMove, &["a zone of its own"]);

    // A zone further down is found on the way, and the job ends.
    world.rename("/a/nested", "/a/d/nested", false).await.expect("renamed");
    let begun = world.begin_transfer("alice", "/a/d", "/b/d").await.expect("begun");
    let refused = world.list_transfer(&begun).await.expect_err("a zone");
    check(
        &refused,
        Reason::InvalidMove,
        &["/a/d/nested", "a zone of its own", "move it out first"],
    );
    world
        .until_transfer("alice", &begun.answer.job_id, pb::JobState::Canceled)
        .await;
}

#[tokio::test]
async fn below_a_directory_that_moves_directories_stay_where_they_are() {
    let world = two_zones().await;
    with_files(&world, 4).await;
    world.mkdir("/a/other").await;
    let begun = world.begin_transfer("alice", "/a/d", "/b/d").await.expect("begun");
    let id = strongroom_proto::JobId::try_from(begun.answer.job_id.as_ref())
        .expect("an id")
        .to_string();
    for (from, to) in [
        ("/a/d", "/a/x"),
        ("/a/d/e", "/a/x"),
        ("/a/d/e", "/a/d/x"),
        ("/a/other", "/a/d/x"),
    ] {
        let refused = world.rename(from, to, false).await.expect_err(from);
        check(&refused, Reason::InvalidMove, &[&id, "strongroom job cancel"]);
    }
    for (from, to) in [("/a/d/e", "/b/x"), ("/a/d", "/b/elsewhere"), ("/a/d/f0", "/b/x")] {
        let refused = world.begin_transfer("alice", from, to).await.expect_err(from);
        check(&refused, Reason::InvalidMove, &[&id]);
    }
    world.mkdir("/a/d/fresh").await;
    let refused: Failure = world
        .create_zone("/a/d/fresh", "other")
        .await
        .expect_err("no zone")
        .into();
    check(&refused, Reason::InvalidMove, &[&id]);
    let again = world.begin_transfer("alice", "/a/d", "/b/d").await.expect("the same");
    assert_eq!(again.answer.job_id, begun.answer.job_id);
    let other = world
        .begin_transfer("fsadmin", "/a/d", "/b/d")
        .await
        .expect_err("another user");
    check(&other, Reason::InvalidMove, &[&id]);
}

#[tokio::test]
async fn only_its_user_goes_on_with_a_move_and_only_with_what_he_may_read() {
    let world = two_zones().await;
    with_files(&world, 2).await;
    let begun = world.begin_transfer("alice", "/a/d", "/b/d").await.expect("begun");
    let files = world.list_transfer(&begun).await.expect("files");
    for user in ["bob", "fsadmin"] {
        let other = Begun {
            user: user.to_owned(),
            ..begun.clone()
        };
        for refused in [
            world.list_transfer(&other).await.map(drop),
            world.stage(&other, &files).await.map(drop),
            world.finish_transfer(&other).await.map(drop),
        ] {
            check(&refused.expect_err(user), Reason::PermissionDenied, &[user]);
        }
    }
    let bob = Begun {
        user: "bob".to_owned(),
        ..begun.clone()
    };
    let request = pb::StageTransferRequest {
        job_id: begun.answer.job_id.clone(),
        file_ids: files.iter().map(|file| file.file_id.clone()).collect(),
        signed: Some(world.sign(&bob, &files)),
    };
    let refused: Failure = world
        .user("alice")
        .transfers
        .stage_transfer(request)
        .await
        .expect_err("bob signed")
        .into();
    check(&refused, Reason::InvalidArgument, &["signed by who makes the call"]);

    // A file that only its owner may read.
    let private = pb::SetAttributesRequest {
        path: "/a/d/f0".into(),
        mode: Some(0o600),
        owner: "carol".to_owned(),
        ..pb::SetAttributesRequest::default()
    };
    world
        .user("fsadmin")
        .namespace
        .set_attributes(private)
        .await
        .expect("a superuser may");
    let refused = world.list_transfer(&begun).await.expect_err("not hers to read");
    check(&refused, Reason::PermissionDenied, &["/a/d/f0", "user alice needs r"]);
    let refused = world
        .begin_transfer("bob", "/a/d/f0", "/b/f")
        .await
        .expect_err("not his");
    assert_eq!(refused.reason, Reason::PermissionDenied);
}

#[tokio::test]
async fn the_key_services_refusals_say_which_rights_it_takes() {
    let world = two_zones().await;
    with_files(&world, 2).await;
    world.write("/a/f", 10, &NODES).await.expect("a file");
    let begun = world.begin_transfer("alice", "/a/d", "/b/d").await.expect("begun");
    let files = world.list_transfer(&begun).await.expect("files");
    world.kms.away();
    assert!(world.stage(&begun, &files).await.expect_err("away").is_transient());
    world.kms.back();
    world.kms.never_rewrap(&files[0].wrapped);
    let staged = world.stage(&begun, &files).await.expect("staged");
    assert_eq!((staged.staged, staged.failures.len()), (1, 1));
    assert_eq!(staged.failures[0].file_id, files[0].file_id);
    assert_eq!(world.finish_transfer(&begun).await.expect("asked"), None);
    world.kms.close("other");
    for refused in [
        world.stage(&begun, &files[..1]).await.map(drop),
        world.transfer("alice", "/a/f", "/b/f").await.map(drop),
    ] {
        let words = ["user alice", "unwrap with key payroll", "mint with key other", "policy"];
        check(&refused.expect_err("no right"), Reason::PermissionDenied, &words);
    }
    assert!(world.read("/a/f").await.is_ok() && world.read("/a/d/f0").await.is_ok());
}

#[tokio::test]
async fn whatever_step_a_crash_follows_the_same_calls_go_on() {
    let mut world = two_zones().await;
    with_files(&world, 7).await;
    let begun = world.begin_transfer("alice", "/a/d", "/b/d").await.expect("begun");
    let crash = async |world: &mut World| {
        world.kill();
        world.run().await;
    };
    crash(&mut world).await;
    let files = world.list_transfer(&begun).await.expect("files");
    crash(&mut world).await;
    world.stage(&begun, &files[..3]).await.expect("staged");
    crash(&mut world).await;
    let again = world.begin_transfer("alice", "/a/d", "/b/d").await.expect("the same");
    assert_eq!(again.answer.job_id, begun.answer.job_id);
    assert_eq!(stage_all(&world, &again).await, 4);
    crash(&mut world).await;
    world.finish_transfer(&begun).await.expect("asked").expect("moved");
    crash(&mut world).await;
    assert!(world.finish_transfer(&begun).await.expect("asked").is_some());
    assert_eq!(world.edek("/b/d/e/f1").await.key_name, "other");
    world
        .until_transfer("alice", &begun.answer.job_id, pb::JobState::Completed)
        .await;
    assert_eq!((indexed(&world, "/a").await, indexed(&world, "/b").await), (0, 7));
    assert_eq!(world.edek("/b/d/e/f1").await.key_name, "other");
}

#[tokio::test]
async fn edeks_are_told_to_those_who_may_pass_on_the_way_to_their_files() {
    let world = two_zones().await;
    world.open_to_all("/a").await;
    world.open_to_all("/b").await;
    with_files(&world, 2).await;
    let close = pb::SetAttributesRequest {
        path: "/a/d/e".into(),
        mode: Some(0o700),
        ..pb::SetAttributesRequest::default()
    };
    world
        .user("alice")
        .namespace
        .set_attributes(close)
        .await
        .expect("closed");
    let begun = world.begin_transfer("bob", "/a/d", "/b/d").await.expect("begun");
    let refusal = world.list_transfer(&begun).await.expect_err("e is alice's alone");
    check(&refusal, Reason::PermissionDenied, &["/a/d/e"]);
}

#[tokio::test]
async fn what_has_no_room_at_its_destination_is_refused_before_anything_is_signed() {
    let world = two_zones().await;
    with_files(&world, 3).await;
    world.mkdir("/b/q").await;
    quotas::set(&world, "/b/q", Some(10), Some(25)).await;
    let words = ["quota of /b/q", "25 bytes"];
    let outcome = world.begin_transfer("alice", "/a/d", "/b/q/d").await;
    check(&outcome.expect_err("30 bytes"), Reason::QuotaExceeded, &words);
    let begun = world
        .begin_transfer("alice", "/a/d/e", "/b/q/e")
        .await
        .expect("10 bytes");
    let request = pb::ListJobsRequest {
        unfinished: true,
        ..pb::ListJobsRequest::default()
    };
    let jobs = world.user("alice").jobs.list_jobs(request).await.expect("jobs");
    let jobs = jobs.into_inner().jobs;
    assert_eq!(jobs.len(), 1, "what was refused left no job: {jobs:?}");

    // What comes meanwhile is met at the end, as before.
    world.write("/b/q/f", 20, &NODES).await.expect("room");
    assert_eq!(stage_all(&world, &begun).await, 1);
    let end = world.finish_transfer(&begun).await;
    check(&end.expect_err("no room any more"), Reason::QuotaExceeded, &words);
    // Nor does it keep its user from going on with what he has begun, once there is room.
    let again = world
        .begin_transfer("alice", "/a/d/e", "/b/q/e")
        .await
        .expect("it is begun");
    assert_eq!(again.answer.job_id, begun.answer.job_id);
    let end = world.finish_transfer(&again).await;
    check(&end.expect_err("no room yet"), Reason::QuotaExceeded, &words);

    let big = world.begin_transfer("alice", "/a/d/f0", "/b/q/g").await;
    check(&big.expect_err("no room"), Reason::QuotaExceeded, &words);
    quotas::set(&world, "/b/q", None, Some(30)).await;
    let file = world.begin_transfer("alice", "/a/d/f0", "/b/q/g").await;
    file.expect("room for one");
}
