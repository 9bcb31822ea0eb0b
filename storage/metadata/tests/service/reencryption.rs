//! Re-encryption through the gRPC face: complete, resumed after a restart, beside other changes, and with failures.

use std::collections::BTreeMap;

use strongroom_metadata::Settings;
use strongroom_proto::{Failure, Reason, kms::v1::Edek, metadata::v1 as pb};
use tokio::sync::Semaphore;

use crate::fixture::{NODES, World, check, files::commit_request, kms::dek_of, refused};

#[tokio::test]
async fn every_edek_of_a_zone_moves_to_the_newest_version_and_no_block_is_touched() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.zone("/z/nested", "payroll").await;
    for number in 0..20 {
        world.write(&format!("/z/f{number}"), 10, &NODES).await.expect("a file");
    }
    world.write("/z/nested/f", 10, &NODES).await.expect("a file");
    let open = world.create("/z/open", false).await.expect("created");
    let before = edeks(&world, 20).await;
    let blocks = world.nodes.blocks();
    assert_eq!(status(&world).await.state(), pb::ReencryptionState::None);
    world.kms.roll("payroll");

    let started = start(&world).await.expect("started");
    assert_eq!((started.target_version, started.zone_path.as_ref()), (1, &b"/z"[..]));
    let done = completed(&world).await;
    assert_eq!((done.files_done, done.failures, done.files_left), (21, 0, 0));
    assert!(done.finished_ms >= Some(done.started_ms) && done.message.is_empty());

    for (name, edek) in edeks(&world, 20).await {
        assert_eq!(edek.key_version, 1);
        assert_eq!(
            dek_of(&edek.wrapped),
            dek_of(&before[&name].wrapped),
            "the DEK inside stays"
        );
    }
    assert_eq!(counts(&world, "/z").await, [(1, 21)]);
    assert_eq!(
        counts(&world, "/z/nested").await,
        [(0, 1)],
        "a nested zone is another zone"
    );
    assert_eq!(world.nodes.blocks(), blocks);

    let request = commit_request(&open.grant.expect("a grant"), 10, &NODES);
    let stat = world.commit(request).await.expect("a file open meanwhile is committed");
    assert_eq!(stat.key_version, 1);
    let created = world
        .create("/z/new", false)
        .await
        .expect("created")
        .edek
        .expect("an EDEK");
    assert_eq!(created.key_version, 1);

    let again = start(&world).await.expect("a further one");
    assert_eq!(again.target_version, 1);
    assert_eq!(completed(&world).await.files_done, 0);
}

#[tokio::test]
async fn only_superusers_start_it_and_only_on_the_root_of_a_zone() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.mkdir("/z/d").await;
    world.mkdir("/plain").await;
    let ask = |path: &str| pb::StartReencryptionRequest {
        path: path.to_owned().into(),
        throttle: None,
    };
    let failure = refused(world.user("alice").zones.start_reencryption(ask("/z")).await);
    check(&failure, Reason::PermissionDenied, &["user alice"]);
    let mut zones = world.user("fsadmin").zones;
    for (path, reason, words) in [
        (
            "/z/d",
            Reason::NotInZone,
            "/z/d is not the root of an encryption zone; it is in the zone /z",
        ),
        ("/plain", Reason::NotInZone, "strongroom zone list"),
        ("/no", Reason::NotFound, "cannot find /no"),
    ] {
        check(&refused(zones.start_reencryption(ask(path)).await), reason, &[words]);
    }
}

#[tokio::test]
async fn it_resumes_after_a_restart_beside_removals_renames_and_writes() {
    // Hundreds of creates at once share a small stock: on a busy machine they wait for it.
    let settings = Settings {
        mint_wait_ms: 20_000,
        ..crate::fixture::quick()
    };
    let mut world = World::with(settings).await;
    world.zone("/z", "payroll").await;
    world.mkdir("/z/d").await;
    // More than one page of 500.
    let writes = (0..620).map(|number| world.write_empty(format!("/z/f{number:03}")));
    for written in futures::future::join_all(writes).await {
        written.expect("a file");
    }
    world.kms.roll("payroll");
    // The first page may go; the second waits until the gate opens after the restart.
    world.kms.rewraps = std::sync::Arc::new(Semaphore::new(1));
    world.restart().await;
    start(&world).await.expect("started");
    world
        .until("the first page is done", async |world| {
            status(world).await.files_done == 500
        })
        .await;
    let running = status(&world).await;
    assert_eq!(
        (running.state(), running.files_left),
        (pb::ReencryptionState::Running, 120)
    );
    assert_eq!(
        start(&world).await.expect("the one that runs").started_ms,
        running.started_ms
    );

    let stale = stale_files(&world).await;
    let [removed, renamed, overwritten] = &stale[..3] else {
        panic!("{} files are stale", stale.len());
    };
    world.remove(removed, false).await.expect("removed");
    world.rename(renamed, "/z/d/moved", false).await.expect("renamed");
    world.write_empty(overwritten.clone()).await.expect("overwritten");
    world.restart().await;
    assert_eq!(status(&world).await.state(), pb::ReencryptionState::Running);
    world.kms.rewraps.add_permits(1000);
    let done = completed(&world).await;
    assert_eq!((done.failures, done.files_left), (0, 0));
    // One file went and one was replaced by a file of the new version.
    assert_eq!(done.files_done, 618);
    assert_eq!(counts(&world, "/z").await, [(1, 619)]);
    assert_eq!(world.edek("/z/d/moved").await.key_version, 1);
}

#[tokio::test]
async fn an_edek_that_does_not_re_wrap_is_counted_and_left_as_it_is() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    for number in 0..5 {
        world.write(&format!("/z/f{number}"), 10, &NODES).await.expect("a file");
    }
    let bad = world.edek("/z/f3").await;
    world.kms.never_rewrap(&bad.wrapped);
    world.kms.roll("payroll");
    start(&world).await.expect("started");
    let done = completed(&world).await;
    assert_eq!((done.files_done, done.failures, done.files_left), (4, 1, 1));
    assert!(done.message.contains("1 files keep their old EDEK"), "{}", done.message);
    assert_eq!(world.edek("/z/f3").await, bad);
    assert_eq!(counts(&world, "/z").await, [(0, 1), (1, 4)]);
}

#[tokio::test]
async fn it_waits_for_a_key_service_that_is_away_and_follows_a_further_roll() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    for number in 0..5 {
        world.write(&format!("/z/f{number}"), 10, &NODES).await.expect("a file");
    }
    world.kms.away();
    check(
        &start(&world).await.expect_err("nobody to ask"),
        Reason::Unavailable,
        &["away"],
    );
    world.kms.back();
    world.kms.roll("payroll");
    world.kms.away();
    let gate = world.kms.rewraps.available_permits();
    world.kms.rewraps.forget_permits(gate);
    world.kms.back();
    start(&world).await.expect("started");
    world.kms.away();
    world.kms.rewraps.add_permits(10);
    world
        .until("the outage is told", async |world| {
            status(world).await.message.contains("away")
        })
        .await;
    world.kms.roll("payroll");
    world.kms.back();
    world.kms.rewraps.add_permits(1000);
    let done = completed(&world).await;
    assert_eq!((done.target_version, done.files_done, done.files_left), (2, 5, 0));
    assert_eq!(counts(&world, "/z").await, [(2, 5)]);
}

#[tokio::test]
async fn a_zone_whose_key_is_refused_for_good_is_paused_and_goes_on_where_it_was() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    for number in 0..3 {
        world.write(&format!("/z/f{number}"), 10, &NODES).await.expect("a file");
    }
    world.kms.roll("payroll");
    let gate = world.kms.rewraps.available_permits();
    world.kms.rewraps.forget_permits(gate);
    let job = start(&world).await.expect("started").job_id;
    world
        .kms
        .break_key("payroll", Failure::new(Reason::KeyDisabled, "key payroll is disabled"));
    world.kms.rewraps.add_permits(1000);
    let paused = paused(&world).await;
    assert_eq!((paused.files_done, paused.failures, paused.files_left), (0, 0, 3));
    for words in ["key payroll is disabled", "strongroom job resume"] {
        assert!(paused.message.contains(words), "{}", paused.message);
    }
    world.read("/z/f0").await.expect("still readable");
    world.kms.mend_key("payroll");
    let resumed = start(&world).await.expect("resumed");
    assert_eq!(resumed.job_id, job, "it goes on");
    let done = completed(&world).await;
    assert_eq!((done.files_done, done.failures, done.files_left), (3, 0, 0));
}

#[tokio::test]
async fn a_key_service_that_answers_with_an_older_version_than_before_passes_no_file_over() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.write("/z/f0", 10, &NODES).await.expect("a file");
    world.kms.roll("payroll");
    world.write("/z/f1", 10, &NODES).await.expect("a file");
    world.kms.roll("payroll");
    let gate = world.kms.rewraps.available_permits();
    world.kms.rewraps.forget_permits(gate);
    assert_eq!(start(&world).await.expect("started").target_version, 2);
    // As after a restore from a backup.
    world.kms.roll_back("payroll");
    world.kms.rewraps.add_permits(1000);
    let held = paused(&world).await;
    assert_eq!((held.files_done, held.failures, held.files_left), (0, 0, 2));
    assert!(
        held.message.contains("under version 1") && held.message.contains("had version 2"),
        "{}",
        held.message
    );
    world.kms.roll("payroll");
    start(&world).await.expect("resumed");
    assert_eq!(completed(&world).await.files_done, 2);
    assert_eq!(counts(&world, "/z").await, [(2, 2)]);
}

#[tokio::test]
async fn a_roll_between_the_tries_of_one_page_costs_no_file() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    for number in 0..4 {
        world.write(&format!("/z/f{number}"), 10, &NODES).await.expect("a file");
    }
    world.kms.roll("payroll");
    // Of the last file the first try fails for a while, and the second one meets another version.
    world
        .kms
        .roll_after_hiccup(&world.edek("/z/f3").await.wrapped, "payroll");
    start(&world).await.expect("started");
    let done = completed(&world).await;
    assert_eq!((done.target_version, done.failures, done.files_left), (2, 0, 0));
    assert_eq!(counts(&world, "/z").await, [(2, 4)]);
}

async fn start(world: &World) -> Result<pb::Reencryption, Failure> {
    let request = pb::StartReencryptionRequest {
        path: "/z".into(),
        throttle: None,
    };
    Ok(world
        .user("fsadmin")
        .zones
        .start_reencryption(request)
        .await?
        .into_inner())
}

async fn status(world: &World) -> pb::Reencryption {
    let request = pb::GetReencryptionRequest { path: "/z".into() };
    let status = world.user("alice").zones.get_reencryption(request).await;
    status.expect("a status").into_inner()
}

async fn completed(world: &World) -> pb::Reencryption {
    world
        .until("re-encryption completes", async |world| {
            status(world).await.state() == pb::ReencryptionState::Completed
        })
        .await;
    status(world).await
}

async fn paused(world: &World) -> pb::Reencryption {
    world
        .until("re-encryption is paused", async |world| {
            status(world).await.state() == pb::ReencryptionState::Paused
        })
        .await;
    status(world).await
}

/// Paths of the files that still have an EDEK of version 0.
async fn stale_files(world: &World) -> Vec<String> {
    let mut stale = Vec::new();
    for name in world.names("/z").await {
        let path = format!("/z/{name}");
        let stat = world.stat(&path).await.expect("there");
        if stat.kind() == pb::FileKind::File && stat.key_version == 0 {
            stale.push(path);
        }
    }
    stale
}

async fn edeks(world: &World, files: u32) -> BTreeMap<String, Edek> {
    let mut edeks = BTreeMap::new();
    for number in 0..files {
        let path = format!("/z/f{number}");
        let edek = world.edek(&path).await;
        edeks.insert(path, edek);
    }
    edeks
}

async fn counts(world: &World, zone: &str) -> Vec<(u32, u64)> {
    let zone = world.get_zone(zone).await.expect("a zone").into_inner();
    zone.files
        .iter()
        .map(|count| (count.key_version, count.files))
        .collect()
}
