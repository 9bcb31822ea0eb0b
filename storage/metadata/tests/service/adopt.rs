//! Directories that hold something and become zones, through the gRPC face: every file is found however it is renamed, none comes or goes
//! unencrypted meanwhile, and the zone says that it is through only when it is.

use std::sync::atomic::Ordering;

use prost::Message;
use strongroom_proto::{Failure, Reason, metadata::v1 as pb};

use super::{
    fsck::{Faults, damage, findings, records},
    plain::world,
};
use crate::fixture::{
    NODES, World, check,
    files::{behind, commit_plain, commit_request},
    refused,
};

const HOLDER: [u8; 16] = [1; 16];

pub(super) async fn adopt_as(world: &World, user: &str, path: &str, key: &str) -> Result<pb::Zone, Failure> {
    let request = pb::AdoptZoneRequest {
        path: path.to_owned().into(),
        key_name: key.to_owned(),
        ..pb::AdoptZoneRequest::default()
    };
    Ok(world.user(user).zones.adopt_zone(request).await?.into_inner())
}

/// Goes on until all files were looked at.
pub(super) async fn adopt(world: &World, path: &str) -> pb::Adoption {
    loop {
        let zone = adopt_as(world, "fsadmin", path, "payroll").await.expect("a zone");
        let adoption = zone.adoption.expect("it adopts");
        if adoption.looked {
            return adoption;
        }
    }
}

pub(super) async fn start(world: &World, path: &str) -> pb::Job {
    let request = pb::StartRewritingRequest {
        path: path.to_owned().into(),
        kind: pb::RewritingKind::Adoption.into(),
        holder: HOLDER.to_vec().into(),
        throttle: None,
        whole_zone: true,
    };
    let job = world.user("alice").jobs.start_rewriting(request).await;
    job.expect("a job").into_inner()
}

pub(super) async fn begin(world: &World, job: &pb::Job, path: &str) -> Result<pb::RewritingFile, Failure> {
    let request = pb::RewriteFileRequest {
        path: path.to_owned().into(),
        job_id: job.job_id.clone(),
        holder: HOLDER.to_vec().into(),
        ..pb::RewriteFileRequest::default()
    };
    Ok(world.user("alice").files.rewrite_file(request).await?.into_inner())
}

async fn put_in_place(world: &World, begun: pb::RewritingFile) -> Result<pb::Stat, Failure> {
    let (file, body) = (begun.file.expect("the file"), begun.body.expect("a body"));
    assert!(file.edek.is_none() && body.edek.is_some());
    let length = file.stat.expect("known").length;
    let mut request = commit_request(&body.grant.expect("a grant"), length, &NODES);
    request.generation = file.generation + 1;
    world.commit(request).await
}

pub(super) async fn encrypt(world: &World, job: &pb::Job, path: &str) -> pb::Stat {
    let begun = begin(world, job, path).await.expect("begun");
    put_in_place(world, begun).await.expect("put in place")
}

pub(super) fn told(looked: bool, left: u64, ended: bool) -> pb::Adoption {
    pb::Adoption { looked, left, ended }
}

/// A directory with two plain files, one of them deeper, beside one that is not in it.
pub(super) async fn with_files() -> World {
    let world = world().await;
    world.mkdir("/a/d").await;
    world.mkdir("/b").await;
    for path in ["/a/f", "/a/d/g", "/b/h"] {
        world.write_plain(path, 10).await.expect("a plain file");
    }
    world
}

#[tokio::test]
async fn what_is_there_is_encrypted_in_place_and_what_is_new_at_once() {
    let world = with_files().await;
    world.zone("/a/inner", "other").await;
    let before = world.stat("/a/f").await.expect("there");
    assert_eq!(adopt(&world, "/a").await, told(true, 2, false));
    assert_eq!(adopt(&world, "/a").await, told(true, 2, false), "a repeat does no harm");
    assert_eq!(world.stat("/a/f").await.expect("there").data_suite, "plain");
    assert_eq!(world.read("/a/d/g").await.expect("it opens").edek, None);
    assert_eq!(world.stat("/b/h").await.expect("there").zone_path, "");
    world.open_to_all("/a").await;
    assert!(world.create("/a/new", false).await.expect("created").edek.is_some());
    world.write("/a/new", 10, &NODES).await.expect("written");

    let job = start(&world, "/a").await;
    let after = encrypt(&world, &job, "/a/f").await;
    assert_eq!(
        (after.file_id, after.mtime_ms, after.owner),
        (before.file_id, before.mtime_ms, before.owner)
    );
    assert_eq!((after.data_suite.as_str(), after.key_name.as_str()), ("gcm", "payroll"));
    assert_eq!(
        begin(&world, &job, "/a/f").await,
        Ok(pb::RewritingFile::default()),
        "done"
    );
    assert_eq!(
        begin(&world, &job, "/a/new").await,
        Ok(pb::RewritingFile::default()),
        "never was plain"
    );
    let zone = world.get_zone("/a/d").await.expect("a zone").into_inner();
    assert_eq!(zone.adoption, Some(told(true, 1, false)));
    assert_eq!(zone.not_encrypted, ["/a/d/g"]);
    assert_eq!(findings(&world, false).await, []);
    encrypt(&world, &job, "/a/d/g").await;
    assert_eq!(adopt(&world, "/a").await, told(true, 0, true));
    assert_eq!(adopt(&world, "/a").await, told(true, 0, true));
    assert!(world.read("/a/d/g").await.expect("it opens").edek.is_some());
    assert!(world.reopen("/a/f").await.is_ok(), "it can be written again");
    assert_eq!(world.read("/b/h").await.expect("it opens").edek, None);
    assert_eq!(findings(&world, false).await, []);
}

#[tokio::test]
async fn a_plain_file_of_it_is_read_renamed_and_removed_and_neither_written_nor_let_out() {
    let world = with_files().await;
    adopt(&world, "/a").await;
    let failure = world.reopen("/a/f").await.map(|_| ()).expect_err("not encrypted yet");
    check(&failure, Reason::NotEncrypted, &["/a/f", "zone adopt /a"]);
    for (from, to) in [("/a/f", "/b/f"), ("/b/h", "/a/h"), ("/a/d", "/b/d")] {
        let failure = world.rename(from, to, false).await.expect_err("another zone");
        check(&failure, Reason::CrossZone, &[from]);
    }
    world.zone("/z", "payroll").await;
    for (from, words) in [
        ("/a/f", "it is not encrypted yet"),
        ("/a/d", "may not be encrypted yet"),
    ] {
        let request = pb::BeginTransferRequest {
            from: from.into(),
            to: "/z/x".into(),
            overwrite: false,
        };
        let failure = refused(world.user("alice").transfers.begin_transfer(request).await);
        check(&failure, Reason::InvalidMove, &[from, words, "zone adopt"]);
    }
    let proof = pb::ProveZoneRequest {
        path: "/a".into(),
        ..pb::ProveZoneRequest::default()
    };
    let failure = refused(world.user("fsadmin").zones.prove_zone(proof).await);
    check(&failure, Reason::KeyInUse, &["/a", "2 files", "zone adopt"]);

    world.rename("/a/f", "/a/d/f", false).await.expect("within the zone");
    world
        .write("/a/d/f", 10, &NODES)
        .await
        .expect("replaced by one that is encrypted");
    assert_eq!(adopt(&world, "/a").await, told(true, 1, false));
    let to_trash = pb::RemoveRequest {
        path: "/a/d/g".into(),
        to_trash: true,
        ..pb::RemoveRequest::default()
    };
    let removed = world
        .user("alice")
        .namespace
        .remove(to_trash)
        .await
        .expect("removed")
        .into_inner();
    assert!(
        removed.trash_path.starts_with(b"/a/.Trash/"),
        "{:?}",
        removed.trash_path
    );
    assert_eq!(adopt(&world, "/a").await, told(true, 1, false), "it is in the zone yet");
    world.remove("/a/.Trash", true).await.expect("removed");
    world
        .until("the removal is carried out, and the zone is through", async |world| {
            adopt(world, "/a").await.ended
        })
        .await;
    assert_eq!(findings(&world, false).await, []);
}

/// Says that so much of a grant's extent is stored, and renews the grant.
async fn add(world: &World, grant: &pb::WriteGrant, length: u64) -> Result<pb::WriteGrant, Failure> {
    let request = pb::AddBlocksRequest {
        file_id: grant.file_id.clone(),
        extent_id: grant.extent_id.clone(),
        blocks: commit_plain(grant, length, &NODES).blocks,
        ..pb::AddBlocksRequest::default()
    };
    Ok(world.user("alice").files.add_blocks(request).await?.into_inner())
}

#[tokio::test]
async fn who_was_writing_ends_what_he_has_in_hand_and_nothing_plain_is_left_behind() {
    let world = with_files().await;
    let new = world
        .create("/a/new", false)
        .await
        .expect("created")
        .grant
        .expect("a grant");
    let reopened = world.reopen("/a/f").await.expect("opened");
    let second = world.rewrite("/a/d/g").await.expect("begun");
    assert_eq!(adopt(&world, "/a").await, told(true, 2, false));
    for length in [0, 10] {
        let failure = add(&world, &new, length).await.expect_err("a new plain file");
        check(&failure, Reason::LeaseLost, &["part of an encryption zone"]);
    }
    let failure = world
        .commit(commit_plain(&new, 10, &NODES))
        .await
        .expect_err("a new plain file");
    check(&failure, Reason::LeaseLost, &["part of an encryption zone"]);
    let body = second.body.expect("a body").grant.expect("a grant");
    let mut compacted = commit_plain(&body, 10, &NODES);
    compacted.generation = 2;
    for failure in [
        add(&world, &body, 10).await.map(|_| ()),
        world.commit(compacted).await.map(|_| ()),
    ] {
        check(&failure.expect_err("a plain body"), Reason::FileChanged, &["/a/d/g"]);
    }

    let job = start(&world, "/a").await;
    let failure = begin(&world, &job, "/a/f").await.expect_err("somebody writes it");
    check(&failure, Reason::LeaseHeld, &["/a/f"]);
    let (file, grant) = (reopened.file.expect("the file"), reopened.grant.expect("a grant"));
    let failure = add(&world, &grant, 5).await.expect_err("more of it");
    check(
        &failure,
        Reason::NotEncrypted,
        &["/a/f", "no more is added", "zone adopt /a"],
    );
    add(&world, &grant, 0).await.expect("he has the time to end it");
    let mut request = behind(&file, commit_plain(&grant, 5, &NODES));
    request.go_on = true;
    let done = world.user("alice").files.commit_file(request).await;
    let done = done.expect("what was begun before is not lost").into_inner();
    assert_eq!(done.stat.map(|stat| stat.length), Some(15));
    assert_eq!(done.grant, None, "he asked to go on");
    assert_eq!(encrypt(&world, &job, "/a/f").await.length, 15, "nobody writes it");
    encrypt(&world, &job, "/a/d/g").await;
    assert_eq!(adopt(&world, "/a").await, told(true, 0, true));
    assert_eq!(findings(&world, false).await, []);
}

#[tokio::test]
async fn who_only_says_that_he_is_there_does_not_keep_a_file_from_the_zone() {
    let world = with_files().await;
    let grant = world.reopen("/a/f").await.expect("opened").grant.expect("a grant");
    let (lease_ms, minute_ms) = (world.settings.lease_ms, 60_000);
    world.ahead_ms.store(lease_ms - minute_ms, Ordering::Relaxed);
    add(&world, &grant, 0).await.expect("in no zone the lease is prolonged");
    adopt(&world, "/a").await;
    world.ahead_ms.store(lease_ms + minute_ms, Ordering::Relaxed);
    add(&world, &grant, 0).await.expect("he has the time to end it");
    let job = start(&world, "/a").await;
    let failure = begin(&world, &job, "/a/f").await.expect_err("he has it yet");
    check(&failure, Reason::LeaseHeld, &["/a/f"]);
    world.ahead_ms.store(2 * lease_ms, Ordering::Relaxed);
    world
        .until("his lease ran out and enough nodes are heard of", async |world| {
            _ = add(world, &grant, 0).await;
            // Who held the job was not heard of either.
            let job = start(world, "/a").await;
            match begin(world, &job, "/a/f").await {
                Ok(begun) => put_in_place(world, begun).await.is_ok(),
                Err(_) => false,
            }
        })
        .await;
    let failure = add(&world, &grant, 0).await.expect_err("it is his no more");
    check(&failure, Reason::LeaseLost, &["waited so long to encrypt it"]);
    let job = start(&world, "/a").await;
    encrypt(&world, &job, "/a/d/g").await;
    assert_eq!(adopt(&world, "/a").await, told(true, 0, true));
    assert_eq!(findings(&world, false).await, []);
}

#[tokio::test]
async fn it_goes_on_after_restarts_and_by_others_and_is_begun_by_superusers_only() {
    let mut world = with_files().await;
    let failure = adopt_as(&world, "alice", "/a", "payroll")
        .await
        .expect_err("no superuser");
    check(&failure, Reason::PermissionDenied, &["make encryption zones"]);
    for (path, key, reason, word) in [
        ("/a", "", Reason::InvalidArgument, "key name"),
        ("/a", "nosuch", Reason::KeyNotFound, "nosuch"),
        ("/nowhere", "payroll", Reason::NotFound, "/nowhere"),
        ("/a/f", "payroll", Reason::NotADirectory, "/a/f"),
    ] {
        let failure = adopt_as(&world, "fsadmin", path, key).await.expect_err(word);
        check(&failure, reason, &[word]);
    }
    adopt(&world, "/a").await;
    for (path, key, reason, word) in [
        ("/a", "other", Reason::InvalidArgument, "begun with payroll"),
        ("/a/d", "payroll", Reason::AlreadyZone, "in the encryption zone /a"),
    ] {
        let failure = adopt_as(&world, "fsadmin", path, key).await.expect_err(word);
        check(&failure, reason, &[word]);
    }
    world.zone("/z", "payroll").await;
    let failure = adopt_as(&world, "fsadmin", "/z", "payroll")
        .await
        .expect_err("it adopts nothing");
    check(&failure, Reason::AlreadyZone, &["/z"]);
    let job = start(&world, "/a").await;
    encrypt(&world, &job, "/a/f").await;
    world.kill();
    world.run().await;
    let zone = adopt_as(&world, "alice", "/a", "")
        .await
        .expect("anybody may go on who may list it");
    assert_eq!(zone.adoption, Some(told(true, 1, false)));
    encrypt(&world, &job, "/a/d/g").await;
    let zone = adopt_as(&world, "alice", "/a", "").await.expect("through");
    assert_eq!(zone.adoption, Some(told(true, 0, true)));
    let proof = pb::ProveZoneRequest {
        path: "/a".into(),
        ..pb::ProveZoneRequest::default()
    };
    let failure = refused(world.user("fsadmin").zones.prove_zone(proof).await);
    check(&failure, Reason::KeyInUse, &["is the newest"]);
}

#[tokio::test]
async fn quotas_are_as_they_were() {
    let world = with_files().await;
    let request = pb::SetQuotaRequest {
        path: "/a".into(),
        names_max: Some(100),
        bytes_max: Some(1 << 20),
        ..pb::SetQuotaRequest::default()
    };
    let before = world
        .user("fsadmin")
        .namespace
        .set_quota(request)
        .await
        .expect("set")
        .into_inner();
    adopt(&world, "/a").await;
    let job = start(&world, "/a").await;
    for path in ["/a/f", "/a/d/g"] {
        encrypt(&world, &job, path).await;
    }
    let request = pb::GetQuotasRequest { path: "/a".into() };
    let after = world
        .user("fsadmin")
        .namespace
        .get_quotas(request)
        .await
        .expect("told")
        .into_inner();
    assert_eq!(before.quotas, after.quotas);
    assert_eq!((after.quotas[0].names, after.quotas[0].bytes), (4, 20));
}

/// Repairs a zone that takes its two plain files for encrypted, and has it adopt them.
async fn adopted_again(world: &World) {
    let failure = world.read("/a/f").await.map(|_| ()).expect_err("a defect");
    check(
        &failure,
        Reason::NotEncrypted,
        &["/a/f", "strongroom fsck --repair", "strongroom zone adopt /a"],
    );
    let untouched = findings(world, false).await;
    assert!(
        untouched.iter().any(|found| found.what.contains("does not adopt it")),
        "{untouched:?}"
    );
    let repaired = findings(world, true).await;
    assert!(
        repaired.len() >= 2 && repaired.iter().all(|found| found.repaired),
        "{repaired:?}"
    );
    assert_eq!(findings(world, false).await, []);
    assert_eq!(world.read("/a/f").await.expect("it opens").edek, None);
    assert_eq!(adopt(world, "/a").await, told(true, 2, false));
    let job = start(world, "/a").await;
    for path in ["/a/f", "/a/d/g"] {
        encrypt(world, &job, path).await;
    }
    assert_eq!(adopt(world, "/a").await, told(true, 0, true));
    assert_eq!(findings(world, false).await, []);
}

#[tokio::test]
async fn a_zone_that_is_through_adopts_again_if_a_plain_file_is_found_in_it() {
    let mut world = with_files().await;
    adopt(&world, "/a").await;
    damage(&mut world, |faults| {
        let (key, value) = faults.row(b'z', b"payroll");
        let mut zone = records::Zone::decode(value).expect("a zone");
        zone.adoption.get_or_insert_default().ended = true;
        faults.puts.push((key, zone.encode_to_vec()));
    })
    .await;
    adopted_again(&world).await;
}

#[tokio::test]
async fn so_does_one_that_forgot_that_it_ever_did() {
    let mut world = with_files().await;
    adopt(&world, "/a").await;
    damage(&mut world, |faults| {
        let (key, value) = faults.row(b'z', b"payroll");
        let mut zone = records::Zone::decode(value).expect("a zone");
        zone.adoption = None;
        faults.puts.push((key, zone.encode_to_vec()));
        miss(faults, "f");
    })
    .await;
    adopted_again(&world).await;
}

/// Has a file be in the list of those in no zone, as one that was never looked at.
fn miss(faults: &mut Faults, name: &str) {
    let (listed, body) = (faults.of(b'P', name), faults.of(b'e', name));
    let (_, value) = faults.row(b'e', &body[1..]);
    let mut record = records::Body::decode(value).expect("a body");
    record.plain.get_or_insert_default().zone_id.clear();
    faults.puts.push((body.clone(), record.encode_to_vec()));
    faults.puts.push(([&[b'P', 0][..], &body[1..]].concat(), Vec::new()));
    faults.deletes.push(listed);
}

#[tokio::test]
async fn what_a_zone_missed_is_found_before_it_is_through() {
    let mut world = with_files().await;
    adopt(&world, "/a").await;
    damage(&mut world, |faults| miss(faults, "f")).await;
    let found = findings(&world, true).await;
    let missed = found
        .iter()
        .find(|found| found.what.contains("would not find it to adopt it"));
    assert!(missed.is_some_and(|found| found.repaired), "{found:?}");
    assert_eq!(findings(&world, false).await, []);
    assert_eq!(adopt(&world, "/a").await, told(true, 2, false));
}

#[tokio::test]
async fn somebodys_trash_does_not_become_the_zones() {
    let world = world().await;
    world.mkdir("/a/.Trash/alice").await;
    let failure = adopt_as(&world, "fsadmin", "/a", "payroll")
        .await
        .expect_err("in the way");
    check(&failure, Reason::NotEmpty, &["/a", ".Trash", "--skip-trash"]);
    world.mkdir("/b/.Trash").await;
    adopt(&world, "/b").await;
}

#[tokio::test]
async fn the_files_that_are_left_are_named_to_those_who_may_list_them() {
    let world = with_files().await;
    let named = async |user: &str| {
        let request = pb::GetZoneRequest { path: "/a".into() };
        let zone = world.user(user).zones.get_zone(request).await;
        zone.expect("a zone").into_inner().not_encrypted
    };
    adopt(&world, "/a").await;
    let private = pb::SetAttributesRequest {
        path: "/a/d".into(),
        // Who knows a name in it gets there.
        mode: Some(0o711),
        ..pb::SetAttributesRequest::default()
    };
    let set = world.user("alice").namespace.set_attributes(private).await;
    set.expect("her own");
    assert_eq!(named("alice").await, ["/a/d/g", "/a/f"]);
    assert_eq!(named("fsadmin").await, ["/a/d/g", "/a/f"]);
    assert_eq!(named("bob").await, ["/a/f"]);
    let request = pb::ListZonesRequest::default();
    let of_all = world.user("alice").zones.list_zones(request).await;
    let of_all = of_all.expect("zones").into_inner().zones;
    assert!(of_all[0].not_encrypted.is_empty());
    world.remove("/a/f", false).await.expect("removed");
    let job = start(&world, "/a").await;
    encrypt(&world, &job, "/a/d/g").await;
    assert_eq!(named("alice").await, Vec::<&[u8]>::new());
}

#[tokio::test]
async fn no_plain_file_may_be_made_any_more_and_those_that_are_there_are_adopted() {
    let mut world = with_files().await;
    adopt(&world, "/a").await;
    world.settings.plain_files = false;
    world.restart().await;
    assert_eq!(adopt(&world, "/b").await, told(true, 1, false));
    for (zone, paths) in [("/a", &["/a/f", "/a/d/g"][..]), ("/b", &["/b/h"])] {
        let job = start(&world, zone).await;
        for path in paths {
            encrypt(&world, &job, path).await;
        }
        assert_eq!(adopt(&world, zone).await, told(true, 0, true));
    }
    assert_eq!(findings(&world, false).await, []);
}
