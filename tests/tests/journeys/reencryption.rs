//! A zone re-encrypted while whatever takes part in it is killed and started again: it goes on by itself, and leaves nothing out.

use std::time::Duration;

use rustix::process::Signal;
use strongroom_fs::{JobAction, Reencryption, ReencryptionState, ZoneFs};
use strongroom_tests::{KmsSite, MetadataSite, RoleProcess, roll_key, until_async};

use crate::{
    cluster::Cluster,
    metadata_instances::{make_zone, path, read, serving, write},
};

const LIMIT: Duration = Duration::from_secs(90);
const FILES: usize = 60;
/// Files a second: so few that some are left after the last kill.
const THROTTLE: u32 = 1;

fn file(number: usize) -> String {
    format!("/z/{number}")
}

/// How far it is, once somebody says so.
async fn status(fs: &ZoneFs) -> Reencryption {
    let zone = path("/z");
    until_async("a metadata service says how far it is", LIMIT, || async {
        fs.reencryption(&zone).await.ok()
    })
    .await
}

/// Waits until some more files are done, and sees that it is not at its end for that.
async fn gets_on(fs: &ZoneFs, after: &str) {
    let before = status(fs).await.files_done;
    let now = until_async(&format!("it gets on after {after}"), LIMIT, || async {
        let now = status(fs).await;
        (now.files_done > before).then_some(now)
    })
    .await;
    assert_eq!(now.state, ReencryptionState::Running, "after {after}: {now:?}");
    assert!(now.files_left > 0, "too few files to show anything: {now:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reencryption_survives_the_restart_of_anything() {
    let mut database = Cluster::start();
    let keys = KmsSite::new(database.fresh_url());
    let mut kms = keys.start("kms");
    let site = MetadataSite::new(&keys, &kms, database.fresh_url(), 2);
    let mut services: Vec<RoleProcess> = [0, 1].map(|number| site.start(number)).into();
    let _nodes = site.start_nodes();
    let (admin, alice) = (site.fs("fsadmin", 0), site.fs("alice", 1));
    serving(&admin).await;
    serving(&alice).await;
    make_zone(&kms, &admin).await;
    for number in 0..FILES {
        write(&alice, &file(number)).await.expect("written");
    }
    roll_key(kms.channel("user/keyadmin"), "payroll").await.expect("rolled");
    let started = admin.start_reencryption(&path("/z"), Some(THROTTLE)).await;
    let job = started.expect("started").job_id.expect("a job");

    gets_on(&admin, "its start").await;
    // One of the two works on it, and the other takes over.
    for number in [0, 1] {
        services[number].signal(Signal::KILL);
        services[number] = site.start(number);
        gets_on(&admin, &format!("the end of metadata service {number}")).await;
    }
    kms.crash();
    gets_on(&admin, "the end of the key service").await;
    database.kill();
    database.restart();
    gets_on(&admin, "the end of the database").await;

    let unbound = JobAction::Resume { throttle: Some(0) };
    admin.control_job(job, unbound).await.expect("without a throttle");
    let done = until_async("it is done", LIMIT, || async {
        let now = status(&admin).await;
        (now.state != ReencryptionState::Running).then_some(now)
    })
    .await;
    assert_eq!(
        (done.state, done.files_done, done.failures, done.files_left),
        (ReencryptionState::Completed, FILES as u64, 0, 0),
        "{done:?}"
    );
    for number in 0..FILES {
        let at = file(number);
        let info = alice.encryption_info(&path(&at)).await;
        let info = info.unwrap_or_else(|error| panic!("{at}: {error}"));
        assert_eq!(info.expect("encrypted").ez_key_version_name, "payroll@1", "{at}");
        assert_eq!(read(&alice, &at).await, at.as_bytes());
    }
}
