//! The trash: what is removed is moved there, comes back, and is emptied.

use std::{fs, time::Duration};

use strongroom_tests::{Dev, until};

#[test]
fn what_is_removed_is_in_the_trash_until_that_is_emptied() {
    let dev = Dev::start();
    let (cli, zone) = (dev.cli(), dev.zone("payroll"));
    let local = dev.scratch("local");
    fs::create_dir(local.join("2026")).expect("own directory");
    fs::write(local.join("2026/a"), "secret").expect("written");
    let tree = local.join("2026");
    cli.run(["fs", "put", "-r", tree.to_str().expect("UTF-8"), &zone]).ok();

    let trash = format!("{zone}/.Trash/alice/Current{zone}/2026");
    let removed = cli.line(&format!("--json fs rm -r {zone}/2026")).json();
    assert_eq!(
        (removed["trash_path"].as_str(), removed["job_id"].as_str()),
        (Some(trash.as_str()), None)
    );
    cli.line(&format!("fs ls {zone}/2026")).fails(3, &["2026"]);
    assert_eq!(cli.line(&format!("fs cat {trash}/a")).ok().stdout, b"secret");
    cli.as_user("guest")
        .line(&format!("fs ls {trash}"))
        .fails(4, &["user guest", "/.Trash/alice"]);
    cli.line(&format!("fs mv {trash} {zone}/2026")).ok();
    assert_eq!(cli.line(&format!("fs cat {zone}/2026/a")).ok().stdout, b"secret");

    let said = cli.line(&format!("fs rm {zone}/2026/a")).ok();
    assert!(String::from_utf8_lossy(&said.stdout).contains(&format!("moved into the trash, {trash}/a")));
    // What goes down a tree leaves it alone.
    let usage = cli.line(&format!("--json fs du {zone}")).json();
    assert_eq!(
        (usage["files"].as_u64(), usage["directories"].as_u64()),
        (Some(0), Some(2))
    );
    let back = local.join("back");
    cli.run(["fs", "get", "-r", &zone, back.to_str().expect("UTF-8")]).ok();
    assert!(back.join("2026").exists() && !back.join(".Trash").exists());
    cli.line(&format!("fs chmod -R 750 {zone}")).ok();
    let stat = cli.line(&format!("--json fs stat {zone}/.Trash")).json();
    assert_eq!(stat["mode"].as_u64(), Some(0o1777));

    let expunged = cli.line("--json fs expunge").json();
    assert_eq!(expunged["path"], format!("{zone}/.Trash/alice"));
    let checkpoint = expunged["checkpoint"].as_str().expect("a name").to_owned();
    cli.line(&format!("fs ls {zone}/.Trash/alice/{checkpoint}{zone}/2026/a"))
        .ok();
    cli.line("fs expunge --immediate").ok();
    cli.line(&format!("fs ls {zone}/.Trash/alice/{checkpoint}"))
        .fails(3, &[&checkpoint]);
    until("no blocks are left to delete", Duration::from_secs(30), || {
        let status = cli.line("--json status").json();
        (status["blocks_to_delete"] == 0 && blocks(&status) == 0).then_some(())
    });
}

fn blocks(status: &serde_json::Value) -> u64 {
    let nodes = status["nodes"].as_array().expect("a list");
    nodes
        .iter()
        .map(|node| node["blocks"].as_u64().expect("a number"))
        .sum()
}

#[test]
fn a_zone_goes_to_the_trash_at_home_and_what_cannot_go_there_says_how_to_remove_it() {
    let dev = Dev::start();
    let (cli, zone) = (dev.cli(), dev.zone("payroll"));
    let admin = cli.as_user("fsadmin");
    admin.line(&format!("zone provision-trash {zone}")).ok();
    cli.as_user("alice")
        .line(&format!("zone provision-trash {zone}"))
        .fails(4, &["user alice", "superusers"]);
    let removed = admin.line(&format!("--json fs rm -r {zone}")).json();
    let trash = format!("/user/fsadmin/.Trash/Current{zone}");
    assert_eq!(removed["trash_path"], trash);
    assert_eq!(admin.line("--json zone list").json()["path"], trash);
    admin.line(&format!("fs mv {trash} {zone}")).ok();
    admin
        .line(&format!("fs rm -r {zone}/.Trash"))
        .fails(8, &["holds the trash", &format!("fs rm -r --skip-trash {zone}/.Trash")]);
    admin.line(&format!("fs rm -r --skip-trash {zone}")).ok();
    admin.line(&format!("fs ls {zone}")).fails(3, &[&zone]);
}
