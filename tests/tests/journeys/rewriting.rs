//! Files that are put in one piece and under new data keys while they are read, by a client that is killed on the way.

use std::{
    collections::HashSet,
    fs,
    process::{Child, Stdio},
    time::Duration,
};

use strongroom_tests::{Bytes, Cli, Dev, seed, until};

const FILES: usize = 24;
const LENGTH: usize = 1 << 20;

/// Starts a command and leaves it to itself.
pub(crate) fn start(cli: &Cli, line: &str) -> Child {
    let mut command = cli.command();
    command
        .args(line.split(' '))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("started")
}

/// The wrapped DEKs of the files below the zone.
fn edeks(dev: &Dev, zone: &str) -> Vec<Vec<u8>> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut edeks = Vec::new();
        for number in 0..FILES {
            let opened = dev.open(&format!("{zone}/d/f{number}")).await.expect("opened");
            edeks.push(opened.edek.expect("an EDEK").wrapped.to_vec());
        }
        edeks
    })
}

#[test]
fn a_log_is_compacted_and_a_zone_re_keyed_by_a_client_that_is_killed() {
    let dev = Dev::start();
    let (cli, zone) = (dev.cli(), dev.zone("payroll"));
    let (mut random, local) = (Bytes::new(seed()), dev.scratch("local").join("part"));
    let log = format!("{zone}/log");
    let mut model = random.take(LENGTH);
    fs::write(&local, &model).expect("written");
    cli.run(["fs", "put", local.to_str().expect("UTF-8"), &log]).ok();
    for _ in 0..3 {
        model.extend_from_slice(&fs::read(&local).expect("there"));
        cli.run(["fs", "append", local.to_str().expect("UTF-8"), &log]).ok();
    }
    let before = cli.line(&format!("--json fs stat {log}")).json();
    cli.line(&format!("fs compact {zone}")).fails(2, &["pass -r"]);
    let done = cli.line(&format!("--json fs compact -r {zone}")).json();
    assert_eq!((&done["files"], &done["failed"]), (&1.into(), &0.into()));
    let after = cli.line(&format!("--json fs stat {log}")).json();
    for field in ["file_id", "length", "mtime_ms", "owner", "mode"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let opened = runtime.block_on(dev.open(&log)).expect("opened");
    assert_eq!(opened.extents.len(), 1);
    assert!(cli.line(&format!("fs cat {log}")).ok().stdout == model);
    let again = cli.line(&format!("--json fs compact -r {zone}")).json();
    assert_eq!(again["files"], 0, "nothing is left to do");

    let tree = dev.scratch("local").join("d");
    fs::create_dir(&tree).expect("made");
    for number in 0..FILES {
        fs::write(tree.join(format!("f{number}")), random.take(LENGTH)).expect("written");
    }
    cli.run(["fs", "put", "-r", tree.to_str().expect("UTF-8"), &zone]).ok();
    let old: HashSet<_> = edeks(&dev, &zone).into_iter().collect();
    let mut killed = start(&cli, &format!("zone rekey {zone} --throttle 8 -j 2"));
    let job = until("some files are re-keyed", Duration::from_secs(60), || {
        let jobs = cli.line("--json job list").ok();
        let job = serde_json::from_slice::<serde_json::Value>(&jobs.stdout).ok()?;
        (job["done"].as_u64()? >= 3).then_some(job)
    });
    assert_eq!((&job["kind"], &job["owner"]), (&"rekeying".into(), &"alice".into()));
    cli.line(&format!("zone rekey {zone}"))
        .fails(8, &["works on this already"]);
    killed.kill().expect("running");
    killed.wait().expect("ended");
    dev.crash("metadata");
    assert!(cli.line(&format!("fs cat {zone}/d/f0")).ok().stdout == fs::read(tree.join("f0")).expect("there"));
    until("the job is free", Duration::from_secs(60), || {
        let job = cli.line(&format!("--json job show {}", job["job_id"].as_str()?)).json();
        job["message"].as_str()?.contains("no client works on it").then_some(())
    });
    let done = cli.line(&format!("--json zone rekey {zone}")).json();
    let left = done["files"].as_u64().expect("a number");
    assert!(
        (1..=FILES as u64 - 2).contains(&left),
        "it went on where the killed one was: {done}"
    );
    let show = cli
        .line(&format!("--json job show {}", job["job_id"].as_str().expect("an id")))
        .json();
    assert_eq!(
        (&show["state"], &show["done"]),
        (&"completed".into(), &(FILES as u64 + 1).into())
    );
    assert!(edeks(&dev, &zone).iter().all(|edek| !old.contains(edek)));
    for number in 0..FILES {
        let name = format!("f{number}");
        let stored = cli.line(&format!("fs cat {zone}/d/{name}")).ok().stdout;
        assert!(stored == fs::read(tree.join(&name)).expect("there"), "{name}");
    }
}
