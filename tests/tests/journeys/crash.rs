//! Processes that are killed or hang in the middle of work.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use strongroom_fs::{CreateOptions, FsError, ZoneFs};
use strongroom_proto::ZonePath;
use strongroom_tests::{Bytes, Dev, seed, until_async};
use tokio::{sync::watch, task::JoinSet};

use crate::files::zone_fs;

/// How long 1,000 creates may take on a busy machine, with restarts of the metadata service in between.
const CREATES_LIMIT: Duration = Duration::from_secs(120);

fn path(text: &str) -> ZonePath {
    ZonePath::parse(text.as_bytes()).expect("valid")
}

async fn write(fs: &ZoneFs, path: &ZonePath, content: &[u8]) -> Result<(), FsError> {
    let options = CreateOptions {
        mode: 0o644,
        overwrite: false,
    };
    let mut writer = fs.create(path, options).await?;
    writer.write(content).await?;
    writer.finish(1).await?;
    Ok(())
}

async fn read(fs: &ZoneFs, path: &ZonePath) -> Result<Vec<u8>, FsError> {
    let reader = fs.open(path).await?;
    let mut content = vec![0; usize::try_from(reader.len()).expect("small")];
    let read = reader.read_at(0, &mut content).await?;
    content.truncate(read);
    Ok(content)
}

/// Each file's content follows from its number, and its length differs from its neighbours'.
fn content_of(n: usize) -> Vec<u8> {
    format!("file {n};").repeat(1 + n % 50).into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_metadata_service_loses_no_acknowledged_file_and_shows_no_half_one() {
    const FILES: usize = 1000;
    // A connection carries 256 calls at a time: with four, every create is before the service.
    const CLIENTS: usize = 4;
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    let clients: Vec<_> = (0..CLIENTS).map(|_| zone_fs(&dev, "alice")).collect();
    let (acknowledge, mut acknowledged) = watch::channel(0);
    let mut creates = JoinSet::new();
    for n in 0..FILES {
        let (fs, acknowledge) = (clients[n % CLIENTS].clone(), acknowledge.clone());
        let target = path(&format!("{zone}/{n:04}"));
        creates.spawn(async move {
            let outcome = write(&fs, &target, &content_of(n)).await;
            if outcome.is_ok() {
                acknowledge.send_modify(|count| *count += 1);
            }
            (n, outcome)
        });
    }
    let mut at_last_kill = 0;
    for threshold in [1, 300, 600] {
        let reached = acknowledged.wait_for(|count| *count >= threshold);
        let before = *tokio::time::timeout(CREATES_LIMIT, reached)
            .await
            .expect("creates go on after each kill")
            .expect("a sender is left");
        assert!(before < FILES, "nothing was in flight at the kill after {threshold}");
        let old = dev.signal("metadata", Signal::KILL);
        at_last_kill = *acknowledged.borrow();
        assert!(
            at_last_kill < FILES,
            "nothing was in flight after the kill after {threshold}"
        );
        tokio::task::block_in_place(|| dev.replaced("metadata", old));
    }
    let mut done = BTreeSet::new();
    let mut errors = Vec::new();
    let all = async {
        while let Some(joined) = creates.join_next().await {
            let (n, outcome) = joined.expect("no create panics");
            match outcome {
                Ok(()) => _ = done.insert(n),
                Err(error) => errors.push(format!("file {n}: {error}")),
            }
        }
    };
    tokio::time::timeout(CREATES_LIMIT, all)
        .await
        .expect("every create ends");
    assert!(
        done.len() > at_last_kill,
        "no create survived the last kill: {errors:#?}"
    );

    let fs = &clients[0];
    tokio::task::block_in_place(|| dev.crash("metadata"));
    let listed = || async { list(fs, &path(&zone)).await.ok() };
    let listed = until_async("a listing after the last kill", Duration::from_secs(40), listed).await;
    for n in &done {
        assert!(
            listed.contains(&format!("{n:04}")),
            "file {n} was acknowledged and is gone"
        );
    }
    for name in listed.iter().filter(|name| *name != ".Trash") {
        let n: usize = name.parse().expect("one of ours");
        let content = read(fs, &path(&format!("{zone}/{name}")))
            .await
            .expect("what is listed can be read");
        assert!(
            content == content_of(n),
            "file {n} is half there: {} bytes",
            content.len()
        );
    }
}

async fn list(fs: &ZoneFs, directory: &ZonePath) -> Result<BTreeSet<String>, FsError> {
    let (mut names, mut next) = (BTreeSet::new(), None);
    loop {
        let page = fs.list(directory, next).await?;
        names.extend(page.entries.into_iter().map(|entry| entry.name));
        next = page.next;
        if next.is_none() {
            return Ok(names);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_block_node_costs_no_error_and_is_made_whole_again() {
    const FILES: usize = 24;
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    let fs = Arc::new(zone_fs(&dev, "alice"));
    let mut random = Bytes::new(seed());
    let contents: Arc<Vec<Vec<u8>>> = Arc::new((0..FILES).map(|_| random.take(6_000_000)).collect());

    let started = Arc::new(AtomicUsize::new(0));
    let work = |writing: bool, from: usize, to: usize| {
        let mut tasks = JoinSet::new();
        let gate = Arc::new(tokio::sync::Semaphore::new(4));
        for n in from..to {
            let (fs, contents, gate, started) = (
                Arc::clone(&fs),
                Arc::clone(&contents),
                Arc::clone(&gate),
                Arc::clone(&started),
            );
            let target = path(&format!("{zone}/{n}"));
            tasks.spawn(async move {
                let _turn = gate.acquire().await.expect("never closed");
                started.fetch_add(1, Ordering::SeqCst);
                if writing {
                    write(&fs, &target, &contents[n]).await
                } else {
                    let found = read(&fs, &target).await?;
                    assert!(found == contents[n], "file {n} reads other bytes");
                    Ok(())
                }
            });
        }
        tasks
    };
    let at_least = |count: usize| {
        let started = Arc::clone(&started);
        let reached = move || {
            let started = Arc::clone(&started);
            async move { (started.load(Ordering::SeqCst) >= count).then_some(()) }
        };
        until_async("work to be under way", Duration::from_secs(60), reached)
    };

    let writes = work(true, 0, FILES);
    at_least(6).await;
    tokio::task::block_in_place(|| dev.take_down("block-2"));
    all_well(writes, "write").await;
    assert!(
        dev.in_deficit().await > 0,
        "blocks written while a node was down have two replicas"
    );

    // Reads with one node gone, which comes back under them, and then with another killed and restarted under them.
    started.store(0, Ordering::SeqCst);
    let reads = work(false, 0, FILES);
    at_least(4).await;
    tokio::task::block_in_place(|| dev.bring_back("block-2"));
    dev.repaired().await;
    all_well(reads, "read").await;
    started.store(0, Ordering::SeqCst);
    let reads = work(false, 0, FILES);
    at_least(4).await;
    tokio::task::block_in_place(|| dev.crash("block-1"));
    all_well(reads, "read").await;

    dev.repaired().await;
    let counts: Vec<usize> = strongroom_tests::BLOCK_NODES
        .iter()
        .map(|node| dev.block_files(node).len())
        .collect();
    assert_eq!(counts, [2 * FILES; 3], "every node has every block");
}

async fn all_well(mut tasks: JoinSet<Result<(), FsError>>, what: &str) {
    while let Some(joined) = tasks.join_next().await {
        if let Err(error) = joined.expect("no task panics") {
            panic!("a {what} failed: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_node_that_hangs_delays_but_fails_nothing() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    let fs = zone_fs(&dev, "alice");
    let content = Bytes::new(seed()).take(6_000_000);
    write(&fs, &path(&format!("{zone}/before")), &content)
        .await
        .expect("three nodes serve");
    dev.signal("block-1", Signal::STOP);
    let outcome = tokio::time::timeout(Duration::from_secs(120), async {
        assert!(
            read(&fs, &path(&format!("{zone}/before"))).await? == content,
            "other bytes"
        );
        write(&fs, &path(&format!("{zone}/during")), &content).await?;
        assert!(
            read(&fs, &path(&format!("{zone}/during"))).await? == content,
            "other bytes"
        );
        Ok::<(), FsError>(())
    })
    .await;
    dev.signal("block-1", Signal::CONT);
    outcome
        .expect("a hung node holds nobody up for two minutes")
        .expect("two nodes are enough");
    dev.repaired().await;
}
