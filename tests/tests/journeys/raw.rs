//! Zones that are encrypted as HDFS encrypts, and ciphertext that is carried in and out without a key.

use std::fs;

use strongroom_tests::{Bytes, Dev, seed};

/// More than a block, and not a whole number of anything.
const LENGTH: usize = (4 << 20) + 70_001;

#[test]
fn a_zone_of_suite_ctr_hdfs_is_written_read_and_changed_like_any_other() {
    let dev = Dev::start();
    let (cli, mut random) = (dev.cli(), Bytes::new(seed()));
    let local = dev.scratch("local").join("part");
    let mut model = random.take(LENGTH);
    fs::write(&local, &model).expect("written");
    let (keys, admin) = (cli.as_user("keyadmin"), cli.as_user("fsadmin"));
    keys.line("key create lake --suite hadoop --key-bits 128").ok();
    keys.line("key create payroll").ok();
    admin.line("fs mkdir /lake").ok();
    admin
        .line("zone create /lake --key payroll --suite ctr-hdfs")
        .fails(2, &["key payroll makes EDEKs of suite kw", "strongroom key create"]);
    let made = admin.line("zone create /lake --key lake --suite ctr-hdfs --owner alice");
    let warning = made.ok().stderr;
    assert!(warning.contains("not authenticated"), "{warning}");

    cli.line(&format!("fs put {} /lake/f", local.display())).ok();
    assert!(cli.line("fs cat /lake/f").ok().stdout == model);
    let info = cli.line("--json fs encryption-info /lake/f").json();
    assert_eq!(info["cipherSuite"]["name"], "AES/CTR/NoPadding");
    assert_eq!(
        (&info["keyName"], &info["ezKeyVersionName"]),
        (&"lake".into(), &"lake@0".into())
    );
    let hex = |field: &str| info[field].as_str().expect("hexadecimal").to_owned();
    assert_eq!((hex("edek").len(), hex("iv").len()), (32, 32), "of 128 bits each");
    let text = cli.line("fs encryption-info /lake/f").text();
    assert!(
        text.starts_with("{cipherSuite: {name: AES/CTR/NoPadding, algorithmBlockSize: 16}, "),
        "{text}"
    );
    cli.line("fs encryption-info /lake")
        .fails(2, &["no FileEncryptionInfo found", "zone info /lake"]);
    let part = cli.line("fs cat --offset 4194300 --length 11 /lake/f").ok().stdout;
    assert!(part == model[4_194_300..4_194_311]);
    cli.line("fs truncate --length 4194305 /lake/f").ok();
    model.truncate(4_194_305);
    cli.line(&format!("fs append {} /lake/f", local.display())).ok();
    model.extend_from_slice(&fs::read(&local).expect("there"));
    assert!(cli.line("fs cat /lake/f").ok().stdout == model);
}
