//! What one user must not be able to do to others, in ways that no single check of a right shows.

use strongroom_proto::{Reason, metadata::v1 as pb};

use crate::fixture::{NODES, World, check, refused};

const GROUPS: &str = "hr = ['alice', 'bob']\n";

async fn set(world: &World, path: &str, owner: &str, mode: u32) {
    let request = pb::SetAttributesRequest {
        path: path.to_owned().into(),
        mode: Some(mode),
        owner: owner.to_owned(),
        group: "hr".to_owned(),
        ..pb::SetAttributesRequest::default()
    };
    let done = world.user("fsadmin").namespace.set_attributes(request).await;
    done.expect("a superuser may");
}

#[tokio::test]
async fn a_directory_with_the_sticky_bit_is_cleared_away_by_its_owner_alone() {
    let world = World::with_groups(GROUPS).await;
    world.zone("/z", "payroll").await;
    set(&world, "/z", "fsadmin", 0o770).await;
    world.mkdir("/z/shared").await;
    set(&world, "/z/shared", "alice", 0o1777).await;
    world.write("/z/shared/f", 10, &NODES).await.expect("alice's file");
    let request = pb::RemoveRequest {
        path: "/z/shared".into(),
        recursive: true,
        ..pb::RemoveRequest::default()
    };
    let failure = refused(world.user("bob").namespace.remove(request.clone()).await);
    check(
        &failure,
        Reason::PermissionDenied,
        &["user bob", "/z/shared", "to own it"],
    );
    world.stat("/z/shared/f").await.expect("still there");
    let removed = world.user("alice").namespace.remove(request).await;
    removed.expect("it is hers");
}

#[tokio::test]
async fn setting_nothing_is_refused() {
    let world = World::with_groups(GROUPS).await;
    let request = pb::SetAttributesRequest {
        path: "/".into(),
        ..pb::SetAttributesRequest::default()
    };
    for user in ["bob", "fsadmin"] {
        let failure = refused(world.user(user).namespace.set_attributes(request.clone()).await);
        check(&failure, Reason::InvalidArgument, &["at least one"]);
    }
}
