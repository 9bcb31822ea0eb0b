//! Who may do what, over the real service: the table of operations against an oracle that knows nothing of the service's code.

use strongroom_proto::{Failure, Reason, RequestId, metadata::v1 as pb};

use crate::{
    acls::set_acl,
    fixture::{NODES, World, check, files::commit_request, refused},
};

/// alice owns what is asked about, bob is in its group, carol is not; dave is a superuser by a group.
pub(crate) const GROUPS: &str = "hr = ['alice', 'bob']\nit = ['carol']\nsupergroup = ['dave']\n";
const ACTORS: [&str; 4] = ["alice", "bob", "carol", "dave"];
const FILE_MODE: u32 = 0o640;

/// The bits that a user has on what belongs to alice and hr.
fn bits(actor: &str, mode: u32) -> u32 {
    match actor {
        "alice" => mode >> 6 & 7,
        "bob" => mode >> 3 & 7,
        "carol" => mode & 7,
        _ => 7,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Stat,
    List,
    Read,
    Reopen,
    Rewrite,
    Create,
    Overwrite,
    MakeDirectory,
    Remove,
    RenameOut,
    RenameOver,
    SetMode,
    SetTime,
    SetGroup,
    SetForeignGroup,
    SetOwner,
}

const OPERATIONS: [Operation; 16] = [
    Operation::Stat,
    Operation::List,
    Operation::Read,
    Operation::Reopen,
    Operation::Rewrite,
    Operation::Create,
    Operation::Overwrite,
    Operation::MakeDirectory,
    Operation::Remove,
    Operation::RenameOut,
    Operation::RenameOver,
    Operation::SetMode,
    Operation::SetTime,
    Operation::SetGroup,
    Operation::SetForeignGroup,
    Operation::SetOwner,
];

/// Whether `actor` may, in a directory of alice and hr with that mode, where all belongs to alice.
fn expected(operation: Operation, actor: &str, mode: u32) -> bool {
    let (directory, file) = (bits(actor, mode), bits(actor, FILE_MODE));
    let passes = directory & 1 == 1;
    let changes = directory & 3 == 3;
    let takes = changes && (mode & 0o1000 == 0 || ["alice", "dave"].contains(&actor));
    match operation {
        Operation::Stat => passes,
        Operation::List => directory & 5 == 5,
        Operation::Read => passes && file & 4 == 4,
        Operation::Reopen | Operation::Rewrite => passes && file & 6 == 6,
        Operation::Create | Operation::MakeDirectory => changes,
        Operation::Overwrite => takes && file & 2 == 2,
        Operation::Remove | Operation::RenameOut | Operation::RenameOver => takes,
        Operation::SetMode | Operation::SetGroup => passes && ["alice", "dave"].contains(&actor),
        Operation::SetTime => passes && (actor == "alice" || file & 2 == 2),
        Operation::SetForeignGroup | Operation::SetOwner => passes && actor == "dave",
    }
}

#[tokio::test]
async fn every_operation_asks_for_its_permissions() {
    let world = World::with_groups(GROUPS).await;
    world.zone("/z", "payroll").await;
    world.open_to_all("/z").await;
    world.mkdir("/z/out").await;
    world.open_to_all("/z/out").await;
    let modes = [
        0o700, 0o750, 0o070, 0o007, 0o770, 0o711, 0o744, 0o733, 0o777, 0o1777, 0o1770, 0o000,
    ];
    for mode in modes {
        let directory = format!("/z/m{mode:o}");
        world.mkdir(&directory).await;
        world
            .write(&format!("{directory}/f"), 10, &NODES)
            .await
            .expect("a file");
        own(&world, &format!("{directory}/f"), FILE_MODE).await;
        own(&world, &directory, mode).await;
        for (actor, operation) in ACTORS.into_iter().flat_map(|actor| OPERATIONS.map(|o| (actor, o))) {
            let outcome = attempt(&world, operation, actor, &directory).await;
            let case = format!("{operation:?} by {actor} under mode {mode:04o}");
            match (outcome, expected(operation, actor, mode)) {
                (Ok(()), true) => {}
                (Err(failure), false) => {
                    check(
                        &failure,
                        Reason::PermissionDenied,
                        &[&format!("user {actor}"), &directory],
                    );
                }
                (outcome, expected) => panic!("{case}: expected {expected}, got {outcome:?}"),
            }
        }
    }
}

/// Gives something to alice and hr.
pub(crate) async fn own(world: &World, path: &str, mode: u32) {
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

/// Makes a directory that belongs to alice in one where that is not everybody's right.
async fn prepared(world: &World, path: &str) {
    make(world, "fsadmin", path).await.expect("a superuser may");
    own(world, path, 0o755).await;
}

async fn attempt(world: &World, operation: Operation, actor: &str, directory: &str) -> Result<(), Failure> {
    let file = format!("{directory}/f");
    match operation {
        Operation::Stat => {
            let path = file.into();
            let stat = world.user(actor).namespace.get_stat(pb::GetStatRequest { path }).await;
            stat.map(drop).map_err(Failure::from)
        }
        Operation::List => {
            let request = pb::ListRequest {
                path: directory.to_owned().into(),
                ..pb::ListRequest::default()
            };
            world
                .user(actor)
                .namespace
                .list(request)
                .await
                .map(drop)
                .map_err(Failure::from)
        }
        Operation::Read => {
            let path = file.into();
            let opened = world
                .user(actor)
                .files
                .open_file(pb::OpenFileRequest {
                    path,
                    ..pb::OpenFileRequest::default()
                })
                .await;
            opened.map(drop).map_err(Failure::from)
        }
        Operation::Reopen => reopen(world, actor, &file).await,
        Operation::Rewrite => rewrite(world, actor, &file).await,
        Operation::Create => create(world, actor, &format!("{directory}/new"), false).await,
        Operation::Overwrite => create(world, actor, &file, true).await,
        Operation::MakeDirectory => {
            let path = format!("{directory}/made");
            make(world, actor, &path).await?;
            remove(world, "fsadmin", &path).await
        }
        Operation::Remove => {
            let path = format!("{directory}/d");
            prepared(world, &path).await;
            let outcome = remove(world, actor, &path).await;
            _ = remove(world, "fsadmin", &path).await;
            outcome
        }
        Operation::RenameOut => {
            let (path, to) = (format!("{directory}/d"), "/z/out/d".to_owned());
            prepared(world, &path).await;
            let outcome = rename(world, actor, &path, &to).await;
            for path in [&path, &to] {
                _ = remove(world, "fsadmin", path).await;
            }
            outcome
        }
        Operation::RenameOver => {
            let (from, path) = ("/z/out/e".to_owned(), format!("{directory}/d"));
            prepared(world, &path).await;
            prepared(world, &from).await;
            let outcome = rename(world, actor, &from, &path).await;
            for path in [&path, &from] {
                _ = remove(world, "fsadmin", path).await;
            }
            outcome
        }
        Operation::SetMode => {
            let changed = |stat: &pb::Stat| stat.mode == 0o604;
            changed_or_not(world, actor, &file, |wanted| wanted.mode = Some(0o604), changed).await
        }
        Operation::SetTime => {
            let time_ms = 5 + u64::from(world.stat_as("fsadmin", &file).await.mtime_ms == 5);
            let changed = |stat: &pb::Stat| stat.mtime_ms == time_ms;
            changed_or_not(world, actor, &file, |wanted| wanted.mtime_ms = Some(time_ms), changed).await
        }
        Operation::SetGroup => {
            set(world, "fsadmin", &file, |wanted| wanted.group = "law".to_owned())
                .await
                .expect("a superuser may");
            let changed = |stat: &pb::Stat| stat.group == "hr";
            changed_or_not(world, actor, &file, |wanted| wanted.group = "hr".to_owned(), changed).await
        }
        Operation::SetForeignGroup => {
            let changed = |stat: &pb::Stat| stat.group == "it";
            changed_or_not(world, actor, &file, |wanted| wanted.group = "it".to_owned(), changed).await
        }
        Operation::SetOwner => {
            let changed = |stat: &pb::Stat| stat.owner == "carol";
            changed_or_not(world, actor, &file, |wanted| wanted.owner = "carol".to_owned(), changed).await
        }
    }
}

/// Sets attributes of a file, sees to it that they are changed if that was allowed and else as they were, and puts them back.
async fn changed_or_not(
    world: &World,
    actor: &str,
    file: &str,
    change: impl FnOnce(&mut pb::SetAttributesRequest),
    changed: impl Fn(&pb::Stat) -> bool,
) -> Result<(), Failure> {
    let outcome = set(world, actor, file, change).await;
    let stat = world.stat_as("fsadmin", file).await;
    assert_eq!(changed(&stat), outcome.is_ok(), "{stat:?}");
    own(world, file, FILE_MODE).await;
    outcome
}

pub(crate) async fn create(world: &World, actor: &str, path: &str, overwrite: bool) -> Result<(), Failure> {
    let request = pb::CreateFileRequest {
        path: path.to_owned().into(),
        mode: 0o644,
        overwrite,
        ..pb::CreateFileRequest::default()
    };
    let created = world.user(actor).files.create_file(request).await?.into_inner();
    abandon(world, actor, created.grant.expect("a grant")).await
}

async fn reopen(world: &World, actor: &str, path: &str) -> Result<(), Failure> {
    let request = pb::ReopenFileRequest {
        path: path.to_owned().into(),
        ..pb::ReopenFileRequest::default()
    };
    let reopened = world.user(actor).files.reopen_file(request).await?.into_inner();
    abandon(world, actor, reopened.grant.expect("a grant")).await
}

async fn rewrite(world: &World, actor: &str, path: &str) -> Result<(), Failure> {
    let request = pb::RewriteFileRequest {
        path: path.to_owned().into(),
        ..pb::RewriteFileRequest::default()
    };
    let begun = world.user(actor).files.rewrite_file(request).await?.into_inner();
    abandon(world, actor, begun.body.and_then(|body| body.grant).expect("a grant")).await
}

async fn abandon(world: &World, actor: &str, grant: pb::WriteGrant) -> Result<(), Failure> {
    let request = pb::AbandonFileRequest {
        file_id: grant.file_id,
        extent_id: grant.extent_id,
    };
    world.user(actor).files.abandon_file(request).await?;
    Ok(())
}

async fn make(world: &World, actor: &str, path: &str) -> Result<(), Failure> {
    let request = pb::MakeDirectoryRequest {
        path: path.to_owned().into(),
        mode: 0o777,
        umask: 0o022,
        ..pb::MakeDirectoryRequest::default()
    };
    let made = world.user(actor).namespace.make_directory(request).await?.into_inner();
    assert_eq!(
        (made.owner.as_str(), made.mode),
        (actor, 0o755),
        "its maker's, without the umask"
    );
    Ok(())
}

async fn remove(world: &World, actor: &str, path: &str) -> Result<(), Failure> {
    let request = pb::RemoveRequest {
        path: path.to_owned().into(),
        recursive: true,
        ..pb::RemoveRequest::default()
    };
    world.user(actor).namespace.remove(request).await?;
    Ok(())
}

async fn rename(world: &World, actor: &str, from: &str, to: &str) -> Result<(), Failure> {
    let request = pb::RenameRequest {
        from: from.to_owned().into(),
        to: to.to_owned().into(),
        overwrite: true,
        ..pb::RenameRequest::default()
    };
    world.user(actor).namespace.rename(request).await?;
    Ok(())
}

async fn set(
    world: &World,
    actor: &str,
    path: &str,
    change: impl FnOnce(&mut pb::SetAttributesRequest),
) -> Result<(), Failure> {
    let mut request = pb::SetAttributesRequest {
        path: path.to_owned().into(),
        ..pb::SetAttributesRequest::default()
    };
    change(&mut request);
    world.user(actor).namespace.set_attributes(request).await?;
    Ok(())
}

#[tokio::test]
async fn a_refusal_names_the_user_the_path_the_right_and_where_it_is_missing() {
    let world = World::with_groups(GROUPS).await;
    world.mkdir("/a/b/c").await;
    own(&world, "/a", 0o750).await;
    for (actor, path) in [("carol", "/a/b/c"), ("carol", "/a/none")] {
        let path = path.to_owned().into();
        let stat = world.user(actor).namespace.get_stat(pb::GetStatRequest { path }).await;
        let words = [
            "user carol needs x on /a (owner alice, group hr, mode 0750)",
            "fs chmod",
        ];
        check(&refused(stat), Reason::PermissionDenied, &words);
    }
    let failure = make(&world, "bob", "/a/new").await.expect_err("no w");
    check(
        &failure,
        Reason::PermissionDenied,
        &["denied for /a/new: user bob needs wx on /a"],
    );
    let zone = refused(world.create_zone("/.reserved/z", "payroll").await);
    check(&zone, Reason::PermissionDenied, &["/.reserved/z is reserved"]);
    let failure = make(&world, "alice", "/.reserved").await.expect_err("the service's");
    check(&failure, Reason::PermissionDenied, &["/.reserved is reserved"]);
}

#[tokio::test]
async fn what_is_removed_with_its_content_must_be_the_callers_to_empty() {
    let world = World::with_groups(GROUPS).await;
    world.mkdir("/open").await;
    world.open_to_all("/open").await;
    make(&world, "bob", "/open/bobs").await.expect("made");
    remove(&world, "carol", "/open/bobs").await.expect("it is empty");
    make(&world, "bob", "/open/bobs").await.expect("made");
    make(&world, "bob", "/open/bobs/more").await.expect("made");
    let failure = remove(&world, "carol", "/open/bobs").await.expect_err("it is bob's");
    check(
        &failure,
        Reason::PermissionDenied,
        &["user carol needs rwx on /open/bobs"],
    );
    remove(&world, "bob", "/open/bobs").await.expect("it is bob's");
}

#[tokio::test]
async fn what_is_replaced_is_asked_for_again_when_the_file_is_committed() {
    let world = World::with_groups(GROUPS).await;
    world.zone("/z", "payroll").await;
    for (change, words) in [
        (("/z", 0o1777), "needs to own it or /z/f, as the sticky bit"),
        (("/z/f", 0o644), "user bob needs w on /z/f"),
    ] {
        _ = remove(&world, "fsadmin", "/z/f").await;
        world.write("/z/f", 10, &NODES).await.expect("a file");
        own(&world, "/z/f", 0o666).await;
        own(&world, "/z", 0o777).await;
        let before = world.stat("/z/f").await.expect("there");
        let request = pb::CreateFileRequest {
            path: "/z/f".into(),
            mode: 0o644,
            overwrite: true,
            ..pb::CreateFileRequest::default()
        };
        let mut bob = world.user("bob").files;
        let open = bob.create_file(request).await.expect("he may").into_inner();
        let commit = commit_request(&open.grant.expect("a grant"), 0, &[]);
        own(&world, change.0, change.1).await;
        let refusal = refused(bob.commit_file(commit.clone()).await);
        check(&refusal, Reason::PermissionDenied, &[words]);
        assert_eq!(world.stat("/z/f").await.expect("still there").file_id, before.file_id);
        own(&world, "/z/f", 0o666).await;
        own(&world, "/z", 0o777).await;
        bob.commit_file(commit).await.expect("he may again");
        let after = world.stat("/z/f").await.expect("replaced");
        assert_eq!((after.owner.as_str(), after.length), ("bob", 0));
    }
}

#[tokio::test]
async fn what_was_answered_is_not_answered_again_after_the_right_went() {
    let world = World::with_groups(GROUPS).await;
    world.zone("/z", "payroll").await;
    world.write("/z/f", 10, &NODES).await.expect("a file");
    own(&world, "/z/f", 0o660).await;
    let mut bob = world.user("bob").files;
    let request = pb::ReopenFileRequest {
        path: "/z/f".into(),
        request_id: RequestId::generate().into(),
    };
    let opened = bob.reopen_file(request.clone()).await.expect("he may").into_inner();
    let again = bob.reopen_file(request.clone()).await.expect("a repeat").into_inner();
    let extent = |opened: &pb::ReopenedFile| opened.grant.as_ref().expect("a grant").extent_id.clone();
    assert_eq!(extent(&opened), extent(&again));
    let grant = opened.grant.expect("a grant");
    let more = pb::AddBlocksRequest {
        file_id: grant.file_id.clone(),
        extent_id: grant.extent_id.clone(),
        first_index: 0,
        blocks: Vec::new(),
    };
    bob.add_blocks(more.clone()).await.expect("he may");
    for (path, mode) in [("/z/f", 0o600), ("/z", 0o700)] {
        own(&world, path, mode).await;
        let words = ["user bob", path];
        check(
            &refused(bob.reopen_file(request.clone()).await),
            Reason::PermissionDenied,
            &words,
        );
        check(
            &refused(bob.add_blocks(more.clone()).await),
            Reason::PermissionDenied,
            &words,
        );
        own(&world, "/z/f", 0o660).await;
    }
}

/// A capability for blocks that nobody would ever delete.
#[tokio::test]
async fn what_was_given_up_is_not_granted_again() {
    let world = World::with_groups(GROUPS).await;
    world.zone("/z", "payroll").await;
    let mut alice = world.user("alice").files;
    let request = pb::CreateFileRequest {
        path: "/z/new".into(),
        mode: 0o644,
        request_id: RequestId::generate().into(),
        ..pb::CreateFileRequest::default()
    };
    let created = alice.create_file(request.clone()).await.expect("made").into_inner();
    let grant = created.grant.expect("a grant");
    alice.create_file(request.clone()).await.expect("a repeat");
    abandon(&world, "alice", grant).await.expect("given up");
    check(
        &refused(alice.create_file(request).await),
        Reason::LeaseLost,
        &["abandoned"],
    );

    let open = world
        .create("/z/new", false)
        .await
        .expect("made")
        .grant
        .expect("a grant");
    let commit = pb::CommitFileRequest {
        go_on: true,
        request_id: RequestId::generate().into(),
        ..commit_request(&open, 0, &[])
    };
    let flushed = alice.commit_file(commit.clone()).await.expect("flushed").into_inner();
    let repeat = alice.commit_file(commit.clone()).await.expect("a repeat").into_inner();
    assert_eq!(repeat.grant.is_some(), flushed.grant.is_some());
    abandon(&world, "alice", flushed.grant.expect("another grant"))
        .await
        .expect("given up");
    let repeat = alice
        .commit_file(commit)
        .await
        .expect("it was carried out")
        .into_inner();
    assert_eq!((repeat.stat, repeat.grant), (flushed.stat, None));
}

#[tokio::test]
async fn directories_on_the_way_to_one_that_is_made_let_their_maker_go_on() {
    let world = World::with_groups(GROUPS).await;
    make(&world, "alice", "/a").await.expect("made");
    let made = async |path: &str, mode: u32, umask: u32| {
        let request = pb::MakeDirectoryRequest {
            path: path.to_owned().into(),
            mode,
            umask,
            parents: true,
            ..pb::MakeDirectoryRequest::default()
        };
        let made = world.user("alice").namespace.make_directory(request).await;
        made.map(|stat| stat.into_inner().mode)
    };
    for (path, mode, umask, last, above) in [
        ("/a/1/2/3", 0o444, 0o022, 0o444, 0o755),
        ("/a/4/5", 0o777, 0o777, 0o000, 0o300),
        ("/a/6/7", 0o1777, 0o022, 0o1755, 0o755),
    ] {
        assert_eq!(made(path, mode, umask).await.expect("made"), last, "{path}");
        let parent = path.rsplit_once('/').expect("a path").0;
        assert_eq!(world.stat_as("fsadmin", parent).await.mode, above, "{parent}");
    }
    let default = "!user::4 !group::5 !other::0";
    set_acl(&world, "alice", "/a", pb::AclChange::Modify, default)
        .await
        .expect("it is hers");
    assert_eq!(made("/a/8/9", 0o777, 0o022).await.expect("made"), 0o450);
    assert_eq!(world.stat_as("fsadmin", "/a/8").await.mode, 0o750);
}

#[tokio::test]
async fn a_file_takes_group_and_owner_and_is_checked_again_when_it_is_committed() {
    let world = World::with_groups(GROUPS).await;
    world.zone("/z", "payroll").await;
    own(&world, "/z", 0o755).await;
    world.write("/z/f", 10, &NODES).await.expect("written");
    let stat = world.stat("/z/f").await.expect("there");
    assert_eq!(
        (stat.owner.as_str(), stat.group.as_str(), stat.mode),
        ("alice", "hr", 0o644)
    );

    let open = world
        .create("/z/late", false)
        .await
        .expect("created")
        .grant
        .expect("a grant");
    own(&world, "/z", 0o555).await;
    let failure = world
        .commit(commit_request(&open, 0, &[]))
        .await
        .expect_err("no w any more");
    check(
        &failure,
        Reason::PermissionDenied,
        &["denied for /z/late: user alice needs wx on /z"],
    );
    own(&world, "/z", 0o755).await;
    world
        .commit(commit_request(&open, 0, &[]))
        .await
        .expect("it was only refused");

    let opened = world.read("/z/f").await.expect("it opens");
    let further = pb::ListBlocksRequest {
        file_id: opened.stat.expect("a stat").file_id,
        extent_id: opened.extents[0].extent_id.clone(),
        first_index: 0,
    };
    let mut bob = world.user("bob").files;
    bob.list_blocks(further.clone()).await.expect("the group may read");
    for (closed, mode, open) in [("/z/f", 0o600, 0o644), ("/z", 0o700, 0o755)] {
        own(&world, closed, mode).await;
        let refusal = refused(bob.list_blocks(further.clone()).await);
        check(&refusal, Reason::PermissionDenied, &["user bob", "any more"]);
        own(&world, closed, open).await;
    }
    bob.list_blocks(further).await.expect("the group may read again");
}

#[tokio::test]
async fn a_change_of_the_groups_file_is_taken_up() {
    let world = World::with_groups(GROUPS).await;
    world.mkdir("/a").await;
    own(&world, "/a", 0o770).await;
    make(&world, "carol", "/a/carols").await.expect_err("not in hr");
    let path = world.groups.as_ref().expect("a file");
    std::fs::write(path, "hr = ['carol']\n").expect("written");
    world
        .until("carol is in hr", async |world| {
            make(world, "carol", "/a/carols").await.is_ok()
        })
        .await;
    make(&world, "bob", "/a/bobs").await.expect_err("not in hr any more");
}

#[tokio::test]
async fn zones_are_handed_over_and_listed_to_those_who_may_reach_them() {
    let world = World::with_groups(GROUPS).await;
    world.mkdir("/hidden").await;
    make(&world, "fsadmin", "/hidden/z").await.expect("a superuser may");
    let request = pb::CreateZoneRequest {
        path: "/hidden/z".into(),
        key_name: "payroll".to_owned(),
        owner: "carol".to_owned(),
        group: "it".to_owned(),
        ..pb::CreateZoneRequest::default()
    };
    let refusal = refused(world.user("carol").zones.create_zone(request.clone()).await);
    check(&refusal, Reason::PermissionDenied, &["user carol", "superusers"]);
    world
        .user("dave")
        .zones
        .create_zone(request)
        .await
        .expect("a superuser by group");
    let stat = world.stat("/hidden/z").await.expect("there");
    assert_eq!(
        (stat.owner.as_str(), stat.group.as_str(), stat.zone_root),
        ("carol", "it", true)
    );
    create(&world, "carol", "/hidden/z/f", false)
        .await
        .expect("it is carol's");
    own(&world, "/hidden", 0o700).await;
    for (actor, zones) in [("alice", 1), ("bob", 0), ("carol", 0), ("fsadmin", 1)] {
        let listed = world
            .user(actor)
            .zones
            .list_zones(pb::ListZonesRequest::default())
            .await;
        assert_eq!(listed.expect("zones").into_inner().zones.len(), zones, "{actor}");
    }
}
