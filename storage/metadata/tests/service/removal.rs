//! Removing for good what somebody else may have a part in.

use strongroom_kv::StoreConfig;
use strongroom_proto::{Failure, Reason, RequestId, metadata::v1 as pb};

use crate::fixture::{World, check, quick};

fn for_good(path: &str) -> pb::RemoveRequest {
    pb::RemoveRequest {
        path: path.to_owned().into(),
        recursive: true,
        request_id: RequestId::generate().into(),
        ..pb::RemoveRequest::default()
    }
}

async fn by_alice(world: &World, request: &pb::RemoveRequest) -> Result<pb::RemoveResponse, Failure> {
    let removed = world.user("alice").namespace.remove(request.clone()).await;
    Ok(removed?.into_inner())
}

#[tokio::test]
async fn a_large_tree_is_looked_through_before_it_is_removed() {
    // A database that has much else to do may take longer to list so many directories than they are looked through for.
    let mut world = World::with_store(quick(), StoreConfig::default()).await;
    world.zone("/z", "payroll").await;
    world.mkdir("/z/d").await;
    // More than are looked through in the transaction.
    world.fill("/z/d", 1100).await;
    world.open_to_all("/z/d/000700").await;
    world.mkdir_as("bob", "/z/d/000700/private", 0o700).await;
    world.mkdir_as("bob", "/z/d/000700/private/x", 0o755).await;
    let failure = by_alice(&world, &for_good("/z/d"))
        .await
        .expect_err("it is closed to her");
    let words = ["user alice needs rwx on /z/d/000700/private (owner bob"];
    check(&failure, Reason::PermissionDenied, &words);
    assert!(world.is_there("/z/d/000700/private/x").await);
    let open = pb::SetAttributesRequest {
        path: "/z/d/000700/private".into(),
        mode: Some(0o777),
        ..pb::SetAttributesRequest::default()
    };
    world.user("bob").namespace.set_attributes(open).await.expect("his");
    let removed = by_alice(&world, &for_good("/z/d")).await.expect("it is open to her");
    assert!(!removed.job_id.is_empty() && !world.is_there("/z/d").await);
}

#[tokio::test]
async fn a_repeat_of_a_removal_is_answered_whatever_is_there_now() {
    let world = World::start().await;
    world.zone("/z", "payroll").await;
    world.open_to_all("/z").await;
    world.mkdir("/z/d/e").await;
    let request = for_good("/z/d");
    let first = by_alice(&world, &request).await.expect("it is hers");
    // Somebody else makes a directory there that she may not remove.
    world.mkdir_as("bob", "/z/d", 0o777).await;
    world.mkdir_as("bob", "/z/d/private", 0o700).await;
    world.mkdir_as("bob", "/z/d/private/x", 0o755).await;
    let again = by_alice(&world, &request).await.expect("it was carried out");
    assert_eq!(first, again);
    assert!(world.is_there("/z/d/private/x").await);
    let anew = by_alice(&world, &for_good("/z/d")).await.expect_err("it is bob's");
    check(&anew, Reason::PermissionDenied, &["/z/d/private (owner bob"]);
}
