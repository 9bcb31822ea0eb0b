//! Every client command, done once, with JSON of the shape that `docs/cli.md` gives; and progress on a terminal only.

use std::{
    cell::RefCell, collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command,
    time::Duration,
};

use serde_json::Value;
use strongroom_tests::{Cli, Dev, Outcome, SoftHsm, until};

use crate::transfers::set_policy;

const LIMIT: Duration = Duration::from_secs(60);
/// How the manual's description of a stat starts, that of `du` starting alike.
const ACL: &str = "path\",\"owner";
const STAT: &str = "path\",\"kind";
/// How its summary of what was done to files starts.
const SUMMARY: &str = "files\",\"directories";
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

/// The names in an object.
pub(crate) fn names(object: &Value) -> BTreeSet<String> {
    let object = object.as_object().unwrap_or_else(|| panic!("no object: {object}"));
    object.keys().cloned().collect()
}

/// Asserts that every line of standard output is an object with the documented names; gives the last.
fn shaped(outcome: Outcome, start: &str) -> Value {
    let (command, text) = (outcome.command.clone(), outcome.text());
    let mut last = Value::Null;
    for line in text.lines() {
        last = serde_json::from_str(line).unwrap_or_else(|error| panic!("{command}: {error}: {line}"));
        assert_eq!(names(&last), documented(start), "{command}");
    }
    assert!(!last.is_null(), "{command} printed nothing");
    last
}

/// Runs a command with `--json`, whose answer has to be as documented; gives the last object.
pub(crate) fn json(cli: &Cli, line: &str, start: &str) -> Value {
    shaped(cli.line(&format!("--json {line}")), start)
}

/// Commands without an answer: services, and what prints a script.
const NO_ANSWER: [&str; 4] = ["dev", "kms", "block", "completions"];

/// What was asked for in JSON so far, and printed it.
#[derive(Default)]
struct Asked(RefCell<Vec<String>>);

impl Asked {
    /// Asks for an answer, which has to be as documented; gives the last object.
    fn json(&self, cli: &Cli, line: &str, start: &str) -> Value {
        self.0.borrow_mut().push(line.to_owned());
        json(cli, line, start)
    }

    /// Asks for what is printed as it is, also with `--json`.
    fn text(&self, cli: &Cli, line: &str) -> String {
        self.0.borrow_mut().push(line.to_owned());
        cli.line(&format!("--json {line}")).text()
    }

    fn has(&self, command: &str) -> bool {
        let is_it = |line: &String| {
            line.strip_prefix(command)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        self.0.borrow().iter().any(is_it)
    }
}

/// The commands below a group, which is empty or begins with a space, as its help lists them.
fn commands(cli: &Cli, group: &str) -> Vec<String> {
    let help = cli.line(&format!("{group} -h")).text();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| {
        line.strip_prefix("  ")?
            .split(' ')
            .next()
            .filter(|name| !name.is_empty())
    });
    let below = names.flat_map(|name| match commands(cli, &format!("{group} {name}")) {
        none if none.is_empty() => vec![name.to_owned()],
        below => below.iter().map(|command| format!("{name} {command}")).collect(),
    });
    below.collect()
}

#[test]
fn every_command_prints_the_json_of_the_manual() {
    let mut dev = Dev::builder()
        .argument("--tokens")
        .argument("2")
        .argument("--plain")
        .argument("/landing")
        .start();
    let asked = Asked::default();
    files_in_a_zone(&asked, &dev);
    reencryption_and_jobs(&asked, &dev);
    keys(&asked, &dev);
    what_belongs_to_files(&asked, &dev);
    rewriting_and_raw(&asked, &dev);
    services(&asked, &dev);
    tokens(&asked, &dev);
    policies(&asked, &dev);
    audit(&asked, &dev);
    let cli = dev.cli();
    let error: Value = serde_json::from_str(&cli.line("--json fs stat /zone/none").fails(3, &[])).expect("JSON");
    assert_eq!(
        names(&error["error"]),
        ["exit_code", "message", "reason"].map(str::to_owned).into()
    );
    dev.stop();
    exports(&asked, &dev);

    let all = commands(&cli, "");
    assert!(all.len() > 70, "{all:?}");
    for command in &all {
        let has_none = NO_ANSWER.contains(&command.as_str());
        assert!(asked.has(command) != has_none, "strongroom {command}");
    }
    for command in NO_ANSWER {
        assert!(all.iter().any(|known| known == command), "{command}");
    }
}

/// A file with a few bytes.
fn local(dev: &Dev) -> String {
    let path = dev.scratch("local").join("file");
    fs::write(&path, "some bytes").expect("written");
    path.display().to_string()
}

fn files_in_a_zone(asked: &Asked, dev: &Dev) {
    let (cli, admin, local) = (dev.cli(), dev.cli().as_user("fsadmin"), local(dev));
    let json = |cli: &Cli, line: &str, start: &str| asked.json(cli, line, start);
    json(&cli, "key create payroll", KEY);
    json(&admin, "fs mkdir /zone", STAT);
    let zone = json(
        &cli,
        "zone create /zone --key payroll --frame-size 4KiB --owner alice",
        "zone_id",
    );
    assert_eq!(zone["frame_bytes"], 4096);
    assert_eq!(json(&cli, &format!("fs put {local} /zone/a"), SUMMARY)["files"], 1);
    assert_eq!(json(&cli, "fs ls /zone", "name\",\"path")["length"], 10);
    json(&cli, "fs stat /zone /zone/a", STAT);
    assert_eq!(json(&cli, &format!("fs append {local} /zone/a"), SUMMARY)["bytes"], 10);
    assert_eq!(json(&cli, "fs truncate --length 10 /zone/a", STAT)["length"], 10);
    json(&cli, "fs recover /zone/a", "path\",\"writer");
    assert_eq!(json(&cli, "fs chmod 640 /zone/a", STAT)["mode"], 0o640);
    assert_eq!(json(&admin, "fs chown alice:hr /zone/a", STAT)["group"], "hr");
    assert_eq!(json(&admin, "fs chgrp it /zone/a", STAT)["group"], "it");
    let acl = json(&cli, "fs setfacl -m user:guest:r--,mask::r-- /zone/a", ACL);
    assert_eq!(acl["acl"][1], "user:guest:r--");
    assert_eq!(json(&cli, "fs getfacl /zone/a", ACL), acl);
    json(&cli, "fs mv /zone/a /zone/b", STAT);
    assert_eq!(json(&cli, "fs du /zone", "path\",\"files")["bytes"], 10);
    let back = dev.scratch("back").join("file");
    let get = format!("fs get /zone/b {}", back.display());
    assert_eq!(json(&cli, &get, SUMMARY)["bytes"], 10);
    assert_eq!(fs::read_to_string(&back).expect("fetched"), "some bytes");
    assert_eq!(asked.text(&cli, "fs cat /zone/b"), "some bytes");
}

fn reencryption_and_jobs(asked: &Asked, dev: &Dev) {
    let cli = dev.cli();
    let json = |line: &str, start: &str| asked.json(&cli, line, start);
    assert_eq!(json("key roll payroll", KEY)["current_version"], 1);
    json("zone reencrypt /zone --wait", "zone_path");
    assert_eq!(json("zone status /zone", "zone_path")["state"], "completed");
    assert_eq!(json("zone status", "zone_path")["zone_path"], "/zone");
    json("zone reencrypt /zone --cancel", "zone_path");
    let job = json("job list --all", "job_id");
    for action in ["show", "pause", "resume --throttle 7", "cancel"] {
        let line = format!("job {action} {}", job["job_id"].as_str().expect("hex"));
        assert_eq!(json(&line, "job_id")["state"], "completed", "what is over stays so");
    }
    assert_eq!(json("zone list", "zone_id")["path"], "/zone");
    json("zone info /zone", "zone_id");
    let proof = dev.scratch("proof").join("file");
    let line = format!("zone proof /zone --through-version 0 -o {}", proof.display());
    json(&line, "proof");
    assert!(fs::read(&proof).expect("written").starts_with(b"SRZPROOF"));
    cli.line(&line).fails(8, &["proof"]);
    cli.line(&line.replace("version 0", "version 1"))
        .fails(8, &["newest", "key roll payroll"]);
}

fn keys(asked: &Asked, dev: &Dev) {
    let cli = dev.cli();
    let json = |line: &str, start: &str| asked.json(&cli, line, start);
    json("key list", KEY);
    json("key versions payroll", "version\",\"state");
    let key = json("key show payroll", KEY);
    let versions = key["versions"].as_array();
    let newest = versions.and_then(|versions| versions.last()).expect("a version");
    let (version, kcv) = (&newest["version"], newest["kcv"].as_str().expect("hex"));
    json(&format!("key confirm payroll --version {version} --kcv {kcv}"), KEY);
    json("key update payroll --description salaries --tag team=hr", KEY);
    json("key disable payroll", KEY);
    json("key enable payroll", KEY);
    json("key alias set wages payroll", "alias");
    assert_eq!(json("key show wages", KEY)["tags"]["team"], "hr");
    json("key alias list", "alias");
    json("key alias delete wages", "removed");
    cli.line("key delete payroll --version 0")
        .fails(8, &["zone proof --zone-id", "cancel-delete payroll --version 0"]);
    json("key cancel-delete payroll --version 0", KEY);

    let material = private(dev, "material", &[7; 32]);
    json(&format!("key import imported --suite kw --material {material}"), KEY);
    json("key delete imported --after-days 7", KEY);
    let sample = fs::read_to_string(dev.data("policy.cedar")).expect("dev wrote it");
    let approves =
        "@id(\"fsadmin-approves\") permit (principal == User::\"fsadmin\", action == Action::\"approve\", resource);";
    set_policy(dev, &sample, approves);
    let (approver, approve) = (cli.as_user("fsadmin"), "key approve imported");
    until("the policy is in force", LIMIT, || {
        (approver.line(approve).code == Some(0)).then_some(())
    });
    let approved = asked.json(&approver, approve, KEY);
    assert_eq!(approved["deletion"]["approved_by"], serde_json::json!(["user fsadmin"]));
}

/// A file that only its owner may read.
fn private(dev: &Dev, name: &str, bytes: &[u8]) -> String {
    let path = dev.scratch("private").join(name);
    fs::write(&path, bytes).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("own file");
    path.display().to_string()
}

fn what_belongs_to_files(asked: &Asked, dev: &Dev) {
    let (cli, admin) = (dev.cli(), dev.cli().as_user("fsadmin"));
    let json = |cli: &Cli, line: &str, start: &str| asked.json(cli, line, start);
    json(&cli, "fs setfattr -n user.origin --value here /zone/b", STAT);
    let attached = json(&cli, "fs getfattr -d /zone/b", "path\",\"xattrs");
    assert_eq!(attached["xattrs"], serde_json::json!({"user.origin": "here"}));
    let info = json(&cli, "fs encryption-info /zone/b", "path\",\"cipherSuite");
    assert_eq!(info["ezKeyVersionName"], "payroll@1");
    let quota = "path\",\"names";
    json(&admin, "fs quota set /zone --names 100 --bytes 1G", quota);
    assert_eq!(json(&cli, "fs quota show /zone", quota)["names_max"], 100);
    let cleared = json(&admin, "fs quota clear --names /zone", quota);
    assert_eq!(
        (&cleared["names_max"], &cleared["bytes_max"]),
        (&Value::Null, &(1 << 30).into())
    );
    json(&cli, "zone provision-trash /zone", STAT);
    cli.line(&format!("fs put {} /zone/old", local(dev))).ok();
    let removed = json(&cli, "fs rm /zone/old", "removed\",\"job_id\",\"trash_path");
    assert_eq!(removed["removed"], "/zone/old");
    let expunged = json(&cli, "fs expunge --immediate", "path\",\"checkpoint");
    assert_eq!(expunged["kept"], serde_json::json!([]));
}

fn rewriting_and_raw(asked: &Asked, dev: &Dev) {
    let (cli, admin, local) = (dev.cli(), dev.cli().as_user("fsadmin"), local(dev));
    let json = |cli: &Cli, line: &str, start: &str| asked.json(cli, line, start);
    cli.line(&format!("fs append {local} /zone/b")).ok();
    for line in ["fs compact /zone/b", "fs rekey /zone/b", "zone rekey /zone"] {
        assert_eq!(json(&cli, line, SUMMARY)["files"], 1, "{line}");
    }
    let raw = dev.scratch("raw").join("file");
    for (cli, line) in [
        (&cli, format!("fs --raw get /zone/b {}", raw.display())),
        (&admin, format!("fs --raw put {} /zone/copy", raw.display())),
    ] {
        assert_eq!(json(cli, &line, SUMMARY)["files"], 1, "{line}");
    }
    json(&cli, "fs --raw stat /zone/b", "stat\",\"raw");

    cli.line("key create landing").ok();
    admin.line("fs mkdir /landing").ok();
    admin.line("fs chown alice /landing").ok();
    cli.line(&format!("fs put {local} /landing/a")).ok();
    let done: Value = serde_json::from_str(&asked.text(&cli, "zone adopt /landing --key landing")).expect("JSON");
    let mut shape = documented(SUMMARY);
    shape.insert("left".to_owned());
    assert_eq!((names(&done), &done["files"]), (shape, &1.into()));
}

fn services(asked: &Asked, dev: &Dev) {
    let cli = dev.cli();
    until("all is healthy", LIMIT, || {
        (cli.line("fsck").code == Some(0)).then_some(())
    });
    let summary = asked.json(&cli, "fsck", "records\",\"files");
    assert_eq!(summary["losses"], 0);
    let status = asked.json(&cli, "status", "nodes");
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(3));
    asked.json(&cli, "instances", "revision");
}

fn tokens(asked: &Asked, dev: &Dev) {
    let (cli, module) = (dev.cli(), SoftHsm::module());
    asked.json(&cli.as_user("keyadmin"), "token list", "tokens");
    let resynced = asked.json(
        &cli.as_user("keyadmin"),
        "token resync strongroom-dev-b",
        "label\",\"cloned",
    );
    assert_eq!(resynced["left"], 0);
    let link = format!("token link --check --config {}", dev.data("config/kms.toml").display());
    let linked: Vec<Value> = serde_json::from_str(&asked.text(&cli, &link)).expect("a list");
    assert_eq!(linked.len(), 2);
    for token in &linked {
        assert_eq!(names(token), documented("label\",\"fingerprint"));
    }

    let folder = dev.scratch("token");
    let config = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\n",
        folder.display()
    );
    let fresh = cli.with_variable("SOFTHSM2_CONF", private(dev, "softhsm2.conf", config.as_bytes()));
    let (officer, user) = (
        private(dev, "so.pin", b"13571357"),
        private(dev, "user.pin", b"86420864"),
    );
    let token = format!("--label fresh --module {} --pin-file {user}", module.display());
    let made = asked.json(
        &fresh,
        &format!("token init {token} --so-pin-file {officer}"),
        "label\",\"serial",
    );
    let seen = asked.json(&fresh, &format!("token inspect {token}"), "label\",\"manufacturer");
    assert_eq!(seen["serial"], made["serial"]);
}

fn policies(asked: &Asked, dev: &Dev) {
    let (cli, policy) = (dev.cli(), dev.data("policy.cedar").display().to_string());
    asked.json(&cli, &format!("policy check {policy}"), "policies\",\"fingerprint");
    let test = format!("policy test --policy {policy} --as user:alice unwrap payroll");
    assert_eq!(asked.json(&cli, &test, "allowed\",\"policies")["allowed"], true);
    let property = "<property><name>key.acl.payroll.DECRYPT_EEK</name><value>alice</value></property>";
    let acls = private(
        dev,
        "kms-acls.xml",
        format!("<configuration>{property}</configuration>").as_bytes(),
    );
    let made = dev.scratch("policy").join("made.cedar").display().to_string();
    let import = format!("policy import-hadoop {acls} -o {made}");
    assert_eq!(asked.json(&cli, &import, "policy\",\"notes")["policy"], made);
}

fn audit(asked: &Asked, dev: &Dev) {
    let (cli, log) = (dev.cli(), dev.data("state/kms/audit").display().to_string());
    asked.json(&cli, "audit rotate", "segment");
    asked.json(&cli, "audit key", "token\",\"key_id\",\"public_key");
    asked.json(&cli, &format!("audit verify {log}"), "log\",\"segments");
    for line in [format!("audit tail -n 3 {log}"), format!("audit export {log}")] {
        let records = asked.text(&cli, &line);
        assert!(records.lines().count() >= 3, "{line}: {records}");
        for record in records.lines() {
            let record: Value = serde_json::from_str(record).expect("a record");
            assert!(record["seq"].is_u64(), "{line}: {record}");
        }
    }
}

/// A namespace that no service has, moved into a store of its own.
fn exports(asked: &Asked, dev: &Dev) {
    let (cli, shape) = (dev.cli(), "records\",\"directories");
    let config = dev.data("config/metadata.toml");
    let other = config.with_extension("other");
    let text = fs::read_to_string(&config).expect("dev wrote it");
    fs::write(&other, text.replace("state/metadata", "state/other")).expect("own directory");
    let file = dev.scratch("export").join("file").display().to_string();
    let exported = asked.json(
        &cli,
        &format!("metadata export --config {} -o {file}", config.display()),
        shape,
    );
    let imported = asked.json(
        &cli,
        &format!("metadata import --config {} {file}", other.display()),
        shape,
    );
    assert_eq!(exported, imported);
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
