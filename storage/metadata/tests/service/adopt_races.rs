//! Adoption while others do something at the same time: however it falls out, each plain file is in the zone's list or outside of the zone.

use std::collections::BTreeSet;

use strongroom_proto::{Reason, metadata::v1 as pb};

use super::{
    adopt::{adopt, adopt_as, encrypt, start, told, with_files},
    fsck::{Faults, damage, findings},
    plain,
};
use crate::fixture::{
    NODES, World, check,
    cluster::Cluster,
    files::{commit_plain, commit_request},
    in_database,
};

/// Files that one call looks at, at most.
const CALL: u16 = 5000;
const ROUNDS: usize = 10;
const FILES: usize = 6;

/// Rows for as many files as one call looks at, which are gone, before those of all others.
fn call_full(faults: &mut Faults) {
    for number in 0..CALL {
        let mut row = vec![b'P'];
        row.extend([0; 15]);
        row.extend(number.to_be_bytes());
        faults.puts.push((row, Vec::new()));
    }
}

async fn encrypt_all(world: &World, zone: &str, paths: &[String]) {
    let job = start(world, zone).await;
    for path in paths {
        encrypt(world, &job, path).await;
    }
    assert_eq!(adopt(world, zone).await, told(true, 0, true), "{zone}");
}

#[tokio::test]
async fn no_file_escapes_by_being_renamed_behind_where_the_look_is() {
    let mut world = with_files().await;
    damage(&mut world, call_full).await;
    let first = adopt_as(&world, "fsadmin", "/a", "payroll").await.expect("a zone");
    assert_eq!(first.adoption, Some(told(false, 0, false)));
    world.mkdir("/a/e").await;
    world.rename("/a/d", "/a/e/d", false).await.expect("within the zone");
    world.rename("/a/f", "/a/e/f", false).await.expect("within the zone");
    world.rename("/a", "/c", false).await.expect("the zone's root");
    world.kill();
    world.run().await;
    assert_eq!(adopt(&world, "/c").await, told(true, 2, false));
    encrypt_all(&world, "/c", &["/c/e/f".to_owned(), "/c/e/d/g".to_owned()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_all_who_begin_at_once_one_makes_the_zone() {
    let world = with_files().await;
    let one = || adopt_as(&world, "fsadmin", "/a", "payroll");
    let begun = tokio::join!(one(), one(), one(), one());
    let zones: Vec<_> = [begun.0, begun.1, begun.2, begun.3]
        .into_iter()
        .map(|zone| zone.expect("a zone"))
        .collect();
    let ids: BTreeSet<_> = zones.iter().map(|zone| zone.zone_id.clone()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(adopt(&world, "/a").await, told(true, 2, false));
    let request = pb::ListZonesRequest::default();
    let listed = world.user("fsadmin").zones.list_zones(request).await;
    assert_eq!(listed.expect("zones").into_inner().zones.len(), 1);
    encrypt_all(&world, "/a", &["/a/f".to_owned(), "/a/d/g".to_owned()]).await;
    assert_eq!(findings(&world, false).await, []);
}

/// Creates and commits new plain files in a directory. Those that were published.
async fn publish(world: &World, directory: &str, grants: &[pb::WriteGrant]) -> Vec<String> {
    let mut published = Vec::new();
    for (number, grant) in grants.iter().enumerate() {
        match world.commit(commit_plain(grant, 10, &NODES)).await {
            Ok(_) => published.push(format!("{directory}/new{number}")),
            Err(failure) => check(&failure, Reason::LeaseLost, &["part of an encryption zone"]),
        }
    }
    published
}

/// Renames plain files into a directory. Where those are now that came there.
async fn bring(world: &World, directory: &str) -> Vec<String> {
    let mut brought = Vec::new();
    for number in 0..FILES {
        let to = format!("{directory}/old{number}");
        match world.rename(&format!("{directory}-out/{number}"), &to, false).await {
            Ok(_) => brought.push(to),
            Err(failure) => check(&failure, Reason::CrossZone, &["-out/"]),
        }
    }
    brought
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_the_zone_is_made_is_in_its_list_or_refused() {
    let world = plain::world().await;
    for round in 0..ROUNDS {
        let directory = format!("/r{round}");
        world.mkdir(&directory).await;
        world.mkdir(&format!("{directory}-out")).await;
        let mut grants = Vec::new();
        for number in 0..FILES {
            let created = world.create(&format!("{directory}/new{number}"), false).await;
            grants.push(created.expect("created").grant.expect("a grant"));
            let out = format!("{directory}-out/{number}");
            world.write_plain(&out, 10).await.expect("a plain file");
        }
        let (zone, published, brought) = tokio::join!(
            adopt_as(&world, "fsadmin", &directory, "payroll"),
            publish(&world, &directory, &grants),
            bring(&world, &directory),
        );
        zone.expect("a zone");
        let there = [published, brought].concat();
        let left = there.len() as u64;
        assert_eq!(
            adopt(&world, &directory).await,
            told(true, left, left == 0),
            "{directory}"
        );
        encrypt_all(&world, &directory, &there).await;
    }
    assert_eq!(findings(&world, false).await, []);
}

#[tokio::test]
async fn a_zone_that_is_made_inside_of_one_that_adopts_is_its_own() {
    let world = with_files().await;
    adopt(&world, "/a").await;
    world.zone("/a/n", "other").await;
    world.open_to_all("/a/n").await;
    let failure = adopt_as(&world, "fsadmin", "/a/n", "other")
        .await
        .expect_err("it adopts nothing");
    check(&failure, Reason::AlreadyZone, &["/a/n"]);
    let failure = world.rename("/a/f", "/a/n/f", false).await.expect_err("another zone");
    check(&failure, Reason::CrossZone, &["/a/f"]);
    world.write("/a/n/f", 10, &NODES).await.expect("written");
    assert_eq!(world.edek("/a/n/f").await.key_name, "other");
    assert_eq!(adopt(&world, "/a").await, told(true, 2, false));
    encrypt_all(&world, "/a", &["/a/f".to_owned(), "/a/d/g".to_owned()]).await;
    assert_eq!(world.edek("/a/f").await.key_name, "payroll");
    assert_eq!(findings(&world, false).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_that_look_at_once_miss_nothing() {
    let database = Cluster::start();
    let settings = strongroom_metadata::Settings {
        plain_files: true,
        // A database that shares its machine with builds may keep a create waiting.
        mint_wait_ms: 5_000,
        ..crate::fixture::quick()
    };
    let mut one = World::with_store(settings, in_database(&database.fresh_url())).await;
    one.mkdir("/a/d").await;
    let mut paths: Vec<_> = (0..FILES).map(|number| format!("/a/{number}")).collect();
    for path in &paths {
        one.write_plain(path, 10).await.expect("a plain file");
    }
    damage(&mut one, call_full).await;
    let two = one.sibling().await;
    let first = adopt_as(&one, "fsadmin", "/a", "payroll").await.expect("a zone");
    assert_eq!(first.adoption, Some(told(false, 0, false)), "two begins elsewhere");
    let moves = async {
        for path in &mut paths {
            let to = path.replace("/a/", "/a/d/");
            one.rename(path, &to, false).await.expect("within the zone");
            *path = to;
        }
    };
    let (here, there, ()) = tokio::join!(adopt(&one, "/a"), adopt(&two, "/a"), moves);
    for told_by in [here, there] {
        assert_eq!(told_by, told(true, FILES as u64, false));
    }
    let job = start(&one, "/a").await;
    for path in &paths {
        encrypt(&one, &job, path).await;
    }
    let (here, there) = tokio::join!(adopt(&one, "/a"), adopt(&two, "/a"));
    assert_eq!((here, there), (told(true, 0, true), told(true, 0, true)));
    let grant = two
        .create("/a/new", false)
        .await
        .expect("created")
        .grant
        .expect("a grant");
    two.commit(commit_request(&grant, 10, &NODES))
        .await
        .expect("a file of the zone");
}
