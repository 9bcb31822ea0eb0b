//! What a zone is, and how one is made.

use super::super::{
    Here::{Better, NotThere, Otherwise, Same},
    Topic, row,
    steps::Step::{Comes, Done, Keeps, Lacks, Refused, Says, Test, WithoutKms},
};

const SERVICE: &str = "storage/metadata/tests/service/zones.rs";

pub(super) const TOPIC: Topic = Topic {
    title: "Zones",
    rows: &[
        row(
            "a zone is the attribute `raw.hdfs.crypto.encryption.zone` of its root, with suite, version, key and the last re-encryption; a map in memory has all zones, and the nearest root above a path counts",
            Otherwise(
                "the nearest root counts; a zone is a record in the store, which `zone info` and `zone status` show, and no attribute",
            ),
            &[
                Done("fsadmin> fs mkdir {z}/inner"),
                Done("zone create {z}/inner --key other --owner alice"),
                Done("fs mkdir {z}/inner/deep"),
                Says(
                    "--json zone info {z}/inner/deep",
                    &["\"key_name\":\"other\"", "\"path\":\"{z}/inner\""],
                ),
                Says(
                    "--json zone info {z}",
                    &["\"key_name\":\"payroll\"", "\"path\":\"/payroll\""],
                ),
                Refused(
                    "fsadmin> fs getfattr -n raw.hdfs.crypto.encryption.zone /payroll",
                    2,
                    &["raw view only"],
                ),
            ],
        ),
        row(
            "a path in a snapshot is in the zone that the snapshot's own attribute says",
            NotThere("there are no snapshots"),
            &[],
        ),
        row(
            "only a superuser makes a zone",
            Same,
            &[Refused(
                "alice> zone create {d} --key payroll",
                4,
                &["alice", "make encryption zones"],
            )],
        ),
        row(
            "`Can't create an encryption zone for X since no key provider is available.`",
            Otherwise(
                "a metadata service does not start without a key service in its configuration; while that does not answer, the command says so (code 5)",
            ),
            &[
                WithoutKms(&[Refused(
                    "zone create {d} --key payroll",
                    5,
                    &["cannot reach the kms service"],
                )]),
                Done("zone create {d} --key payroll"),
                Test(
                    "storage/metadata/src/config.rs",
                    "broken_files_are_refused_with_the_rule",
                ),
            ],
        ),
        row(
            "`Must specify a key name…`",
            Same,
            &[
                Refused("fsadmin> zone create {d}", 2, &["--key"]),
                Test(SERVICE, "zone_creation_checks_in_hdfs_order"),
            ],
        ),
        row(
            "`Key K doesn't exist.`",
            Same,
            &[Refused(
                "zone create {d} --key absent",
                3,
                &["key absent does not exist"],
            )],
        ),
        row(
            "`cannot find X`",
            Same,
            &[Refused(
                "zone create {d}/none --key payroll",
                3,
                &["cannot find {d}/none"],
            )],
        ),
        row(
            "`Attempt to create an encryption zone for a file.`",
            Same,
            &[
                Done("fs put {f} {z}/file"),
                Refused(
                    "zone create {z}/file --key payroll",
                    8,
                    &["attempt to create an encryption zone for a file"],
                ),
            ],
        ),
        row(
            "`Directory X is already an encryption zone.`, also if it is not empty",
            Same,
            &[Refused(
                "zone create /payroll --key other",
                8,
                &["directory /payroll is already an encryption zone"],
            )],
        ),
        row(
            "`Attempt to create an encryption zone for a non-empty directory.`",
            Same,
            &[
                Done("fs mkdir {d}/inner"),
                Refused("zone create {d} --key payroll", 8, &["non-empty directory"]),
            ],
        ),
        row(
            "the checks come in this order",
            Same,
            &[
                Done("fs put {f} {z}/file"),
                Refused("alice> zone create {d}/none --key absent", 4, &["alice"]),
                Refused("zone create {d}/none --key absent", 3, &["key absent does not exist"]),
                Refused("zone create {d}/none --key payroll", 3, &["cannot find"]),
                Refused("zone create {z}/file --key payroll", 8, &["for a file"]),
                Refused("zone create /payroll --key payroll", 8, &["already an encryption zone"]),
                Refused("zone create {z} --key payroll", 8, &["non-empty directory"]),
                Test(SERVICE, "zone_creation_checks_in_hdfs_order"),
            ],
        ),
        row(
            "the suite is the provider's, and the command does not take one",
            Otherwise(
                "`--suite` and `--frame-size` are the zone's; one that does not exist is refused before the key is looked for, with those that do",
            ),
            &[
                Refused("zone create {d} --key absent --suite rot13", 2, &["gcm", "ctr-hdfs"]),
                Refused("zone create {d} --key absent --frame-size 5000", 2, &["4KiB to 1MiB"]),
            ],
        ),
        row(
            "a directory with nothing but an empty `.Trash` is not empty, and becomes no zone",
            Otherwise("it does, and that becomes the zone's trash, with mode 1777; with something in it, it does not"),
            &[
                Done("fsadmin> fs mkdir {d}/zone {d}/zone/.Trash {d}/full {d}/full/.Trash {d}/full/.Trash/a"),
                Done("zone create {d}/zone --key payroll"),
                Says("--json fs stat {d}/zone/.Trash", &["\"mode\":1023"]),
                Refused("zone create {d}/full --key payroll", 8, &["non-empty directory"]),
            ],
        ),
        row(
            "a directory in which a file is being written is not empty",
            Otherwise(
                "it is, as a file shows at its first commit; that commit is refused if the directory became a zone: no file is in a zone that is not of it",
            ),
            &[Test(
                "storage/metadata/tests/service/files.rs",
                "a_file_opened_in_a_directory_that_becomes_a_zone_is_refused",
            )],
        ),
        row(
            "a zone may be within a zone",
            Same,
            &[
                Done("fsadmin> fs mkdir {z}/inner"),
                Done("zone create {z}/inner --key other"),
                Says("zone info {z}/inner", &["other"]),
                Says("zone info {z}", &["payroll"]),
            ],
        ),
        row(
            "`/` may be a zone",
            Same,
            &[
                Refused("zone create / --key payroll", 8, &["non-empty directory: /"]),
                Test(SERVICE, "the_root_may_be_a_zone_and_zones_nest"),
            ],
        ),
        row(
            "the command makes `.Trash` (1777) in a second step, which may fail after the first",
            Better("in the transaction of the zone"),
            &[
                Done("fsadmin> fs mkdir {d}/zone"),
                Done("zone create {d}/zone --key payroll"),
                Says("--json fs stat {d}/zone/.Trash", &["\"mode\":1023"]),
                Test(
                    "storage/metadata/tests/service/trash.rs",
                    "zones_are_made_with_a_trash_in_one_transaction",
                ),
            ],
        ),
        row(
            "no command makes a zone a plain directory again",
            Better(
                "and of a zone that was removed it is proved that it needs its key no more, so that the key can be deleted",
            ),
            &[
                Done("key create {k}"),
                Done("fsadmin> fs mkdir {d}/zone"),
                Done("zone create {d}/zone --key {k} --owner alice"),
                Done("fs put {f} {d}/zone/a"),
                Keeps("--json zone info {d}/zone", "zone_id"),
                Done("key roll {k}"),
                Done("fsadmin> fs rm -r --skip-trash {d}/zone"),
                Refused("zone info {d}/zone", 3, &["cannot find {d}/zone"]),
                Refused("key delete {k} --version 0 --after-days 7", 8, &["zone proof"]),
                Comes(
                    "zone proof --zone-id {zone_id} --key {k} --through-version 0 -o {f}.{k}",
                    &["no key version up to 0"],
                ),
                Says(
                    "--json key delete {k} --version 0 --after-days 7 --proof {f}.{k}",
                    &["\"zones_without_proof_count\":0"],
                ),
            ],
        ),
        row(
            "suites are AES/CTR and SM4/CTR",
            Otherwise("AES-256-GCM, which shows changed bytes, or `ctr-hdfs`, AES/CTR for exchange with HDFS; no SM4"),
            &[
                Refused("zone create {d} --key payroll --suite sm4-ctr", 2, &["gcm", "ctr-hdfs"]),
                Done("key create {k} --suite hadoop"),
                Done("zone create {d} --key {k} --suite ctr-hdfs"),
                Says("zone info {d}", &["ctr-hdfs"]),
            ],
        ),
        row(
            "the root of the zone that a path is in can be asked for (`getEnclosingRoot`)",
            Same,
            &[
                Says("--json fs stat {z}", &["\"zone_path\":\"/payroll\""]),
                Lacks("--json fs stat {d}", &["\"zone_path\":\"/"]),
            ],
        ),
    ],
};
