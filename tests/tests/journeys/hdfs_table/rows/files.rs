//! What a file in a zone has, and how it gets it.

use super::super::{
    Here::{Better, Otherwise, Same},
    Topic, row,
    steps::Step::{Done, Lacks, Refused, Says, Test},
};

pub(super) const TOPIC: Topic = Topic {
    title: "Files",
    rows: &[
        row(
            "a file in no zone is not encrypted",
            Otherwise("there is none, unless the metadata service and the client's profile allow plain files there"),
            &[
                Refused("fs put {f} {d}/a", 8, &["{d}/a", "not encrypted", "plain = ["]),
                Done("fs put {f} {p}/a"),
                Says("--json fs stat {p}/a", &["\"data_suite\":\"plain\""]),
                Test("storage/metadata/tests/service/plain.rs", "they_take_a_setting"),
            ],
        ),
        row(
            "to encrypt what is there it is copied into a zone",
            Better(
                "`strongroom zone adopt` makes the directory a zone and encrypts its files in place, readable throughout",
            ),
            &[
                Done("fs put -r {t} {p}"),
                Says("--json fs stat {p}/tree/f00", &["\"data_suite\":\"plain\""]),
                Done("key create {k}"),
                Says("--json zone adopt {p}/tree --key {k}", &["\"files\":20", "\"left\":0"]),
                Says(
                    "--json fs stat {p}/tree/f00",
                    &["\"data_suite\":\"gcm\"", "\"key_name\":\"{k}\""],
                ),
                Says("fs cat {p}/tree/f00", &["one of many"]),
                Test(
                    "tests/tests/journeys/adopt.rs",
                    "a_directory_is_adopted_by_a_client_that_is_killed_while_others_read",
                ),
            ],
        ),
        row(
            "a file has its EDEK, IV and key version in `raw.hdfs.crypto.file.encryption.info`; suite, version and key are the zone's",
            Otherwise(
                "they are the file's and the zone's in the same way; the attribute is shown (`fs --raw stat`) of files that HDFS could read, of others there are `raw.strongroom.*`",
            ),
            &[
                Done("fs put {f} {z}/a"),
                Says(
                    "--json fs stat {z}/a",
                    &[
                        "\"key_name\":\"payroll\"",
                        "\"data_suite\":\"gcm\"",
                        "\"key_version\":0",
                    ],
                ),
                Says("fs --raw stat {z}/a", &["raw.strongroom.manifest.mac="]),
                Lacks("fs --raw stat {z}/a", &["raw.hdfs."]),
                Done("key create {k} --suite hadoop"),
                Done("zone create {d} --key {k} --suite ctr-hdfs --owner alice"),
                Done("fs put {f} {d}/a"),
                Says("fs --raw stat {d}/a", &["raw.hdfs.crypto.file.encryption.info=0x"]),
            ],
        ),
        row(
            "a create gives the lock of the namespace up while it waits for an EDEK; if the zone changed meanwhile it starts over, ten times (`RetryStartFileException`)",
            Same,
            &[
                Test(
                    "storage/metadata/tests/service/zones.rs",
                    "a_create_whose_zone_changes_while_it_waits_starts_over",
                ),
                Test(
                    "storage/metadata/tests/service/zones.rs",
                    "a_create_whose_zone_changes_ten_times_is_refused",
                ),
            ],
        ),
        row(
            "whoever may read a file's metadata has its EDEK; the key service decides who may open it",
            Better("so does the namespace: who may not read the file is not told its EDEK"),
            &[
                Done("fs put {f} {z}/a"),
                Refused("guest> fs cat {z}/a", 4, &["guest", "unwrap"]),
                Done("fs chmod 600 {z}/a"),
                Refused("guest> fs encryption-info {z}/a", 4, &["user guest needs"]),
            ],
        ),
        row(
            "a superuser reads nothing that the key service does not unwrap for him",
            Same,
            &[
                Done("fs put {f} {z}/a"),
                Refused("fsadmin> fs cat {z}/a", 4, &["fsadmin", "unwrap"]),
            ],
        ),
    ],
};
