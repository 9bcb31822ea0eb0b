//! `strongroom dev`: what it makes, what it refuses, and how it stops and starts again.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use strongroom_tests::{BLOCK_NODES, Dev, strongroom, until};

#[test]
fn everything_survives_a_restart_and_needs_no_flags() {
    let mut dev = Dev::start();
    let zone = dev.zone("payroll");
    let file = dev.scratch("in").join("jan.csv");
    fs::write(&file, "alice,1000\n").expect("own directory");
    dev.cli()
        .run(["fs", "put", file.to_str().expect("UTF-8"), &format!("{zone}/jan.csv")])
        .ok();
    let remotes = fs::read_to_string(dev.data("client.toml")).expect("a profile");

    let status = dev.stop();
    assert_eq!(status.code(), Some(0), "SIGTERM is a clean stop");
    assert!(!dev.data("pids.json").exists(), "nothing runs");
    dev.start_again();
    assert_eq!(
        fs::read_to_string(dev.data("client.toml")).expect("a profile"),
        remotes,
        "the ports stay"
    );
    assert_eq!(
        dev.cli().run(["fs", "cat", &format!("{zone}/jan.csv")]).text(),
        "alice,1000\n"
    );

    assert_eq!(dev.stop_with(Signal::INT).code(), Some(0), "Ctrl-C is a clean stop");
    dev.start_again();
    assert_eq!(
        dev.cli().run(["fs", "cat", &format!("{zone}/jan.csv")]).text(),
        "alice,1000\n"
    );
}

#[test]
fn files_that_are_not_encrypted_are_told_of_where_no_directory_is_named_for_them() {
    let mut dev = Dev::builder().argument("--plain").argument("/landing").start();
    let file = dev.scratch("in").join("a");
    fs::write(&file, "plain as day").expect("own directory");
    let cli = dev.cli();
    cli.as_user("fsadmin").line("fs mkdir /landing").ok();
    cli.as_user("fsadmin").line("fs chown alice /landing").ok();
    cli.run(["fs", "put", file.to_str().expect("UTF-8"), "/landing/a"]).ok();
    assert!(!dev.stderr().contains("not encrypted"), "{}", dev.stderr());
    dev.stop();
    dev.drop_arguments();
    dev.start_again();
    until("it is told", Duration::from_secs(30), || {
        dev.stderr().contains("start with --plain DIR").then_some(())
    });
    cli.line("fs cat /landing/a").fails(8, &["/landing/a", "plain = ["]);
    dev.stop();
    dev.add_argument("--plain");
    dev.add_argument("/landing");
    dev.start_again();
    assert_eq!(cli.line("fs cat /landing/a").text(), "plain as day");
    cli.line("dev --plain /").fails(2, &["single directories"]);
}

#[test]
fn secrets_are_for_their_owner_only() {
    let dev = Dev::start();
    for path in [
        "token/user.pin",
        "token/so.pin",
        "pki/ca.key",
        "pki/alice.key",
        "pki/kms.key",
    ] {
        let mode = fs::metadata(dev.data(path)).expect("dev made it").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{path} has mode {mode:o}");
    }
    let pin = fs::read_to_string(dev.data("token/user.pin")).expect("readable for its owner");
    for role in ["kms", "metadata", "block-1"] {
        assert!(!dev.log(role).contains(pin.trim()), "the {role} log has the PIN");
    }
    for (process, pid_of) in [
        ("key service", dev.pid("kms").expect("runs")),
        ("token worker", dev.token_worker()),
    ] {
        for part in ["cmdline", "environ"] {
            let text = fs::read(format!("/proc/{}/{part}", pid_of.as_raw_nonzero())).expect("it runs");
            assert!(!text.is_empty(), "the {process} has no {part}");
            assert!(
                !String::from_utf8_lossy(&text).contains(pin.trim()),
                "the {process}'s {part} has the PIN"
            );
        }
    }
    let worker = fs::read(format!("/proc/{}/cmdline", dev.token_worker().as_raw_nonzero())).expect("it runs");
    assert!(
        String::from_utf8_lossy(&worker).contains("token-worker"),
        "the child that was looked at is another"
    );
}

#[test]
fn a_child_that_dies_is_restarted_and_said_so() {
    let dev = Dev::start();
    let zone = dev.zone("payroll");
    for role in ["kms", "metadata", "block-2"] {
        dev.crash(role);
        assert!(
            dev.stderr()
                .contains(&format!("{role} stopped (killed by signal 9); restarting in")),
            "{}",
            dev.stderr()
        );
    }
    let file = dev.scratch("in").join("a");
    fs::write(&file, "a").expect("own directory");
    until("a write after the crashes", Duration::from_secs(30), || {
        let outcome = dev.cli().run([
            "fs",
            "put",
            "--force",
            file.to_str().expect("UTF-8"),
            &format!("{zone}/a"),
        ]);
        (outcome.code == Some(0)).then_some(())
    });
}

#[test]
fn a_supervisor_that_is_killed_leaves_no_children() {
    let mut dev = Dev::start();
    let roles: Vec<_> = ["kms", "metadata"]
        .iter()
        .chain(&BLOCK_NODES)
        .map(|role| dev.pid(role).expect("runs"))
        .collect();
    dev.stop_with(Signal::KILL);
    until("the end of every role", Duration::from_secs(30), || {
        roles
            .iter()
            .all(|pid| rustix::process::test_kill_process(*pid).is_err())
            .then_some(())
    });
    dev.start_again();
}

#[test]
fn a_taken_port_is_named_with_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let base = port - 1;
    let mut dev = Dev::builder()
        .argument("--port-base")
        .argument(base.to_string())
        .prepare();
    let refused = dev.try_start().expect_err("the port is taken");
    assert_eq!(refused.code, Some(8), "{}", refused.stderr);
    for words in [&format!("port {port}"), "--port-base"] {
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
}

#[test]
fn a_newer_or_foreign_data_directory_is_left_alone() {
    let mut dev = Dev::builder().prepare();
    fs::create_dir_all(dev.data("")).expect("own directory");
    fs::write(dev.data("VERSION"), "2\n").expect("own directory");
    let refused = dev.try_start().expect_err("a newer format");
    assert!(
        refused.stderr.contains("was made by a newer version of strongroom"),
        "{}",
        refused.stderr
    );
    assert_eq!(fs::read_to_string(dev.data("VERSION")).expect("still there"), "2\n");

    fs::remove_file(dev.data("VERSION")).expect("own file");
    fs::write(dev.data("thesis.tex"), "x").expect("own directory");
    let refused = dev.try_start().expect_err("somebody else's directory");
    assert!(
        refused.stderr.contains("holds other files") && refused.stderr.contains("--data-dir"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_second_dev_on_the_same_directory_is_refused() {
    let dev = Dev::start();
    let outcome = dev.cli().run(["dev"]);
    let pid = dev.pid("dev").expect("runs").as_raw_nonzero();
    outcome.fails(8, &["another strongroom dev", &format!("pid {pid}"), "--data-dir"]);
}

#[test]
fn a_missing_token_library_is_named_with_the_way_out() {
    let mut dev = Dev::builder()
        .argument("--pkcs11-module")
        .argument("/nowhere/libtoken.so")
        .prepare();
    let refused = dev.try_start().expect_err("no such library");
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("/nowhere/libtoken.so does not exist"),
        "{}",
        refused.stderr
    );

    // In a mount namespace of its own, where the folders of SoftHSM2 are empty.
    let dev = Dev::builder().prepare();
    let script =
        "for d in /usr/lib/softhsm /usr/lib/*/softhsm; do [ -d $d ] && mount -t tmpfs none $d; done; exec \"$0\" dev";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(strongroom())
        .env("HOME", dev.home())
        .env_remove("XDG_DATA_HOME")
        .env_remove("XDG_CONFIG_HOME")
        .stdin(Stdio::null())
        .output()
        .expect("unshare is part of every Debian; run the tests as root");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(
        stderr.contains("libsofthsm2.so is not installed") && stderr.contains("apt-get install softhsm2"),
        "{stderr}"
    );
}

/// What the key service says of each of its tokens.
fn states(dev: &Dev) -> Vec<String> {
    let listed = dev.cli().as_user("keyadmin").run(["token", "list", "--json"]).json();
    let tokens = listed["tokens"].as_array().expect("a list").iter();
    let state = |token: &serde_json::Value| token["state"].as_str().expect("a word").to_owned();
    tokens.map(state).collect()
}

/// Each takes its turn: what is taken away is the folder of a token's objects, as if the device were unplugged.
#[test]
fn of_two_tokens_either_may_go_and_come_back() {
    let mut dev = Dev::builder().argument("--tokens").argument("2").start();
    let zone = dev.zone("payroll");
    let folder = dev.scratch("in");
    let put = |dev: &Dev, name: &str| {
        let file = folder.join(name);
        fs::write(&file, name).expect("own directory");
        let target = format!("{zone}/{name}");
        dev.cli()
            .run(["fs", "put", file.to_str().expect("UTF-8"), &target])
            .ok();
    };
    put(&dev, "before");
    assert_eq!(states(&dev), ["serving", "serving"]);
    for gone in ["token", "token-b"] {
        dev.cli()
            .as_user("keyadmin")
            .run(["key", "create", &format!("spare-{gone}")])
            .ok();
    }

    for (gone, after) in [("token", ["away", "serving"]), ("token-b", ["serving", "away"])] {
        // Once while it runs: the token's worker is lost with it.
        let objects = dev.data(gone).join("objects");
        let aside = dev.data(&format!("{gone}-aside"));
        fs::rename(&objects, &aside).expect("taken away");
        put(&dev, &format!("while-{gone}-is-gone"));
        // And once from the start.
        dev.stop();
        dev.start_again();
        assert_eq!(states(&dev), after, "without {gone}");
        put(&dev, &format!("without-{gone}"));
        // A zone's first EDEKs are minted when it is made.
        let (another, key) = (format!("/zone-{gone}"), format!("spare-{gone}"));
        let admin = dev.cli().as_user("fsadmin");
        admin.run(["fs", "mkdir", &another]).ok();
        admin.run(["zone", "create", &another, "--key", &key]).ok();
        for file in ["before".to_owned(), format!("without-{gone}")] {
            assert_eq!(dev.cli().run(["fs", "cat", &format!("{zone}/{file}")]).text(), file);
        }
        let refused = dev.cli().as_user("keyadmin").run(["key", "create", "late"]);
        assert_ne!(refused.code, Some(0), "a key would be in one token only");
        fs::rename(&aside, &objects).expect("put back");
        until("both serve again", Duration::from_secs(30), || {
            (states(&dev) == ["serving", "serving"]).then_some(())
        });
        let key = format!("after-{gone}");
        dev.cli().as_user("keyadmin").run(["key", "create", &key]).ok();
    }
}

#[test]
fn a_second_token_may_come_later_but_does_not_go_again_unsaid() {
    let mut dev = Dev::start();
    dev.zone("payroll");
    dev.stop();
    let start = |dev: &Dev, more: &[&str]| {
        let output = Command::new(strongroom())
            .args(["dev", "--data-dir"])
            .arg(dev.data(""))
            .args(more)
            .env("HOME", dev.home())
            .stdin(Stdio::null())
            .output()
            .expect("the executable is built");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, said) = start(&dev, &["--tokens", "3"]);
    assert_eq!(code, Some(2), "{said}");
    dev.add_argument("--tokens");
    dev.add_argument("2");
    dev.start_again();
    assert_eq!(states(&dev), ["serving", "serving"]);
    let admin = dev.cli().as_user("keyadmin");
    admin.run(["key", "create", "later"]).ok();
    // Made for one token, so it takes a roll to be in both.
    admin.run(["key", "roll", "payroll"]).ok();
    let held = admin.run(["token", "list", "--json"]).json();
    assert_eq!(
        (&held["tokens"][0]["held"], &held["tokens"][1]["held"]),
        (&3.into(), &2.into())
    );
    dev.stop();
    let (code, said) = start(&dev, &["--tokens", "1"]);
    assert_eq!(code, Some(8), "{said}");
    assert!(said.contains("leave --tokens out"), "{said}");
    fs::rename(dev.data("token-b"), dev.data("elsewhere")).expect("it was there");
    let (code, said) = start(&dev, &[]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("token-b is missing"), "{said}");
}
