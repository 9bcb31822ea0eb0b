//! Access control lists over the real service: how they are changed, what they decide, and what is made below a default one.

use strongroom_proto::{Failure, Reason, metadata::v1 as pb};

use crate::{
    fixture::{NODES, World, check},
    permissions::{GROUPS, create, own},
};

/// An entry of an ACL: `kind name rights`, with an exclamation mark if it is a default one.
fn entry(text: &str) -> pb::AclEntry {
    let (default, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
    let fields: Vec<&str> = rest.split(':').collect();
    let kind = match fields[0] {
        "user" => pb::AclKind::User,
        "group" => pb::AclKind::Group,
        "mask" => pb::AclKind::Mask,
        _ => pb::AclKind::Other,
    };
    pb::AclEntry {
        default,
        kind: kind.into(),
        name: fields[1].to_owned(),
        rights: fields[2].parse().expect("a digit"),
    }
}

fn shown(acl: &pb::Acl) -> String {
    let entries = acl.entries.iter().map(|entry| {
        let kind = ["?", "user", "group", "mask", "other"][usize::try_from(entry.kind).expect("small")];
        let default = if entry.default { "!" } else { "" };
        format!("{default}{kind}:{}:{}", entry.name, entry.rights)
    });
    entries.collect::<Vec<_>>().join(" ")
}

pub(crate) async fn set_acl(
    world: &World,
    actor: &str,
    path: &str,
    change: pb::AclChange,
    entries: &str,
) -> Result<pb::Acl, Failure> {
    let request = pb::SetAclRequest {
        path: path.to_owned().into(),
        change: change.into(),
        entries: entries.split_whitespace().map(entry).collect(),
        ..pb::SetAclRequest::default()
    };
    Ok(world.user(actor).namespace.set_acl(request).await?.into_inner())
}

#[tokio::test]
async fn acls_change_as_setfacl_changes_them() {
    use pb::AclChange::{Modify, Remove, RemoveAll, RemoveDefault, Replace};
    let world = World::with_groups(GROUPS).await;
    world.mkdir("/d").await;
    own(&world, "/d", 0o1750).await;
    for (change, entries, expected, mode) in [
        (
            Modify,
            "user:carol:7",
            "user::7 user:carol:7 group::5 mask::7 other::0",
            0o1770,
        ),
        (
            Modify,
            "mask::4",
            "user::7 user:carol:7 group::5 mask::4 other::0",
            0o1740,
        ),
        (
            Modify,
            "group:it:1",
            "user::7 user:carol:7 group::5 group:it:1 mask::7 other::0",
            0o1770,
        ),
        (
            Remove,
            "user:carol:0",
            "user::7 group::5 group:it:1 mask::5 other::0",
            0o1750,
        ),
        (
            Modify,
            "!user:bob:6",
            "user::7 group::5 group:it:1 mask::5 other::0 !user::7 !user:bob:6 !group::5 !mask::7 !other::0",
            0o1750,
        ),
        (
            Remove,
            "!user:bob:0",
            "user::7 group::5 group:it:1 mask::5 other::0 !user::7 !group::5 !other::0",
            0o1750,
        ),
        (
            RemoveDefault,
            "",
            "user::7 group::5 group:it:1 mask::5 other::0",
            0o1750,
        ),
        (
            Replace,
            "user::6 group::4 other::4",
            "user::6 group::4 other::4",
            0o1644,
        ),
        (
            Modify,
            "user:bob:7 !other::0",
            "user::6 user:bob:7 group::4 mask::7 other::4 !user::6 !group::4 !other::0",
            0o1674,
        ),
        (
            Replace,
            "user::7 group::5 other::0",
            "user::7 group::5 other::0 !user::6 !group::4 !other::0",
            0o1750,
        ),
        (
            Replace,
            "!user:carol:7",
            "user::7 group::5 other::0 !user::7 !user:carol:7 !group::5 !mask::7 !other::0",
            0o1750,
        ),
        (RemoveDefault, "", "user::7 group::5 other::0", 0o1750),
        (Modify, "mask::1", "user::7 group::5 mask::1 other::0", 0o1710),
        (RemoveAll, "", "user::7 group::5 other::0", 0o1750),
    ] {
        let acl = set_acl(&world, "alice", "/d", change, entries).await.expect(entries);
        let stat = acl.stat.clone().expect("a stat");
        assert_eq!(
            (shown(&acl).as_str(), stat.mode),
            (expected, mode),
            "{change:?} {entries}"
        );
        assert_eq!(stat.has_acl, expected.contains("mask") || expected.contains('!'));
        let path = "/d".into();
        let looked = world.user("dave").namespace.get_acl(pb::GetAclRequest { path }).await;
        assert_eq!(looked.expect("anybody who may pass").into_inner(), acl);
    }
    world.zone("/z", "payroll").await;
    world.write("/z/f", 10, &NODES).await.expect("a file");
    let names: Vec<String> = (0..33).map(|number| format!("user:u{number}:7")).collect();
    for (actor, path, change, entries, reason, word) in [
        (
            "bob",
            "/d",
            Modify,
            "user:bob:7",
            Reason::PermissionDenied,
            "user bob needs to own it",
        ),
        ("alice", "/d", Modify, "user:bob:8", Reason::InvalidArgument, "0 to 7"),
        (
            "alice",
            "/d",
            Modify,
            "user:a/b:7",
            Reason::InvalidArgument,
            "user name",
        ),
        ("alice", "/d", Modify, "mask:bob:7", Reason::InvalidArgument, "mask"),
        (
            "alice",
            "/d",
            Modify,
            "user:bob:7 user:bob:6",
            Reason::InvalidArgument,
            "at most once",
        ),
        (
            "alice",
            "/d",
            Modify,
            &names.join(" "),
            Reason::InvalidArgument,
            "at most 32",
        ),
        (
            "alice",
            "/d",
            Remove,
            "other::0",
            Reason::InvalidArgument,
            "cannot be removed",
        ),
        (
            "alice",
            "/d",
            Replace,
            "user:bob:7",
            Reason::InvalidArgument,
            "part of every ACL",
        ),
        ("alice", "/d", Modify, "", Reason::InvalidArgument, "entries"),
        ("alice", "/z/f", Modify, "!user:bob:7", Reason::NotADirectory, "/z/f"),
    ] {
        let failure = set_acl(&world, actor, path, change, entries).await.expect_err(entries);
        check(&failure, reason, &[word]);
    }
}

#[tokio::test]
async fn acls_decide_over_the_wire_and_are_inherited() {
    use pb::AclChange::Modify;
    let world = World::with_groups(GROUPS).await;
    world.zone("/z", "payroll").await;
    own(&world, "/z", 0o700).await;
    let modify = async |entries: &str| {
        set_acl(&world, "alice", "/z", Modify, entries)
            .await
            .expect("alice owns it")
    };
    let may_make = async |actor: &str| {
        let made = create(&world, actor, "/z/new", false).await;
        made.inspect_err(|failure| check(failure, Reason::PermissionDenied, &["with an ACL"]))
            .is_ok()
    };
    modify("user:carol:7 group:hr:5").await;
    assert!(may_make("carol").await && !may_make("bob").await);
    modify("mask::5").await;
    assert!(!may_make("carol").await, "the mask takes w");
    modify("user:carol:0 group:it:7 mask::7").await;
    assert!(
        !may_make("carol").await,
        "the named user's entry decides, not the group's"
    );
    modify("user:bob:7 !user:bob:7 !group:it:5").await;
    assert!(may_make("bob").await);

    let request = pb::MakeDirectoryRequest {
        path: "/z/below".into(),
        mode: 0o777,
        umask: 0o077,
        ..pb::MakeDirectoryRequest::default()
    };
    let made = world
        .user("bob")
        .namespace
        .make_directory(request)
        .await
        .expect("made")
        .into_inner();
    assert_eq!(
        (made.mode, made.has_acl),
        (0o770, true),
        "the default ACL and not the umask"
    );
    world.write("/z/file", 10, &NODES).await.expect("alice may");
    let file = world.stat("/z/file").await.expect("there");
    assert_eq!(
        (file.mode, file.has_acl),
        (0o640, true),
        "no more than its maker asked for"
    );
    for (path, expected) in [
        (
            "/z/below",
            "user::7 user:bob:7 group::0 group:it:5 mask::7 other::0 \
             !user::7 !user:bob:7 !group::0 !group:it:5 !mask::7 !other::0",
        ),
        ("/z/file", "user::6 user:bob:7 group::0 group:it:5 mask::4 other::0"),
    ] {
        let request = pb::GetAclRequest {
            path: path.to_owned().into(),
        };
        let acl = world
            .user("fsadmin")
            .namespace
            .get_acl(request)
            .await
            .expect("a superuser may");
        assert_eq!(shown(&acl.into_inner()), expected, "{path}");
    }
    let path = "/z/file";
    for (actor, may) in [("bob", true), ("carol", false), ("dave", true)] {
        let opened = world
            .user(actor)
            .files
            .open_file(pb::OpenFileRequest {
                path: path.into(),
                ..pb::OpenFileRequest::default()
            })
            .await;
        assert_eq!(opened.is_ok(), may, "{actor}");
    }
}
