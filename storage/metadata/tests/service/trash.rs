//! The trash through the gRPC face: where what is removed goes, what keeps it from going there, and how it ends.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use strongroom_metadata::Settings;
use strongroom_proto::{Failure, Reason, RequestId, metadata::v1 as pb};

use crate::fixture::{NODES, World, check, quick, refused};

const GROUPS: &str = "hr = ['alice', 'bob']\nsupergroup = ['dave']\n";

impl World {
    /// Removes into the trash of `user`. Says where it is now, or nothing if it is gone for good.
    pub(crate) async fn trash(&self, user: &str, path: &str) -> Result<String, Failure> {
        let request = pb::RemoveRequest {
            path: path.to_owned().into(),
            recursive: true,
            to_trash: true,
            ..pb::RemoveRequest::default()
        };
        let removed = self.user(user).namespace.remove(request).await?.into_inner();
        Ok(String::from_utf8(removed.trash_path.to_vec()).expect("a path"))
    }

    async fn names_as(&self, user: &str, path: &str) -> Vec<String> {
        let request = pb::ListRequest {
            path: path.to_owned().into(),
            ..pb::ListRequest::default()
        };
        let page = self.user(user).namespace.list(request).await.expect("a listing");
        page.into_inner().entries.into_iter().map(|entry| entry.name).collect()
    }

    pub(crate) async fn mkdir_as(&self, user: &str, path: &str, mode: u32) {
        let request = pb::MakeDirectoryRequest {
            path: path.to_owned().into(),
            mode,
            ..pb::MakeDirectoryRequest::default()
        };
        let made = self.user(user).namespace.make_directory(request).await;
        made.expect("a directory");
    }

    pub(crate) async fn expunge(&self, user: &str, immediate: bool) -> Vec<pb::ExpungedTrash> {
        let request = pb::ExpungeRequest {
            immediate,
            ..pb::ExpungeRequest::default()
        };
        let done = self
            .user(user)
            .trash
            .expunge(request)
            .await
            .expect("expunged")
            .into_inner();
        assert!(done.next.is_empty());
        done.trashes
    }

    pub(crate) async fn touch(&self, path: &str) {
        self.write(path, 0, &NODES).await.expect("a file");
    }

    async fn mkdir_refused(&self, path: &str) {
        let request = pb::MakeDirectoryRequest {
            path: path.to_owned().into(),
            mode: 0o755,
            ..pb::MakeDirectoryRequest::default()
        };
        let failure = refused(self.user("alice").namespace.make_directory(request).await);
        check(&failure, Reason::QuotaExceeded, &["quota"]);
    }

    async fn get_zone_as(&self, user: &str, path: &str) -> pb::Zone {
        let path = path.to_owned().into();
        let zone = self.user(user).zones.get_zone(pb::GetZoneRequest { path }).await;
        zone.expect("a zone").into_inner()
    }

    async fn jobs_left(&self, user: &str) -> usize {
        let request = pb::ListJobsRequest {
            unfinished: true,
            ..pb::ListJobsRequest::default()
        };
        let jobs = self.user(user).jobs.list_jobs(request).await.expect("a list");
        jobs.into_inner().jobs.len()
    }

    pub(crate) async fn is_there(&self, path: &str) -> bool {
        self.user("fsadmin")
            .namespace
            .get_stat(pb::GetStatRequest {
                path: path.to_owned().into(),
            })
            .await
            .is_ok()
    }
}

#[tokio::test]
async fn what_is_removed_goes_to_the_trash_of_its_zone_and_can_be_taken_back() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.mkdir("/z/d").await;
    world.write("/z/d/f", 10, &NODES).await.expect("a file");
    let (before, edek) = (world.stat("/z/d/f").await.expect("a file"), world.edek("/z/d/f").await);

    let trash = world.trash("alice", "/z/d/f").await.expect("moved");
    assert_eq!(trash, "/z/.Trash/alice/Current/z/d/f");
    world.stat("/z/d/f").await.expect_err("it is not there any more");
    let moved = world.stat(&trash).await.expect("it is there");
    assert_eq!((&moved.file_id, &moved.zone_path[..]), (&before.file_id, &b"/z"[..]));
    assert_eq!(world.edek(&trash).await, edek);
    for (path, mode) in [
        ("/z/.Trash", 0o1777),
        ("/z/.Trash/alice", 0o700),
        ("/z/.Trash/alice/Current/z/d", 0o700),
    ] {
        let stat = world.stat(path).await.expect("a directory");
        assert_eq!((stat.mode, stat.owner.as_str()), (mode, "alice"), "{path}");
    }
    let path = trash.clone().into();
    let failure = refused(world.user("bob").namespace.get_stat(pb::GetStatRequest { path }).await);
    check(&failure, Reason::PermissionDenied, &["user bob", "/z/.Trash/alice"]);

    // A path that is taken gets the time behind it, be it that of what is removed or of a directory on the way.
    world.write("/z/d/f", 10, &NODES).await.expect("a file");
    let second = world.trash("alice", "/z/d/f").await.expect("moved");
    assert!(second.len() > trash.len() && second.starts_with(&trash), "{second}");
    let directory = world.trash("alice", "/z/d").await.expect("moved");
    assert!(directory.starts_with("/z/.Trash/alice/Current/z/d1"), "{directory}");
    world.write("/z/e", 10, &NODES).await.expect("a file");
    world.trash("alice", "/z/e").await.expect("moved");
    world.mkdir("/z/e/x").await;
    let beside = world.trash("alice", "/z/e/x").await.expect("moved");
    assert!(
        beside.starts_with("/z/.Trash/alice/Current/z/e1") && beside.ends_with("/x"),
        "{beside}"
    );

    world.rename(&trash, "/z/f", false).await.expect("back");
    assert_eq!(world.edek("/z/f").await, edek);

    // What is in the trash goes for good, as does everything that is not asked to go there.
    assert_eq!(world.trash("alice", &second).await.expect("removed"), "");
    assert_eq!(world.trash("alice", "/z/.Trash/alice").await.expect("removed"), "");
    let failure = world.trash("alice", "/z/.Trash").await.expect_err("it holds the trash");
    check(
        &failure,
        Reason::InvalidMove,
        &[
            "holds the trash",
            "expunge --immediate",
            "fs rm -r --skip-trash /z/.Trash",
        ],
    );
    world.remove("/z/f", false).await.expect("removed");
    assert_eq!(world.names("/z/.Trash").await, [""; 0]);
}

#[tokio::test]
async fn without_a_trash_removals_are_for_good_and_what_is_there_stays() {
    let mut world = World::start().await;
    world.zone("/z", "payroll").await;
    for name in ["a", "b"] {
        world.write(&format!("/z/{name}"), 10, &NODES).await.expect("a file");
    }
    let trash = world.trash("alice", "/z/a").await.expect("moved");
    world.settings.trash_ms = 0;
    world.restart().await;
    assert_eq!(world.trash("alice", "/z/b").await.expect("removed"), "");
    assert!(!world.is_there("/z/b").await && world.is_there(&trash).await);
    let done = world.expunge("alice", false).await;
    assert_eq!(done.len(), 1);
    assert_eq!(
        (done[0].checkpoint.len(), done[0].removed.len()),
        (12, 1),
        "kept for no time"
    );
    assert_eq!(world.names("/z/.Trash/alice").await, [""; 0]);
}

#[tokio::test]
async fn what_is_in_no_zone_goes_to_the_trash_at_home() {
    let world = World::with_groups(GROUPS).await;
    world.zone("/z", "payroll").await;
    world.zone("/z/inner", "other").await;
    world.write("/z/inner/f", 10, &NODES).await.expect("a file");

    // The root of a zone belongs to the zone that it is in.
    let inner = world.trash("alice", "/z/inner").await.expect("moved");
    assert_eq!(inner, "/z/.Trash/alice/Current/z/inner");
    let zone = world.get_zone(&inner).await.expect("still a zone").into_inner();
    assert_eq!((&zone.path[..], zone.key_name.as_str()), (inner.as_bytes(), "other"));
    world.mkdir("/z/inner/x").await;
    let beside = world
        .trash("alice", "/z/inner/x")
        .await
        .expect("not into the other zone");
    assert!(beside.starts_with("/z/.Trash/alice/Current/z/inner1"), "{beside}");
    let last = world.trash("alice", &format!("{inner}/f")).await.expect("removed");
    assert_eq!(last, "", "it is in the trash with its zone");

    let home = world.trash("fsadmin", "/z").await.expect("moved");
    assert_eq!(home, "/user/fsadmin/.Trash/Current/z");
    assert_eq!(world.get_zone_as("fsadmin", &home).await.key_name, "payroll");
    assert_eq!(world.stat_as("fsadmin", "/user/fsadmin").await.mode, 0o700);

    // Homes are made with the rights of the user.
    world.mkdir("/d").await;
    let failure = world.trash("alice", "/d").await.expect_err("no home");
    check(
        &failure,
        Reason::PermissionDenied,
        &["/user", "alice", "strongroom fs rm -r --skip-trash /d"],
    );
    assert!(world.is_there("/d").await);
    world.mkdir_as("fsadmin", "/user/alice", 0o755).await;
    own(&world, "/user/alice", "alice").await;
    assert_eq!(
        world.trash("alice", "/d").await.expect("moved"),
        "/user/alice/.Trash/Current/d"
    );
    let failure = world
        .trash("alice", "/user/alice")
        .await
        .expect_err("it holds the trash");
    check(&failure, Reason::PermissionDenied, &["/user"]);
    let failure = world.trash("fsadmin", "/user").await.expect_err("it holds the trash");
    check(&failure, Reason::InvalidMove, &["holds the trash /user/fsadmin/.Trash"]);
    assert_eq!(
        world
            .trash("alice", "/user/alice/.Trash/Current")
            .await
            .expect("removed"),
        ""
    );

    // A home in a zone takes nothing from outside it.
    world.mkdir_as("fsadmin", "/user/bob", 0o755).await;
    world.create_zone("/user/bob", "other").await.expect("a zone");
    own(&world, "/user/bob", "bob").await;
    world.mkdir_as("bob", "/e", 0o755).await;
    let failure = world.trash("bob", "/e").await.expect_err("another zone");
    check(
        &failure,
        Reason::CrossZone,
        &["/user/bob/.Trash/Current, is in another zone", "--skip-trash /e"],
    );
    // Nor does a trash of which somebody made a zone.
    world.zone("/n", "payroll").await;
    world.mkdir("/n/d").await;
    let gone = world.trash("alice", "/n/d").await.expect("moved");
    world.remove(&gone, true).await.expect("removed");
    world.remove("/n/.Trash/alice/Current/n", true).await.expect("removed");
    world
        .create_zone("/n/.Trash/alice/Current", "other")
        .await
        .expect("a zone");
    world.mkdir("/n/d").await;
    let failure = world.trash("alice", "/n/d").await.expect_err("another zone");
    check(
        &failure,
        Reason::CrossZone,
        &["/n/.Trash/alice/Current, is in another zone"],
    );
    world.mkdir_as("bob", "/user/bob/x", 0o755).await;
    assert_eq!(
        world.trash("bob", "/user/bob/x").await.expect("moved"),
        "/user/bob/.Trash/bob/Current/user/bob/x"
    );
}

async fn own(world: &World, path: &str, owner: &str) {
    let request = pb::SetAttributesRequest {
        path: path.to_owned().into(),
        owner: owner.to_owned(),
        ..pb::SetAttributesRequest::default()
    };
    let set = world.user("fsadmin").namespace.set_attributes(request).await;
    set.expect("a superuser may");
}

#[tokio::test]
async fn the_trash_asks_for_what_a_removal_asks_for() {
    let world = World::with_groups(GROUPS).await;
    world.zone("/z", "payroll").await;
    for mode in [0o700, 0o750, 0o770, 0o711, 0o733, 0o777, 0o1777, 0o1770] {
        let directory = format!("/z/m{mode:o}");
        world.mkdir(&directory).await;
        for actor in ["alice", "bob", "carol", "dave"] {
            let (file, full) = (format!("{directory}/f{actor}"), format!("{directory}/d{actor}"));
            world.write(&file, 10, &NODES).await.expect("a file");
            // What it holds is alice's: others may not remove it with that.
            world.mkdir(&full).await;
            world.mkdir(&format!("{full}/x")).await;
            let request = pb::SetAttributesRequest {
                path: directory.clone().into(),
                mode: Some(mode),
                group: "hr".to_owned(),
                ..pb::SetAttributesRequest::default()
            };
            let set = world.user("fsadmin").namespace.set_attributes(request).await;
            set.expect("a superuser may");
            let bits = match actor {
                "alice" => mode >> 6,
                "bob" => mode >> 3,
                "carol" => mode,
                _ => 7,
            };
            let may = bits & 3 == 3 && (mode & 0o1000 == 0 || ["alice", "dave"].contains(&actor));
            for (path, may) in [(&file, may), (&full, may && ["alice", "dave"].contains(&actor))] {
                match (world.trash(actor, path).await, may) {
                    (Ok(trash), true) => assert_eq!(trash, format!("/z/.Trash/{actor}/Current{path}")),
                    (Err(failure), false) => check(&failure, Reason::PermissionDenied, &[&format!("user {actor}")]),
                    (outcome, may) => panic!("{path} under {mode:o}: expected {may}, got {outcome:?}"),
                }
                assert_eq!(world.is_there(path).await, !may, "{path}");
            }
        }
    }

    // Nobody gets at what another one removes by being there first.
    world.mkdir_as("carol", "/z/.Trash/eve", 0o777).await;
    world.trash("alice", "/z/.Trash/alice").await.expect("removed");
    world.mkdir_as("carol", "/z/.Trash/alice", 0o777).await;
    world.write("/z/f", 10, &NODES).await.expect("a file");
    let failure = world.trash("alice", "/z/f").await.expect_err("carol would have it");
    check(
        &failure,
        Reason::PermissionDenied,
        &["/z/.Trash/alice belongs to carol", "--skip-trash /z/f"],
    );
    own(&world, "/z/.Trash/dave", "carol").await;
    let failure = world.trash("dave", "/z/f").await.expect_err("also for a superuser");
    check(&failure, Reason::PermissionDenied, &["/z/.Trash/dave belongs to carol"]);
    assert!(world.is_there("/z/f").await);
}

#[tokio::test]
async fn many_who_remove_at_once_do_not_meet() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.open_to_all("/z").await;
    for number in 0..12 {
        world.touch(&format!("/z/f{number}")).await;
    }
    // There is no directory for the trash yet, and each file is removed twice at once by each of two users.
    let removals = (0..48).map(|number| {
        let (user, file) = (["alice", "bob"][number % 2], number / 4);
        let world = &world;
        async move { (file, world.trash(user, &format!("/z/f{file}")).await) }
    });
    let mut moved = [0; 12];
    for (file, outcome) in futures::future::join_all(removals).await {
        match outcome {
            Ok(trash) => {
                assert!(world.is_there(&trash).await, "{trash}");
                moved[file] += 1;
            }
            Err(failure) => check(&failure, Reason::NotFound, &["cannot find"]),
        }
    }
    assert_eq!(moved, [1; 12]);

    world.touch("/z/again").await;
    let request = pb::RemoveRequest {
        path: "/z/again".into(),
        to_trash: true,
        request_id: RequestId::generate().into(),
        ..pb::RemoveRequest::default()
    };
    let mut namespace = world.user("alice").namespace;
    let first = namespace.remove(request.clone()).await.expect("moved").into_inner();
    world.touch("/z/again").await;
    let second = namespace.remove(request).await.expect("answered").into_inner();
    assert_eq!(first, second);
    assert!(world.is_there("/z/again").await, "a repeat removes nothing");
}

#[tokio::test]
async fn names_and_paths_have_their_bounds_in_the_trash_too() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let long = format!("/z/{}", "ä".repeat(127));
    for _ in 0..2 {
        world.touch(&long).await;
        let trash = world.trash("alice", &long).await.expect("moved");
        assert!(trash.rsplit('/').next().expect("a name").len() <= 255);
    }
    let deep = (0..16).fold("/z".to_owned(), |path, _| path + "/" + &"d".repeat(250));
    world.mkdir(&deep).await;
    let leaf = deep + "/" + &"x".repeat(60);
    world.touch(&leaf).await;
    let failure = world.trash("alice", &leaf).await.expect_err("too long");
    check(
        &failure,
        Reason::InvalidArgument,
        &["at most 4095 bytes", "--skip-trash"],
    );
    assert!(world.is_there(&leaf).await);
    world.remove(&leaf, false).await.expect("removed");
}

#[tokio::test]
async fn the_trash_counts_and_a_quota_that_is_met_says_how_to_remove() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.mkdir("/z/d").await;
    world.touch("/z/d/f").await;
    let set = async |path: &str, names: u64| {
        let request = pb::SetQuotaRequest {
            path: path.to_owned().into(),
            names_max: Some(names),
            ..pb::SetQuotaRequest::default()
        };
        let set = world.user("fsadmin").namespace.set_quota(request).await;
        set.expect("set").into_inner();
    };
    // The zone's root, /z/d and /z/d/f are there; the trash takes five more.
    set("/z", 7).await;
    let failure = world.trash("alice", "/z/d/f").await.expect_err("no room");
    check(
        &failure,
        Reason::QuotaExceeded,
        &["quota of /z", "strongroom fs rm -r --skip-trash /z/d/f"],
    );
    assert!(world.is_there("/z/d/f").await && !world.is_there("/z/.Trash").await);
    set("/z", 8).await;
    let trash = world.trash("alice", "/z/d/f").await.expect("moved");
    world.mkdir_refused("/z/e").await;
    world.remove(&trash, false).await.expect("removed");
    world.mkdir("/z/e").await;
}

pub(crate) fn hasty() -> Settings {
    Settings {
        trash_ms: 3000,
        trash_checkpoint_ms: 1500,
        ..quick()
    }
}

#[tokio::test]
async fn what_is_in_the_trash_ends_by_the_time_that_was_seen_to_pass() {
    let mut world = World::with(hasty()).await;
    world.zone("/z", "payroll").await;
    world.mkdir("/z/d/e").await;
    world.write("/z/d/f", 10, &NODES).await.expect("a file");
    let begun = Instant::now();
    world.trash("alice", "/z/d").await.expect("moved");
    // Ten years pass at once on the wall.
    world.ahead_ms.store(10 * 365 * 86_400_000, Ordering::Relaxed);
    world
        .until("a checkpoint", async |world| {
            !world.is_there("/z/.Trash/alice/Current").await
        })
        .await;
    assert!(begun.elapsed() >= Duration::from_millis(1500), "{:?}", begun.elapsed());
    let names = world.names_as("alice", "/z/.Trash/alice").await;
    assert!(names.len() == 1 && names[0].len() == 12, "{names:?}");
    let checkpoint = format!("/z/.Trash/alice/{}", names[0]);
    assert!(world.is_there(&format!("{checkpoint}/z/d/f")).await);

    // One that is moved away is kept, and a restart forgets nothing.
    world.write("/z/g", 10, &NODES).await.expect("a file");
    world.trash("alice", "/z/g").await.expect("moved");
    let kept = world.expunge("alice", false).await.remove(0).checkpoint;
    world
        .rename(&format!("/z/.Trash/alice/{kept}"), "/z/kept", false)
        .await
        .expect("renamed");
    world.kill();
    world.run().await;
    world
        .until("the checkpoint is gone", async |world| {
            !world.is_there(&checkpoint).await
        })
        .await;
    assert!(begun.elapsed() >= Duration::from_millis(4500), "{:?}", begun.elapsed());
    assert!(world.is_there("/z/kept/z/g").await);
    world
        .until("its blocks are deleted", async |world| {
            world.cluster_status().await.blocks_to_delete == 0 && world.jobs_left("alice").await == 0
        })
        .await;
    // A clock that goes back keeps nothing for ever.
    world.ahead_ms.store(0, Ordering::Relaxed);
    world.trash("alice", "/z/kept").await.expect("moved");
    world
        .until("it is gone", async |world| {
            world.names_as("alice", "/z/.Trash/alice").await.is_empty()
        })
        .await;
}

#[tokio::test]
async fn zones_are_made_with_a_trash_in_one_transaction() {
    let mut world = World::start().await;
    let seed = RequestId::generate().as_bytes()[15];
    let (mut made, mut cut_off) = (0, 0);
    for round in 0..12_u8 {
        let path = format!("/zone{round}");
        world.mkdir(&path).await;
        let request = pb::CreateZoneRequest {
            path: path.clone().into(),
            key_name: "payroll".to_owned(),
            provision_trash: true,
            ..pb::CreateZoneRequest::default()
        };
        let mut zones = world.user("fsadmin").zones;
        let call = tokio::spawn(async move { zones.create_zone(request).await.is_ok() });
        let pause = u64::from(seed.wrapping_mul(31).wrapping_add(round.wrapping_mul(57))) * 40;
        tokio::time::sleep(Duration::from_micros(pause)).await;
        world.kill();
        let answered = call.await.expect("no panic");
        world.run().await;
        let zone = world.get_zone(&path).await.is_ok();
        assert_eq!(
            zone,
            world.is_there(&format!("{path}/.Trash")).await,
            "seed {seed}, round {round}"
        );
        assert!(
            zone || !answered,
            "seed {seed}, round {round}: what was answered is there"
        );
        if zone {
            made += 1;
        } else {
            cut_off += 1;
        }
    }
    assert_eq!(made + cut_off, 12);
}

#[tokio::test]
async fn the_trash_of_a_zone_is_provisioned_by_superusers() {
    let world = World::start().await;
    let provision = async |user: &str, path: &str| {
        let request = pb::ProvisionTrashRequest {
            path: path.to_owned().into(),
            ..pb::ProvisionTrashRequest::default()
        };
        world.user(user).trash.provision_trash(request).await
    };
    world.zone("/z", "payroll").await;
    world.mkdir("/z/d").await;
    world.mkdir("/plain").await;
    check(
        &refused(provision("alice", "/z").await),
        Reason::PermissionDenied,
        &["superusers"],
    );
    check(
        &refused(provision("fsadmin", "/z/d").await),
        Reason::NotInZone,
        &["in the zone /z"],
    );
    check(
        &refused(provision("fsadmin", "/plain").await),
        Reason::NotInZone,
        &["zone list"],
    );
    check(&refused(provision("fsadmin", "/no").await), Reason::NotFound, &["/no"]);
    for _ in 0..2 {
        let trash = provision("fsadmin", "/z").await.expect("provisioned").into_inner();
        assert_eq!(
            (&trash.path[..], trash.mode, trash.owner.as_str()),
            (&b"/z/.Trash"[..], 0o1777, "alice")
        );
    }
    world.open_to_all("/z/.Trash").await;
    assert_eq!(
        provision("fsadmin", "/z").await.expect("mended").into_inner().mode,
        0o1777
    );

    // An empty trash is in nobody's way; one with something in it is.
    world.mkdir("/homes/.Trash").await;
    let request = |path: &str| pb::CreateZoneRequest {
        path: path.to_owned().into(),
        key_name: "payroll".to_owned(),
        provision_trash: true,
        ..pb::CreateZoneRequest::default()
    };
    let mut zones = world.user("fsadmin").zones;
    zones.create_zone(request("/homes")).await.expect("a zone");
    assert_eq!(world.stat("/homes/.Trash").await.expect("there").mode, 0o1777);
    world.mkdir("/full/.Trash/x").await;
    check(
        &refused(zones.create_zone(request("/full")).await),
        Reason::NotEmpty,
        &["non-empty"],
    );
    world.mkdir("/two/.Trash").await;
    world.mkdir("/two/x").await;
    check(
        &refused(zones.create_zone(request("/two")).await),
        Reason::NotEmpty,
        &["non-empty"],
    );
}
