//! One key from its creation to the deletion of its first version, by an administrator's commands; the import as the
//! manual has it.

use std::{fs, process::Stdio};

use strongroom_tests::{Dev, until};

const OPERATIONS: &str = include_str!("../../../docs/operations.md");
const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

fn put(dev: &Dev, path: &str, content: &str) {
    let file = dev.scratch("put").join("file");
    fs::write(&file, content).expect("own directory");
    dev.cli().run(["fs", "put", file.to_str().expect("UTF-8"), path]).ok();
}

fn json(dev: &Dev, line: &str) -> serde_json::Value {
    dev.cli().line(&format!("--json {line}")).json()
}

/// The first block of shell commands after `heading` in the manual.
fn commands_after(heading: &str) -> &'static str {
    let (_, after) = OPERATIONS.split_once(heading).expect("the manual has it");
    let (_, block) = after.split_once("```sh\n").expect("with commands");
    block.split_once("```").expect("that end").0
}

#[test]
fn a_key_is_made_used_rolled_disabled_and_its_old_version_deleted_on_proof() {
    let dev = Dev::start();
    let created = json(&dev, "key create payroll --tag team=hr --description salaries");
    assert_eq!(created["tags"], serde_json::json!({"team": "hr"}));
    assert_eq!(created["versions"][0]["origin"], "generated");
    dev.cli().line("key alias set wages payroll").ok();
    assert_eq!(json(&dev, "key show wages")["name"], "payroll");
    dev.cli().as_user("fsadmin").line("fs mkdir /payroll").ok();
    dev.cli().line("zone create /payroll --key payroll --owner alice").ok();
    put(&dev, "/payroll/old", "made before the roll");
    assert_eq!(json(&dev, "key roll wages")["current_version"], 1);

    dev.cli().line("key disable payroll").ok();
    let refused = dev.cli().line("fs cat /payroll/old");
    refused.fails(4, &["key payroll is disabled", "strongroom key enable payroll"]);
    dev.cli().line("key enable payroll").ok();
    assert_eq!(dev.cli().line("fs cat /payroll/old").text(), "made before the roll");

    old_version_goes_on_proof(&dev);

    let listed = dev.cli().line("--json key versions payroll --from 1").text();
    let listed: Vec<serde_json::Value> = listed
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(
        (&listed[0]["version"], &listed[0]["state"]),
        (&1.into(), &"active".into())
    );
    let text = dev.cli().line("key versions payroll").text();
    assert!(text.contains("ORIGIN") && text.contains("decrypt-only"), "{text}");
}

fn old_version_goes_on_proof(dev: &Dev) {
    let delete = "key delete payroll --version 0 --after-days 7";
    dev.cli()
        .line(delete)
        .fails(8, &["1 zone minted", "zone proof", "cancel-delete"]);
    let proof = dev.scratch("proofs").join("payroll.proof");
    let proof = proof.to_str().expect("UTF-8");
    let prove = || {
        _ = fs::remove_file(proof);
        dev.cli()
            .line(&format!("zone proof /payroll --through-version 0 -o {proof}"))
    };
    assert_ne!(prove().code, Some(0), "a file needs the version");
    let done = dev.cli().line("zone reencrypt /payroll --wait").ok();
    let next = "strongroom zone proof /payroll --through-version 0 -o FILE";
    assert!(done.stderr.contains(next), "{}", done.stderr);

    let pending = |key: &serde_json::Value| key["versions"][0]["deletion"]["due_ms"].as_u64();
    until("a proof", LIMIT, || (prove().code == Some(0)).then_some(()));
    let accepted = json(dev, &format!("{delete} --proof {proof}"));
    assert!(pending(&accepted).is_some(), "{accepted}");
    let back = json(dev, "key cancel-delete payroll --version 0");
    assert_eq!(back["versions"][0]["deletion"], serde_json::Value::Null, "{back}");
    // The version was in use again since the proof was made.
    dev.cli()
        .line(&format!("{delete} --proof {proof}"))
        .fails(8, &["zone proof"]);
    prove().ok();
    let again = json(dev, &format!("{delete} --proof {proof}"));
    assert!(pending(&again) > pending(&accepted), "{again}");
    assert_eq!(dev.cli().line("fs cat /payroll/old").text(), "made before the roll");
}

#[test]
fn a_key_from_elsewhere_comes_in_as_the_manual_says() {
    let dev = Dev::start();
    let folder = dev.scratch("import");
    // The manual's commands find `strongroom` as a user's do.
    let mut script = dev.cli().command();
    let strongroom = fs::canonicalize(script.get_program()).expect("it is there");
    std::os::unix::fs::symlink(strongroom, folder.join("strongroom")).expect("own directory");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").expect("is set"));
    let variables: Vec<_> = script
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)))
        .collect();
    script = std::process::Command::new("sh");
    for (name, value) in variables {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    let commands = commands_after("**Importing.**");
    script
        .args(["-ec", commands])
        .current_dir(&folder)
        .env("PATH", path)
        .stdin(Stdio::null());
    let done = script.output().expect("sh runs");
    assert!(
        done.status.success(),
        "{commands}: {}",
        String::from_utf8_lossy(&done.stderr)
    );

    let key = json(&dev, "key show lake");
    assert_eq!(key["suite"], "hadoop", "{key}");
    for version in key["versions"].as_array().expect("a list") {
        assert_eq!(version["origin"], "imported", "{key}");
    }
    assert!(key["current_version"].is_u64(), "{key}");
    let left: Vec<_> = fs::read_dir(&folder)
        .expect("there")
        .map(|entry| entry.expect("read").file_name())
        .collect();
    assert_eq!(left, ["strongroom"], "no raw key is left behind");
}
