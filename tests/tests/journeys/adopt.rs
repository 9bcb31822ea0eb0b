//! A directory of plain files that becomes a zone with all it holds, by a client that is killed on the way, while others read.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use strongroom_tests::{BLOCK_NODES, Cli, Dev, until};

use crate::rewriting::start;

const FILES: usize = 24;
const LENGTH: usize = 1 << 20;
const MARKER: &[u8] = b"this is not to be found on any disk; ";

fn content(number: usize) -> Vec<u8> {
    let head = format!("file {number}, ").into_bytes();
    let bytes = head.into_iter().chain(MARKER.iter().copied().cycle());
    bytes.take(LENGTH + number).collect()
}

fn all_are_read(cli: &Cli) {
    for number in 0..FILES {
        let read = cli.line(&format!("fs cat /landing/d/f{number}")).ok().stdout;
        assert!(read == content(number), "f{number}");
    }
}

/// Block files that have the marker.
fn telling(dev: &Dev) -> usize {
    let has = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap_or_default();
        bytes.windows(MARKER.len()).any(|window| window == MARKER)
    };
    let files = BLOCK_NODES.into_iter().flat_map(|node| dev.block_files(node));
    files.filter(has).count()
}

fn disks(dev: &Dev) -> Vec<String> {
    let disk = |node: &&str| dev.data(&format!("state/{node}")).display().to_string();
    BLOCK_NODES.iter().map(disk).collect()
}

fn fsck(dev: &Dev) -> strongroom_tests::Outcome {
    let mut arguments = vec!["fsck".to_owned(), "--ciphertext".to_owned()];
    arguments.extend(disks(dev));
    dev.cli().run(arguments)
}

/// The profile of somebody who expects plain files nowhere.
fn strict(dev: &Dev) -> String {
    let profile = fs::read_to_string(dev.home().join("config/strongroom/profile.toml")).expect("a profile");
    let lines = profile.lines().filter(|line| !line.starts_with("plain"));
    let path = dev.scratch("local").join("strict.toml");
    fs::write(&path, lines.collect::<Vec<_>>().join("\n")).expect("own directory");
    path.display().to_string()
}

fn put_tree(dev: &Dev) {
    let tree = dev.scratch("local").join("d");
    fs::create_dir(&tree).expect("made");
    for number in 0..FILES {
        fs::write(tree.join(format!("f{number}")), content(number)).expect("written");
    }
    let cli = dev.cli();
    cli.as_user("fsadmin").line("fs mkdir /landing").ok();
    cli.as_user("fsadmin").line("fs chown alice /landing").ok();
    cli.as_user("fsadmin").line("fs quota set /landing --bytes 1G").ok();
    cli.run(["fs", "put", "-r", tree.to_str().expect("UTF-8"), "/landing"])
        .ok();
    cli.line("key create landing").ok();
}

fn refused_to_who_lists_nothing(dev: &Dev, local: &Path) {
    let (cli, strict, local) = (dev.cli(), strict(dev), local.display());
    for line in [
        format!("--profile {strict} fs cat /landing/d/f0"),
        format!("--profile {strict} fs put {local} /landing/new"),
    ] {
        cli.line(&line).fails(8, &["/landing", "not encrypted", "plain = ["]);
    }
    let elsewhere = format!("fs put {local} /landed");
    cli.as_user("fsadmin")
        .line(&elsewhere)
        .fails(8, &["/landed", "plain = ["]);
    let adopt = format!("--profile {strict} zone adopt /landing --key landing");
    cli.line(&adopt).fails(2, &["plain = [\"/landing\"]"]);
}

#[test]
fn a_directory_is_adopted_by_a_client_that_is_killed_while_others_read() {
    let dev = Dev::builder().argument("--plain").argument("/landing").start();
    put_tree(&dev);
    let (cli, local) = (dev.cli(), dev.scratch("local").join("d/f1"));
    refused_to_who_lists_nothing(&dev, &local);
    let before = cli.line("--json fs stat /landing/d/f3").json();
    assert_eq!(
        (&before["data_suite"], &before["key_name"]),
        (&"plain".into(), &serde_json::Value::Null)
    );
    let quota = cli.line("--json fs quota show /landing").json();
    assert!(cli.line("fs ls -l /landing/d").text().contains("(not encrypted)"));
    let raw = dev.scratch("local").join("raw");
    cli.line(&format!("fs --raw get /landing/d/f0 {}", raw.display()))
        .fails(2, &["not encrypted"]);
    assert!(telling(&dev) > 0, "it is there to be found");
    fsck(&dev).fails(7, &["are of files that are not encrypted"]);

    let mut killed = start(&cli, "zone adopt /landing --key landing --throttle 6 -j 2");
    let job = until("some files are encrypted", Duration::from_secs(60), || {
        let jobs = cli.line("--json job list").ok();
        let job = serde_json::from_slice::<serde_json::Value>(&jobs.stdout).ok()?;
        (job["done"].as_u64()? >= 3).then_some(job)
    });
    assert_eq!(job["kind"], "adoption");
    let info = cli.line("zone info /landing").text();
    assert!(
        info.contains("not encrypted yet") && info.contains("zone adopt /landing"),
        "{info}"
    );
    cli.as_user("fsadmin")
        .line("fs mv /landing/d/f9 /f9")
        .fails(8, &["from an encryption zone"]);
    killed.kill().expect("running");
    killed.wait().expect("ended");
    dev.crash("metadata");
    all_are_read(&cli);
    until("the job is free", Duration::from_secs(60), || {
        let job = cli.line(&format!("--json job show {}", job["job_id"].as_str()?)).json();
        job["message"].as_str()?.contains("no client works on it").then_some(())
    });

    let mut second = start(&cli, "zone adopt /landing --throttle 30");
    all_are_read(&cli);
    assert!(second.wait().expect("ended").success());
    let done = cli.line("--json zone adopt /landing").json();
    assert_eq!(
        (&done["files"], &done["left"], &done["failed"]),
        (&0.into(), &0.into(), &0.into()),
        "{done}"
    );
    all_are_read(&cli);
    let after = cli.line("--json fs stat /landing/d/f3").json();
    assert_eq!(
        (&after["data_suite"], &after["key_name"]),
        (&"gcm".into(), &"landing".into())
    );
    for field in ["file_id", "length", "mtime_ms", "owner", "mode"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_eq!(quota, cli.line("--json fs quota show /landing").json());
    let strict = strict(&dev);
    let read = cli.line(&format!("--profile {strict} fs cat /landing/d/f7")).ok();
    assert!(read.stdout == content(7), "nothing needs to be listed any more");
    until("the old blocks are gone", Duration::from_secs(120), || {
        (telling(&dev) == 0).then_some(())
    });
    let proof = fsck(&dev).text();
    assert!(
        proof.contains("all of it is accounted for and looks like ciphertext"),
        "{proof}"
    );
    assert!(cli.line("fsck").text().contains("verdict   healthy"));
}

#[test]
fn the_report_says_what_was_done_and_what_is_left() {
    let dev = Dev::builder().argument("--plain").argument("/landing").start();
    put_tree(&dev);
    let cli = dev.cli();
    cli.line("fs chmod 000 /landing/d/f1").ok();
    cli.as_user("fsadmin").line("fs chown bob /landing/d/f1").ok();
    let outcome = cli.line("--json zone adopt /landing --key landing");
    let report: serde_json::Value = serde_json::from_slice(&outcome.stdout).expect("a report");
    assert_eq!(
        (&report["files"], &report["failed"], &report["left"]),
        (&(FILES as u64 - 1).into(), &1.into(), &1.into()),
        "{report}"
    );
    assert_eq!(report["failures"][0]["reason"], "permission-denied");
    let left = serde_json::json!(["/landing/d/f1"]);
    assert_eq!(report["left_files"], left, "{report}");
    assert_eq!(cli.line("--json zone info /landing").json()["not_encrypted"], left);
    let bytes: u64 = (0..FILES)
        .filter(|number| *number != 1)
        .map(|number| (LENGTH + number) as u64)
        .sum();
    assert_eq!(report["bytes"], bytes);
    outcome.fails(7, &["1 files in /landing are not encrypted yet"]);
    assert!(cli.line("zone list").text().contains("1 to adopt"));
    cli.as_user("fsadmin").line("fs chown alice /landing/d/f1").ok();
    cli.line("fs chmod 644 /landing/d/f1").ok();
    let report = cli.line("--json zone adopt /landing").json();
    assert_eq!(
        (&report["files"], &report["unchanged"], &report["left"]),
        (&1.into(), &(FILES as u64 - 1).into(), &0.into()),
        "{report}"
    );
    assert!(!cli.line("zone list").text().contains("to adopt"));
    let told = cli.line("zone adopt /landing").ok();
    let advice = "take /landing off the list plain";
    assert!(told.stderr.contains(advice), "{}", told.stderr);
    cli.line("zone adopt / --key landing").fails(2, &["one by one"]);
}
