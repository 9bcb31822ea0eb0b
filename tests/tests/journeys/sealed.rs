//! Sealed delivery as its users see it: asked for, or demanded by a key.

use std::fs;

use serde_json::Value;
use strongroom_tests::Dev;

/// Every unwrap that the key service's audit log has for a key: where the DEKs were sealed, if they were.
fn deliveries(dev: &Dev, key: &str) -> Vec<Value> {
    let folder = fs::read_dir(dev.data("state/kms/audit")).expect("the key service keeps its log here");
    let lines = folder.flat_map(|file| {
        let text = fs::read_to_string(file.expect("readable").path()).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    });
    let records = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    records
        .filter(|record| record["action"] == "unwrap" && record["key"] == key && record["outcome"] == "allowed")
        .map(|record| record["sealed"].clone())
        .collect()
}

#[test]
fn file_keys_come_sealed_where_that_is_asked_for_or_demanded() {
    let dev = Dev::start();
    let (file, back) = (dev.scratch("in").join("jan.csv"), dev.scratch("out").join("jan.csv"));
    fs::write(&file, "alice,1000\n").expect("own directory");
    let (file, back) = (file.to_str().expect("UTF-8"), back.to_str().expect("UTF-8"));

    let asked = dev.zone("payroll");
    dev.cli()
        .run(["--sealed", "fs", "put", file, &format!("{asked}/a")])
        .ok();
    dev.cli()
        .run(["--sealed", "fs", "get", &format!("{asked}/a"), back])
        .ok();
    assert_eq!(fs::read_to_string(back).expect("came back"), "alice,1000\n");
    let sealed = deliveries(&dev, "payroll");
    assert!(
        !sealed.is_empty() && sealed.iter().all(|place| place == "token"),
        "{sealed:?}"
    );
    assert_eq!(
        dev.cli().run(["fs", "cat", &format!("{asked}/a")]).text(),
        "alice,1000\n"
    );
    assert_eq!(
        deliveries(&dev, "payroll").last(),
        Some(&Value::Null),
        "open where nobody asks"
    );

    dev.cli().line("key create strict --sealed-required").ok();
    dev.cli().as_user("fsadmin").line("fs mkdir /strict").ok();
    dev.cli().line("zone create /strict --key strict --owner alice").ok();
    dev.cli().run(["fs", "put", file, "/strict/a"]).ok();
    assert_eq!(dev.cli().run(["fs", "cat", "/strict/a"]).text(), "alice,1000\n");
    let sealed = deliveries(&dev, "strict");
    assert!(
        !sealed.is_empty() && sealed.iter().all(|place| place == "token"),
        "{sealed:?}"
    );
}
