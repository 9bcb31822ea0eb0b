//! The namespace through its gRPC face: paths, directories, rename, removal.

use strongroom_metadata::Settings;
use strongroom_proto::{Reason, metadata::v1 as pb};

use crate::fixture::{Clients, NODES, World, check, refused};

#[tokio::test]
async fn paths_that_break_a_rule_are_refused_with_the_rule() {
    let world = World::start().await;
    let Clients {
        mut namespace,
        mut files,
        ..
    } = world.user("alice");
    let long = [b"/".as_slice(), &[b'x'; 256]].concat();
    for (path, rule) in [
        (&b"/a/../b"[..], ". or .."),
        (b"/a\0b", "NUL"),
        (&long, "255 bytes"),
        (b"/\xff", "UTF-8"),
        (b"relative", "start with /"),
        (b"", "start with /"),
    ] {
        let path = bytes::Bytes::copy_from_slice(path);
        let failures = [
            refused(namespace.get_stat(pb::GetStatRequest { path: path.clone() }).await),
            refused(
                files
                    .open_file(pb::OpenFileRequest {
                        path: path.clone(),
                        ..pb::OpenFileRequest::default()
                    })
                    .await,
            ),
            refused(
                namespace
                    .remove(pb::RemoveRequest {
                        path: path.clone(),
                        recursive: true,
                        ..pb::RemoveRequest::default()
                    })
                    .await,
            ),
            refused(
                namespace
                    .make_directory(pb::MakeDirectoryRequest {
                        path: path.clone(),
                        mode: 0o755,
                        parents: true,
                        ..pb::MakeDirectoryRequest::default()
                    })
                    .await,
            ),
            refused(
                files
                    .create_file(pb::CreateFileRequest {
                        path: path.clone(),
                        mode: 0o644,
                        overwrite: false,
                        ..pb::CreateFileRequest::default()
                    })
                    .await,
            ),
            refused(
                namespace
                    .rename(pb::RenameRequest {
                        from: "/a".into(),
                        to: path.clone(),
                        overwrite: false,
                        ..pb::RenameRequest::default()
                    })
                    .await,
            ),
        ];
        for failure in &failures {
            check(failure, Reason::InvalidArgument, &[rule]);
        }
    }
}

#[tokio::test]
async fn services_have_no_business_in_the_namespace() {
    let world = World::start().await;
    for rest in ["service/block/n1", "service/kms"] {
        let mut namespace = world.as_identity(rest).namespace;
        let failure = refused(namespace.get_stat(pb::GetStatRequest { path: "/".into() }).await);
        check(&failure, Reason::PermissionDenied, &["service", "user's certificate"]);
    }
}

#[tokio::test]
async fn what_is_not_there_or_of_the_wrong_kind_is_said() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.mkdir("/z/d/e").await;
    world.mkdir("/plain").await;
    world.write("/z/f", 10, &NODES).await.expect("a file");
    let mkdir = async |path: &str, parents| {
        let request = pb::MakeDirectoryRequest {
            path: path.to_owned().into(),
            mode: 0o755,
            parents,
            ..pb::MakeDirectoryRequest::default()
        };
        refused(world.user("alice").namespace.make_directory(request).await)
    };
    check(&mkdir("/z/d", false).await, Reason::AlreadyExists, &["/z/d exists"]);
    check(&mkdir("/z/f", true).await, Reason::AlreadyExists, &["/z/f exists"]);
    check(
        &mkdir("/z/f/x", true).await,
        Reason::NotADirectory,
        &["/z/f is not a directory"],
    );
    check(&mkdir("/no/x", false).await, Reason::NotFound, &["cannot find /no"]);
    check(&mkdir("/", false).await, Reason::AlreadyExists, &["/ exists"]);
    for (path, reason, words) in [
        ("/z/no/f", Reason::NotFound, "cannot find /z/no"),
        ("/plain/f", Reason::NotInZone, "/plain/f is not in an encryption zone"),
        ("/z/d", Reason::IsADirectory, "/z/d is a directory"),
        ("/z/f", Reason::AlreadyExists, "/z/f exists"),
        ("/z/f/x", Reason::NotADirectory, "/z/f is not a directory"),
        ("/", Reason::InvalidArgument, "root"),
    ] {
        check(&world.create(path, false).await.expect_err(path), reason, &[words]);
    }
    for (path, recursive, reason, words) in [
        ("/z/d", false, Reason::NotEmpty, "fs rm -r /z/d"),
        ("/", true, Reason::InvalidArgument, "root"),
        ("/no", true, Reason::NotFound, "cannot find /no"),
        ("/z/f/x", true, Reason::NotADirectory, "/z/f"),
    ] {
        check(&world.remove(path, recursive).await.expect_err(path), reason, &[words]);
    }
    check(
        &world.read("/z/d").await.expect_err("a directory"),
        Reason::IsADirectory,
        &["/z/d"],
    );
    check(
        &world.read("/z/no").await.expect_err("nothing"),
        Reason::NotFound,
        &["/z/no"],
    );
    check(
        &world.stat("/z/f/x").await.expect_err("a file"),
        Reason::NotADirectory,
        &["/z/f"],
    );
}

#[tokio::test]
async fn stat_tells_zone_key_and_attributes() {
    let world = World::start().await;
    let zone = world.zone("/z", "payroll").await;
    world.mkdir("/z/d").await;
    world.write("/z/d/f", 5 << 20, &NODES).await.expect("a file");
    let file = world.stat("/z/d/f").await.expect("there");
    assert_eq!((file.length, file.blocks, file.blocks_in_deficit), (5 << 20, 2, 0));
    assert_eq!((file.zone_path.as_ref(), file.zone_root), (&b"/z"[..], false));
    assert_eq!((file.key_name.as_str(), file.data_suite.as_str()), ("payroll", "gcm"));
    assert_eq!(
        (file.owner.as_str(), file.mode, file.mtime_ms),
        ("alice", 0o644, 1_700_000_000_000)
    );
    let root = world.stat("/z").await.expect("there");
    assert!(root.zone_root && root.zone_path == zone.path);
    assert!(world.stat("/").await.expect("there").zone_path.is_empty());

    let mut namespace = world.user("alice").namespace;
    let set = |mode| pb::SetAttributesRequest {
        path: "/z/d/f".into(),
        mode,
        mtime_ms: Some(5),
        ..pb::SetAttributesRequest::default()
    };
    let stat = namespace
        .set_attributes(set(Some(0o600)))
        .await
        .expect("set")
        .into_inner();
    assert_eq!((stat.mode, stat.mtime_ms), (0o600, 5));
    check(
        &refused(namespace.set_attributes(set(Some(0o10_000))).await),
        Reason::InvalidArgument,
        &["0o7777"],
    );
}

#[tokio::test]
async fn listings_come_in_pages_in_the_order_of_names() {
    let world = World::start().await;
    for name in ["b", "a", "c", "ä", "B"] {
        world.mkdir(&format!("/d/{name}")).await;
    }
    let mut namespace = world.user("alice").namespace;
    let mut names = Vec::new();
    let (mut after, mut directory) = (String::new(), bytes::Bytes::new());
    loop {
        let request = pb::ListRequest {
            path: "/d".into(),
            after: after.clone(),
            limit: 2,
            directory_id: directory.clone(),
        };
        let page = namespace.list(request).await.expect("a page").into_inner();
        assert!(page.entries.len() <= 2);
        names.extend(page.entries.into_iter().map(|entry| entry.name));
        directory = page.directory_id;
        if !page.more {
            break;
        }
        after.clone_from(names.last().expect("a name"));
    }
    assert_eq!(names, ["B", "a", "b", "c", "ä"]);
}

#[tokio::test]
async fn a_listing_does_not_go_on_in_another_directory() {
    let world = World::start().await;
    for path in ["/d/a", "/d/b", "/e/a", "/e/b"] {
        world.mkdir(path).await;
    }
    let mut namespace = world.user("alice").namespace;
    let first = pb::ListRequest {
        path: "/d".into(),
        limit: 1,
        ..pb::ListRequest::default()
    };
    let page = namespace.list(first.clone()).await.expect("a page").into_inner();
    let second = pb::ListRequest {
        after: "a".to_owned(),
        directory_id: page.directory_id,
        ..first
    };
    let page = namespace.list(second.clone()).await.expect("a page").into_inner();
    assert_eq!((page.entries[0].name.as_str(), page.more), ("b", false));
    world.rename("/d", "/f", false).await.expect("renamed");
    world.rename("/e", "/d", false).await.expect("renamed");
    check(
        &refused(namespace.list(second.clone()).await),
        Reason::NotFound,
        &["/d is not the directory any more"],
    );
    let moved = pb::ListRequest {
        path: "/f".into(),
        ..second
    };
    let page = namespace.list(moved).await.expect("the directory begun").into_inner();
    assert_eq!(page.entries[0].name, "b");
}

/// A page is of one moment, and the next one goes on behind its last name: what is there all the time is told once, whatever comes and goes.
#[tokio::test]
async fn what_stays_is_listed_once_while_names_around_it_change() {
    let world = World::start().await;
    let names: Vec<String> = (10..40).map(|number| format!("n{number}")).collect();
    for name in &names {
        world.mkdir(&format!("/d/{name}")).await;
    }
    let mut namespace = world.user("alice").namespace;
    let (mut listed, mut touched) = (Vec::<String>::new(), Vec::<String>::new());
    let mut request = pb::ListRequest {
        path: "/d".into(),
        limit: 4,
        ..pb::ListRequest::default()
    };
    loop {
        let page = namespace.list(request.clone()).await.expect("a page").into_inner();
        listed.extend(page.entries.into_iter().map(|entry| entry.name));
        if !page.more {
            break;
        }
        let (turn, last) = (listed.len(), listed.last().expect("a page has entries").clone());
        let ahead = names.iter().filter(|name| **name > last && !touched.contains(name));
        let ahead: Vec<String> = ahead.take(3).cloned().collect();
        if let [removed, back, _] = &ahead[..] {
            world.remove(&format!("/d/{removed}"), false).await.expect("removed");
            world
                .rename(&format!("/d/{back}"), &format!("/d/n0{turn}"), false)
                .await
                .expect("behind us");
            touched.extend([removed.clone(), back.clone()]);
        }
        world.mkdir(&format!("/d/m{turn}")).await;
        world.mkdir(&format!("/d/{last}x")).await;
        world.remove(&format!("/d/{last}"), false).await.expect("removed");
        request.after = last;
        request.directory_id = page.directory_id;
    }
    assert!(touched.len() > 5, "{touched:?}");
    assert!(listed.is_sorted_by(|a, b| a < b), "{listed:?}");
    let untouched = names.iter().filter(|name| !touched.contains(name));
    assert!(untouched.clone().all(|name| listed.contains(name)), "{listed:?}");
}

#[tokio::test]
async fn what_a_rename_moved_beyond_the_longest_path_is_listed_committed_and_removed() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    let deep = format!("/z/a{}", format!("/{}", "d".repeat(255)).repeat(15));
    world.mkdir(&deep).await;
    let open = world.create(&format!("{deep}/open"), false).await.expect("created");
    world.write(&format!("{deep}/file"), 10, &NODES).await.expect("a file");
    world.zone(&format!("{deep}/inner"), "other").await;
    let above = format!("/z/{}", "b".repeat(250));
    world.mkdir(&above).await;
    world
        .rename("/z/a", &format!("{above}/a"), false)
        .await
        .expect("renamed");

    let moved = format!("{above}{}", &deep[2..]);
    assert_eq!(
        moved.len(),
        4095,
        "the directory itself has a path, what is in it has none"
    );
    assert_eq!(world.names(&moved).await, ["file", "inner"]);
    let failure = world.stat(&format!("{moved}/file")).await.expect_err("too long");
    check(&failure, Reason::InvalidArgument, &["4095 bytes"]);
    let commit = crate::fixture::files::commit_request(&open.grant.expect("a grant"), 10, &NODES);
    let stat = world.commit(commit).await.expect("committed");
    assert!(stat.path.is_empty(), "it has no path");
    assert_eq!(world.names(&moved).await, ["file", "inner", "open"]);
    let zones = world
        .user("alice")
        .zones
        .list_zones(pb::ListZonesRequest::default())
        .await;
    let zones = zones.expect("zones").into_inner().zones;
    assert_eq!(zones.iter().map(|zone| zone.path.as_ref()).collect::<Vec<_>>(), [b"/z"]);

    world
        .rename(&format!("{above}/a"), "/z/a", false)
        .await
        .expect("renamed back");
    assert_eq!(world.stat(&format!("{deep}/open")).await.expect("there").length, 10);
    world
        .get_zone(&format!("{deep}/inner"))
        .await
        .expect("the zone is back");
    world.remove("/z/a", true).await.expect("removed");
    world
        .until("the blocks are deleted", async |world| world.nodes.blocks() == 0)
        .await;
}

#[tokio::test]
async fn renames_follow_the_rule_of_zones() {
    let world = World::start().await;
    world.zone("/a", "payroll").await;
    world.zone("/b", "payroll").await;
    world.zone("/a/nested", "other").await;
    world.mkdir("/a/d").await;
    world.mkdir("/b/d").await;
    world.mkdir("/plain/x").await;
    for path in ["/a/f", "/a/g", "/a/nested/f", "/b/f"] {
        world.write(path, 10, &NODES).await.expect("a file");
    }
    let way_out = "fs get and put";
    for (from, to, overwrite, reason, words) in [
        (
            "/a/f",
            "/b/h",
            false,
            Reason::CrossZone,
            vec![
                "/a/f can't be moved from encryption zone /a to encryption zone /b",
                way_out,
            ],
        ),
        (
            "/a/f",
            "/plain/f",
            false,
            Reason::CrossZone,
            vec!["/a/f can't be moved from an encryption zone", way_out],
        ),
        (
            "/plain/x",
            "/a/x",
            false,
            Reason::CrossZone,
            vec!["/plain/x can't be moved into an encryption zone", way_out],
        ),
        (
            "/a/f",
            "/a/nested/h",
            false,
            Reason::CrossZone,
            vec!["zone /a to encryption zone /a/nested"],
        ),
        (
            "/a/nested/f",
            "/a/h",
            false,
            Reason::CrossZone,
            vec!["zone /a/nested to encryption zone /a"],
        ),
        (
            "/a/nested",
            "/b/nested",
            false,
            Reason::CrossZone,
            vec!["zone /a to encryption zone /b"],
        ),
        ("/a/d", "/a/d/e", false, Reason::InvalidMove, vec!["below itself"]),
        ("/a", "/a/d/e", false, Reason::InvalidMove, vec!["below itself"]),
        ("/a/f", "/a/f", true, Reason::InvalidMove, vec!["the same"]),
        ("/a/f", "/a/g", false, Reason::AlreadyExists, vec!["/a/g exists"]),
        ("/a/f", "/a/d", true, Reason::IsADirectory, vec!["/a/d"]),
        ("/a/d", "/a/g", true, Reason::NotADirectory, vec!["/a/g"]),
        ("/a/no", "/a/h", false, Reason::NotFound, vec!["/a/no"]),
        ("/a/f", "/a/no/h", false, Reason::NotFound, vec!["/a/no"]),
        ("/", "/a/h", false, Reason::InvalidArgument, vec!["root"]),
        ("/a/f", "/", true, Reason::InvalidArgument, vec!["root"]),
    ] {
        let failure = world.rename(from, to, overwrite).await.expect_err(from);
        check(&failure, reason, &words);
    }
    for (from, to, overwrite) in [
        ("/a/f", "/a/d/f", false),
        ("/a/d/f", "/a/g", true),
        ("/a/nested", "/a/d/moved", false),
        ("/b", "/c", false),
        ("/plain", "/other", false),
    ] {
        let stat = world.rename(from, to, overwrite).await.expect(from);
        assert_eq!(stat.path, to);
        world.stat(from).await.expect_err("it moved");
    }
    assert_eq!(
        world.stat("/a/d/moved/f").await.expect("moved along").zone_path,
        "/a/d/moved"
    );
    assert_eq!(world.stat("/c/f").await.expect("moved along").zone_path, "/c");
    assert_eq!(world.get_zone("/c").await.expect("a zone").into_inner().path, "/c");
    assert_eq!(world.names("/a").await, ["d", "g"]);
}

#[tokio::test]
async fn a_removed_tree_is_gone_at_once_and_its_blocks_soon() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.zone("/z/d/inner", "other").await;
    for number in 0..20 {
        world
            .write(&format!("/z/d/f{number}"), 6 << 20, &NODES)
            .await
            .expect("a file");
        world
            .write(&format!("/z/d/inner/f{number}"), 10, &NODES)
            .await
            .expect("a file");
    }
    world.write("/z/keep", 10, &NODES).await.expect("a file");
    assert_eq!(world.nodes.blocks(), (20 * 2 + 20 + 1) * 3);
    let open = world
        .create("/z/d/open", false)
        .await
        .expect("open")
        .grant
        .expect("a grant");
    world.remove("/z/d", true).await.expect("removed");
    world.stat("/z/d/f1").await.expect_err("gone");
    let zones = world
        .user("alice")
        .zones
        .list_zones(pb::ListZonesRequest::default())
        .await;
    let zones = zones.expect("zones").into_inner().zones;
    assert_eq!(zones.iter().map(|zone| zone.path.as_ref()).collect::<Vec<_>>(), [b"/z"]);
    let failure = world
        .commit(crate::fixture::files::commit_request(&open, 0, &[]))
        .await
        .expect_err("no home");
    check(&failure, Reason::LeaseLost, &["its directory was removed"]);
    world
        .until("the blocks are deleted", async |world| world.nodes.blocks() == 3)
        .await;
    world
        .until("no garbage is left", async |world| {
            world.cluster_status().await.blocks_to_delete == 0
        })
        .await;
    let files = world.get_zone("/z").await.expect("a zone").into_inner().files;
    assert_eq!(
        files.iter().map(|count| count.files).sum::<u64>(),
        2,
        "the file kept and the one open"
    );
}

#[tokio::test]
async fn a_large_tree_is_purged_in_steps_that_a_restart_resumes() {
    // Hundreds of creates at once share a small stock: on a busy machine they wait for it.
    let settings = Settings {
        mint_wait_ms: 20_000,
        ..crate::fixture::quick()
    };
    let mut world = World::with(settings).await;
    world.zone("/z", "payroll").await;
    world.mkdir("/z/d/e").await;
    let writes = (0..450).map(|number| {
        let (world, directory) = (&world, if number % 2 == 0 { "/z/d" } else { "/z/d/e" });
        async move { world.write(&format!("{directory}/f{number}"), 0, &[]).await }
    });
    for written in futures::future::join_all(writes).await {
        written.expect("a file");
    }
    world.write("/z/d/e/blocks", 6 << 20, &NODES).await.expect("a file");
    world.remove("/z/d", true).await.expect("removed");
    world.restart().await;
    world.stat("/z/d").await.expect_err("gone");
    world.mkdir("/z/d").await;
    assert_eq!(
        world.names("/z/d").await,
        [""; 0],
        "a new directory of the name is empty"
    );
    world
        .until("the index is empty", async |world| {
            world
                .get_zone("/z")
                .await
                .expect("a zone")
                .into_inner()
                .files
                .is_empty()
        })
        .await;
    world
        .until("the blocks are deleted", async |world| world.nodes.blocks() == 0)
        .await;
}
