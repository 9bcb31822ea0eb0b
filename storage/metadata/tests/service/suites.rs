//! Zones of suite `ctr-hdfs`, through the gRPC face: which keys and frames they take, how long their blocks are, and which extents may
//! be under the DEK itself.

use strongroom_proto::{Failure, Reason, metadata::v1 as pb};

use crate::fixture::{NODES, World, check, files::commit_request, refused};

fn zone(path: &str, key: &str) -> pb::CreateZoneRequest {
    pb::CreateZoneRequest {
        path: path.to_owned().into(),
        key_name: key.to_owned(),
        data_suite: "ctr-hdfs".to_owned(),
        ..pb::CreateZoneRequest::default()
    }
}

async fn with_zone() -> World {
    let world = World::start().await;
    world.mkdir("/z").await;
    let made = world.user("fsadmin").zones.create_zone(zone("/z", "lake")).await;
    let made = made.expect("a zone").into_inner();
    assert_eq!((made.data_suite.as_str(), made.frame_bytes), ("ctr-hdfs", 4096));
    world.open_to_all("/z").await;
    world
}

/// The commit of a new file as its writer makes it, and its EDEK's initial counter.
async fn begun(world: &World, path: &str, length: u64) -> pb::CommitFileRequest {
    let created = world.create(path, false).await.expect("created");
    assert_eq!((created.data_suite.as_str(), created.frame_bytes), ("ctr-hdfs", 4096));
    let mut request = commit_request(&created.grant.expect("a grant"), length, &NODES);
    request.blocks[0].length = u32::try_from(length).expect("one block");
    request.extents[0].under_dek = true;
    request.extents[0].salt = created.edek.expect("an EDEK").wrapped.slice(..16);
    request
}

async fn refusal(world: &World, request: pb::CommitFileRequest) -> Failure {
    world.commit(request).await.expect_err("it must be refused")
}

#[tokio::test]
async fn such_a_zone_takes_a_key_of_suite_hadoop_and_no_frame_size() {
    let world = World::start().await;
    world.mkdir("/z").await;
    let zones = &mut world.user("fsadmin").zones;
    check(
        &refused(zones.create_zone(zone("/z", "payroll")).await),
        Reason::InvalidArgument,
        &[
            "ctr-hdfs",
            "payroll makes EDEKs of suite kw",
            "key create --suite hadoop",
        ],
    );
    let mut frames = zone("/z", "lake");
    frames.frame_bytes = 65536;
    check(
        &refused(zones.create_zone(frames).await),
        Reason::InvalidArgument,
        &["leave the frame size out"],
    );
    let mut frames = zone("/z", "lake");
    frames.frame_bytes = 4096;
    zones.create_zone(frames).await.expect("that is what it is");
}

#[tokio::test]
async fn blocks_are_as_long_as_what_is_in_them() {
    let world = with_zone().await;
    let mut request = begun(&world, "/z/f", 10_000).await;
    request.blocks[0].length += 16;
    check(
        &refusal(&world, request.clone()).await,
        Reason::InvalidArgument,
        &["not 10000"],
    );
    request.blocks[0].length -= 16;
    world.commit(request.clone()).await.expect("committed");
    let read = world.read("/z/f").await.expect("it opens");
    assert!(read.extents[0].under_dek && read.extents[0].salt == request.extents[0].salt);
    assert_eq!(read.stat.expect("what it is").data_suite, "ctr-hdfs");
}

#[tokio::test]
async fn only_the_beginning_of_a_new_file_is_under_the_dek_itself() {
    let refused = &["under the DEK itself"];
    let world = with_zone().await;
    let request = begun(&world, "/z/f", 100).await;
    let mut other_iv = request.clone();
    other_iv.extents[0].salt = vec![7; 16].into();
    check(&refusal(&world, other_iv).await, Reason::InvalidArgument, refused);
    let iv = request.extents[0].salt.clone();
    world.commit(request).await.expect("committed");

    for keep in [true, false] {
        let reopened = world.reopen("/z/f").await.expect("opened");
        let (file, grant) = (reopened.file.expect("the file"), reopened.grant.expect("a grant"));
        let mut more = commit_request(&grant, 50, &NODES);
        more.generation = file.generation + 1;
        more.blocks[0].length = 50;
        if keep {
            let mut relabeled = more.clone();
            relabeled.extents.insert(0, file.extents[0].clone());
            relabeled.extents[0].under_dek = false;
            check(
                &refusal(&world, relabeled).await,
                Reason::InvalidArgument,
                &["does not change"],
            );
            more.extents.insert(0, file.extents[0].clone());
        }
        let new = more.extents.last_mut().expect("one");
        (new.under_dek, new.salt) = (true, iv.clone());
        let rule: &[&str] = if keep { &["another one's salt"] } else { refused };
        check(&refusal(&world, more.clone()).await, Reason::InvalidArgument, rule);
        let new = more.extents.last_mut().expect("one");
        (new.under_dek, new.salt) = (false, grant.extent_id.clone());
        world.commit(more).await.expect("under a salt of its own");
    }

    world.zone("/plain", "payroll").await;
    let created = world.create("/plain/f", false).await.expect("created");
    let mut request = commit_request(&created.grant.expect("a grant"), 100, &NODES);
    request.extents[0].under_dek = true;
    request.extents[0].salt = created.edek.expect("an EDEK").wrapped.slice(..16);
    check(&refusal(&world, request).await, Reason::InvalidArgument, refused);
}
