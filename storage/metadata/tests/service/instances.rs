//! Two metadata services over one PostgreSQL database: what one answered holds at the other, requests that come twice are
//! carried out once, and the background is one instance's until it is gone.

use strongroom_metadata::Settings;
use strongroom_proto::{Failure, Reason, RequestId, metadata::v1 as pb};

use crate::fixture::{NODES, World, check, cluster::Cluster, files::commit_request, in_database, quick};

/// Two instances with the zone `/z`.
async fn pair(database: &Cluster) -> (World, World) {
    let settings = Settings {
        // A database that shares its machine with builds may keep a create waiting.
        mint_wait_ms: 5_000,
        ..quick()
    };
    let one = World::with_store(settings, in_database(&database.fresh_url())).await;
    let two = one.sibling().await;
    one.zone("/z", "payroll").await;
    (one, two)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_answered_holds_at_the_other_at_once() {
    let database = Cluster::start();
    let (one, two) = pair(&database).await;
    for round in 0..10 {
        let (here, there) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let (first, second) = (format!("/z/a{round}"), format!("/z/b{round}"));
        let created = here.create(&first, false).await.expect("created");
        let grant = created.grant.expect("a grant");
        there
            .commit(commit_request(&grant, 10, &NODES))
            .await
            .expect("committed at the other");
        assert_eq!(here.stat(&first).await.expect("it shows").length, 10);
        here.rename(&first, &second, false).await.expect("renamed");
        let opened = there.read(&second).await.expect("readable at the other");
        assert_eq!(opened.blocks.expect("blocks").nodes.len(), 3, "with every address");
        there.remove(&second, false).await.expect("removed");
        let failure = here.stat(&second).await.expect_err("gone");
        check(&failure, Reason::NotFound, &[&second]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_make_the_same_name_one_does() {
    let database = Cluster::start();
    let (one, two) = pair(&database).await;
    let make = async |world: &World, name: usize| {
        let request = pb::MakeDirectoryRequest {
            path: format!("/z/d{name}").into(),
            mode: 0o755,
            ..pb::MakeDirectoryRequest::default()
        };
        let made = world.user("alice").namespace.make_directory(request).await;
        made.map(|_| ()).map_err(|status| Failure::from(status).reason)
    };
    for name in 0..25 {
        let (a, b) = tokio::join!(make(&one, name), make(&two, name));
        let outcomes = [a, b];
        let made = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(made, 1, "d{name}: {outcomes:?}");
        assert!(outcomes.contains(&Err(Reason::AlreadyExists)), "d{name}: {outcomes:?}");
    }
    assert_eq!(one.names("/z").await.len(), 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_again_is_answered_and_not_carried_out_twice() {
    let database = Cluster::start();
    let (one, two) = pair(&database).await;
    let id = || bytes::Bytes::from(RequestId::generate());
    let (mut here, mut there) = (one.user("alice").namespace, two.user("alice").namespace);

    let make = pb::MakeDirectoryRequest {
        path: "/z/d".into(),
        mode: 0o700,
        parents: false,
        request_id: id(),
        umask: 0,
    };
    let made = here.make_directory(make.clone()).await.expect("made").into_inner();
    let again = there.make_directory(make.clone()).await.expect("known").into_inner();
    assert_eq!(again, made);

    let rename = pb::RenameRequest {
        from: "/z/d".into(),
        to: "/z/e".into(),
        overwrite: false,
        request_id: id(),
    };
    let moved = here.rename(rename.clone()).await.expect("renamed").into_inner();
    // Somebody else takes the old name meanwhile: a repeat that is carried out would move it.
    one.mkdir("/z/d").await;
    let again = there.rename(rename.clone()).await.expect("known").into_inner();
    assert_eq!(again, moved);
    assert_eq!(one.names("/z").await, ["d", "e"]);

    let remove = pb::RemoveRequest {
        path: "/z/e".into(),
        recursive: true,
        request_id: id(),
        ..pb::RemoveRequest::default()
    };
    here.remove(remove.clone()).await.expect("removed");
    one.mkdir("/z/e").await;
    there.remove(remove).await.expect("known");
    assert_eq!(two.names("/z").await, ["d", "e"], "the new one stays");

    let (mut writer, mut beside) = (one.user("alice").files, two.user("alice").files);
    let create = pb::CreateFileRequest {
        path: "/z/f".into(),
        mode: 0o600,
        overwrite: false,
        request_id: id(),
        umask: 0,
    };
    let created = writer.create_file(create.clone()).await.expect("created").into_inner();
    let again = beside.create_file(create).await.expect("known").into_inner();
    let ids = |created: &pb::CreatedFile| {
        let grant = created.grant.clone().expect("a grant");
        (grant.file_id, grant.extent_id, created.edek.clone())
    };
    assert_eq!(ids(&again), ids(&created), "the same file under the same EDEK");
    assert_eq!(one.cluster_status().await.files_open, 1);

    let commit = pb::CommitFileRequest {
        request_id: id(),
        ..commit_request(&created.grant.expect("a grant"), 10, &NODES)
    };
    let committed = writer
        .commit_file(commit.clone())
        .await
        .expect("committed")
        .into_inner();
    one.remove("/z/f", false).await.expect("removed");
    let again = beside.commit_file(commit).await.expect("known").into_inner();
    assert_eq!(again, committed, "it was committed, whatever became of the file since");

    let other = pb::RenameRequest {
        to: "/z/other".into(),
        ..rename
    };
    let failure = Failure::from(there.rename(other).await.expect_err("another request"));
    check(&failure, Reason::InvalidArgument, &["request_id", "an id of its own"]);
    let mut stranger = two.user("bob").namespace;
    let failure = Failure::from(stranger.make_directory(make).await.expect_err("another caller"));
    check(&failure, Reason::InvalidArgument, &["request_id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_not_kept_and_answers_are_forgotten() {
    let database = Cluster::start();
    let (one, two) = pair(&database).await;
    let rename = pb::RenameRequest {
        from: "/z/a".into(),
        to: "/z/b".into(),
        overwrite: false,
        request_id: RequestId::generate().into(),
    };
    let mut alice = one.user("alice").namespace;
    let failure = Failure::from(alice.rename(rename.clone()).await.expect_err("nothing there"));
    check(&failure, Reason::NotFound, &["/z/a"]);
    one.mkdir("/z/a").await;
    alice.rename(rename.clone()).await.expect("now it is");
    two.user("alice").namespace.rename(rename.clone()).await.expect("known");
    one.ahead_ms.store(700_000, std::sync::atomic::Ordering::Relaxed);
    one.until("the answer is forgotten", async |world| {
        let again = world.user("alice").namespace.rename(rename.clone()).await;
        again.is_err_and(|status| Failure::from(status).reason == Reason::NotFound)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_background_passes_from_one_that_was_killed_to_the_other() {
    let database = Cluster::start();
    let (mut one, two) = pair(&database).await;
    for number in 0..30 {
        two.write(&format!("/z/f{number}"), 10, &NODES).await.expect("a file");
    }
    // The first has the background, and stops in the middle of a re-encryption.
    one.kms.roll("payroll");
    one.kms.rewraps.forget_permits(tokio::sync::Semaphore::MAX_PERMITS);
    let start = pb::StartReencryptionRequest {
        path: "/z".into(),
        throttle: None,
    };
    two.user("fsadmin")
        .zones
        .start_reencryption(start)
        .await
        .expect("started");
    two.remove("/z/f0", false).await.expect("removed");
    one.until("its blocks are deleted", async |world| world.nodes.blocks() == 87)
        .await;
    one.kill();
    two.kms.rewraps.add_permits(1000);

    // Files go on at once; the rest when the lease of the first has lapsed.
    two.write("/z/new", 10, &NODES).await.expect("a file");
    two.remove("/z/f1", false).await.expect("removed");
    let status = async |world: &World| {
        let request = pb::GetReencryptionRequest { path: "/z".into() };
        let mut zones = world.user("fsadmin").zones;
        zones.get_reencryption(request).await.expect("a status").into_inner()
    };
    two.until("the re-encryption is completed", async |world| {
        status(world).await.state() == pb::ReencryptionState::Completed
    })
    .await;
    let done = status(&two).await;
    assert_eq!((done.failures, done.files_left), (0, 0), "{done:?}");
    two.until("the blocks of the second are deleted", async |world| {
        world.nodes.blocks() == 87
    })
    .await;
    for name in two.names("/z").await {
        assert_eq!(two.edek(&format!("/z/{name}")).await.key_version, 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stops_properly_hands_the_background_over_at_once() {
    let database = Cluster::start();
    let (mut one, two) = pair(&database).await;
    two.write("/z/f", 10, &NODES).await.expect("a file");
    let started = std::time::Instant::now();
    one.stop().await;
    two.remove("/z/f", false).await.expect("removed");
    two.until("its blocks are deleted", async |world| world.nodes.blocks() == 0)
        .await;
    assert!(started.elapsed().as_secs() < 8, "{:?}", started.elapsed());
}
