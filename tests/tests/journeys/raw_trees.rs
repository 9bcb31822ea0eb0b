//! A whole zone that goes to another cluster as ciphertext, by somebody who may not unwrap, and is killed on the way out and on the way in.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use strongroom_tests::{Bytes, Cli, Dev, seed};

use crate::{
    files::describe,
    raw::{id_of, twins},
};

/// Files in one directory, so many that a command is killed in their midst.
const MANY: usize = 200;
/// Files that have to be there for that.
const BEGUN: u64 = 5;
/// How long a command may take for those.
const BEGIN_LIMIT: Duration = Duration::from_secs(60);
/// How long it runs between two looks at them.
const SLICE: Duration = Duration::from_millis(10);
const BLOCK: usize = 4 << 20;

/// A tree of files: empty, of one block and of several, under names of all kinds. Answers with their number.
fn write_tree(root: &Path, random: &mut Bytes) -> u64 {
    let special = [
        ("empty", 0),
        ("one block", 70_001),
        ("whole", BLOCK),
        ("several", 2 * BLOCK + 1),
        ("Größe/новый файл", 100),
        ("Größe/deep/er/文書.txt", 1),
    ];
    for (name, length) in special {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        fs::write(path, random.take(length)).expect("written");
    }
    fs::create_dir(root.join("many")).expect("made");
    for number in 0..MANY {
        let length = random.below(2000) as usize;
        fs::write(root.join("many").join(format!("f {number}")), random.take(length)).expect("written");
    }
    (special.len() + MANY) as u64
}

/// Gives a zone what goes beyond bytes and modes, and a zone in it. Answers with how many files that has.
fn adorn(cli: &Cli, local: &Path) -> u64 {
    let admin = cli.as_user("fsadmin");
    let run = |cli: &Cli, words: &[&str]| cli.run(words.iter().copied()).ok();
    run(cli, &["fs", "chmod", "640", "/payroll/one block"]);
    run(cli, &["fs", "setfacl", "-m", "user:guest:r--", "/payroll/one block"]);
    run(
        cli,
        &[
            "fs",
            "setfattr",
            "-n",
            "user.origin",
            "--value",
            "größe",
            "/payroll/one block",
        ],
    );
    run(
        cli,
        &[
            "fs",
            "setfattr",
            "-n",
            "user.bytes",
            "--value",
            "0x00ff",
            "/payroll/empty",
            "/payroll",
        ],
    );
    // After its files: they have no ACL, and are to have none.
    run(
        cli,
        &[
            "fs",
            "setfacl",
            "-m",
            "user:guest:r-x,default:user:guest:r-x",
            "/payroll/many",
        ],
    );
    run(cli, &["fs", "chmod", "1770", "/payroll/Größe"]);
    run(&admin, &["fs", "chown", "guest:alice", "/payroll/several"]);
    run(cli, &["fs", "chmod", "751", "/payroll"]);
    run(&admin, &["fs", "mkdir", "/payroll/inner zone"]);
    run(
        &admin,
        &[
            "zone",
            "create",
            "/payroll/inner zone",
            "--key",
            "lake",
            "--suite",
            "ctr-hdfs",
            "--owner",
            "alice",
        ],
    );
    run(
        cli,
        &[
            "fs",
            "put",
            local.to_str().expect("UTF-8"),
            "/payroll/inner zone/of hdfs",
        ],
    );
    1
}

/// Starts a command, and kills it with SIGKILL once `begun` is seen, when it is not done. It stands still while somebody looks, so that it gets
/// not much further than it was seen however long that takes, and runs half as long in between, so that it gets on.
fn cut_off(cli: &Cli, line: &str, begun: impl Fn() -> bool) {
    let mut command = cli.command();
    command
        .args(line.split(' '))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().expect("started");
    let pid = Pid::from_child(&child);
    let signal = |signal| kill_process(pid, signal).expect("own child");
    let end = Instant::now() + BEGIN_LIMIT;
    let is_begun = loop {
        signal(Signal::STOP);
        let at = Instant::now();
        let is_begun = begun();
        if is_begun || at > end {
            break is_begun;
        }
        signal(Signal::CONT);
        thread::sleep(SLICE.max(at.elapsed() / 2));
    };
    child.kill().expect("it stands still or is over");
    let status = child.wait().expect("ended");
    assert!(is_begun, "{line} has not begun: {status}");
    assert!(!status.success(), "{line} was done before it could be cut off");
}

fn count(summary: &Value, what: &str) -> u64 {
    summary[what].as_u64().expect("a number")
}

/// Streams below a local directory that have their names.
fn streams(root: &Path) -> u64 {
    let all = walkdir::WalkDir::new(root).into_iter().filter_map(Result::ok);
    let named = |entry: &walkdir::DirEntry| {
        entry.file_type().is_file() && !entry.file_name().to_string_lossy().starts_with(".strongroom-")
    };
    all.filter(named).count() as u64
}

/// Files below the zone.
fn files(cli: &Cli) -> u64 {
    let du = cli.line("--json fs du /payroll").json();
    du["files"].as_u64().expect("a number")
}

/// What is said of everything below the zone, but for ids and the copies that are being made.
fn told(cli: &Cli, paths: &[String]) -> Vec<String> {
    let all = |command: &[&str]| {
        let words = ["--json", "fs"].iter().chain(command).copied();
        cli.run(words.chain(paths.iter().map(String::as_str))).text()
    };
    let stats = all(&["stat"]);
    let stats = stats.lines().map(|line| {
        let mut stat: Value = serde_json::from_str(line).expect("JSON");
        for field in ["file_id", "blocks_in_deficit"] {
            stat.as_object_mut().expect("a stat").remove(field);
        }
        stat.to_string()
    });
    let others = [all(&["getfacl"]), all(&["getfattr", "-d"])].concat();
    stats.chain(others.lines().map(str::to_owned)).collect()
}

/// Both zones as alice reads them, who may.
fn compare(here: &Cli, there: &Cli, folder: &Path) {
    fs::create_dir(folder).expect("made");
    let copies = [("here", here), ("there", there)].map(|(name, cli)| {
        let copy = folder.join(name);
        cli.line(&format!("fs get -r /payroll {}", copy.display())).ok();
        copy
    });
    assert_eq!(describe(&copies[0]), describe(&copies[1]));
    let below = walkdir::WalkDir::new(&copies[0]).into_iter();
    let paths: Vec<String> = below
        .map(|entry| {
            let entry = entry.expect("readable");
            let name = entry.path().strip_prefix(&copies[0]).expect("below");
            PathBuf::from("/payroll").join(name).display().to_string()
        })
        .map(|path| path.trim_end_matches('/').to_owned())
        .collect();
    let (sent, came) = (told(here, &paths), told(there, &paths));
    assert_eq!(sent.len(), came.len());
    for (sent, came) in sent.iter().zip(&came) {
        assert_eq!(sent, came);
    }
}

#[test]
fn a_zone_goes_to_another_cluster_by_a_carrier_who_is_cut_off_and_has_no_key() {
    let home = Dev::start();
    let (away, folder, _) = twins(&home);
    let (here, there) = (home.cli(), away.cli());
    let (carrier, receiver) = (here.as_user("fsadmin"), there.as_user("fsadmin"));
    let tree = folder.join("tree");
    carrier.line("zone create /payroll --key payroll --owner alice").ok();
    let mut total = write_tree(&tree, &mut Bytes::new(seed()));
    here.line(&format!("fs put -r {}/. /payroll", tree.display())).ok();
    total += adorn(&here, &tree.join("several"));
    carrier.line("fs cat /payroll/whole").fails(4, &["may not unwrap"]);

    let out = folder.join("out");
    let get = format!("--json fs --raw get -r /payroll {}", out.display());
    carrier.line(&get).fails(2, &["make it first"]);
    fs::create_dir(&out).expect("made");
    cut_off(&carrier, &format!("{get} -j 1"), || streams(&out) >= BEGUN);
    let begun = streams(&out);
    let done = carrier.line(&get).json();
    assert_eq!(
        (count(&done, "failed"), count(&done, "unchanged")),
        (0, begun),
        "{done}"
    );
    assert_eq!(count(&done, "files") + begun, total, "{done}");
    assert_eq!(streams(&out), total);

    // Where the zone is to be is a directory; nothing comes before it is that zone.
    let put = format!("--json fs --raw put -r {} /", out.join("payroll").display());
    let id = id_of(&here, "/payroll");
    let make = format!("zone create /payroll --key payroll --suite gcm --id {id}");
    receiver.line(&put).fails(2, &[&make]);
    receiver.line(&make).ok();
    fs::write(
        out.join("payroll/.strongroom-0.part"),
        b"left by a command that was killed",
    )
    .expect("written");
    cut_off(&receiver, &format!("{put} -j 1"), || files(&receiver) >= BEGUN);
    let begun = files(&receiver);
    assert!(begun < total, "{begun} of {total}");

    // A zone in the zone is left out until it is there.
    let partly = receiver.line(&put);
    assert_eq!(partly.code, Some(7), "{}", partly.stderr);
    let partly: Value = serde_json::from_slice(&partly.stdout).expect("JSON");
    let (files, unchanged) = (count(&partly, "files"), count(&partly, "unchanged"));
    // A commit may have been on its way when the command was killed.
    assert!(unchanged >= begun && files > 0, "{partly}");
    assert_eq!(
        (files + unchanged, count(&partly, "failed")),
        (total - 1, 1),
        "{partly}"
    );
    let why = partly["failures"][0]["message"].as_str().expect("a message");
    assert!(
        why.contains("zone create /payroll/inner zone --key lake --suite ctr-hdfs"),
        "{why}"
    );
    receiver.run(["fs", "mkdir", "/payroll/inner zone"]).ok();
    let lake = ["--key", "lake", "--suite", "ctr-hdfs"];
    receiver
        .run(["zone", "create", "/payroll/inner zone"].iter().chain(&lake))
        .ok();
    let done = receiver.line(&put).json();
    assert_eq!(
        (count(&done, "files"), count(&done, "unchanged")),
        (1, total - 1),
        "{done}"
    );
    compare(&here, &there, &folder.join("copied"));
    receiver.line("fs cat /payroll/whole").fails(4, &["may not unwrap"]);

    // What is no longer as it came is left alone, or replaced.
    there.line("fs chmod 600 /payroll/whole").ok();
    receiver.line(&put).fails(7, &[]);
    let done = receiver.line(&format!("{put} --force")).json();
    assert_eq!(
        (count(&done, "files"), count(&done, "unchanged")),
        (1, total - 1),
        "{done}"
    );
    compare(&here, &there, &folder.join("again"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(away.repaired());
    receiver.line("fsck --deep").ok();
}

#[test]
fn a_tree_of_ciphertext_that_is_not_one_is_refused_with_the_way_out() {
    let home = Dev::start();
    let (away, folder, _) = twins(&home);
    let (carrier, receiver) = (home.cli().as_user("fsadmin"), away.cli().as_user("fsadmin"));
    let (out, file) = (folder.join("out"), folder.join("file"));
    fs::create_dir(&out).expect("made");
    fs::write(&file, b"four").expect("written");
    carrier.line("zone create /payroll --key payroll --owner alice").ok();
    home.cli().line("fs mkdir /payroll/d").ok();
    for name in ["d/kept", "d/.strongroom-directory"] {
        let put = format!("fs put {} /payroll/{name}", file.display());
        home.cli().line(&put).ok();
    }
    let get = |more: &str| format!("fs --raw get {more} -r /payroll/d {}", out.display());
    carrier
        .line(&get(""))
        .fails(7, &["/payroll/d/.strongroom-directory", "under another name"]);
    carrier
        .line(&get("--hdfs"))
        .fails(2, &["--hdfs takes files, not directories"]);
    assert!(out.join("d/kept").is_file());

    let put = |what: &str, target: &str| format!("fs --raw put -r {} {target}", out.join(what).display());
    receiver
        .line(&put("d", "/payroll/new"))
        .fails(2, &["is no directory", "/."]);
    receiver
        .line(&format!("fs --raw put {} /payroll", out.join("d").display()))
        .fails(2, &["pass -r"]);
    receiver
        .line(&put(".", "/payroll"))
        .fails(2, &["says not what the directory is", "get -r"]);
    let says = out.join("d/.strongroom-directory");
    let mut bytes = fs::read(&says).expect("there");
    bytes[7] = 9;
    fs::write(&says, &bytes).expect("written");
    receiver
        .line(&put("d", "/payroll"))
        .fails(2, &["its format is 9", "upgrade"]);
    receiver.line("fs stat /payroll/d").fails(3, &[]);
}
