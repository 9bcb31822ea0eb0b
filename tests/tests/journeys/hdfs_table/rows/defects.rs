//! What is wrong in HDFS.

use super::super::{
    Here::{Better, Otherwise},
    Topic,
    given::{OLD_FILE, UNDER_WAY},
    row,
    steps::Step::{Comes, CrashesMetadata, Done, Keeps, Refused, Says, Test},
};

pub(super) const TOPIC: Topic = Topic {
    title: "Defects of HDFS",
    rows: &[
        row(
            "`truncate` and `append` use key stream twice",
            Better(
                "every writer has a key of his own; a ledger of all key stream is kept by a test over random operations",
            ),
            &[
                Done("fs put {f} {z}/a"),
                Done("fs truncate --length 4 {z}/a"),
                Done("fs append {f} {z}/a"),
                Says("fs cat {z}/a", &["whatwhat is in the file"]),
                Says("fs --raw stat {z}/a", &["raw.strongroom.extents=2"]),
                Test(
                    "storage/client/tests/fs/ctr.rs",
                    "no_counter_is_used_twice_under_one_key",
                ),
                Test(
                    "tests/tests/model/main.rs",
                    "every_sequence_of_operations_gives_what_the_oracle_says",
                ),
                Test(
                    "tests/tests/model/ledger.rs",
                    "a_keystream_that_is_used_twice_is_found_and_a_repeat_is_none",
                ),
            ],
        ),
        row(
            "a re-encryption whose checkpoint's file was removed kills its thread",
            Better("the cursor is a key in the index, and need not be there"),
            &[
                UNDER_WAY,
                Comes("--json zone status {d}", &["\"last_file\":\"{d}/tree/"]),
                Keeps("--json zone status {d}", "job_id"),
                Done("job pause {job_id}"),
                Keeps("--json zone status {d}", "last_file"),
                Done("fs rm --skip-trash {last_file}"),
                CrashesMetadata,
                Done("zone reencrypt {d} --throttle 0 --wait"),
                Says(
                    "--json zone status {d}",
                    &[
                        "\"job_id\":\"{job_id}\"",
                        "\"state\":\"completed\"",
                        "\"files_left\":0",
                        "\"failures\":0",
                    ],
                ),
            ],
        ),
        row(
            "snapshots keep EDEKs of old key versions for ever",
            Otherwise("there are no snapshots; that no file uses a version is proved before it is destroyed"),
            &[
                OLD_FILE,
                Refused(
                    "zone proof {d} --through-version 0 -o {f}.{k}.early",
                    8,
                    &["use version 0 or older of key {k}"],
                ),
                Done("zone reencrypt {d} --wait"),
                Done("zone proof {d} --through-version 0 -o {f}.{k}.proof"),
            ],
        ),
        row(
            "a superuser swaps two files' EDEKs and blocks, and nobody notices",
            Better("a manifest under the file's DEK binds file, extents and order; every frame is authenticated"),
            &[
                Test(
                    "storage/client/tests/fs/files.rs",
                    "a_lying_metadata_service_gets_nothing_read",
                ),
                Test(
                    "storage/client/tests/fs/files.rs",
                    "swapped_and_truncated_blocks_are_refused",
                ),
                Test(
                    "storage/client/tests/fs/growing.rs",
                    "what_was_cut_off_or_changed_by_the_service_is_refused",
                ),
            ],
        ),
    ],
};
