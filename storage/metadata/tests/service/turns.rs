//! Jobs that get nowhere do not keep others from being worked on.

use strongroom_proto::{Failure, Reason, metadata::v1 as pb};

use crate::fixture::{NODES, World};

async fn reencrypt(world: &World, zone: &str) {
    let path = zone.to_owned().into();
    let request = pb::StartReencryptionRequest { path, throttle: None };
    let started = world.user("fsadmin").zones.start_reencryption(request).await;
    started.expect("started");
}

async fn status(world: &World, zone: &str) -> pb::Reencryption {
    let path = zone.to_owned().into();
    let request = pb::GetReencryptionRequest { path };
    let status = world.user("alice").zones.get_reencryption(request).await;
    status.expect("a status").into_inner()
}

#[tokio::test]
async fn re_encryptions_on_a_key_that_is_away_leave_room_for_one_on_another() {
    let world = World::start().await;
    let slow = ["/a", "/b", "/c", "/d", "/e"];
    for zone in slow {
        world.zone(zone, "payroll").await;
        for number in 0..3 {
            world
                .write(&format!("{zone}/f{number}"), 10, &NODES)
                .await
                .expect("a file");
        }
    }
    world.zone("/other", "other").await;
    world.write("/other/f", 10, &NODES).await.expect("a file");
    for key in ["payroll", "other"] {
        world.kms.roll(key);
    }
    let gate = world.kms.rewraps.available_permits();
    world.kms.rewraps.forget_permits(gate);
    for zone in slow {
        reencrypt(&world, zone).await;
    }
    // Their key is away from now on, and they wait for it.
    world
        .kms
        .break_key("payroll", Failure::new(Reason::TokenUnavailable, "the key is away"));
    world.kms.rewraps.add_permits(gate);
    reencrypt(&world, "/other").await;
    world
        .until("the one on another key is done", async |world| {
            status(world, "/other").await.state() == pb::ReencryptionState::Completed
        })
        .await;
    for zone in slow {
        let status = status(&world, zone).await;
        assert_eq!(
            (status.state(), status.files_done),
            (pb::ReencryptionState::Running, 0),
            "{zone}"
        );
    }
}
