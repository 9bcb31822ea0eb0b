//! Every client command, done once, with JSON of the shape that `docs/cli.md` gives; and progress on a terminal only.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::Value;
use strongroom_tests::{Cli, Dev, Outcome};

/// How the manual's description of a stat starts, that of `du` starting alike.
const ACL: &str = "path\",\"owner";
const STAT: &str = "path\",\"kind";
/// How the manual's key begins.
const KEY: &str = "name\",\"suite";

const MANUAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");

/// The names of the outermost object in the manual's line of code that starts with `start`.
pub(crate) fn documented(start: &str) -> BTreeSet<String> {
    let manual = fs::read_to_string(MANUAL).expect("the manual");
    let at = manual
        .find(&format!("{{\"{start}\""))
        .unwrap_or_else(|| panic!("the manual shows no object that starts with {start}"));
    let mut depth = 0;
    let mut names = BTreeSet::new();
    let mut rest = &manual[at..];
    while let Some(character) = rest.chars().next() {
        match character {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            '"' => {
                let (name, after) = rest[1..].split_once('"').expect("a closed name");
                if depth == 1 {
                    names.insert(name.to_owned());
                }
                rest = after;
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        rest = &rest[character.len_utf8()..];
    }
    names
}

/// Asserts that every line of standard output is an object with the documented names; gives the last.
fn shaped(outcome: Outcome, start: &str) -> Value {
    let (command, text) = (outcome.command.clone(), outcome.text());
    let mut last = Value::Null;
    for line in text.lines() {
        last = serde_json::from_str(line).unwrap_or_else(|error| panic!("{command}: {error}: {line}"));
        let object = last.as_object().unwrap_or_else(|| panic!("{command}: {line}"));
        let names: BTreeSet<String> = object.keys().cloned().collect();
        assert_eq!(names, documented(start), "{command}");
    }
    assert!(!last.is_null(), "{command} printed nothing");
    last
}

/// Runs a command with `--json`, whose answer has to be as documented; gives the last object.
pub(crate) fn json(cli: &Cli, line: &str, start: &str) -> Value {
    shaped(cli.line(&format!("--json {line}")), start)
}

#[test]
fn every_command_prints_the_json_of_the_manual() {
    let dev = Dev::start();
    let cli = dev.cli();
    let local = dev.scratch("local").join("file");
    fs::write(&local, "some bytes").expect("written");
    let (local, back) = (local.display(), dev.scratch("back").join("file"));

    json(&cli, "key create payroll", KEY);
    json(&cli, "key show payroll", KEY);
    json(&cli, "key list", KEY);
    json(&cli, "key versions payroll", "version\",\"state");
    json(&cli.as_user("fsadmin"), "fs mkdir /zone", STAT);
    let zone = json(
        &cli,
        "zone create /zone --key payroll --frame-size 4KiB --owner alice",
        "zone_id",
    );
    assert_eq!(zone["frame_bytes"], 4096);
    assert_eq!(json(&cli, &format!("fs put {local} /zone/a"), "files")["files"], 1);
    assert_eq!(json(&cli, "fs ls /zone", "name\",\"path")["length"], 10);
    json(&cli, "fs stat /zone /zone/a", STAT);
    assert_eq!(
        json(&cli, &format!("fs append {local} /zone/a"), "files\",\"directories")["bytes"],
        10
    );
    assert_eq!(json(&cli, "fs truncate --length 10 /zone/a", STAT)["length"], 10);
    json(&cli, "fs recover /zone/a", "path\",\"writer");
    assert_eq!(json(&cli, "fs chmod 640 /zone/a", STAT)["mode"], 0o640);
    let admin = cli.as_user("fsadmin");
    assert_eq!(json(&admin, "fs chown alice:hr /zone/a", STAT)["group"], "hr");
    assert_eq!(json(&admin, "fs chgrp it /zone/a", STAT)["group"], "it");
    let acl = json(&cli, "fs setfacl -m user:guest:r--,mask::r-- /zone/a", ACL);
    assert_eq!(acl["acl"][1], "user:guest:r--");
    assert_eq!(json(&cli, "fs getfacl /zone/a", ACL), acl);
    json(&cli, "fs mv /zone/a /zone/b", STAT);
    assert_eq!(json(&cli, "fs du /zone", "path\",\"files")["bytes"], 10);
    assert_eq!(
        json(&cli, &format!("fs get /zone/b {}", back.display()), "files")["bytes"],
        10
    );
    assert_eq!(fs::read_to_string(&back).expect("fetched"), "some bytes");
    assert_eq!(cli.line("--json fs cat /zone/b").text(), "some bytes");
    assert_eq!(json(&cli, "key roll payroll", KEY)["current_version"], 1);
    json(&cli, "zone reencrypt /zone --wait", "zone_path");
    assert_eq!(json(&cli, "zone status /zone", "zone_path")["state"], "completed");
    assert_eq!(json(&cli, "zone status", "zone_path")["zone_path"], "/zone");
    json(&cli, "zone reencrypt /zone --cancel", "zone_path");
    let job = json(&cli, "job list --all", "job_id");
    for action in ["show", "pause", "resume --throttle 7", "cancel"] {
        let line = format!("job {action} {}", job["job_id"].as_str().expect("hex"));
        assert_eq!(
            json(&cli, &line, "job_id")["state"],
            "completed",
            "what is over stays so"
        );
    }
    assert_eq!(json(&cli, "zone list", "zone_id")["path"], "/zone");
    json(&cli, "zone info /zone", "zone_id");
    let proof = dev.scratch("proof").join("file");
    let line = format!("zone proof /zone --through-version 0 -o {}", proof.display());
    json(&cli, &line, "proof");
    assert!(fs::read(&proof).expect("written").starts_with(b"SRZPROOF"));
    cli.line(&line).fails(8, &["proof"]);
    cli.line(&line.replace("version 0", "version 1"))
        .fails(8, &["newest", "key roll payroll"]);
    let key = json(&cli, "key show payroll", KEY);
    let newest = key["versions"]
        .as_array()
        .and_then(|versions| versions.last())
        .expect("a version");
    let confirm = format!(
        "key confirm payroll --version {} --kcv {}",
        newest["version"],
        newest["kcv"].as_str().expect("hex")
    );
    json(&cli, &confirm, KEY);
    json(&cli, "key update payroll --description salaries --tag team=hr", KEY);
    json(&cli, "key disable payroll", KEY);
    json(&cli, "key enable payroll", KEY);
    json(&cli, "key alias set wages payroll", "alias");
    assert_eq!(json(&cli, "key show wages", KEY)["tags"]["team"], "hr");
    json(&cli, "key alias list", "alias");
    json(&cli, "key alias delete wages", "removed");
    cli.line("key delete payroll --version 0")
        .fails(8, &["zone proof --zone-id", "cancel-delete payroll --version 0"]);
    json(&cli, "key cancel-delete payroll --version 0", KEY);
    assert_eq!(
        json(&cli, "fs rm /zone/b", "removed\",\"job_id\",\"trash_path")["removed"],
        "/zone/b"
    );
    let status = json(&cli, "status", "nodes");
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(3));
    let error: Value = serde_json::from_str(&cli.line("--json fs stat /zone/b").fails(3, &[])).expect("JSON");
    let names = error["error"].as_object().expect("an error").keys();
    let names: BTreeSet<&str> = names.map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["exit_code", "message", "reason"]));
}

/// Runs `put` with its standard error on a terminal and gives what the terminal was sent.
fn put_on_a_terminal(dev: &Dev, from: &Path, to: &str) -> String {
    let put = dev.cli().command();
    let shell = format!(
        "stty cols 100; exec '{}' fs put '{}' {to}",
        put.get_program().to_string_lossy(),
        from.display()
    );
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &shell, "/dev/null"]);
    for (name, value) in put.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    let output = script.output().expect("script(1) is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn progress_is_drawn_on_a_terminal_only() {
    let dev = Dev::start();
    let zone = dev.zone("progress");
    let local = dev.scratch("local").join("file");
    fs::write(&local, vec![7; 20 << 20]).expect("written");
    let drawn = put_on_a_terminal(&dev, &local, &format!("{zone}/a"));
    assert!(drawn.contains('█') && drawn.contains("20.00 MiB"), "{drawn:?}");

    let path = local.to_str().expect("UTF-8");
    let piped = dev.cli().run(["fs", "put", path, &format!("{zone}/b")]).ok();
    assert!(
        !piped.stderr.contains('█') && !piped.stderr.contains('\u{1b}'),
        "{}",
        piped.stderr
    );
}
