//! What commands say, and how they end.

use super::super::{
    Here::{Better, NotThere, Otherwise, Same},
    Topic,
    given::OLD_FILE,
    row,
    steps::Step::{Done, Keeps, Lacks, Refused, Says, Test},
};

pub(super) const TOPIC: Topic = Topic {
    title: "Commands",
    rows: &[
        row(
            "`-createZone` says `Added encryption zone P`",
            Otherwise("`zone create` shows the zone: path, id, key, suite"),
            &[Says(
                "zone create {d} --key payroll",
                &["zone     {d}", "id ", "key      payroll", "suite    gcm"],
            )],
        ),
        row(
            "`-listZones` is for superusers, 100 zones at a time",
            Better("each user sees the zones that they can reach; 1000 at a time"),
            &[
                Done("fsadmin> fs mkdir --mode 700 {d}/closed"),
                Done("fsadmin> fs mkdir {d}/closed/zone"),
                Done("zone create {d}/closed/zone --key payroll"),
                Says("fsadmin> zone list", &["/payroll", "/other", "{d}/closed/zone"]),
                Says("guest> zone list", &["/payroll", "/other"]),
                Lacks("guest> zone list", &["{d}/closed/zone"]),
                Test(
                    "storage/metadata/tests/service/zones.rs",
                    "the_root_may_be_a_zone_and_zones_nest",
                ),
                Test(
                    "storage/metadata/tests/service/permissions.rs",
                    "zones_are_handed_over_and_listed_to_those_who_may_reach_them",
                ),
            ],
        ),
        row(
            "`-listZones` shows zones in the trash",
            Same,
            &[
                Done("fsadmin> fs mkdir {d}/zone"),
                Done("zone create {d}/zone --key payroll"),
                Done("fsadmin> fs rm -r {d}/zone"),
                Says("zone list", &["/user/fsadmin/.Trash/Current{d}/zone"]),
            ],
        ),
        row(
            "`-listZones` hides zones that are in snapshots only",
            NotThere("there are no snapshots"),
            &[],
        ),
        row(
            "`-getFileEncryptionInfo` prints `{cipherSuite: {name: …, algorithmBlockSize: 16}, cryptoProtocolVersion: …, edek: …, iv: …, keyName: …, ezKeyVersionName: k@0}`",
            Same,
            &[
                Done("key create {k} --suite hadoop"),
                Done("zone create {d} --key {k} --suite ctr-hdfs --owner alice"),
                Done("fs put {f} {d}/a"),
                Keeps("--json fs encryption-info {d}/a", "edek"),
                Keeps("--json fs encryption-info {d}/a", "iv"),
                Says(
                    "fs encryption-info {d}/a",
                    &[
                        "{cipherSuite: {name: AES/CTR/NoPadding, algorithmBlockSize: 16}, cryptoProtocolVersion: ",
                        "edek: {edek}, iv: {iv}, keyName: {k}, ezKeyVersionName: {k}@0",
                    ],
                ),
            ],
        ),
        row(
            "`-getFileEncryptionInfo` of what has none says `No FileEncryptionInfo found for path P`",
            Same,
            &[Refused("fs encryption-info {z}", 2, &["no FileEncryptionInfo found"])],
        ),
        row(
            "`-provisionTrash` is a superuser's",
            Same,
            &[
                Refused("alice> zone provision-trash /payroll", 4, &["alice", "superusers"]),
                Says("fsadmin> zone provision-trash /payroll", &["/payroll/.Trash"]),
                Refused(
                    "fsadmin> zone provision-trash {z}",
                    8,
                    &["not the root of an encryption zone", "/payroll"],
                ),
            ],
        ),
        row(
            "`-reencryptZone` says `re-encrypt command successfully submitted for zone: P action: START`",
            Otherwise("`zone reencrypt` shows how far it is; with `--wait` it waits for the end"),
            &[
                OLD_FILE,
                Says("zone reencrypt {d}", &["{d}: ", "to version 1"]),
                Says("zone reencrypt {d} --wait", &["{d}: completed", "0 left, 0 failed"]),
            ],
        ),
        row(
            "`-listReencryptionStatus` has the columns Zone Name, Status, EZKey Version Name, Submission Time, Is Canceled?, Completion Time, Number of files re-encrypted, Number of failures, Last File Checkpointed",
            Better("with rate and time left, or files left"),
            &[
                OLD_FILE,
                Done("zone reencrypt {d} --wait"),
                Says(
                    "zone status",
                    &[
                        "ZONE",
                        "STATUS",
                        "KEY",
                        "STARTED",
                        "CANCELED",
                        "ENDED",
                        "FILES",
                        "FAILED",
                        "RATE",
                        "LEFT",
                        "LAST FILE",
                        "{d}",
                        "completed",
                        "{k}@1",
                        "{d}/a",
                    ],
                ),
            ],
        ),
        row(
            "each command has exit codes of its own",
            Better("one table of exit codes for all (`docs/cli.md`)"),
            &[
                Refused("zone info {d}/none", 3, &["cannot find"]),
                Refused("zone status {d}/none", 3, &["cannot find"]),
                Refused("zone reencrypt {d}/none", 3, &["cannot find"]),
                Refused("fs encryption-info {d}/none", 3, &["cannot find"]),
                Refused("alice> zone provision-trash {d}", 4, &["alice"]),
                Refused("alice> zone reencrypt {d}", 4, &["alice"]),
                Refused("zone info {d}", 8, &["not in an encryption zone"]),
                Refused("zone reencrypt {d}", 8, &["not the root of an encryption zone"]),
            ],
        ),
    ],
};
