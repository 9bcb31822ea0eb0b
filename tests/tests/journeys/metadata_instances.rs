//! Two metadata services as processes over one PostgreSQL database, one after the other killed under load: clients go on
//! with the other within a second, and every operation is carried out once and answered so.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;
use strongroom_fs::{Attributes, CreateOptions, FsError, ZoneFs, ZoneOptions};
use strongroom_proto::{Failure, Reason, ZonePath};
use strongroom_tests::{KmsProcess, KmsSite, MetadataSite, RoleProcess, create_key, until_async};

use crate::cluster::Cluster;

const LIMIT: Duration = Duration::from_secs(60);
/// How long a client may be without an answer when the service that it talks to is killed.
const MOVE_ON_MAX: Duration = Duration::from_secs(1);
const KILLS: usize = 4;
const WRITERS: usize = 3;

pub(crate) fn path(text: &str) -> ZonePath {
    ZonePath::parse(text.as_bytes()).expect("a valid path")
}

const OPTIONS: CreateOptions = CreateOptions {
    mode: 0o644,
    overwrite: false,
};

pub(crate) async fn write(fs: &ZoneFs, at: &str) -> Result<(), FsError> {
    let mut writer = fs.create(&path(at), OPTIONS).await?;
    writer.write(at.as_bytes()).await?;
    writer.finish(1).await.map(|_| ())
}

pub(crate) async fn read(fs: &ZoneFs, at: &str) -> Vec<u8> {
    let reader = fs.open(&path(at)).await.unwrap_or_else(|error| panic!("{at}: {error}"));
    let mut found = vec![0; 100];
    let length = reader
        .read_at(0, &mut found)
        .await
        .unwrap_or_else(|error| panic!("{at}: {error}"));
    found.truncate(length);
    found
}

/// What one writer was answered.
#[derive(Default)]
struct Answered {
    files: Vec<String>,
    removed: Vec<String>,
}

/// Makes, renames and removes until it is told to stop. None of it may fail, least of all because it was done before.
async fn churn(fs: ZoneFs, writer: usize, stop: Arc<AtomicBool>) -> Answered {
    let mut answered = Answered::default();
    let failed = |what: &str, at: &str, error: FsError| -> ! { panic!("{what} {at}: {} {error}", error.reason()) };
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let [folder, fresh, kept] = ["d", "new", "kept"].map(|name| format!("/z/{name}-{writer}-{number}"));
        number += 1;
        if let Err(error) = fs.make_directory(&path(&folder), 0o755, false).await {
            failed("make", &folder, error);
        }
        if let Err(error) = write(&fs, &fresh).await {
            failed("write", &fresh, error);
        }
        if let Err(error) = fs.rename(&path(&fresh), &path(&kept), false).await {
            failed("rename", &fresh, error);
        }
        answered.files.push(kept);
        if let Err(error) = fs.remove(&path(&folder), false).await {
            failed("remove", &folder, error);
        }
        answered.removed.extend([folder, fresh]);
    }
    answered
}

/// Changes something again and again; the longest that one change took.
async fn probe(fs: ZoneFs, name: String, stop: Arc<AtomicBool>) -> Duration {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        for outcome in [
            fs.make_directory(&path(&name), 0o755, false).await.map(|_| ()),
            fs.remove(&path(&name), false).await.map(drop),
        ] {
            outcome.unwrap_or_else(|error| panic!("{name}: {} {error}", error.reason()));
            longest = longest.max(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    longest
}

/// Kills one service at a time while a prober is on each; the longest pause of either.
async fn kill_and_probe(site: &MetadataSite<'_>, services: &mut [RoleProcess], victim: usize) -> Duration {
    let stop = Arc::new(AtomicBool::new(false));
    let probers: Vec<_> = [0, 1]
        .map(|first| {
            let name = format!("/probe-{victim}-{first}");
            tokio::spawn(probe(site.fs("alice", first), name, Arc::clone(&stop)))
        })
        .into();
    tokio::time::sleep(Duration::from_secs(1)).await;
    services[victim].signal(Signal::KILL);
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);
    let mut longest = Duration::ZERO;
    for prober in probers {
        longest = longest.max(prober.await.expect("no panic"));
    }
    services[victim] = site.start(victim);
    serving(&site.fs("alice", victim)).await;
    longest
}

pub(crate) async fn serving(fs: &ZoneFs) {
    until_async("the metadata service serves", LIMIT, || async {
        fs.stat(&ZonePath::root()).await.ok()
    })
    .await;
}

/// Makes `/z` alice's zone under the new key `payroll`, once the key service is there.
pub(crate) async fn make_zone(kms: &KmsProcess<'_>, admin: &ZoneFs) {
    let keyadmin = kms.channel("user/keyadmin");
    until_async("a key is made", LIMIT, || {
        let keyadmin = keyadmin.clone();
        async move {
            match create_key(keyadmin, "payroll").await {
                Ok(_) => Some(()),
                Err(Failure { reason, .. }) => (reason == Reason::KeyExists).then_some(()),
            }
        }
    })
    .await;
    admin.make_directory(&path("/z"), 0o755, true).await.expect("made");
    let key = "payroll".parse().expect("a name");
    let options = ZoneOptions {
        owner: Some("alice".parse().expect("a user")),
        ..ZoneOptions::default()
    };
    admin.create_zone(&path("/z"), &key, &options).await.expect("a zone");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_go_on_with_another_service_and_nothing_is_done_twice() {
    let mut database = Cluster::start();
    let keys = KmsSite::new(database.fresh_url());
    let kms = keys.start("kms");
    let site = MetadataSite::new(&keys, &kms, database.fresh_url(), 2);
    let mut services: Vec<RoleProcess> = [0, 1].map(|number| site.start(number)).into();
    let _nodes = site.start_nodes();
    let (admin, alice) = (site.fs("fsadmin", 0), site.fs("alice", 1));
    serving(&admin).await;
    serving(&alice).await;
    make_zone(&kms, &admin).await;
    // The probes make their directories there.
    let open_to_all = Attributes {
        mode: Some(0o777),
        ..Attributes::default()
    };
    admin
        .set_attributes(&ZonePath::root(), &open_to_all)
        .await
        .expect("set");
    write(&alice, "/z/first").await.expect("nodes report to both");

    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(churn(site.fs("alice", writer % 2), writer, Arc::clone(&stop))))
        .collect();
    for kill in 0..KILLS {
        let paused = kill_and_probe(&site, &mut services, kill % 2).await;
        assert!(paused < MOVE_ON_MAX, "kill {kill}: {paused:?}");
    }
    // The database itself, in the middle of commits.
    database.kill();
    database.restart();
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop.store(true, Ordering::Relaxed);

    let mut expected = BTreeSet::from(["/z/first".to_owned()]);
    let mut gone = Vec::new();
    for writer in writers {
        let answered = writer.await.expect("no operation failed");
        assert!(
            answered.files.len() > 10,
            "too little was done: {}",
            answered.files.len()
        );
        expected.extend(answered.files);
        gone.extend(answered.removed);
    }
    for fs in [&admin, &alice] {
        for file in &expected {
            let stat = fs
                .stat(&path(file))
                .await
                .unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(stat.length > 0, "{file}");
        }
    }
    for file in expected.iter().take(50) {
        let written = file.replace("kept", "new");
        assert_eq!(read(&alice, file).await, written.as_bytes(), "{file}");
    }
    for name in gone {
        let outcome = alice.stat(&path(&name)).await;
        assert!(
            outcome.is_err_and(|error| error.reason() == Reason::NotFound),
            "{name} is still there"
        );
    }
}
