//! What users and superusers do with directories beside storing files: quotas, attributes, permissions of what is made.

use std::fs;

use strongroom_tests::Dev;

#[test]
fn a_quota_holds_users_and_says_so() {
    let dev = Dev::start();
    let (zone, cli) = (dev.zone("payroll"), dev.cli().as_user("alice"));
    let admin = dev.cli().as_user("fsadmin");
    let local = dev.scratch("in").join("a");
    fs::write(&local, vec![7; 6000]).expect("own directory");
    let local = local.to_str().expect("UTF-8");
    cli.line(&format!("fs mkdir {zone}/q")).ok();
    cli.run(["fs", "put", local, &format!("{zone}/q/a")]).ok();

    cli.line(&format!("fs quota set {zone}/q --names 3"))
        .fails(4, &["user alice may not set quotas"]);
    let set = admin
        .line(&format!("--json fs quota set {zone}/q --names 3 --bytes 10K"))
        .json();
    assert_eq!(
        (&set["names"], &set["bytes"]),
        (&2.into(), &6000.into()),
        "what was there is counted"
    );
    let words = ["10240 bytes, and has 6000 already", "strongroom fs quota set"];
    cli.run(["fs", "put", local, &format!("{zone}/q/b")]).fails(8, &words);
    cli.line(&format!("fs mkdir {zone}/q/c")).ok();
    cli.line(&format!("fs mkdir {zone}/q/d"))
        .fails(8, &["3 files and directories", "has 3 already"]);
    cli.line(&format!("fs rm {zone}/q/a")).ok();
    let shown = cli.line(&format!("--json fs quota show {zone}/q")).json();
    assert_eq!((&shown["names"], &shown["bytes_max"]), (&2.into(), &10240.into()));
    cli.run(["fs", "put", local, &format!("{zone}/q/b")]).ok();
    admin.line(&format!("fs quota clear {zone}/q")).ok();
    let none = cli.line(&format!("fs quota show {zone}/q")).ok();
    assert!(String::from_utf8_lossy(&none.stdout).contains("no quota"));
    cli.line(&format!("fs mkdir {zone}/q/d")).ok();
}

#[test]
fn attributes_and_modes_are_those_that_were_asked_for() {
    let dev = Dev::start();
    let (zone, cli) = (dev.zone("payroll"), dev.cli().as_user("alice"));
    cli.line(&format!("fs mkdir -p --mode 1770 {zone}/a/b/c")).ok();
    for (path, mode) in [("a", 0o755), ("a/b", 0o755), ("a/b/c", 0o1770)] {
        let stat = cli.line(&format!("--json fs stat {zone}/{path}")).json();
        assert_eq!(stat["mode"], mode, "{path}");
    }
    cli.line(&format!("fs setfattr -n user.origin --value sap {zone}/a"))
        .ok();
    cli.line(&format!("fs setfattr -n user.raw --value 0x00ff {zone}/a"))
        .ok();
    cli.line(&format!("fs mv {zone}/a {zone}/moved")).ok();
    let shown = cli.line(&format!("fs getfattr -d {zone}/moved")).ok();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert_eq!(
        shown,
        format!("# file: {zone}/moved\nuser.origin=sap\nuser.raw=0sAP8=\n")
    );
    let one = cli
        .line(&format!("--json fs getfattr -n user.origin {zone}/moved"))
        .json();
    assert_eq!(one["xattrs"], serde_json::json!({"user.origin": "sap"}));
    cli.line(&format!("fs setfattr -x user.origin {zone}/moved")).ok();
    cli.line(&format!("fs setfattr -x user.origin {zone}/moved"))
        .fails(3, &["no attribute user.origin"]);
    cli.line(&format!("fs setfattr -n trusted.a {zone}/moved"))
        .fails(2, &["trusted.a", "user.NAME"]);
}
