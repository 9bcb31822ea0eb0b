//! Extended attributes, through the gRPC face: who may, what is refused, and that they live and go with the inode.

use std::collections::BTreeMap;

use strongroom_kv::{Reader as _, Store as _};
use strongroom_proto::{Failure, Reason, metadata::v1 as pb};

use crate::fixture::{NODES, World, check};

const GROUPS: &str = "hr = ['alice', 'bob']\nsupergroup = ['dave']\n";

async fn set(world: &World, user: &str, path: &str, name: &str, value: Option<&[u8]>) -> Result<(), Failure> {
    let request = pb::SetXattrRequest {
        path: path.to_owned().into(),
        name: name.to_owned(),
        value: value.map(bytes::Bytes::copy_from_slice),
        ..pb::SetXattrRequest::default()
    };
    world.user(user).namespace.set_xattr(request).await?;
    Ok(())
}

async fn get(world: &World, user: &str, path: &str, names: &[&str]) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    let request = pb::GetXattrsRequest {
        path: path.to_owned().into(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let told = world.user(user).namespace.get_xattrs(request).await?.into_inner();
    let pairs = told.xattrs.into_iter().map(|xattr| (xattr.name, xattr.value.to_vec()));
    Ok(pairs.collect())
}

async fn own(world: &World, path: &str, mode: u32) {
    let request = pb::SetAttributesRequest {
        path: path.to_owned().into(),
        mode: Some(mode),
        owner: "alice".to_owned(),
        group: "hr".to_owned(),
        ..pb::SetAttributesRequest::default()
    };
    let set = world.user("fsadmin").namespace.set_attributes(request).await;
    set.expect("a superuser may");
}

async fn start() -> World {
    let world = World::with_groups(GROUPS).await;
    world.zone("/z", "payroll").await;
    world.mkdir("/z/d").await;
    world.write("/z/f", 10, &NODES).await.expect("a file");
    world
}

#[tokio::test]
async fn attributes_are_set_read_and_removed() {
    let world = start().await;
    for path in ["/z/f", "/z/d", "/"] {
        assert!(get(&world, "alice", path, &[]).await.expect("none").is_empty());
        set(&world, "fsadmin", path, "user.a", Some(b"1")).await.expect("set");
        set(&world, "fsadmin", path, "user.b", Some(&[0, 255]))
            .await
            .expect("set");
        set(&world, "fsadmin", path, "user.a", Some(b""))
            .await
            .expect("set anew");
        let all = get(&world, "alice", path, &[]).await.expect("both");
        assert_eq!(
            all,
            BTreeMap::from([("user.a".to_owned(), vec![]), ("user.b".to_owned(), vec![0, 255])])
        );
        let one = get(&world, "alice", path, &["user.b"]).await.expect("one");
        assert_eq!(one.keys().collect::<Vec<_>>(), ["user.b"]);
        for outcome in [
            get(&world, "alice", path, &["user.b", "user.c"]).await.map(drop),
            set(&world, "fsadmin", path, "user.c", None).await,
        ] {
            let failure = outcome.expect_err("there is none");
            check(
                &failure,
                Reason::NotFound,
                &[path, "no attribute user.c", "fs getfattr"],
            );
        }
        set(&world, "fsadmin", path, "user.a", None).await.expect("removed");
        assert_eq!(get(&world, "alice", path, &[]).await.expect("one").len(), 1);
        set(&world, "fsadmin", path, "user.b", None).await.expect("removed");
        assert!(get(&world, "alice", path, &[]).await.expect("none").is_empty());
    }
}

#[tokio::test]
async fn attributes_take_the_rights_to_read_and_to_write() {
    let world = start().await;
    for (path, mode, who, reads, writes) in [
        ("/z/f", 0o640, "alice", true, true),
        ("/z/f", 0o640, "bob", true, false),
        ("/z/f", 0o640, "carol", false, false),
        ("/z/f", 0o640, "dave", true, true),
        ("/z/f", 0o062, "bob", true, true),
        ("/z/f", 0o062, "carol", false, true),
        ("/z/f", 0o062, "alice", false, false),
        ("/z/d", 0o777, "carol", true, true),
        ("/z/d", 0o1777, "carol", true, false),
        ("/z/d", 0o1777, "alice", true, true),
        ("/z/d", 0o1777, "dave", true, true),
    ] {
        own(&world, path, 0o777).await;
        _ = set(&world, "fsadmin", path, "user.new", None).await;
        set(&world, "fsadmin", path, "user.kept", Some(b"1"))
            .await
            .expect("a superuser may");
        own(&world, path, mode).await;
        for (outcome, may) in [
            (get(&world, who, path, &["user.kept"]).await.map(drop), reads),
            (set(&world, who, path, "user.new", Some(b"1")).await, writes),
            (set(&world, who, path, "user.kept", None).await, writes),
        ] {
            match outcome {
                Ok(()) => assert!(may, "{who} {path} {mode:o}"),
                Err(failure) => {
                    assert!(!may, "{who} {path} {mode:o}");
                    check(&failure, Reason::PermissionDenied, &[&format!("user {who}"), path]);
                }
            }
        }
        let left = get(&world, "fsadmin", path, &[]).await.expect("a superuser may");
        assert_eq!(
            (left.contains_key("user.new"), left.contains_key("user.kept")),
            (writes, !writes)
        );
    }
    own(&world, "/z", 0o700).await;
    own(&world, "/z/f", 0o777).await;
    let hidden = get(&world, "bob", "/z/f", &[]).await.expect_err("he may not pass");
    check(&hidden, Reason::PermissionDenied, &["x on /z"]);
}

#[tokio::test]
async fn other_namespaces_are_refused_with_the_way_out() {
    let world = start().await;
    for (name, words) in [
        ("trusted.a", ["namespace user.", "user.NAME"]),
        ("security.capability", ["namespace user.", "user.NAME"]),
        ("system.posix_acl_access", ["namespace user.", "user.NAME"]),
        ("plain", ["namespace user.", "user.NAME"]),
        ("user.", ["namespace user.", "user.NAME"]),
        ("raw.hdfs.crypto.encryption.zone", ["raw view only", "fs --raw stat"]),
    ] {
        let failure = set(&world, "fsadmin", "/z/f", name, Some(b"1")).await.expect_err(name);
        check(&failure, Reason::InvalidArgument, &words);
        let failure = get(&world, "fsadmin", "/z/f", &[name]).await.expect_err(name);
        check(&failure, Reason::InvalidArgument, &words);
    }
}

#[tokio::test]
async fn attributes_follow_the_inode_and_go_with_it() {
    let mut world = start().await;
    world.mkdir("/z/d/e").await;
    world.write("/z/d/f", 10, &NODES).await.expect("a file");
    world.write("/z/g", 10, &NODES).await.expect("a file");
    for path in ["/z/f", "/z/g", "/z/d", "/z/d/e", "/z/d/f"] {
        set(&world, "alice", path, "user.at", Some(path.as_bytes()))
            .await
            .expect("set");
    }
    world.rename("/z/f", "/z/moved", false).await.expect("moved");
    world.rename("/z/d", "/z/away", false).await.expect("moved");
    for (path, was) in [
        ("/z/moved", "/z/f"),
        ("/z/away", "/z/d"),
        ("/z/away/e", "/z/d/e"),
        ("/z/away/f", "/z/d/f"),
    ] {
        assert_eq!(
            get(&world, "alice", path, &[]).await.expect("kept")["user.at"],
            was.as_bytes()
        );
    }
    world
        .write("/z/g", 10, &NODES)
        .await
        .expect("another file in its place");
    assert!(get(&world, "alice", "/z/g", &[]).await.expect("none").is_empty());
    world.rename("/z/moved", "/z/g", true).await.expect("over it");
    world.remove("/z/g", false).await.expect("removed");
    world.remove("/z/away", true).await.expect("removed");
    world
        .until("the removal is over", async |world| {
            let mut jobs = world.user("fsadmin").jobs;
            let unfinished = jobs.list_jobs(pb::ListJobsRequest {
                unfinished: true,
                ..pb::ListJobsRequest::default()
            });
            unfinished.await.expect("jobs").into_inner().jobs.is_empty()
        })
        .await;
    world.stop().await;
    let store = world.open_store().await;
    let mut view = store.snapshot().await.expect("a view");
    assert_eq!(view.range(b"u", b"v", 10).await.expect("a range"), []);
}
