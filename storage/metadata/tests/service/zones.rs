//! Zones through the gRPC face: the checks of their creation in order, and the stock of EDEKs.

use std::{
    collections::BTreeSet,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use strongroom_metadata::Settings;
use strongroom_proto::{Failure, Reason, metadata::v1 as pb};

use crate::fixture::{NODES, World, check, files::commit_request, kms::dek_of, refused};

#[tokio::test]
async fn zone_creation_checks_in_hdfs_order() {
    let world = World::start().await;
    world.zone("/zone", "payroll").await;
    world.write("/zone/file", 10, &NODES).await.expect("a file");
    world.mkdir("/full/x").await;
    world.mkdir("/empty").await;
    let ask = |path: &str, key: &str| pb::CreateZoneRequest {
        path: path.to_owned().into(),
        key_name: key.to_owned(),
        ..pb::CreateZoneRequest::default()
    };
    // Each request breaks its own rule and all that come after it.
    let failure = refused(world.user("alice").zones.create_zone(ask("/no", "")).await);
    check(&failure, Reason::PermissionDenied, &["user alice", "superusers"]);
    let mut zones = world.user("fsadmin").zones;
    for (path, key, reason, words) in [
        ("/no", "", Reason::InvalidArgument, "must specify a key name"),
        ("/no", "a b", Reason::InvalidArgument, "key name"),
        ("/no", "unknown", Reason::KeyNotFound, "key unknown does not exist"),
        ("/no", "payroll", Reason::NotFound, "cannot find /no"),
        (
            "/zone/file",
            "payroll",
            Reason::NotADirectory,
            "encryption zone for a file",
        ),
        (
            "/zone",
            "payroll",
            Reason::AlreadyZone,
            "directory /zone is already an encryption zone",
        ),
        (
            "/full",
            "payroll",
            Reason::NotEmpty,
            "encryption zone for a non-empty directory",
        ),
    ] {
        check(&refused(zones.create_zone(ask(path, key)).await), reason, &[words]);
    }
    let mut suite = ask("/empty", "payroll");
    suite.data_suite = "rot13".to_owned();
    check(
        &refused(zones.create_zone(suite).await),
        Reason::InvalidArgument,
        &["known suites: gcm, ctr-hdfs"],
    );
    let mut frames = ask("/empty", "payroll");
    frames.frame_bytes = 5000;
    check(
        &refused(zones.create_zone(frames).await),
        Reason::InvalidArgument,
        &["frame size \"5000\"", "4KiB to 1MiB"],
    );
    world.kms.away();
    check(
        &refused(zones.create_zone(ask("/empty", "payroll")).await),
        Reason::Unavailable,
        &["away"],
    );
    world.kms.back();
    // What is refused leaves no zone behind that the key service would want a proof of before it destroys a version.
    assert_eq!(world.kms.zones().len(), 1, "only /zone is one");
    zones
        .create_zone(ask("/empty", "payroll"))
        .await
        .expect("now it is right");
}

#[tokio::test]
async fn a_zones_frame_size_is_that_of_its_files() {
    let world = World::start().await;
    assert_eq!(world.zone("/usual", "payroll").await.frame_bytes, 64 << 10);
    world.mkdir("/small").await;
    let request = pb::CreateZoneRequest {
        path: "/small".into(),
        key_name: "payroll".to_owned(),
        frame_bytes: 4096,
        ..pb::CreateZoneRequest::default()
    };
    let made = world.user("fsadmin").zones.create_zone(request).await;
    assert_eq!(made.expect("a zone").into_inner().frame_bytes, 4096);
    let zone = world.get_zone("/small").await.expect("a zone").into_inner();
    assert_eq!(zone.frame_bytes, 4096);
    let created = world.create("/small/f", false).await.expect("created");
    assert_eq!(created.frame_bytes, 4096);
    let grant = created.grant.expect("a grant");
    let mut commit = commit_request(&grant, 10_000, &NODES);
    check(
        &world.commit(commit.clone()).await.expect_err("one tag is not three"),
        Reason::InvalidArgument,
        &["10048"],
    );
    commit.blocks[0].length = 10_000 + 3 * 16;
    world.commit(commit).await.expect("three frames");
    assert_eq!(world.read("/small/f").await.expect("it opens").frame_bytes, 4096);
}

#[tokio::test]
async fn the_root_may_be_a_zone_and_zones_nest() {
    let world = World::start().await;
    let root = world.create_zone("/", "payroll").await.expect("a zone").into_inner();
    assert_eq!(
        (root.path.as_ref(), root.edek_suite.as_str(), root.data_suite.as_str()),
        (&b"/"[..], "kw", "gcm")
    );
    world.zone("/a", "other").await;
    world.zone("/a/b", "payroll").await;
    world.mkdir("/a/b/c").await;
    for (path, zone) in [("/", "/"), ("/a", "/a"), ("/a/b/c", "/a/b")] {
        assert_eq!(world.get_zone(path).await.expect("a zone").into_inner().path, zone);
    }
    world.write("/a/b/c/f", 10, &NODES).await.expect("a file");
    assert_eq!(world.edek("/a/b/c/f").await.key_name, "payroll");
    let mut zones = world.user("alice").zones;
    let mut listed = BTreeSet::new();
    let mut after = bytes::Bytes::new();
    loop {
        let page = zones
            .list_zones(pb::ListZonesRequest { after, limit: 2 })
            .await
            .expect("a page")
            .into_inner();
        listed.extend(page.zones.into_iter().map(|zone| zone.path));
        after = page.next;
        if after.is_empty() {
            break;
        }
    }
    assert_eq!(
        listed,
        ["/", "/a", "/a/b"].into_iter().map(bytes::Bytes::from).collect()
    );
}

#[tokio::test]
async fn a_zone_that_was_moved_too_deep_keeps_no_other_from_the_list() {
    let world = World::start().await;
    let deep = format!("/{}", "d".repeat(255)).repeat(15);
    world.mkdir(&deep).await;
    world.zone("/z", "payroll").await;
    world.zone(&format!("/a/{}", "z".repeat(255)), "payroll").await;
    let listed = async || {
        let mut zones = world.user("alice").zones;
        let page = zones.list_zones(pb::ListZonesRequest::default()).await;
        page.expect("a list").into_inner().zones.len()
    };
    assert_eq!(listed().await, 2);
    world.rename("/a", &format!("{deep}/a"), false).await.expect("moved");
    assert_eq!(listed().await, 1);
    world
        .rename(&format!("{deep}/a"), "/a", false)
        .await
        .expect("moved back");
    assert_eq!(listed().await, 2);
}

#[tokio::test]
async fn a_path_outside_zones_says_how_to_make_one() {
    let world = World::start().await;
    world.mkdir("/plain").await;
    check(
        &refused(world.get_zone("/plain").await),
        Reason::NotInZone,
        &["strongroom zone create"],
    );
}

#[tokio::test]
async fn no_edek_is_handed_out_twice() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let creates = (0..60).map(|number| {
        let mut files = world.user("alice").files;
        async move {
            let path = format!("/z/f{number}").into();
            let request = pb::CreateFileRequest {
                path,
                mode: 0o644,
                overwrite: false,
                ..pb::CreateFileRequest::default()
            };
            let created = files.create_file(request).await.expect("created").into_inner();
            dek_of(&created.edek.expect("an EDEK").wrapped)
        }
    });
    let deks: BTreeSet<u64> = futures::future::join_all(creates).await.into_iter().collect();
    assert_eq!(deks.len(), 60);
    world
        .until("the stock is not empty", async |world| stock(world, "/z").await > 0)
        .await;
    assert!(world.kms.minted() <= 100, "{} minted for 60 files", world.kms.minted());
}

#[tokio::test]
async fn creates_go_on_through_an_outage_until_the_stock_is_used() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world
        .until("the stock is full", async |world| stock(world, "/z").await == 10)
        .await;
    world.kms.away();
    for number in 0..10 {
        world
            .create(&format!("/z/f{number}"), false)
            .await
            .expect("from the stock");
    }
    let started = Instant::now();
    let failure = world.create("/z/late", false).await.expect_err("nothing left");
    check(&failure, Reason::Unavailable, &["no EDEK of key payroll", "away"]);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    world.kms.back();
    world
        .until("creates succeed again", async |world| {
            world.create("/z/late", true).await.is_ok()
        })
        .await;
}

#[tokio::test]
async fn one_bad_key_starves_no_other() {
    let world = World::start().await;
    world.zone("/bad", "other").await;
    world.zone("/good", "payroll").await;
    world
        .until("the stocks are full", async |world| {
            stock(world, "/bad").await == 10 && stock(world, "/good").await == 10
        })
        .await;
    world.kms.break_key(
        "other",
        Failure::new(Reason::KeyVersionUnusable, "key other is disabled"),
    );
    for number in 0..30 {
        world
            .create(&format!("/good/f{number}"), false)
            .await
            .expect("another key is no concern");
        let bad = world.create(&format!("/bad/f{number}"), false).await;
        if number >= 10 {
            check(
                &bad.expect_err("used up"),
                Reason::KeyVersionUnusable,
                &["key other is disabled"],
            );
        }
    }
}

#[tokio::test]
async fn an_edek_too_old_is_not_handed_out() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world
        .until("the stock is full", async |world| stock(world, "/z").await == 10)
        .await;
    let before = world.kms.minted();
    world.ahead_ms.store(world.settings.stock_age_ms + 1, Ordering::Relaxed);
    world
        .until("nodes are alive by the new time", async |world| {
            world.cluster_status().await.nodes.iter().all(|node| node.alive)
        })
        .await;
    let created = world.create("/z/f", false).await.expect("minted anew");
    assert!(dek_of(&created.edek.expect("an EDEK").wrapped) >= before);
}

#[tokio::test]
async fn a_roll_drains_the_stock_of_a_zone_where_nobody_makes_files() {
    let world = World::with(Settings {
        stock_look_ms: 1000,
        ..crate::fixture::quick()
    })
    .await;
    world.zone("/z", "payroll").await;
    world.zone("/other", "other").await;
    let full = async |world: &World| stock(world, "/z").await == 10 && stock(world, "/other").await == 10;
    world.until("the stocks are full", full).await;
    world.kms.roll("payroll");
    world
        .until("the old EDEKs are gone", async |world| stock(world, "/z").await == 0)
        .await;
    assert_eq!(stock(&world, "/other").await, 10, "another key was not rolled");
    world.create("/z/f", false).await.expect("minted anew");
    let files = world.get_zone("/z").await.expect("a zone").into_inner().files;
    assert_eq!(
        files,
        [pb::VersionCount {
            key_version: 1,
            files: 1
        }]
    );
}

#[tokio::test]
async fn a_key_that_is_away_hides_no_roll_of_another() {
    let world = World::with(Settings {
        stock_look_ms: 200,
        ..crate::fixture::quick()
    })
    .await;
    // Looked at first, by its name.
    world.zone("/away", "other").await;
    world.zone("/z", "payroll").await;
    let full = async |world: &World| stock(world, "/z").await == 10 && stock(world, "/away").await == 10;
    world.until("the stocks are full", full).await;
    world
        .kms
        .break_key("other", Failure::new(Reason::TokenUnavailable, "its token is away"));
    world.kms.roll("payroll");
    world
        .until("the old EDEKs are gone", async |world| stock(world, "/z").await == 0)
        .await;
    assert_eq!(stock(&world, "/away").await, 10);
    world.kms.mend_key("other");
    world.kms.roll("other");
    world
        .until("those of the other key, too", async |world| {
            stock(world, "/away").await == 0
        })
        .await;
}

#[tokio::test]
async fn reads_and_the_namespace_need_no_key_service_and_survive_a_restart() {
    let mut world = World::start().await;
    world.zone("/z", "payroll").await;
    world.write("/z/f", 5 << 20, &NODES).await.expect("a file");
    let (stat, opened) = (
        world.stat("/z/f").await.expect("there"),
        world.read("/z/f").await.expect("opened"),
    );
    let grant = world
        .create("/z/open", false)
        .await
        .expect("created")
        .grant
        .expect("a grant");
    world.kms.away();
    world.restart().await;
    assert_eq!(world.stat("/z/f").await.expect("there"), stat);
    let again = world.read("/z/f").await.expect("opened");
    assert_eq!(
        (again.edek, again.extents, again.manifest_mac),
        (opened.edek, opened.extents, opened.manifest_mac)
    );
    world.mkdir("/z/d").await;
    world.rename("/z/f", "/z/d/f", false).await.expect("renamed");
    let zone = world.get_zone("/z").await.expect("a zone").into_inner();
    assert_eq!(
        zone.files,
        [pb::VersionCount {
            key_version: 0,
            files: 2
        }]
    );
    let request = crate::fixture::files::commit_request(&grant, 10, &NODES);
    world
        .commit(request)
        .await
        .expect("a file opened before the restart is committed after it");
}

/// Two zones with nothing in stock, the first of which is now at `/d`, under `payroll`, and the second at `/b`, under `other`. EDEKs are
/// held back.
async fn two_that_change_places() -> World {
    let world = World::with(Settings {
        stock_edeks: 1,
        stock_low_edeks: 0,
        mint_wait_ms: 20_000,
        ..crate::fixture::quick()
    })
    .await;
    for (path, key) in [("/d", "payroll"), ("/b", "other")] {
        world.zone(path, key).await;
        world
            .until("there is one EDEK", async |world| stock(world, path).await == 1)
            .await;
        world.create(&format!("{path}/before"), false).await.expect("the one");
    }
    world.kms.hold_mints();
    world
}

/// Creates `/d/f`, and has the other zone take the place of the one at `/d` each time that the create waits for an EDEK, so often.
async fn create_while_they_do(world: &World, times: u64) -> Result<pb::CreatedFile, Failure> {
    let asked = world.kms.asked();
    let (create, ()) = futures::join!(world.create("/d/f", false), async {
        for time in 1..=times {
            let waits = async |world: &World| world.kms.asked() == asked + time;
            world.until("the create waits", waits).await;
            for (from, to) in [("/d", "/a"), ("/b", "/d"), ("/a", "/b")] {
                world.rename(from, to, false).await.expect("moved");
            }
            world.kms.mints.add_permits(1);
        }
        // What comes next may have it.
        world.kms.mints.add_permits(1);
    });
    assert_eq!(world.kms.asked(), world.kms.minted(), "each was answered");
    create
}

#[tokio::test]
async fn a_create_whose_zone_changes_while_it_waits_starts_over() {
    let world = two_that_change_places().await;
    let before = world.kms.minted();
    let created = create_while_they_do(&world, 1).await.expect("of the zone there is");
    assert_eq!(created.edek.expect("an EDEK").key_name, "other");
    assert_eq!(world.kms.minted() - before, 2, "that of the first zone is not used");

    // The zones have changed places.
    let world = two_that_change_places().await;
    let created = create_while_they_do(&world, 6).await.expect("of the zone there is");
    assert_eq!(created.edek.expect("an EDEK").key_name, "payroll");
}

#[tokio::test]
async fn a_create_whose_zone_changes_ten_times_is_refused() {
    let world = two_that_change_places().await;
    let failure = create_while_they_do(&world, 10).await.expect_err("enough");
    check(&failure, Reason::Overloaded, &["try again"]);
    assert!(world.stat("/d/f").await.is_err());
    world.create("/d/f", false).await.expect("nothing changes");
}

async fn stock(world: &World, zone: &str) -> u32 {
    world.get_zone(zone).await.expect("a zone").into_inner().edeks_in_stock
}
