//! Blocks that rot and disks that run full.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use strongroom_proto::Reason;
use strongroom_tests::{BLOCK_NODES, Bytes, Dev, seed, until};

/// A file long enough for the header and table to be a small part of its blocks.
const FILE_BYTES: usize = 9 * (4 << 20) - 12_345;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    FlippedBit,
    Truncated,
}

fn damage(path: &Path, how: Damage) {
    let mut bytes = fs::read(path).expect("a block file");
    match how {
        Damage::FlippedBit => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        }
        Damage::Truncated => bytes.truncate(bytes.len() / 2),
    }
    // In place, as a bad disk would: a rename would be seen as another file.
    fs::write(path, bytes).expect("own file");
}

/// One file in a zone, of which every block is on three nodes.
async fn stored(dev: &Dev, zone: &str, name: &str, content: &[u8]) -> String {
    let file = dev.scratch("in").join(name);
    fs::write(&file, content).expect("own directory");
    let path = format!("{zone}/{name}");
    dev.cli().run(["fs", "put", file.to_str().expect("UTF-8"), &path]).ok();
    dev.repaired().await;
    path
}

fn replicas(dev: &Dev, name: &std::ffi::OsStr) -> Vec<PathBuf> {
    let all = BLOCK_NODES.iter().flat_map(|node| dev.block_files(node));
    all.filter(|path| path.file_name() == Some(name)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_replica_is_not_noticed_by_readers_and_is_replaced() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    let content = Bytes::new(seed()).take(FILE_BYTES);
    let path = stored(&dev, &zone, "file", &content).await;

    // Another node for each block, so that whatever replica a reader prefers, some are bad.
    let mut names: Vec<_> = dev
        .block_files("block-1")
        .iter()
        .filter_map(|path| path.file_name().map(ToOwned::to_owned))
        .collect();
    names.sort();
    assert_eq!(names.len(), 9, "every block is on the first node");
    let mut damaged = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let file = replicas(&dev, name).swap_remove(n % 3);
        let whole = fs::read(&file).expect("a block file");
        damage(
            &file,
            if n % 2 == 0 {
                Damage::FlippedBit
            } else {
                Damage::Truncated
            },
        );
        damaged.push((file, whole));
    }
    let read = || {
        let outcome = dev.cli().run(["fs", "cat", &path]);
        assert!(outcome.ok().stdout == content, "a reader got other bytes");
    };
    read();
    // A reader asks one node of each block and goes on to the next only if it must: here every one is asked.
    let opened = dev.open(&path).await.expect("readable");
    for node in BLOCK_NODES {
        for outcome in dev.read_blocks(&opened, node).await {
            // Until it is replaced, a bad block is refused, and missing once it was put aside.
            let refused = outcome.err().map(|failure| failure.reason);
            assert!(
                matches!(refused, None | Some(Reason::BlockCorrupt | Reason::BlockNotFound)),
                "{node}: {refused:?}"
            );
        }
    }
    until("the repair of every bad replica", Duration::from_secs(90), || {
        read();
        damaged
            .iter()
            .all(|(file, whole)| fs::read(file).is_ok_and(|bytes| bytes == *whole))
            .then_some(())
    });
    dev.repaired().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_is_bad_everywhere_fails_its_file_and_no_other() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    let mut bytes = Bytes::new(seed());
    let other = bytes.take(100_000);
    let sound = stored(&dev, &zone, "sound", &other).await;
    for (name, how) in [("flipped", Damage::FlippedBit), ("truncated", Damage::Truncated)] {
        // Blocks of the file before may still wait to be deleted.
        let known: Vec<_> = dev.block_files("block-1");
        let content = bytes.take(5_000_000);
        let path = stored(&dev, &zone, name, &content).await;
        let fresh = dev
            .block_files("block-1")
            .into_iter()
            .find(|path| !known.contains(path))
            .expect("a new block");
        for replica in replicas(&dev, fresh.file_name().expect("has a name")) {
            damage(&replica, how);
        }
        let outcome = dev.cli().run(["fs", "cat", &path]);
        assert!(
            content.starts_with(&outcome.stdout),
            "{name}: bytes that nobody wrote were given out"
        );
        outcome.fails(6, &[&path, "corrupt"]);
        let target = dev.scratch("get").join(name);
        let outcome = dev.cli().run(["fs", "get", &path, target.to_str().expect("UTF-8")]);
        assert!(!target.exists(), "{name}: part of a file was kept");
        outcome.fails(6, &[&path, "corrupt", "put aside"]);
        dev.cli().run(["fs", "rm", "--skip-trash", &path]).ok();
    }
    assert!(dev.cli().run(["fs", "cat", &sound]).ok().stdout == other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_replicas_then_refuses() {
    const DISK_BYTES: u64 = 24 << 20;
    let dev = Dev::builder()
        .small_disk("block-1", DISK_BYTES)
        .small_disk("block-2", 4 * DISK_BYTES)
        .start();
    for node in ["block-1", "block-2"] {
        dev.configure(node, "reserve_bytes = 0");
    }
    let zone = dev.zone("payroll");
    dev.repaired().await;
    let mut bytes = Bytes::new(seed());
    let content = bytes.take(usize::try_from(2 * DISK_BYTES).expect("small"));
    let file = dev.scratch("in").join("file");
    fs::write(&file, &content).expect("own directory");

    // The first disk runs full in the middle of this file; the others take it.
    let path = format!("{zone}/file");
    dev.cli().run(["fs", "put", file.to_str().expect("UTF-8"), &path]).ok();
    assert!(dev.in_deficit().await > 0);
    assert!(dev.cli().run(["fs", "cat", &path]).ok().stdout == content);

    // Then the second: one node is not enough.
    let mut refused = None;
    for n in 0..4 {
        let outcome = dev
            .cli()
            .run(["fs", "put", file.to_str().expect("UTF-8"), &format!("{zone}/more-{n}")]);
        if outcome.code != Some(0) {
            refused = Some((n, outcome));
            break;
        }
    }
    let (n, outcome) = refused.expect("24 and 96 MiB cannot hold all of this twice");
    outcome.fails(5, &["where 2 are needed", "block-2: node block-2 has no space: "]);
    dev.cli()
        .run(["fs", "stat", &format!("{zone}/more-{n}")])
        .fails(3, &["more-"]);
    assert!(
        dev.cli().run(["fs", "cat", &path]).ok().stdout == content,
        "what was stored still reads"
    );

    // Removing makes room again.
    dev.cli().run(["fs", "rm", "--skip-trash", &path]).ok();
    until("room after a removal", Duration::from_secs(60), || {
        let small = dev.scratch("in").join("small");
        fs::write(&small, "small").expect("own directory");
        let outcome = dev.cli().run([
            "fs",
            "put",
            "--force",
            small.to_str().expect("UTF-8"),
            &format!("{zone}/small"),
        ]);
        (outcome.code == Some(0)).then_some(())
    });
}
