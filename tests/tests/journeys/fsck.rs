//! Checking a deployment with `strongroom fsck`, and disks that are damaged, emptied, or hold what is no ciphertext.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use strongroom_tests::{Bytes, Dev, seed, until};

/// Two whole blocks and some.
const FILE_BYTES: usize = 9_000_000;

fn stored(dev: &Dev, zone: &str, name: &str, content: &[u8]) -> String {
    let file = dev.scratch("in").join(name);
    fs::write(&file, content).expect("own directory");
    let path = format!("{zone}/{name}");
    dev.cli().run(["fs", "put", file.to_str().expect("UTF-8"), &path]).ok();
    path
}

/// The lines of an fsck in JSON: findings, and at last the summary.
fn fsck(dev: &Dev, arguments: &str, code: i32) -> Vec<Value> {
    let outcome = dev.cli().line(&format!("--json fsck {arguments}"));
    let text = String::from_utf8(outcome.stdout).expect("text");
    assert_eq!(outcome.code, Some(code), "{text}{}", outcome.stderr);
    let parse = |line: &str| serde_json::from_str(line).expect("JSON");
    text.lines().map(parse).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_and_missing_replicas_are_found_and_made_anew() {
    let mut dev = Dev::start();
    let zone = dev.zone("payroll");
    let content = Bytes::new(seed()).take(FILE_BYTES);
    let path = stored(&dev, &zone, "file", &content);
    stored(&dev, &zone, "small", b"small");
    dev.repaired().await;
    let text = dev.cli().line("fsck").text();
    for words in [
        "files     2,",
        "blocks    4",
        "replicas  12, 0 bad",
        "verdict   healthy",
    ] {
        assert!(text.contains(words), "{text} lacks {words}");
    }

    // One block loses two of its three replicas.
    let large = |path: &PathBuf| path.metadata().is_ok_and(|file| file.len() > 1 << 20);
    let gone = dev
        .block_files("block-1")
        .into_iter()
        .find(large)
        .expect("a large block");
    fs::remove_file(&gone).expect("a block");
    let same = |path: &PathBuf| path.file_name() == gone.file_name();
    let flipped = dev
        .block_files("block-2")
        .into_iter()
        .find(same)
        .expect("the same block");
    let mut bytes = fs::read(&flipped).expect("a block");
    bytes[500_000] ^= 1;
    fs::write(&flipped, &bytes).expect("own file");
    let quick = fsck(&dev, "", 7);
    assert_eq!(quick.len(), 2, "{quick:?}");
    assert_eq!(
        (&quick[0]["kind"], &quick[1]["bad_replicas"]),
        (&"replica".into(), &1.into())
    );
    let deep = fsck(&dev, &format!("{zone} --deep"), 7);
    assert_eq!(deep.last().expect("a summary")["bad_replicas"], 2, "{deep:?}");
    let text = dev.cli().run(["fsck", &zone, "--deep"]);
    let told = String::from_utf8_lossy(&text.stdout).into_owned();
    for words in [
        &path,
        "missing on block-1",
        "damaged on block-2",
        "strongroom fsck --repair",
    ] {
        assert!(told.contains(words), "{told} lacks {words}");
    }
    text.fails(7, &["findings stay"]);
    let repaired = fsck(&dev, "--deep --repair", 0);
    assert_eq!(repaired.last().expect("a summary")["losses"], 0, "{repaired:?}");
    until("the replicas to be back", Duration::from_secs(60), || {
        (gone.exists() && flipped.exists()).then_some(())
    });
    dev.repaired().await;
    assert_eq!(fsck(&dev, "--deep", 0).len(), 1);

    // A disk is replaced: the node keeps its name.
    dev.stop();
    let files = dev.block_files("block-3").len();
    let disk = dev.data("state/block-3");
    for entry in fs::read_dir(&disk).expect("the data directory") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            fs::remove_dir_all(path).expect("own directory");
        } else {
            fs::remove_file(path).expect("own file");
        }
    }
    dev.start_again();
    until("the disk to be filled again", Duration::from_secs(60), || {
        (dev.block_files("block-3").len() == files).then_some(())
    });
    dev.repaired().await;
    assert_eq!(fsck(&dev, "--deep", 0).len(), 1);
    let all = dev.cli().run(["fs", "cat", &path]).ok();
    assert!(all.stdout == content);
    dev.cli()
        .as_user("alice")
        .line("fsck")
        .fails(4, &["user alice", "check the namespace"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_ciphertext_or_unaccounted_for_is_named() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    let text = "All happy families are alike; each unhappy one is unhappy in its own way. ".repeat(20_000);
    stored(&dev, &zone, "novel", text.as_bytes());
    stored(&dev, &zone, "zeros", &vec![0; 300_000]);
    dev.repaired().await;
    let disk = dev.data("state/block-1");
    let disk = disk.to_str().expect("UTF-8");
    let clean = dev.cli().run(["fsck", "--ciphertext", disk]).text();
    assert!(
        clean.contains("blocks   2,") && clean.contains("looks like ciphertext"),
        "{clean}"
    );

    // Text in place of a block, with all its checksums right; and the same as a block of no file.
    let block = dev.block_files("block-1").remove(0);
    let name = block.file_stem().expect("a name").to_str().expect("UTF-8").to_owned();
    fs::write(&block, block_file(&name, text.as_bytes())).expect("own file");
    let (extent, _) = name.split_once('-').expect("a block's name");
    let stranger = format!("{}{}-0", "00".repeat(15), &extent[30..]);
    let beside = block.with_file_name(format!("{stranger}.blk"));
    fs::write(&beside, block_file(&stranger, b"short")).expect("own file");
    fs::write(block.with_file_name("notes.txt"), "a note").expect("own file");

    let outcome = dev.cli().run(["fsck", "--ciphertext", disk]);
    let told = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let says = |path: &Path, words: &str| {
        let mut lines = told.lines();
        let found = lines.any(|line| line.starts_with(path.to_str().expect("UTF-8")) && line.contains(words));
        assert!(found, "{told} does not say {words} of {}", path.display());
    };
    says(
        &block,
        "does not look like ciphertext: it is nothing but printable characters",
    );
    says(&block, "recorded with other bytes");
    says(&beside, "nothing accounts for it");
    says(&block.with_file_name("notes.txt"), "it is no block");
    outcome.fails(6, &["4 files"]);
}

/// A block file as `docs/formats/block-file.md` has it.
fn block_file(name: &str, data: &[u8]) -> Vec<u8> {
    let crc = |bytes: &[u8]| crc_fast::crc32_iscsi(bytes).to_be_bytes();
    let (extent, index) = name.split_once('-').expect("a block's name");
    let extent = u128::from_str_radix(extent, 16).expect("an extent").to_be_bytes();
    let index: u32 = index.parse().expect("an index");
    let table: Vec<u8> = data.chunks(65_536).flat_map(crc).collect();
    let length = u32::try_from(data.len()).expect("one block");
    let mut front = b"SRMBLOCK\0\0\0\x01".to_vec();
    front.extend(extent);
    for number in [index, length, 65_536] {
        front.extend(number.to_be_bytes());
    }
    front.extend(crc(data));
    let whole = crc(&[&front, &[0; 4][..], &table].concat());
    [&front, &whole[..], &table, data].concat()
}
