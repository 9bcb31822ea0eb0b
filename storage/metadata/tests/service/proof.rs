//! Proofs that a zone uses no old key version: refused while it does, and true for good once they are given.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use strongroom_proto::{
    Failure, KeyVersion, Reason,
    metadata::v1 as pb,
    proof::{SignedProof, ZoneProof},
};

use crate::fixture::{NODES, World, check, refused};

const HOUR: Duration = Duration::from_secs(3600);

fn at(path: &str, through_version: u32) -> pb::ProveZoneRequest {
    pb::ProveZoneRequest {
        path: path.to_owned().into(),
        through_version,
        ..pb::ProveZoneRequest::default()
    }
}

fn by_id(zone: &Bytes, key: &str, through_version: u32) -> pb::ProveZoneRequest {
    pb::ProveZoneRequest {
        zone_id: zone.clone(),
        key_name: key.to_owned(),
        through_version,
        ..pb::ProveZoneRequest::default()
    }
}

async fn prove(world: &World, request: pb::ProveZoneRequest) -> Result<ZoneProof, Failure> {
    let answer = world.user("fsadmin").zones.prove_zone(request).await?.into_inner();
    SignedProof::from_bytes(&answer.proof)?.verify(&world.pki.trust(), SystemTime::now(), HOUR)
}

async fn refusal(world: &World, request: pb::ProveZoneRequest, words: &[&str]) {
    let failure = prove(world, request).await.expect_err("must be refused");
    check(&failure, Reason::KeyInUse, words);
}

async fn reencrypt(world: &World, path: &str) {
    let path = Bytes::from(path.to_owned());
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
        .until("the re-encryption is complete", async |world| {
            let request = pb::GetReencryptionRequest { path: path.clone() };
            let status = world.user("alice").zones.get_reencryption(request).await;
            status.expect("a status").into_inner().state() == pb::ReencryptionState::Completed
        })
        .await;
}

#[tokio::test]
async fn a_zone_is_proved_free_once_its_files_and_open_files_are_re_wrapped() {
    let world = World::start().await;
    let zone = world.zone("/z", "payroll").await;
    world.write("/z/a", 10, &NODES).await.expect("a file");
    world.write("/z/b", 10, &NODES).await.expect("a file");
    world.create("/z/open", false).await.expect("created");
    refusal(
        &world,
        at("/z", 0),
        &["version 0 is the newest of key payroll", "strongroom key roll payroll"],
    )
    .await;
    world.kms.roll("payroll");
    refusal(
        &world,
        at("/z", 0),
        &[
            "3 files of zone /z use version 0 or older of key payroll, 1 of them being written",
            "zone reencrypt",
        ],
    )
    .await;
    reencrypt(&world, "/z").await;
    let before = SystemTime::now();
    let proof = prove(&world, at("/z", 0)).await.expect("nothing is in the way");
    assert_eq!(
        (proof.zone.as_bytes().as_slice(), proof.key.as_str()),
        (zone.zone_id.as_ref(), "payroll")
    );
    assert_eq!((proof.through, proof.known), (KeyVersion(0), true));
    let issued = SystemTime::UNIX_EPOCH + Duration::from_millis(proof.issued_ms);
    assert!(issued + Duration::from_millis(1) >= before && issued <= SystemTime::now());
    refusal(&world, at("/z", 1), &["version 1 is the newest"]).await;
}

#[tokio::test]
async fn after_the_proof_no_stocked_edek_of_an_old_version_is_used() {
    let world = World::start().await;
    let zone = world.zone("/z", "payroll").await;
    world.zone("/other", "payroll").await;
    let full =
        async |world: &World, path: &str| world.get_zone(path).await.expect("a zone").into_inner().edeks_in_stock == 10;
    world
        .until("both stocks are full", async |world| {
            full(world, "/z").await && full(world, "/other").await
        })
        .await;
    world.kms.roll("payroll");
    prove(&world, at("/z", 0)).await.expect("no file yet");
    // What the proof learned of the key counts in its other zones too.
    for path in ["/z/new", "/other/new"] {
        let created = world.create(path, false).await.expect("created");
        assert_eq!(created.edek.expect("an EDEK").key_version, 1, "{path}");
    }
    // The key service falls back, as no good one does: the zone takes nothing that the proof excludes.
    let mut world = world;
    world.kms.roll_back("payroll");
    world.restart().await;
    let failure = world.create("/z/old", false).await.expect_err("only old EDEKs");
    assert!(failure.is_transient(), "{failure}");
    assert_eq!(
        prove(&world, by_id(&zone.zone_id, "", 0))
            .await
            .map(|proof| proof.known)
            .map_err(|f| f.reason),
        Err(Reason::KeyInUse)
    );
}

#[tokio::test]
async fn a_key_that_mints_no_more_and_a_zone_that_is_gone_can_be_proved() {
    let world = World::start().await;
    let zone = world.zone("/z", "payroll").await;
    let wrong = prove(&world, by_id(&zone.zone_id, "other", 0))
        .await
        .expect_err("another key");
    check(
        &wrong,
        Reason::InvalidArgument,
        &["the zone's key is payroll, not other"],
    );
    world
        .kms
        .break_key("payroll", Failure::new(Reason::KeyVersionUnusable, "no version mints"));
    assert!(
        prove(&world, by_id(&zone.zone_id, "", 7))
            .await
            .expect("nothing mints")
            .known
    );
    world.remove("/z", true).await.expect("removed");
    world
        .until("the zone is purged", async |world| {
            prove(world, by_id(&zone.zone_id, "payroll", 7))
                .await
                .is_ok_and(|proof| !proof.known)
        })
        .await;
    let unnamed = prove(&world, by_id(&zone.zone_id, "", 7))
        .await
        .expect_err("which key?");
    check(&unnamed, Reason::InvalidArgument, &["--key"]);
}

#[tokio::test]
async fn without_the_key_service_or_the_right_nothing_is_proved() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let failure = refused(world.user("alice").zones.prove_zone(at("/z", 0)).await);
    check(&failure, Reason::PermissionDenied, &["user alice"]);
    world.kms.away();
    let failure = prove(&world, at("/z", 0))
        .await
        .expect_err("nobody says which is newest");
    assert_eq!(failure.reason, Reason::Unavailable);
    let failure = prove(&world, at("/z", u32::MAX)).await.expect_err("no version follows");
    assert_eq!(failure.reason, Reason::InvalidArgument);
}
