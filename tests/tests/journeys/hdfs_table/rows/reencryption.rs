//! Re-encryption of zones.

use super::super::{
    Here::{Better, NotThere, Otherwise, Same},
    Topic,
    given::{OLD_FILE, UNDER_WAY, ZONE},
    row,
    steps::Step::{Comes, CrashesMetadata, Done, Keeps, Refused, Says, Test, WithoutKms},
};

const SERVICE: &str = "storage/metadata/tests/service/reencryption.rs";

pub(super) const TOPIC: Topic = Topic {
    title: "Re-encryption",
    rows: &[
        row(
            "only a superuser starts one",
            Same,
            &[Refused("alice> zone reencrypt /payroll", 4, &["alice"])],
        ),
        row(
            "only the root of a zone is re-encrypted",
            Better("the message names the zone that the path is in"),
            &[Refused(
                "zone reencrypt {z}",
                8,
                &["{z} is not the root of an encryption zone", "/payroll"],
            )],
        ),
        row(
            "EDEKs get the newest version, DEK and bytes stay",
            Same,
            &[
                OLD_FILE,
                Done("zone reencrypt {d} --wait"),
                Says("--json fs stat {d}/a", &["\"key_version\":1"]),
                Says("fs cat {d}/a", &["what is in the file"]),
                Test(
                    SERVICE,
                    "every_edek_of_a_zone_moves_to_the_newest_version_and_no_block_is_touched",
                ),
            ],
        ),
        row(
            "the start drains the EDEK cache and mints one EDEK to learn the version",
            Same,
            &[
                ZONE,
                Comes("--json zone info {d}", &["\"edeks_in_stock\":100"]),
                Done("key roll {k}"),
                Says("--json zone reencrypt {d}", &["\"target_version\":1"]),
                Done("fs put {f} {d}/a"),
                Says("--json fs stat {d}/a", &["\"key_version\":1"]),
            ],
        ),
        row(
            "one thread works on one zone at a time",
            Better(
                "on four unless set otherwise (`reencryptions`), and those whose key is away leave their place to others",
            ),
            &[
                Done("key create {k}"),
                Done("fsadmin> fs mkdir {d}/one {d}/two"),
                Done("zone create {d}/one --key {k} --owner alice"),
                Done("zone create {d}/two --key {k} --owner alice"),
                Done("fs put -r {t} {d}/one"),
                Done("fs put -r {t} {d}/two"),
                Done("key roll {k}"),
                Done("zone reencrypt {d}/one --throttle 1"),
                Done("zone reencrypt {d}/two --throttle 1"),
                Comes(
                    "--json zone status {d}/two",
                    &["\"state\":\"running\"", "\"last_file\":\"{d}/two/tree/"],
                ),
                Says(
                    "--json zone status {d}/one",
                    &["\"state\":\"running\"", "\"last_file\":\"{d}/one/tree/"],
                ),
                Done("zone reencrypt {d}/one --cancel"),
                Done("zone reencrypt {d}/two --cancel"),
                Test(
                    "storage/metadata/tests/service/turns.rs",
                    "re_encryptions_on_a_key_that_is_away_leave_room_for_one_on_another",
                ),
            ],
        ),
        row(
            "the zone with the lowest inode id comes first, and in it directory by directory, by name",
            Otherwise(
                "zones in turn; in a zone from the oldest key version on, by an index that is written with each file, and no directory is walked",
            ),
            &[
                Test(
                    "storage/metadata/tests/service/index.rs",
                    "the_index_equals_a_full_scan",
                ),
                Test(SERVICE, "it_resumes_after_a_restart_beside_removals_renames_and_writes"),
            ],
        ),
        row(
            "zones within the zone are left out, and so are files that have the version already",
            Same,
            &[
                ZONE,
                Done("fs mkdir {d}/inner"),
                Done("zone create {d}/inner --key {k} --owner alice"),
                Done("fs put {f} {d}/inner/a"),
                Done("fs put {f} {d}/old"),
                Done("key roll {k}"),
                Done("zone reencrypt {d} --wait"),
                Says("--json fs stat {d}/inner/a", &["\"key_version\":0"]),
                Says(
                    "--json zone status {d}",
                    &["\"state\":\"completed\"", "\"files_done\":1", "\"failures\":0"],
                ),
                Done("zone reencrypt {d} --wait"),
                Says(
                    "--json zone status {d}",
                    &["\"state\":\"completed\"", "\"files_done\":0"],
                ),
            ],
        ),
        row(
            "batches of 1000 files (above 2000 it warns), ten threads that call the key service, and one updater under the write lock of the namespace",
            Better(
                "pages of 500, four at once; each is swapped in in a transaction of its own, beside which others read and write",
            ),
            &[
                UNDER_WAY,
                Done("fs put {f} {d}/new"),
                Done("fs append {f} {d}/new"),
                Says("fs cat {d}/tree/f00", &["one of many"]),
                Says("--json zone status {d}", &["\"state\":\"running\""]),
                Done("zone reencrypt {d} --throttle 0 --wait"),
                Says("--json zone status {d}", &["\"files_done\":20", "\"failures\":0"]),
                Test(SERVICE, "it_resumes_after_a_restart_beside_removals_renames_and_writes"),
            ],
        ),
        row(
            "it is throttled by the length of its queues (pauses of 100 and 500 ms) and by shares of the time under the lock, set for the namenode",
            Otherwise("`--throttle` is files a second, of each re-encryption, and can be changed while it runs"),
            &[
                UNDER_WAY,
                Says("--json zone status {d}", &["\"throttle\":1", "\"state\":\"running\""]),
                Says(
                    "--json zone reencrypt {d} --throttle 2",
                    &["\"throttle\":2", "\"state\":\"running\""],
                ),
                Done("zone reencrypt {d} --throttle 0 --wait"),
                Test("storage/metadata/src/jobs/pace.rs", "no_more_than_so_many_in_a_second"),
            ],
        ),
        row(
            "the updater passes over files that went, and those whose key, version or EDEK changed",
            Same,
            &[
                UNDER_WAY,
                Done("fs rm --skip-trash {d}/tree/f00"),
                Done("fs put -f {f} {d}/tree/f01"),
                Done("fs rekey {d}/tree/f02"),
                Says("--json zone status {d}", &["\"state\":\"running\""]),
                Done("zone reencrypt {d} --throttle 0 --wait"),
                Says(
                    "--json zone status {d}",
                    &["\"state\":\"completed\"", "\"failures\":0", "\"files_left\":0"],
                ),
                Says("fs cat {d}/tree/f01", &["what is in the file"]),
                Says("fs cat {d}/tree/f02", &["one of many"]),
                Test(SERVICE, "it_resumes_after_a_restart_beside_removals_renames_and_writes"),
            ],
        ),
        row(
            "the checkpoint passes over no file that is not done, and it goes on there after a restart",
            Same,
            &[
                UNDER_WAY,
                Comes("--json zone status {d}", &["\"last_file\":\"{d}/tree/"]),
                Keeps("--json zone status {d}", "job_id"),
                CrashesMetadata,
                Done("zone reencrypt {d} --throttle 0 --wait"),
                Says(
                    "--json zone status {d}",
                    &[
                        "\"job_id\":\"{job_id}\"",
                        "\"state\":\"completed\"",
                        "\"files_done\":20",
                        "\"failures\":0",
                    ],
                ),
                Test(SERVICE, "it_resumes_after_a_restart_beside_removals_renames_and_writes"),
            ],
        ),
        row(
            "a batch that failed counts every file as failed and is not tried again",
            Better(
                "what passes is tried again, and a batch that is refused costs only the files that it is refused for",
            ),
            &[
                Test(
                    "storage/metadata/tests/service/jobs.rs",
                    "a_page_that_is_refused_as_a_whole_costs_only_the_files_that_it_is_refused_for",
                ),
                Test(SERVICE, "an_edek_that_does_not_re_wrap_is_counted_and_left_as_it_is"),
                Test(
                    SERVICE,
                    "it_waits_for_a_key_service_that_is_away_and_follows_a_further_roll",
                ),
            ],
        ),
        row(
            "what fails for a while in the updater is tried again every 60 s, without end",
            Better(
                "a key service that is away is asked again after 0.1 s to 5 s, and the status says what is waited for; what fails for good pauses the re-encryption, with the reason",
            ),
            &[
                UNDER_WAY,
                WithoutKms(&[Comes(
                    "--json zone status {d}",
                    &["\"state\":\"running\"", "cannot reach the kms service"],
                )]),
                Done("zone reencrypt {d} --throttle 0 --wait"),
                Says("--json zone status {d}", &["\"files_done\":20", "\"failures\":0"]),
                Test(
                    SERVICE,
                    "a_zone_whose_key_is_refused_for_good_is_paused_and_goes_on_where_it_was",
                ),
            ],
        ),
        row(
            "`-cancel` completes it as canceled, and the next start begins again",
            Better(
                "it can be paused, too, and goes on where it was; a start after a cancel has only the files that are left to do",
            ),
            &[
                UNDER_WAY,
                Keeps("--json zone status {d}", "job_id"),
                Says("--json job pause {job_id}", &["\"state\":\"paused\""]),
                Says(
                    "--json zone status {d}",
                    &["\"state\":\"paused\"", "\"job_id\":\"{job_id}\""],
                ),
                Says(
                    "--json zone reencrypt {d}",
                    &["\"state\":\"running\"", "\"job_id\":\"{job_id}\""],
                ),
                Says(
                    "--json zone reencrypt {d} --cancel",
                    &["\"state\":\"canceled\"", "\"job_id\":\"{job_id}\""],
                ),
                Says("zone status", &["canceled"]),
                Done("zone reencrypt {d} --wait"),
                Says(
                    "--json zone status {d}",
                    &["\"state\":\"completed\"", "\"files_left\":0", "\"failures\":0"],
                ),
            ],
        ),
        row(
            "it survives a failover of the namenode",
            Same,
            &[Test(
                "storage/metadata/tests/service/instances.rs",
                "the_background_passes_from_one_that_was_killed_to_the_other",
            )],
        ),
        row(
            "a path in a snapshot is refused (`SnapshotAccessControlException`), and copies in snapshots keep their EDEKs",
            NotThere("there are no snapshots"),
            &[],
        ),
    ],
};
