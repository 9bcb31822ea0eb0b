//! Ciphertext in and out.

use super::super::{
    Here::{Better, Otherwise, Same},
    Topic, row,
    steps::Step::{Done, Keeps, Lacks, Refused, Says, Test},
};

const JOURNEY: &str = "tests/tests/journeys/raw.rs";
const TREES: &str = "tests/tests/journeys/raw_trees.rs";
const SERVICE: &str = "storage/metadata/tests/service/raw.rs";

pub(super) const TOPIC: Topic = Topic {
    title: "The raw view",
    rows: &[
        row(
            "`/.reserved/raw` has files as ciphertext, for copies without a key",
            Otherwise(
                "`fs --raw get` and `put`: streams that are checked, of files and whole trees; HDFS' own form (`--hdfs`) for files that it could have written",
            ),
            &[
                Done("fs put {f} {z}/a"),
                Done("fsadmin> fs --raw get {z}/a {f}.{k}"),
                Done("fsadmin> fs --raw put {f}.{k} {z}/b"),
                Says("fs cat {z}/b", &["what is in the file"]),
                Refused("fsadmin> fs cat {z}/b", 4, &["unwrap"]),
                Test(JOURNEY, "ciphertext_goes_to_another_cluster_by_hands_that_have_no_key"),
                Test(JOURNEY, "hdfs_reads_what_strongroom_writes_and_the_other_way_round"),
            ],
        ),
        row(
            "reading takes the ordinary rights",
            Same,
            &[
                Done("fs put {f} {z}/a"),
                Done("guest> fs --raw get {z}/a {f}.{k}"),
                Done("fs chmod 600 {z}/a"),
                Refused("guest> fs --raw get {z}/a {f}.{k}.closed", 4, &["user guest needs"]),
            ],
        ),
        row(
            "changing anything takes a superuser: `Superuser privilege is required`",
            Same,
            &[
                Done("fs put {f} {z}/a"),
                Done("fs --raw get {z}/a {f}.{k}"),
                Refused(
                    "alice> fs --raw put {f}.{k} {z}/b",
                    4,
                    &["alice", "bring in ciphertext", "superusers"],
                ),
                Done("fsadmin> fs --raw put {f}.{k} {z}/b"),
            ],
        ),
        row(
            "a raw create makes no EDEK: the file has none until the attribute is set",
            Better("the EDEK comes with the file, which shows once all of it is there: no file is ever without"),
            &[
                Done("key create {k} --suite hadoop"),
                Done("zone create {d} --key {k} --suite ctr-hdfs --owner alice"),
                Done("fs put {f} {d}/a"),
                Keeps("--json fs encryption-info {d}/a", "edek"),
                Done("fs --raw get --hdfs {d}/a {f}.{k}"),
                Done("fsadmin> fs --raw put --hdfs {f}.{k} {d}/b"),
                Says("--json fs encryption-info {d}/b", &["\"edek\":\"{edek}\""]),
                Says("fs cat {d}/b", &["what is in the file"]),
                Test(
                    SERVICE,
                    "a_file_shows_once_all_its_blocks_are_there_under_ids_of_its_own",
                ),
            ],
        ),
        row(
            "`KeyVersion 'v' does not belong to the key 'k'`, and no EDEK for a path in no zone",
            Better("nor one of a version that the key never had or that the zone was re-encrypted away from"),
            &[
                Done("key create {k} --suite hadoop"),
                Done("key create {k}b --suite hadoop"),
                Done("fsadmin> fs mkdir {d}/x {d}/y"),
                Done("zone create {d}/x --key {k} --suite ctr-hdfs --owner alice"),
                Done("zone create {d}/y --key {k}b --suite ctr-hdfs --owner alice"),
                Done("fs put {f} {d}/x/a"),
                Done("fs --raw get --hdfs {d}/x/a {f}.{k}"),
                Refused(
                    "fsadmin> fs --raw put --hdfs {f}.{k} {d}/y/a",
                    2,
                    &["KeyVersion '{k}@0' does not belong to the key '{k}b'"],
                ),
                Refused(
                    "fsadmin> fs --raw put --hdfs {f}.{k} {d}/a",
                    8,
                    &["not in an encryption zone"],
                ),
                Done("key roll {k}"),
                Done("zone reencrypt {d}/x --wait"),
                Refused(
                    "fsadmin> fs --raw put --hdfs {f}.{k} {d}/x/b",
                    2,
                    &["no EDEKs older than version 1"],
                ),
                Test(SERVICE, "what_a_zone_cannot_have_is_refused"),
            ],
        ),
        row(
            "attributes `raw.*` show in `/.reserved/raw` only, and can be set there",
            Otherwise(
                "they show in `fs --raw stat` only, and cannot be set; a stream has the file's mode, owner, times, ACL and `user.*` attributes",
            ),
            &[
                Done("fs put {f} {z}/a"),
                Done("fs setfattr -n user.origin --value here {z}/a"),
                Says("fs --raw stat {z}/a", &["raw.strongroom.extents=1"]),
                Lacks("fs getfattr -d {z}/a", &["raw."]),
                Refused("fsadmin> fs setfattr -n raw.hdfs.a --value b {z}/a", 2, &["raw view"]),
                Refused(
                    "fsadmin> fs --raw getfattr -d {z}/a",
                    2,
                    &["--raw goes with get, put, ls and stat"],
                ),
                Done("fs --raw get {z}/a {f}.{k}"),
                Done("fsadmin> fs --raw put {f}.{k} {z}/b"),
                Says("fs getfattr -d {z}/b", &["user.origin"]),
            ],
        ),
        row(
            "DistCp takes raw prefixes on all its paths or on none, and with them copies the raw attributes",
            Otherwise(
                "`fs --raw get -r` and `put -r` carry a tree in two steps, over a directory of streams that hold both; what is no such stream is refused, and a copy that was cut off goes on",
            ),
            &[
                Refused(
                    "fsadmin> fs --raw put {f} {z}/a",
                    2,
                    &["no stream of strongroom fs --raw get"],
                ),
                Test(
                    TREES,
                    "a_zone_goes_to_another_cluster_by_a_carrier_who_is_cut_off_and_has_no_key",
                ),
            ],
        ),
        row(
            "the destination needs a key of the same name and material",
            Better("and, for EDEKs of suites `kw` and `gcm`, a zone of the same id; both are said"),
            &[
                Done("fs put {f} {z}/a"),
                Done("fs --raw get {z}/a {f}.{k}"),
                Refused(
                    "fsadmin> fs --raw put {f}.{k} {o}/a",
                    2,
                    &["KeyVersion 'payroll@0' does not belong to the key 'other'"],
                ),
                Done("zone create {d} --key payroll"),
                Refused(
                    "fsadmin> fs --raw put {f}.{k} {d}/a",
                    2,
                    &["bound to zone", "zone create --id"],
                ),
                Test(JOURNEY, "ciphertext_goes_to_another_cluster_by_hands_that_have_no_key"),
            ],
        ),
        row(
            "copies between zones take `-update -skipcrccheck`, as checksums are of ciphertext",
            Better("a stream has the checksums of its own blocks, checked on both ways, and nothing to switch off"),
            &[Test(
                JOURNEY,
                "ciphertext_goes_to_another_cluster_by_hands_that_have_no_key",
            )],
        ),
    ],
};
