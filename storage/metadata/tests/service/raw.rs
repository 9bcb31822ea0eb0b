//! The raw view's way in, through the gRPC face: who may, what a zone takes, and what is recorded of it.

use strongroom_proto::{Failure, Reason, RequestId, kms::v1::Edek, metadata::v1 as pb};

use crate::fixture::{
    NODES, World, check,
    files::{BLOCK_BYTES as BLOCK, placements, sealed},
    refused,
};

/// A file of zone /z as another cluster would send it: two extents, the first of them cut short.
async fn with_file() -> (World, pb::RawFile) {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.write("/z/model", 100, &NODES).await.expect("a file");
    let edek = world.edek("/z/model").await;
    let extent = |n: u8, length: u64, visible: u64| pb::Extent {
        extent_id: vec![n; 16].into(),
        salt: vec![n + 100; 16].into(),
        length,
        visible,
        blocks: u32::try_from(length.div_ceil(BLOCK)).expect("few"),
        ..pb::Extent::default()
    };
    let file = pb::RawFile {
        length: BLOCK + 7 + 50,
        mode: 0o640,
        owner: "bob".to_owned(),
        group: "hr".to_owned(),
        mtime_ms: 77,
        edek: Some(edek),
        data_suite: "gcm".to_owned(),
        frame_bytes: 64 << 10,
        block_bytes: u32::try_from(BLOCK).expect("4 MiB"),
        extents: vec![extent(1, 2 * BLOCK + 5, BLOCK + 7), extent(2, 50, 50)],
        generation: 3,
        manifest_mac: vec![9; 32].into(),
        crypto_id: vec![8; 16].into(),
    };
    (world, file)
}

fn request(path: &str, file: &pb::RawFile) -> pb::CreateRawRequest {
    pb::CreateRawRequest {
        path: path.to_owned().into(),
        file: Some(file.clone()),
        overwrite: false,
        request_id: RequestId::generate().into(),
    }
}

async fn create(world: &World, path: &str, file: &pb::RawFile) -> Result<pb::CreatedRaw, Failure> {
    let mut raw = world.user("fsadmin").raw;
    Ok(raw.create_raw(request(path, file)).await?.into_inner())
}

async fn add(world: &World, created: &pb::CreatedRaw, extent: usize, blocks: Vec<pb::BlockPlacement>) {
    let request = pb::AddBlocksRequest {
        file_id: created.grant.as_ref().expect("a grant").file_id.clone(),
        extent_id: created.extent_ids[extent].clone(),
        first_index: 0,
        blocks,
    };
    let grant = world.user("fsadmin").files.add_blocks(request).await.expect("recorded");
    assert_eq!(
        grant.into_inner().extent_id,
        created.extent_ids[extent],
        "a grant for it"
    );
}

async fn commit(world: &World, user: &str, created: &pb::CreatedRaw) -> Result<pb::Stat, Failure> {
    commit_with(world, user, created, None).await
}

async fn commit_with(
    world: &World,
    user: &str,
    created: &pb::CreatedRaw,
    extended: Option<pb::RawExtended>,
) -> Result<pb::Stat, Failure> {
    let grant = created.grant.as_ref().expect("a grant");
    let request = pb::CommitRawRequest {
        file_id: grant.file_id.clone(),
        extent_id: grant.extent_id.clone(),
        request_id: RequestId::generate().into(),
        extended,
    };
    Ok(world.user(user).raw.commit_raw(request).await?.into_inner())
}

/// Both blocks of the first extent that show, and the one of the second.
fn blocks() -> (Vec<pb::BlockPlacement>, Vec<pb::BlockPlacement>) {
    (placements(2 * BLOCK, &NODES), placements(50, &NODES))
}

#[tokio::test]
async fn a_file_shows_once_all_its_blocks_are_there_under_ids_of_its_own() {
    let (world, file) = with_file().await;
    let created = create(&world, "/z/f", &file).await.expect("opened");
    assert_eq!(created.extent_ids.len(), 2);
    assert_ne!(
        created.extent_ids[0], file.extents[0].extent_id,
        "an id of this cluster"
    );
    let (first, second) = blocks();
    add(&world, &created, 0, first).await;
    check(
        &commit(&world, "fsadmin", &created)
            .await
            .expect_err("one extent is missing"),
        Reason::InvalidArgument,
        &["0 blocks are recorded", "have to be 1"],
    );
    check(
        &world.stat("/z/f").await.expect_err("nothing shows"),
        Reason::NotFound,
        &[],
    );
    add(&world, &created, 1, second).await;
    let refusal = commit(&world, "alice", &created).await.expect_err("no superuser");
    check(&refusal, Reason::PermissionDenied, &["bring in ciphertext"]);
    let stat = commit(&world, "fsadmin", &created).await.expect("committed");
    assert_eq!((stat.length, stat.blocks, stat.mode), (BLOCK + 57, 3, 0o640));
    assert_eq!(
        (stat.owner.as_str(), stat.group.as_str(), stat.mtime_ms),
        ("bob", "hr", 77)
    );
    let mut files = world.user("bob").files;
    let opened = files.open_file(pb::OpenFileRequest {
        path: "/z/f".into(),
        ..pb::OpenFileRequest::default()
    });
    let opened = opened.await.expect("it opens").into_inner();
    assert_eq!((opened.generation, &opened.crypto_id), (3, &file.crypto_id));
    assert_eq!(opened.manifest_mac, file.manifest_mac);
    for (extent, sent) in opened.extents.iter().zip(&file.extents) {
        assert_eq!((&extent.sealed_as, &extent.salt), (&sent.extent_id, &sent.salt));
    }
    let zone = world.get_zone("/z").await.expect("a zone").into_inner();
    assert_eq!(zone.files[0].files, 2, "it is in the index");

    // Another copy shares no block with it.
    let again = create(&world, "/z/g", &file).await.expect("opened");
    assert!(again.extent_ids.iter().all(|id| !created.extent_ids.contains(id)));
}

/// A file that is all there but not committed.
async fn brought(world: &World, path: &str, file: &pb::RawFile) -> pb::CreatedRaw {
    let created = create(world, path, file).await.expect("opened");
    let (first, second) = blocks();
    add(world, &created, 0, first).await;
    add(world, &created, 1, second).await;
    created
}

fn entry(default: bool, kind: pb::AclKind, name: &str, rights: u32) -> pb::AclEntry {
    pb::AclEntry {
        default,
        kind: kind.into(),
        name: name.to_owned(),
        rights,
    }
}

fn xattr(name: &str, value: &'static [u8]) -> pb::Xattr {
    pb::Xattr {
        name: name.to_owned(),
        value: value.into(),
    }
}

async fn acl(world: &World, path: &str) -> Vec<pb::AclEntry> {
    let request = pb::GetAclRequest {
        path: path.to_owned().into(),
    };
    let told = world.user("fsadmin").namespace.get_acl(request).await;
    told.expect("it has one").into_inner().entries
}

#[tokio::test]
async fn acl_and_attributes_are_those_that_came_and_no_others() {
    use pb::AclKind::{Group, Mask, Other, User};
    let (world, file) = with_file().await;
    let inherited = pb::SetAclRequest {
        path: "/z".into(),
        change: pb::AclChange::Modify.into(),
        entries: vec![entry(true, User, "carol", 7)],
        ..pb::SetAclRequest::default()
    };
    let mut namespace = world.user("fsadmin").namespace;
    namespace.set_acl(inherited).await.expect("set");
    let wanted = pb::RawExtended {
        acl: vec![
            entry(false, User, "", 6),
            entry(false, User, "bob", 6),
            entry(false, Group, "", 0),
            entry(false, Mask, "", 4),
            entry(false, Other, "", 0),
        ],
        xattrs: vec![xattr("user.a", b"1"), xattr("user.b", &[0, 255])],
    };
    let created = brought(&world, "/z/f", &file).await;
    type Case = (fn(&mut pb::RawExtended), &'static [&'static str]);
    let cases: [Case; 7] = [
        (
            |wanted| wanted.acl.push(entry(true, User, "bob", 4)),
            &["only a directory"],
        ),
        (|wanted| wanted.acl.truncate(2), &["user::, group:: and other::"]),
        (|wanted| wanted.acl[1].rights = 8, &["0 to 7"]),
        (|wanted| wanted.xattrs[1].name = "user.a".to_owned(), &["at most once"]),
        (|wanted| wanted.xattrs[0].name = "raw.a".to_owned(), &["raw."]),
        (
            |wanted| wanted.xattrs.resize(33, xattr("user.c", b"")),
            &["at most 32 attributes"],
        ),
        (
            |wanted| wanted.xattrs[0].value = vec![0; (16 << 10) + 1].into(),
            &["at most 16384 bytes"],
        ),
    ];
    for (change, words) in cases {
        let mut broken = wanted.clone();
        change(&mut broken);
        let refusal = commit_with(&world, "fsadmin", &created, Some(broken)).await;
        check(&refusal.expect_err("it breaks a rule"), Reason::InvalidArgument, words);
    }
    check(
        &world.stat("/z/f").await.expect_err("nothing shows"),
        Reason::NotFound,
        &[],
    );
    let stat = commit_with(&world, "fsadmin", &created, Some(wanted.clone())).await;
    assert_eq!(
        stat.map(|stat| (stat.mode, stat.has_acl)).expect("committed"),
        (0o640, true)
    );
    assert_eq!(acl(&world, "/z/f").await, wanted.acl);
    let all = pb::GetXattrsRequest {
        path: "/z/f".into(),
        ..pb::GetXattrsRequest::default()
    };
    let told = namespace.get_xattrs(all).await.expect("they came").into_inner();
    assert_eq!(told.xattrs, wanted.xattrs);

    // Nothing is as much a word as something; without a word the directory's default counts.
    let nothing = Some(pb::RawExtended::default());
    let created = brought(&world, "/z/bare", &file).await;
    let bare = commit_with(&world, "fsadmin", &created, nothing)
        .await
        .expect("committed");
    assert_eq!((bare.mode, bare.has_acl), (0o640, false));
    let created = brought(&world, "/z/unsaid", &file).await;
    let unsaid = commit(&world, "fsadmin", &created).await.expect("committed");
    assert!(unsaid.has_acl);
    assert!(acl(&world, "/z/unsaid").await.contains(&entry(false, User, "carol", 7)));
    world.remove("/z/f", false).await.expect("removed with its attributes");
}

/// As clients bring files in: a service that drops what the commit says, as earlier ones do, is one to which it says nothing.
#[tokio::test]
async fn what_comes_closed_is_opened_by_its_commit_alone() {
    use pb::AclKind::{Group, Other, User};
    let (world, mut file) = with_file().await;
    let inherited = pb::SetAclRequest {
        path: "/z".into(),
        change: pb::AclChange::Modify.into(),
        entries: vec![entry(false, User, "carol", 7), entry(true, User, "carol", 7)],
        ..pb::SetAclRequest::default()
    };
    let mut namespace = world.user("fsadmin").namespace;
    namespace.set_acl(inherited).await.expect("set");
    file.mode = 0o4000;
    let created = brought(&world, "/z/closed", &file).await;
    let closed = commit(&world, "fsadmin", &created).await.expect("committed");
    assert_eq!(closed.mode & 0o777, 0);
    for user in ["bob", "carol"] {
        let open = pb::OpenFileRequest {
            path: "/z/closed".into(),
            ..pb::OpenFileRequest::default()
        };
        let refusal = refused(world.user(user).files.open_file(open).await);
        check(&refusal, Reason::PermissionDenied, &["/z/closed"]);
    }
    let said = pb::RawExtended {
        acl: vec![
            entry(false, User, "", 6),
            entry(false, Group, "", 4),
            entry(false, Other, "", 0),
        ],
        ..pb::RawExtended::default()
    };
    let created = brought(&world, "/z/opened", &file).await;
    let opened = commit_with(&world, "fsadmin", &created, Some(said)).await;
    let opened = opened.expect("committed");
    assert_eq!((opened.mode, opened.has_acl), (0o4640, false));
}

#[tokio::test]
async fn what_is_written_later_keeps_what_came() {
    let (world, mut file) = with_file().await;
    file.owner = "alice".to_owned();
    let created = create(&world, "/z/f", &file).await.expect("opened");
    let (first, second) = blocks();
    add(&world, &created, 0, first).await;
    add(&world, &created, 1, second).await;
    commit(&world, "fsadmin", &created).await.expect("committed");
    let reopened = world.reopen("/z/f").await.expect("opened");
    let (before, grant) = (reopened.file.expect("the file"), reopened.grant.expect("a grant"));
    let mut more = crate::fixture::files::commit_request(&grant, 20, &NODES);
    more.generation = 4;
    // As the manifest has them.
    more.extents.splice(0..0, file.extents.clone());
    more.blocks[0].length = sealed(20);
    world.commit(more).await.expect("committed");
    let after = world.read("/z/f").await.expect("it opens");
    assert_eq!(after.crypto_id, before.crypto_id);
    assert_eq!(after.extents[..2], before.extents[..], "stored where they were");
    assert!(after.extents[2].sealed_as.is_empty());
}

#[tokio::test]
async fn what_a_zone_cannot_have_is_refused() {
    let (world, file) = with_file().await;
    struct Case(&'static str, fn(&mut pb::RawFile), &'static [&'static str]);
    fn edek(file: &mut pb::RawFile) -> &mut Edek {
        file.edek.as_mut().expect("one")
    }
    let cases = [
        Case(
            "another key",
            |file| edek(file).key_name = "other".to_owned(),
            &["KeyVersion 'other@0' does not belong to the key 'payroll'"],
        ),
        Case(
            "another zone",
            |file| edek(file).zone_id = vec![1; 16].into(),
            &["zone create --id 0101"],
        ),
        Case(
            "another suite",
            |file| edek(file).suite = "gcm".to_owned(),
            &["of suite gcm"],
        ),
        Case(
            "a version that never was",
            |file| edek(file).key_version = 4,
            &["there is no KeyVersion 'payroll@4'"],
        ),
        Case(
            "another data suite",
            |file| file.data_suite = "ctr-hdfs".to_owned(),
            &["of suite ctr-hdfs"],
        ),
        Case("no code", |file| file.manifest_mac.clear(), &["manifest_mac"]),
        Case(
            "neither code nor id",
            |file| (file.manifest_mac, file.crypto_id) = Default::default(),
            &["as HDFS has it"],
        ),
        Case(
            "one salt twice",
            |file| file.extents[1].salt = file.extents[0].salt.clone(),
            &["one salt"],
        ),
        Case(
            "one id twice",
            |file| file.extents[1].extent_id = file.extents[0].extent_id.clone(),
            &["one id"],
        ),
        Case(
            "under the DEK",
            |file| file.extents[0].under_dek = true,
            &["under the DEK"],
        ),
        Case("blocks", |file| file.extents[0].blocks = 1, &["follow from the length"]),
        Case("shows too much", |file| file.extents[1].visible = 51, &["shows"]),
        Case("another length", |file| file.length += 1, &["length"]),
        Case("no generation", |file| file.generation = 0, &["generation"]),
        Case("a mode", |file| file.mode = 0o10000, &["mode"]),
    ];
    for Case(what, change, words) in cases {
        let mut changed = file.clone();
        change(&mut changed);
        let refusal = create(&world, "/z/f", &changed).await.expect_err(what);
        check(&refusal, Reason::InvalidArgument, words);
    }
    let refusal = create(&world, "/f", &file).await.expect_err("in no zone");
    check(&refusal, Reason::NotInZone, &["zone create"]);
    let asked = world.user("alice").raw.create_raw(request("/z/f", &file)).await;
    check(&refused(asked), Reason::PermissionDenied, &["superusers"]);
    // Once the zone has been re-encrypted away from a version, it is not to come back.
    world.kms.roll("payroll");
    let start = pb::StartReencryptionRequest {
        path: "/z".into(),
        throttle: None,
    };
    let mut zones = world.user("fsadmin").zones;
    zones.start_reencryption(start).await.expect("started");
    world
        .until("the zone is re-encrypted", async |world| {
            world.get_zone("/z").await.expect("a zone").into_inner().files[0].key_version == 1
        })
        .await;
    let refusal = create(&world, "/z/f", &file).await.expect_err("an old version");
    check(
        &refusal,
        Reason::InvalidArgument,
        &["no EDEKs older than version 1", "zone reencrypt"],
    );
}

#[tokio::test]
async fn a_zone_has_the_id_that_it_is_to_have_and_no_two_have_one() {
    let world = World::start().await;
    world.mkdir("/a").await;
    world.mkdir("/b").await;
    let zone = |path: &str| pb::CreateZoneRequest {
        path: path.to_owned().into(),
        key_name: "payroll".to_owned(),
        zone_id: vec![7; 16].into(),
        ..pb::CreateZoneRequest::default()
    };
    let zones = &mut world.user("fsadmin").zones;
    let made = zones.create_zone(zone("/a")).await.expect("a zone").into_inner();
    assert_eq!(made.zone_id, vec![7; 16]);
    check(
        &refused(zones.create_zone(zone("/b")).await),
        Reason::InvalidArgument,
        &["zone_id", "leave the id out"],
    );
}

#[tokio::test]
async fn a_zone_made_again_with_its_id_takes_nothing_older_than_was_proved() {
    let (world, file) = with_file().await;
    let zone_id = file.edek.as_ref().expect("an EDEK").zone_id.clone();
    world.remove("/z/model", false).await.expect("removed");
    world.kms.roll("payroll");
    let proof = pb::ProveZoneRequest {
        path: "/z".into(),
        through_version: 0,
        ..pb::ProveZoneRequest::default()
    };
    world.user("fsadmin").zones.prove_zone(proof).await.expect("proved");
    world
        .user("fsadmin")
        .namespace
        .remove(pb::RemoveRequest {
            path: "/z".into(),
            recursive: true,
            ..pb::RemoveRequest::default()
        })
        .await
        .expect("removed");
    world.mkdir("/y").await;
    let again = |key: &str| pb::CreateZoneRequest {
        path: "/y".into(),
        key_name: key.to_owned(),
        zone_id: zone_id.clone(),
        owner: "alice".to_owned(),
        ..pb::CreateZoneRequest::default()
    };
    let mut zones = world.user("fsadmin").zones;
    let refusal = refused(zones.create_zone(again("other")).await);
    check(&refusal, Reason::InvalidArgument, &["under key payroll"]);
    zones.create_zone(again("payroll")).await.expect("made again");
    let refusal = create(&world, "/y/f", &file)
        .await
        .expect_err("its version may be destroyed");
    check(&refusal, Reason::InvalidArgument, &["no EDEKs older than version 1"]);
}
