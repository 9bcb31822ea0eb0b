//! What an operator asks of the tokens: which there are, what each is and holds, and to fill one up that lost keys.

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::{Value, json};
use strongroom_tests::{Cli, Dev, SoftHsm, until};

use crate::commands::{documented, json, names};

const LIMIT: Duration = Duration::from_secs(40);
const FIRST: &str = "strongroom-dev";
const SECOND: &str = "strongroom-dev-b";

/// The entry of one token in `token list`, which is as documented.
fn listed(cli: &Cli, label: &str) -> Value {
    let seen = json(cli, "token list", "tokens");
    let tokens = seen["tokens"].as_array().expect("a list");
    for token in tokens {
        assert_eq!(names(token), documented("label\",\"state"));
    }
    let token = tokens.iter().find(|token| token["label"] == label);
    token
        .unwrap_or_else(|| panic!("{label} is not among {tokens:?}"))
        .clone()
}

/// Held and lacking, once the token serves.
fn serving(cli: &Cli, label: &str) -> (u64, u64) {
    until(&format!("{label} serves"), LIMIT, || {
        let token = listed(cli, label);
        (token["state"] == "serving").then(|| {
            let number = |name: &str| token[name].as_u64().expect("a number");
            (number("held"), number("lacking"))
        })
    })
}

/// Asks the token itself, past the key service.
fn inspect(dev: &Dev, label: &str, pin_file: Option<&Path>) -> Value {
    let suffix = label.strip_prefix(FIRST).expect("a token of dev");
    let cli = dev
        .cli()
        .with_variable("SOFTHSM2_CONF", dev.data(&format!("softhsm2{suffix}.conf")));
    let mut line = format!("token inspect --label {label} --module {}", SoftHsm::module().display());
    if let Some(path) = pin_file {
        let config = dev.data("config/kms.toml");
        line += &format!(" --pin-file {} --config {}", path.display(), config.display());
    }
    json(&cli, &line, "label\",\"manufacturer")
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.expect("cp is there").success());
}

/// Puts earlier objects into a token's place, as a restored backup would, and starts the key service anew.
fn put_back(dev: &Dev, backup: &Path) {
    let objects = dev.data("token-b/objects");
    fs::rename(&objects, dev.data("newer-objects")).expect("it was there");
    fs::rename(backup, &objects).expect("it was copied");
    dev.crash("kms");
}

#[test]
fn a_token_with_an_old_backup_is_seen_to_lack_keys_and_filled_up() {
    let dev = Dev::builder().argument("--tokens").argument("2").start();
    let admin = dev.cli().as_user("keyadmin");
    admin.line("key create early").ok();
    for label in [FIRST, SECOND] {
        assert_eq!(serving(&admin, label), (1, 0), "{label}");
    }
    let backup = dev.data("backup");
    copy(&dev.data("token-b/objects"), &backup);
    admin.line("key create payroll").ok();
    admin.line("key roll payroll").ok();

    let key = admin.line("--json key show payroll").json();
    let pin = dev.data("token-b/user.pin");
    let seen = inspect(&dev, SECOND, Some(&pin));
    let of_key = |seen: &Value| -> Vec<Value> {
        let keys = seen["keys"].as_array().expect("a list").iter();
        let kept = keys.filter(|key| key["name"] == "payroll");
        kept.map(|key| json!([key["version"], key["kcv"], key["token_id"]]))
            .collect()
    };
    let versions = key["versions"].as_array().expect("a list").iter();
    let known: Vec<Value> = versions
        .map(|version| json!([version["version"], version["kcv"], version["token_id"]]))
        .collect();
    assert_eq!(of_key(&seen), known, "the service knows what the token holds");
    assert_eq!((&seen["label"], &seen["tried"]), (&json!(SECOND), &json!(true)));
    for key in seen["keys"].as_array().expect("a list") {
        assert_eq!(names(key), documented("name\",\"version\",\"suite\",\"kcv"));
    }
    let untried = inspect(&dev, SECOND, None);
    assert_eq!((&untried["keys"], &untried["tried"]), (&Value::Null, &json!(false)));

    put_back(&dev, &backup);
    assert_eq!(serving(&admin, SECOND), (1, 2), "the backup has none of them");
    assert_eq!(serving(&admin, FIRST), (3, 0));
    admin.line("token resync no-such-token").fails(3, &[FIRST, SECOND]);
    dev.cli()
        .as_user("alice")
        .line(&format!("token resync {SECOND}"))
        .fails(4, &["alice"]);
    let resync = format!("token resync {SECOND}");
    let done = json(&admin, &resync, "label\",\"cloned");
    assert_eq!(done, json!({"label": SECOND, "cloned": 2, "left": 0, "reasons": []}));
    assert_eq!(serving(&admin, SECOND), (3, 0));
    assert_eq!(of_key(&inspect(&dev, SECOND, Some(&pin))), known, "the same keys again");
    assert_eq!(
        json(&admin, &resync, "label\",\"cloned")["cloned"],
        0,
        "there is nothing left to do"
    );
}

/// Takes away a token's clone key, the largest of its objects, as if it were one that does not count any more.
fn lose_clone_key(objects: &Path) {
    let folders = fs::read_dir(objects).expect("a token").flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
    let largest = files.max_by_key(|file| file.metadata().map_or(0, |metadata| metadata.len()));
    fs::remove_file(largest.expect("it has objects").path()).expect("removed");
}

#[test]
fn tokens_that_an_older_version_linked_are_linked_anew() {
    let mut dev = Dev::builder().argument("--tokens").argument("2").start();
    let admin = dev.cli().as_user("keyadmin");
    admin.line("key create early").ok();
    dev.stop();
    for objects in ["token/objects", "token-b/objects"] {
        lose_clone_key(&dev.data(objects));
    }
    // What older versions left behind.
    fs::write(dev.data("tokens-linked"), "").expect("written");
    dev.start_again();
    admin.line("key create payroll").ok();
    for label in [FIRST, SECOND] {
        assert_eq!(serving(&admin, label), (2, 0), "{label}");
    }
    let path = dev.data("tokens-linked");
    let mark = || fs::metadata(&path).and_then(|mark| mark.modified());
    let linked = mark().expect("there");
    dev.stop();
    dev.start_again();
    assert_eq!(mark().expect("there"), linked, "once");
}

/// What was made for one token cannot leave it: resync says so and fails, and a roll mends it.
#[test]
fn what_cannot_be_cloned_is_named() {
    let mut dev = Dev::start();
    let admin = dev.cli().as_user("keyadmin");
    admin.line("key create payroll").ok();
    let alone = json(&admin, "instances", "revision");
    assert_eq!(alone["instances"], json!([]), "it has a store of its own");
    let text = admin.line("instances").text();
    assert!(text.contains("a store of its own"), "{text}");
    dev.stop();
    dev.add_argument("--tokens");
    dev.add_argument("2");
    dev.start_again();
    assert_eq!(serving(&admin, SECOND), (0, 1));
    let outcome = admin.line(&format!("--json token resync {SECOND}"));
    let done: Value = serde_json::from_slice(&outcome.stdout).expect("JSON, although it fails");
    assert_eq!((&done["cloned"], &done["left"]), (&json!(0), &json!(1)), "{done}");
    assert_eq!(names(&done["reasons"][0]), ["version", "why"].map(str::to_owned).into());
    assert!(
        done["reasons"][0]["version"]
            .as_str()
            .expect("text")
            .contains("payroll"),
        "{done}"
    );
    outcome.fails(1, &[SECOND, "lacks 1"]);
    let text = admin.line("token list").text();
    for word in [FIRST, SECOND, "serving", "LACKING"] {
        assert!(text.contains(word), "{text}");
    }
}
