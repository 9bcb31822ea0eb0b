//! Keys through their life: roll, re-encryption, restarts, a lost store, a wrong PIN, EDEKs with a flipped bit.

use std::{fs, time::Duration};

use rustix::process::{Signal, kill_process};
use strongroom_tests::{Cli, Dev, until};

/// How long a role that came back may take to serve.
const SERVE_LIMIT: Duration = Duration::from_secs(40);

fn put(dev: &Dev, path: &str, content: &str) -> strongroom_tests::Outcome {
    let file = dev.scratch("put").join("file");
    fs::write(&file, content).expect("own directory");
    dev.cli()
        .run(["fs", "put", "--force", file.to_str().expect("UTF-8"), path])
}

/// Reads a file again and again until the services that just came back answer.
fn read_soon(cli: &Cli, path: &str) -> String {
    until(&format!("reading {path}"), SERVE_LIMIT, || {
        let outcome = cli.run(["fs", "cat", path]);
        (outcome.code == Some(0)).then(|| outcome.text())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_and_a_reencryption_leave_the_data_alone() {
    const FILES: usize = 120;
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    let tree = dev.scratch("tree");
    for n in 0..FILES {
        fs::write(tree.join(format!("{n}.csv")), format!("content {n}")).expect("own directory");
    }
    dev.cli()
        .run([
            "fs",
            "put",
            "-r",
            tree.to_str().expect("UTF-8"),
            &format!("{zone}/tree"),
        ])
        .ok();
    let listing = || {
        let nodes = strongroom_tests::BLOCK_NODES
            .iter()
            .flat_map(|node| dev.block_files(node));
        let mut all: Vec<_> = nodes.map(|path| (fs::read(&path).expect("readable"), path)).collect();
        all.sort_by(|a, b| a.1.cmp(&b.1));
        all
    };
    let before = listing();
    assert!(before.len() >= 2 * FILES, "each file has a block on two nodes at least");
    let old = dev
        .open(&format!("{zone}/tree/7.csv"))
        .await
        .expect("readable")
        .edek
        .expect("has one");

    let rolled = dev.cli().line("--json key roll payroll").json();
    assert_eq!(rolled["current_version"], 1);
    assert_eq!(rolled["versions"].as_array().map(Vec::len), Some(2));
    put(&dev, &format!("{zone}/new"), "made after the roll").ok();
    let version_of = |path: &str| dev.cli().run(["--json", "fs", "stat", path]).json()["key_version"].clone();
    assert_eq!(version_of(&format!("{zone}/tree/7.csv")), 0);

    let done = dev.cli().line(&format!("--json zone reencrypt {zone} --wait")).json();
    assert_eq!(
        (&done["state"], &done["failures"], &done["files_left"]),
        (&"completed".into(), &0.into(), &0.into()),
        "{done}"
    );
    // Also those that took a pre-minted EDEK of the old version after the roll.
    let info = dev.cli().line(&format!("--json zone info {zone}")).json();
    assert_eq!(
        info["files"],
        serde_json::json!([{"key_version": 1, "files": FILES + 1}])
    );

    let new = dev
        .open(&format!("{zone}/tree/7.csv"))
        .await
        .expect("readable")
        .edek
        .expect("has one");
    assert_eq!((old.key_version, new.key_version), (0, 1));
    assert_ne!(old.wrapped, new.wrapped);
    let after: Vec<_> = listing()
        .into_iter()
        .filter(|(_, path)| before.iter().any(|(_, known)| known == path))
        .collect();
    assert!(before == after, "a block file was touched");
    let back = dev.scratch("back").join("tree");
    dev.cli()
        .run([
            "fs",
            "get",
            "-r",
            &format!("{zone}/tree"),
            back.to_str().expect("UTF-8"),
        ])
        .ok();
    for n in 0..FILES {
        assert_eq!(
            fs::read_to_string(back.join(format!("{n}.csv"))).expect("came back"),
            format!("content {n}")
        );
    }
}

#[test]
fn a_restarted_key_service_knows_all_it_knew() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    dev.cli().line("key roll payroll").ok();
    put(&dev, &format!("{zone}/a"), "a").ok();
    let before = lasting(dev.cli().line("--json key show payroll").json());
    dev.crash("kms");
    assert_eq!(read_soon(&dev.cli(), &format!("{zone}/a")), "a");
    assert_eq!(lasting(dev.cli().line("--json key show payroll").json()), before);
    put(&dev, &format!("{zone}/b"), "b").ok();
}

#[test]
fn a_lost_store_is_rebuilt_from_the_token_without_waking_a_key() {
    let mut dev = Dev::start();
    let zone = dev.zone("payroll");
    dev.cli().line("key roll payroll").ok();
    put(&dev, &format!("{zone}/a"), "still readable").ok();
    let before = dev.cli().line("--json key show payroll").json();
    dev.stop();
    fs::remove_dir_all(dev.data("state/kms")).expect("dev made it");
    dev.start_again();

    let after = dev.cli().line("--json key show payroll").json();
    assert_eq!(after["current_version"], serde_json::Value::Null, "nothing mints");
    let ids = |key: &serde_json::Value| {
        let versions = key["versions"].as_array().expect("a list").clone();
        versions
            .into_iter()
            .map(|v| (v["version"].clone(), v["token_id"].clone(), v["kcv"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&after), ids(&before), "every version comes back from the token");
    for version in after["versions"].as_array().expect("a list") {
        assert_eq!(version["state"], "decrypt-only", "{after}");
    }
    assert_eq!(read_soon(&dev.cli(), &format!("{zone}/a")), "still readable");
    let outcome = put(&dev, &format!("{zone}/b"), "b");
    assert_ne!(outcome.code, Some(0), "a key that nobody confirmed mints");
    assert!(outcome.stderr.contains("key confirm payroll"), "{}", outcome.stderr);
    dev.cli().line("key roll payroll").fails(8, &["key confirm payroll"]);

    let newest = &after["versions"][1];
    let kcv = newest["kcv"].as_str().expect("hex");
    dev.cli()
        .line(&format!("key confirm payroll --version 1 --kcv {kcv}"))
        .ok();
    assert_eq!(dev.cli().line("--json key show payroll").json()["current_version"], 1);
    until("a write after the confirmation", SERVE_LIMIT, || {
        (put(&dev, &format!("{zone}/b"), "b").code == Some(0)).then_some(())
    });
}

#[test]
fn a_wrong_pin_is_tried_once_and_not_again_until_its_file_changes() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    put(&dev, &format!("{zone}/a"), "a").ok();
    let pin_file = dev.data("token/user.pin");
    let pin = fs::read_to_string(&pin_file).expect("readable for its owner");
    fs::write(&pin_file, "000000000000").expect("own file");

    kill_process(dev.token_worker(), Signal::KILL).expect("own process");
    let refused = || {
        let outcome = dev.cli().run(["fs", "cat", &format!("{zone}/a")]);
        outcome.stderr.contains("PIN").then_some(outcome)
    };
    let outcome = until("the refusal of the PIN", SERVE_LIMIT, refused);
    outcome.fails(5, &["PIN", "user.pin"]);

    // Neither further calls nor a new key service try it again.
    dev.crash("kms");
    until("the same answer of the restarted service", SERVE_LIMIT, refused).fails(5, &["PIN", "user.pin"]);
    for _ in 0..3 {
        refused().expect("the same answer");
    }
    let tries = dev
        .log("kms")
        .lines()
        .filter(|line| line.contains("the token refused the PIN"))
        .count();
    assert_eq!(tries, 1, "{}", dev.log("kms"));

    fs::write(&pin_file, pin).expect("own file");
    assert_eq!(read_soon(&dev.cli(), &format!("{zone}/a")), "a");
}

#[test]
fn a_worker_that_dies_costs_retries_only() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    put(&dev, &format!("{zone}/a"), "a").ok();
    let kms = dev.pid("kms");
    let old = dev.token_worker();
    kill_process(old, Signal::KILL).expect("own process");
    // One call: the retries are the services' own.
    assert_eq!(dev.cli().run(["fs", "cat", &format!("{zone}/a")]).text(), "a");
    assert_ne!(dev.token_worker(), old);
    assert_eq!(dev.pid("kms"), kms, "the key service itself went on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edek_opens_only_as_it_was_wrapped() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    dev.zone("other");
    put(&dev, &format!("{zone}/a"), "a").ok();
    dev.cli().line("key roll payroll").ok();
    let good = dev
        .open(&format!("{zone}/a"))
        .await
        .expect("readable")
        .edek
        .expect("has one");

    let mut edeks = vec![good.clone()];
    for byte in 0..good.wrapped.len() {
        let mut wrapped = good.wrapped.to_vec();
        wrapped[byte] ^= 1 << (byte % 8);
        edeks.push(strongroom_proto::kms::v1::Edek {
            wrapped: wrapped.into(),
            ..good.clone()
        });
    }
    let mut zone_id = good.zone_id.to_vec();
    zone_id[15] ^= 1;
    edeks.push(strongroom_proto::kms::v1::Edek {
        zone_id: zone_id.into(),
        ..good.clone()
    });
    edeks.push(strongroom_proto::kms::v1::Edek {
        key_version: 1,
        ..good.clone()
    });
    edeks.push(strongroom_proto::kms::v1::Edek {
        key_name: "other".to_owned(),
        ..good.clone()
    });
    let results = dev
        .unwrap(&dev.tls_files("alice"), edeks)
        .await
        .expect("the call itself is allowed");

    assert!(results[0].is_ok(), "the untouched one opens beside the others");
    for (n, result) in results.iter().enumerate().skip(1) {
        let failure = result.as_ref().expect_err("must not open");
        assert_eq!(failure.reason, "edek-invalid", "{n}: {}", failure.message);
        let (key, version) = match n.saturating_sub(good.wrapped.len()) {
            2 => ("payroll", 1),
            3 => ("other", 0),
            _ => ("payroll", 0),
        };
        let words = format!("the EDEK does not open under key {key} version {version} for zone ");
        assert!(failure.message.starts_with(&words), "{n}: {}", failure.message);
    }
    assert_eq!(read_soon(&dev.cli(), &format!("{zone}/a")), "a");
}

/// A key without what is known to a minute only.
fn lasting(mut key: serde_json::Value) -> serde_json::Value {
    for version in key["versions"].as_array_mut().expect("a list") {
        version["last_used_ms"].take();
    }
    key
}
