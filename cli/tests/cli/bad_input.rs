//! What the executable says to bad input, without any service: message and exit code.

use std::net::TcpListener;

use crate::support::{Home, set_mode};

/// Runs each row's command in `home` and compares its exit code and what standard error must say.
fn check(home: &Home, rows: &[(&[&str], i32, &[&str])]) {
    for (arguments, code, words) in rows {
        let outcome = home.run(arguments);
        assert_eq!(outcome.code, Some(*code), "{arguments:?}: {}", outcome.stderr);
        for word in *words {
            assert!(
                outcome.stderr.contains(word),
                "{arguments:?} does not say {word:?}: {}",
                outcome.stderr
            );
        }
    }
}

#[test]
fn usage() {
    let rows: [(&[&str], i32, &[&str]); 9] = [
        (&[], 2, &["Usage: strongroom"]),
        (&["frobnicate"], 2, &["unrecognized subcommand 'frobnicate'"]),
        (&["key", "create"], 2, &["<NAME>"]),
        (
            &["key", "create", "no spaces"],
            2,
            &["key name \"no spaces\" is not valid", "A-Z a-z 0-9"],
        ),
        (&["key", "create", "k", "--suite", "rot13"], 2, &["known suites: kw"]),
        (&["fs", "put", "x"], 2, &["<REMOTE>"]),
        (&["fs", "put", "--jobs", "0", "x", "/x"], 2, &["0 is not in 1..=256"]),
        (&["fs", "mkdir", "--mode", "999", "/x"], 2, &["octal"]),
        (&["dev", "--port-base", "80"], 2, &["--port-base 80", "1024 to 65531"]),
    ];
    check(&Home::new(), &rows[..8]);
    let module = env!("CARGO_BIN_EXE_strongroom");
    let home = Home::new();
    check(
        &home,
        &[(
            &["dev", "--port-base", "80", "--pkcs11-module", module],
            rows[8].1,
            rows[8].2,
        )],
    );
}

#[test]
fn usage_errors_are_json_where_json_is_asked_for() {
    let outcome = Home::new().run(&["--json", "fs", "mkdir"]);
    assert_eq!(outcome.code, Some(2));
    for word in [r#"{"error":{"#, r#""reason":"usage""#, "<PATHS>", r#""exit_code":2"#] {
        assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
    }
}

#[test]
fn profiles_and_identities() {
    check(
        &Home::new(),
        &[
            (
                &["key", "list"],
                3,
                &[
                    "no client profile at",
                    "/.config/strongroom/profile.toml",
                    "strongroom dev",
                    "--profile",
                ],
            ),
            (
                &["--profile", "/no/such", "status"],
                3,
                &["no client profile at /no/such"],
            ),
        ],
    );
    let home = Home::with_profile();
    home.write("broken.toml", "kms = 3\n");
    check(
        &home,
        &[
            (
                &["--as", "bob", "fs", "ls", "/"],
                2,
                &["no identity bob", "it has: alice"],
            ),
            (
                &["--profile", "{home}/broken.toml", "fs", "ls"],
                2,
                &["broken.toml is not valid", "line 1"],
            ),
        ],
    );
    set_mode(&home.path(".config/strongroom/alice.key"), 0o644);
    check(
        &home,
        &[(
            &["fs", "ls", "/"],
            4,
            &["the identity alice cannot be used", "chmod 600"],
        )],
    );
    set_mode(&home.path(".config/strongroom/alice.key"), 0o600);
    home.write(".config/strongroom/alice.pem", "not PEM");
    check(
        &home,
        &[(
            &["fs", "ls", "/"],
            2,
            &["the identity alice cannot be used", "alice.pem"],
        )],
    );
    std::fs::remove_file(home.path(".config/strongroom/alice.pem")).expect("there");
    check(
        &home,
        &[(
            &["fs", "ls", "/"],
            3,
            &["the identity alice cannot be used", "alice.pem"],
        )],
    );
}

#[test]
fn paths_and_local_files() {
    let home = Home::with_profile();
    home.write("dir/file", "x");
    check(
        &home,
        &[
            (
                &["fs", "ls", "relative"],
                2,
                &["path \"relative\" is not valid", "start with /"],
            ),
            (&["fs", "stat", "/a/../b"], 2, &["must not be . or .."]),
            (
                &["fs", "mkdir", &format!("/{}", "x".repeat(256))],
                2,
                &["at most 255 bytes"],
            ),
            (&["zone", "info", "zone"], 2, &["start with /"]),
            (
                &["zone", "create", "/z", "--key", "k", "--frame-size", "5000"],
                2,
                &["a power of two from 4KiB to 1MiB"],
            ),
            (&["fs", "put", "{home}/none", "/z"], 3, &["cannot read", "/none"]),
            (&["fs", "put", "{home}/dir", "/z"], 2, &["is a directory", "-r"]),
            (&["fs", "get", "/a", "-"], 2, &["strongroom fs cat", "./-"]),
            (&["fs", "put", "-", "x", "/a"], 2, &["stored alone", "./-"]),
            (
                &["fs", "get", "/a", "/b", "{home}/none"],
                2,
                &["is no directory", "2 sources"],
            ),
        ],
    );
}

/// Clients try for a while before they give up, so both services are asked at the same time.
#[test]
fn services_that_nobody_runs() {
    let home = Home::with_profile();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            check(
                &home,
                &[(&["key", "list"], 5, &["cannot reach the kms service at localhost:1"])],
            );
        });
        let outcome = home.run(&["--json", "fs", "ls", "/"]);
        let document: serde_json::Value = serde_json::from_str(&outcome.stderr).expect("one JSON document");
        let error = &document["error"];
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(5), ""));
        assert_eq!(
            (&error["exit_code"], &error["reason"]),
            (&5.into(), &"unavailable".into())
        );
        let message = error["message"].as_str().expect("a text");
        assert!(
            message.contains("cannot reach the metadata service at localhost:1"),
            "{message}"
        );
    });
}

#[test]
fn role_configurations() {
    let home = Home::new();
    home.write("typo.toml", "listn = \"127.0.0.1:1\"\n");
    for role in ["kms", "metadata", "block"] {
        check(
            &home,
            &[
                (
                    &[role, "--config", "{home}/none.toml"],
                    3,
                    &[role, "none.toml", "No such file"],
                ),
                (
                    &[role, "--config", "{home}/typo.toml"],
                    1,
                    &["typo.toml", "unknown field `listn`"],
                ),
                (&[role], 2, &["--config <FILE>"]),
            ],
        );
    }
}

#[test]
fn there_is_nothing_to_link_where_hsms_replicate() {
    let home = Home::new();
    let sample = include_str!("../../../kms/kms.sample.toml");
    let replicating = sample.replace("mode = \"clone\"", "mode = \"replicated-by-hsm\"");
    assert_ne!(replicating, sample);
    home.write("kms.toml", &replicating);
    check(
        &home,
        &[(
            &["token", "link", "--config", "{home}/kms.toml"],
            2,
            &["replicate by themselves", "nothing to link"],
        )],
    );
}

#[test]
fn dev_says_why_it_does_not_start() {
    let home = Home::new();
    home.write("damaged/VERSION", "1\n");
    home.write("damaged/ports.toml", "kms = \"seven\"\n");
    home.write("newer/VERSION", "2\n");
    home.write("foreign/thesis.tex", "x");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let base = (port - 2).to_string();
    // Any file does for a library: none of these starts gets as far as loading it.
    let module = env!("CARGO_BIN_EXE_strongroom");
    let dev = |directory| ["dev", "--pkcs11-module", module, "--data-dir", directory];
    check(
        &home,
        &[
            (
                &dev("{home}/newer"),
                1,
                &["newer version of strongroom (format 2", "--data-dir"],
            ),
            (
                &dev("{home}/damaged"),
                1,
                &["damaged/ports.toml is damaged", "delete it", "--port-base"],
            ),
            (&dev("{home}/foreign"), 8, &["holds other files", "--data-dir"]),
            (
                &["dev", "--pkcs11-module", "/no.so"],
                3,
                &["/no.so does not exist", "apt-get install softhsm2"],
            ),
            (
                &[&dev("{home}/data")[..], &["--port-base", &base]].concat(),
                8,
                &[&format!("port {port} for block-1 is taken by pid"), "--port-base"],
            ),
        ],
    );
}
