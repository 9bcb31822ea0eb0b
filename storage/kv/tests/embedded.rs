//! The embedded engine: the contract, and what concerns its file.

mod contract;

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use redb::{Database, TableDefinition};
use strongroom_kv::{CommitError, EmbeddedStore, OpenError, Reader, Store, StoreError, Txn};

/// Names the file for the child process of [`acknowledged_commits_survive_kill`].
const CHILD_PATH: &str = "STRONGROOM_KV_TEST_PATH";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keeps_the_contract() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let next = AtomicU32::new(0);
    contract::check_all(async || {
        let n = next.fetch_add(1, Ordering::Relaxed);
        EmbeddedStore::open(&directory.path().join(format!("{n}.redb"))).expect("open")
    })
    .await;
}

async fn put(store: &EmbeddedStore, key: &[u8], value: Vec<u8>) -> Result<(), CommitError> {
    let mut txn = store.begin().await?;
    txn.put(key, value);
    txn.commit().await
}

async fn get(store: &EmbeddedStore, key: &[u8]) -> Option<bytes::Bytes> {
    store.begin().await.expect("begin").get(key).await.expect("get")
}

#[test]
fn the_files_are_their_owners_alone() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let _store = EmbeddedStore::open(&directory.path().join("a.redb")).expect("open");
    for name in ["a.redb", "a.redb.lock"] {
        let metadata = std::fs::metadata(directory.path().join(name)).expect("is there");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_closed_store_opens_again_with_all_it_had() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("made/on/the/way/store.redb");
    let store = EmbeddedStore::open(&path).expect("open");
    put(&store, b"a", b"1".to_vec()).await.expect("commit");
    drop(store);
    let store = EmbeddedStore::open(&path).expect("open again");
    assert_eq!(get(&store, b"a").await.as_deref(), Some(&b"1"[..]));
}

#[test]
fn the_message_names_the_process_that_has_the_file() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("store.redb");
    let _store = EmbeddedStore::open(&path).expect("open");
    let error = EmbeddedStore::open(&path).err().expect("refused");
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
    let expected = format!("in use by process {} (", std::process::id());
    assert!(error.to_string().contains(&expected), "{error}");
}

#[test]
fn a_newer_format_is_refused_with_the_remedy() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("store.redb");
    drop(EmbeddedStore::open(&path).expect("create"));
    let database = Database::create(&path).expect("redb opens it");
    let txn = database.begin_write().expect("begin");
    txn.open_table(TableDefinition::<&str, u64>::new("meta"))
        .expect("table")
        .insert("format", 2)
        .expect("insert");
    txn.commit().expect("commit");
    drop(database);
    let error = EmbeddedStore::open(&path).err().expect("refused").to_string();
    assert!(
        error.contains("has format 2") && error.contains("run the release that wrote it"),
        "{error}"
    );
}

#[test]
fn a_file_of_something_else_is_refused() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("store.redb");
    std::fs::write(
        &path,
        b"these are not the bytes of a database, but there are some of them",
    )
    .expect("write");
    assert!(matches!(EmbeddedStore::open(&path), Err(OpenError::Store(_))));
}

/// Runs as the child of [`acknowledged_commits_survive_kill`]: commits and says so, until it is killed.
#[test]
#[ignore = "only a part of acknowledged_commits_survive_kill"]
fn commits_until_killed() {
    let path = std::env::var_os(CHILD_PATH).expect("set by the parent test");
    let store = EmbeddedStore::open(Path::new(&path)).expect("open");
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let tasks = (0..4_u32).map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..u32::MAX {
                    let key = format!("{task}/{n}");
                    put(&store, key.as_bytes(), vec![7; 100]).await.expect("commit");
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "acknowledged {key}")
                        .and_then(|()| out.flush())
                        .expect("the parent listens");
                }
            })
        });
        futures::future::join_all(tasks).await;
    });
}

#[tokio::test]
async fn acknowledged_commits_survive_kill() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "commits_until_killed", "--ignored", "--nocapture"])
            .env(CHILD_PATH, directory.path().join(format!("{round}.redb")))
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the child");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut seen = Vec::new();
        while seen.len() < 200 {
            let line = lines.next().expect("the child runs").expect("text");
            seen.extend(line.split_once("acknowledged ").map(|(_, key)| key.to_owned()));
        }
        child.kill().expect("SIGKILL");
        // What was in the pipe was acknowledged, too; the last line may be cut off.
        let mut rest: Vec<_> = lines.map_while(Result::ok).collect();
        rest.pop();
        seen.extend(
            rest.iter()
                .filter_map(|line| Some(line.split_once("acknowledged ")?.1.to_owned())),
        );
        child.wait().expect("reaped");
        acknowledged.push(seen);
    }
    for (round, keys) in acknowledged.iter().enumerate() {
        let store = EmbeddedStore::open(&directory.path().join(format!("{round}.redb"))).expect("open after kill");
        for key in keys {
            let found = get(&store, key.as_bytes()).await;
            assert_eq!(
                found.map(|value| value.len()),
                Some(100),
                "{key} was acknowledged in round {round}"
            );
        }
    }
}

/// A file system of its own, small enough to fill. Needs root, as CI has it.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mebibytes: u32) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(directory.path())
            .status()
            .expect("mount runs");
        assert!(mounted.success(), "cannot mount a tmpfs; run this test as root");
        Self(directory)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_then_over() {
    let disk = SmallDisk::mount(32);
    let store = EmbeddedStore::open(&disk.0.path().join("store.redb")).expect("open");
    put(&store, b"before", b"1".to_vec()).await.expect("room");
    let ballast = disk.0.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).expect("create");
    while file.write_all(&[1; 64 << 10]).is_ok() {}
    let error = put(&store, b"during", vec![0; 1 << 20]).await.expect_err("no room");
    assert!(
        matches!(error, CommitError::Store(StoreError::Full { .. })),
        "{error:?}"
    );
    assert!(error.to_string().contains("make room there"), "{error}");
    assert_eq!(get(&store, b"before").await.as_deref(), Some(&b"1"[..]), "reads go on");
    file.set_len(0).expect("make room");
    put(&store, b"after", b"1".to_vec()).await.expect("room again");
    assert_eq!(get(&store, b"during").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_under_a_commit_loses_nothing_acknowledged() {
    let disk = SmallDisk::mount(24);
    let path = disk.0.path().join("store.redb");
    let store = EmbeddedStore::open(&path).expect("open");
    let ballast = disk.0.path().join("ballast");
    let mut acknowledged = Vec::new();
    let filler = {
        let ballast = ballast.clone();
        // Races the commits for the last free bytes, so that redb itself runs into the end of the disk.
        std::thread::spawn(move || {
            let mut file = std::fs::File::create(ballast).expect("create");
            while file.write_all(&[1; 16 << 10]).is_ok() {}
        })
    };
    for n in 0_u32..60 {
        if put(&store, &n.to_be_bytes(), vec![2; 200 << 10]).await.is_ok() {
            acknowledged.push(n);
        }
    }
    filler.join().expect("filler");
    // Not removed: a child that another test forks just now may hold it open.
    std::fs::File::create(&ballast).expect("make room");
    put(&store, b"after", b"1".to_vec()).await.expect("usable again");
    drop(store);
    let store = EmbeddedStore::open(&path).expect("opens again");
    for n in acknowledged {
        assert!(get(&store, &n.to_be_bytes()).await.is_some(), "{n} was acknowledged");
    }
}
