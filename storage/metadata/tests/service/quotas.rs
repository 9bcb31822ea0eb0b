//! Quotas, through the gRPC face: what is refused, what is given back, and that what is told is what there is.

use strongroom_proto::{Failure, Reason, RequestId, metadata::v1 as pb};

use crate::fixture::{
    NODES, World, check,
    files::{commit_request, extent, placements},
    refused,
};

pub(crate) async fn set(world: &World, path: &str, names: Option<u64>, bytes: Option<u64>) -> pb::Quotas {
    let request = pb::SetQuotaRequest {
        path: path.to_owned().into(),
        names_max: names,
        bytes_max: bytes,
        ..pb::SetQuotaRequest::default()
    };
    let set = world.user("fsadmin").namespace.set_quota(request).await;
    set.expect("a superuser may").into_inner()
}

async fn quotas(world: &World, path: &str) -> Vec<pb::Quota> {
    let path = path.to_owned().into();
    let request = pb::GetQuotasRequest { path };
    let told = world.user("fsadmin").namespace.get_quotas(request).await;
    told.expect("quotas").into_inner().quotas
}

/// Names and bytes that the directory's own quota has used.
pub(crate) async fn used(world: &World, path: &str) -> (u64, u64) {
    let quota = quotas(world, path).await.pop().expect("a quota");
    assert_eq!((&quota.path[..], quota.counting), (path.as_bytes(), false));
    (quota.names, quota.bytes)
}

async fn mkdir(world: &World, path: &str, parents: bool) -> Result<(), Failure> {
    let request = pb::MakeDirectoryRequest {
        path: path.to_owned().into(),
        mode: 0o755,
        parents,
        ..pb::MakeDirectoryRequest::default()
    };
    world.user("alice").namespace.make_directory(request).await?;
    Ok(())
}

/// A world with the zone `/z`, the directory `/z/q`, and `/z/out` with a file and a directory.
async fn start() -> World {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.mkdir("/z/q").await;
    world.mkdir("/z/out/d").await;
    world.write("/z/out/f", 100, &NODES).await.expect("a file");
    world
}

fn is_exceeded(outcome: Result<impl std::fmt::Debug, Failure>, words: &[&str]) {
    let failure = outcome.expect_err("the quota is used up");
    check(&failure, Reason::QuotaExceeded, words);
    check(&failure, Reason::QuotaExceeded, &["quota of /z/q", "fs quota set /z/q"]);
}

#[tokio::test]
async fn names_are_bounded_wherever_they_come_from() {
    let world = start().await;
    let open = world
        .create("/z/q/late", false)
        .await
        .expect("room")
        .grant
        .expect("a grant");
    set(&world, "/z/q", Some(3), None).await;
    mkdir(&world, "/z/q/a", false).await.expect("the second");
    world.write("/z/q/a/f", 10, &NODES).await.expect("the third");
    let words = ["3 files and directories, itself included, and has 3 already"];
    is_exceeded(mkdir(&world, "/z/q/b", false).await, &words);
    is_exceeded(mkdir(&world, "/z/q/a/b/c", true).await, &words);
    is_exceeded(world.create("/z/q/g", false).await, &words);
    is_exceeded(world.commit(commit_request(&open, 0, &[])).await, &words);
    is_exceeded(world.rename("/z/out/f", "/z/q/f", false).await, &words);
    is_exceeded(world.rename("/z/out", "/z/q/out", false).await, &words);
    assert_eq!(used(&world, "/z/q").await, (3, 10), "nothing of all that was done");

    world
        .write("/z/q/a/f", 20, &NODES)
        .await
        .expect("it takes another's place");
    world.rename("/z/q/a/f", "/z/q/g", false).await.expect("it stays below");
    world
        .rename("/z/out/f", "/z/q/g", true)
        .await
        .expect("it takes another's place");
    assert_eq!(used(&world, "/z/q").await, (3, 100));
    world.remove("/z/q/g", false).await.expect("removed");
    world
        .commit(commit_request(&open, 0, &[]))
        .await
        .expect("there is room");
    world.rename("/z/q/late", "/z/late", false).await.expect("it leaves");
    assert_eq!(used(&world, "/z/q").await, (2, 0));
    world.remove("/z/q/a", true).await.expect("removed");
    assert_eq!(used(&world, "/z/q").await, (1, 0));
    world.rename("/z/out/d", "/z/q/d", false).await.expect("there is room");
    set(&world, "/z/q", Some(1), None).await;
    world.rename("/z/q/d", "/z/q/e", false).await.expect("it stays below");
    is_exceeded(mkdir(&world, "/z/q/f", false).await, &["has 2 already"]);
    world
        .remove("/z/q/e", false)
        .await
        .expect("removing is always possible");
}

#[tokio::test]
async fn bytes_are_bounded_wherever_they_come_from() {
    let world = start().await;
    set(&world, "/z/q", None, Some(250)).await;
    world.write("/z/q/f", 200, &NODES).await.expect("room");
    let words = ["250 bytes, and has 200 already"];
    is_exceeded(world.write("/z/q/g", 51, &NODES).await, &words);
    is_exceeded(world.rename("/z/out/f", "/z/q/g", false).await, &words);
    is_exceeded(world.rename("/z/out", "/z/q/out", false).await, &words);
    let reopened = world.reopen("/z/q/f").await.expect("opened");
    let (file, grant) = (reopened.file.expect("the file"), reopened.grant.expect("a grant"));
    let append = |length| {
        let mut extents = file.extents.clone();
        extents.push(extent(&grant, length));
        pb::CommitFileRequest {
            generation: file.generation + 1,
            extents,
            ..commit_request(&grant, length, &NODES)
        }
    };
    is_exceeded(world.commit(append(60)).await, &words);
    assert_eq!(used(&world, "/z/q").await, (2, 200));
    world.write("/z/q/g", 0, &NODES).await.expect("names are not bounded");
    world.write("/z/q/h", 50, &NODES).await.expect("exactly the rest");
    world.remove("/z/q/h", false).await.expect("removed");

    let request = pb::AbandonFileRequest {
        file_id: grant.file_id,
        extent_id: grant.extent_id,
    };
    world
        .user("alice")
        .files
        .abandon_file(request)
        .await
        .expect("abandoned");
    let reopened = world.reopen("/z/q/f").await.expect("opened");
    let (file, grant) = (reopened.file.expect("the file"), reopened.grant.expect("a grant"));
    let mut extents = file.extents;
    extents[0].visible = 30;
    let cut = pb::CommitFileRequest {
        generation: file.generation + 1,
        extents,
        blocks: placements(0, &NODES),
        ..commit_request(&grant, 0, &NODES)
    };
    world.commit(cut).await.expect("cut short");
    assert_eq!(used(&world, "/z/q").await, (3, 30));
    world.rename("/z/out", "/z/q/out", false).await.expect("there is room");
    assert_eq!(used(&world, "/z/q").await, (6, 130));
}

#[tokio::test]
async fn a_writer_hears_early_that_there_is_no_room() {
    let world = start().await;
    set(&world, "/z/q", None, Some(6 << 20)).await;
    world.write("/z/q/old", 4 << 20, &NODES).await.expect("room");
    for (path, replaces) in [("/z/q/new", false), ("/z/q/old", true)] {
        let grant = world.create(path, true).await.expect("room").grant.expect("a grant");
        let request = pb::AddBlocksRequest {
            file_id: grant.file_id.clone(),
            extent_id: grant.extent_id.clone(),
            first_index: 0,
            blocks: placements(8 << 20, &NODES)[..1].to_vec(),
        };
        let added = world.user("alice").files.add_blocks(request.clone()).await;
        assert!(added.is_ok(), "{path}: the first block may be a short one");
        let request = pb::AddBlocksRequest {
            first_index: 1,
            ..request
        };
        let added = world.user("alice").files.add_blocks(request).await;
        match replaces {
            true => assert!(added.is_ok(), "{path}: what it replaces goes"),
            false => is_exceeded(added.map_err(Failure::from), &["has 4194304 already"]),
        }
    }
}

#[tokio::test]
async fn a_quota_counts_what_is_there_and_what_is_nested() {
    let world = start().await;
    for at in ["/z/q/a/b", "/z/q/a/c", "/z/q/d"] {
        world.mkdir(at).await;
        world.write(&format!("{at}/f"), 10, &NODES).await.expect("a file");
    }
    let told = set(&world, "/z/q", Some(100), None).await;
    assert_eq!((told.quotas.len(), told.has_own), (1, true));
    assert_eq!((told.quotas[0].names, told.quotas[0].bytes), (8, 30));
    set(&world, "/z/q/a", None, Some(1000)).await;
    set(&world, "/z", Some(1000), Some(1000)).await;
    assert_eq!(used(&world, "/z/q/a").await, (5, 20));
    assert_eq!(used(&world, "/z").await, (12, 130), "by way of the quota below");
    let way: Vec<_> = quotas(&world, "/z/q/a/b")
        .await
        .into_iter()
        .map(|quota| quota.path)
        .collect();
    assert_eq!(way, ["/z", "/z/q", "/z/q/a"]);
    world.rename("/z/q/a", "/z/a", false).await.expect("moved");
    assert_eq!(used(&world, "/z/q").await, (3, 10));
    assert_eq!(used(&world, "/z/a").await, (5, 20), "it keeps its quota");
    assert_eq!(used(&world, "/z").await, (12, 130));
    world.remove("/z/a", true).await.expect("removed");
    assert_eq!(used(&world, "/z").await, (7, 110), "at once");

    let clear = pb::SetQuotaRequest {
        path: "/z/q".into(),
        clear_names: true,
        ..pb::SetQuotaRequest::default()
    };
    let cleared = world
        .user("fsadmin")
        .namespace
        .set_quota(clear)
        .await
        .expect("cleared")
        .into_inner();
    assert_eq!(
        (cleared.quotas.len(), cleared.has_own),
        (1, false),
        "only that of /z is left"
    );
    set(&world, "/z/q", Some(3), None).await;
    assert_eq!(used(&world, "/z/q").await, (3, 10), "counted anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_changes_while_a_quota_is_counted_is_counted() {
    let world = std::sync::Arc::new(start().await);
    for number in 0..40 {
        world.mkdir(&format!("/z/q/d{number}/e")).await;
    }
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (world, stop) = (std::sync::Arc::clone(&world), std::sync::Arc::clone(&stop));
            tokio::spawn(async move {
                let mut done = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let at = format!("/z/q/d{}/w{writer}", done % 40);
                    mkdir(&world, &at, false).await.expect("made");
                    if done % 3 == 0 {
                        world
                            .rename(&at, &format!("/z/out/w{writer}-{done}"), false)
                            .await
                            .expect("moved");
                    } else if done % 3 == 1 {
                        world.remove(&at, true).await.expect("removed");
                    } else {
                        world
                            .rename(&at, &format!("/z/q/w{writer}-{done}"), false)
                            .await
                            .expect("moved");
                    }
                    done += 1;
                }
                done
            })
        })
        .collect();
    for round in 0..12_u64 {
        set(&world, "/z/q", Some(1_000_000 + round), None).await;
        let clear = pb::SetQuotaRequest {
            path: "/z/q".into(),
            clear_names: round < 11,
            ..pb::SetQuotaRequest::default()
        };
        world.user("fsadmin").namespace.set_quota(clear).await.expect("cleared");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut done = 0;
    for writer in writers {
        done += writer.await.expect("no panic");
    }
    assert!(done > 20, "only {done} changes were made meanwhile");
    let (told, _) = used(&world, "/z/q").await;
    let mut names = 1;
    for name in world.names("/z/q").await {
        names += 1 + world.names(&format!("/z/q/{name}")).await.len() as u64;
    }
    assert_eq!(told, names);
}

#[tokio::test]
async fn quotas_are_set_by_superusers_on_directories() {
    let world = start().await;
    let request = |path: &str| pb::SetQuotaRequest {
        path: path.to_owned().into(),
        names_max: Some(5),
        request_id: RequestId::generate().into(),
        ..pb::SetQuotaRequest::default()
    };
    let alice = refused(world.user("alice").namespace.set_quota(request("/z/q")).await);
    check(
        &alice,
        Reason::PermissionDenied,
        &["user alice may not set quotas", "superusers"],
    );
    let mut admin = world.user("fsadmin").namespace;
    for (wrong, reason, word) in [
        (request("/z/out/f"), Reason::NotADirectory, "/z/out/f"),
        (request("/z/none"), Reason::NotFound, "/z/none"),
        (
            pb::SetQuotaRequest {
                names_max: Some(0),
                ..request("/z/q")
            },
            Reason::InvalidArgument,
            "at least 1 name",
        ),
        (
            pb::SetQuotaRequest {
                bytes_max: Some(1 << 63),
                ..request("/z/q")
            },
            Reason::InvalidArgument,
            "2^63",
        ),
    ] {
        check(&refused(admin.set_quota(wrong).await), reason, &[word]);
    }
    let once = request("/z/q");
    admin.set_quota(once.clone()).await.expect("set");
    set(&world, "/z/q", Some(7), None).await;
    let again = admin.set_quota(once).await.expect("a repeat").into_inner();
    assert_eq!(again.quotas[0].names_max, Some(7), "it is not carried out twice");
    let look = pb::GetQuotasRequest { path: "/z/q".into() };
    world.user("bob").namespace.get_quotas(look.clone()).await.expect("r-x");
    let close = pb::SetAttributesRequest {
        path: "/z/q".into(),
        mode: Some(0o711),
        ..pb::SetAttributesRequest::default()
    };
    admin.set_attributes(close).await.expect("closed");
    let bob = refused(world.user("bob").namespace.get_quotas(look).await);
    check(&bob, Reason::PermissionDenied, &["user bob needs rx on /z/q"]);
}
