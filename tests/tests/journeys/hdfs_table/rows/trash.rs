//! What is removed.

use super::super::{
    Here::{Better, NotThere, Same},
    Topic, row,
    steps::Step::{Done, Keeps, Refused, Says, Test},
};

const SERVICE: &str = "storage/metadata/tests/service/expunge.rs";

pub(super) const TOPIC: Topic = Topic {
    title: "Trash",
    rows: &[
        row(
            "what is removed goes to `<zone>/.Trash/<user>/Current`",
            Better("in one transaction, by the service"),
            &[
                Done("fs put {f} {z}/a"),
                Says("--json fs rm {z}/a", &["/payroll/.Trash/alice/Current{z}/a"]),
                Says("fs cat /payroll/.Trash/alice/Current{z}/a", &["what is in the file"]),
            ],
        ),
        row(
            "the root of a zone goes to the trash at home",
            Same,
            &[
                Done("fsadmin> fs mkdir {d}/zone"),
                Done("zone create {d}/zone --key payroll"),
                Says(
                    "fsadmin> --json fs rm -r {d}/zone",
                    &["/user/fsadmin/.Trash/Current{d}/zone"],
                ),
            ],
        ),
        row(
            "`-expunge` makes a checkpoint of what was removed, and removes those that are old enough",
            Same,
            &[
                Done("fs put {f} {z}/a"),
                Done("fs rm {z}/a"),
                Keeps("--json fs expunge", "checkpoint"),
                Refused("fs stat /payroll/.Trash/alice/Current{z}/a", 3, &["cannot find"]),
                Says(
                    "fs cat /payroll/.Trash/alice/{checkpoint}{z}/a",
                    &["what is in the file"],
                ),
                Done("fs expunge --immediate"),
                Refused("fs stat /payroll/.Trash/alice/{checkpoint}", 3, &["cannot find"]),
                Test(
                    "tests/tests/journeys/trash.rs",
                    "what_is_removed_is_in_the_trash_until_that_is_emptied",
                ),
            ],
        ),
        row(
            "removing a directory for good, also `-expunge`, takes all rights on each directory in it that is not empty; moving it to the trash does not, and the trash ends by itself",
            Better(
                "a checkpoint that a user may not expunge keeps no other from it. Up to 1,000 names are looked through in the transaction that removes them. Of more a state of the store is looked through before, for 10 s at most: what somebody moves into it meanwhile goes with it; what another directory has taken the place of is looked through anew, and once it is removed nothing comes into it",
            ),
            &[
                Done("fs mkdir --mode 777 {z}/ours"),
                Done("guest> fs mkdir --mode 700 {z}/ours/closed"),
                Done("guest> fs mkdir {z}/ours/closed/a"),
                Refused(
                    "fs rm -r --skip-trash {z}/ours",
                    4,
                    &["user alice needs rwx on {z}/ours/closed"],
                ),
                Says("--json fs rm -r {z}/ours", &["/payroll/.Trash/alice/Current{z}/ours"]),
                Done("fs expunge"),
                Done("fs put {f} {z}/a"),
                Done("fs rm {z}/a"),
                Refused("fs expunge --immediate", 7, &["1 failed"]),
                Test(
                    "storage/metadata/tests/service/removal.rs",
                    "a_large_tree_is_looked_through_before_it_is_removed",
                ),
                Test(
                    SERVICE,
                    "what_holds_a_directory_that_is_closed_to_its_remover_goes_to_the_trash_and_not_for_good",
                ),
                Test(SERVICE, "what_a_user_may_not_expunge_ends_when_its_time_is_over"),
            ],
        ),
        row(
            "with snapshot trash roots the longer path wins",
            NotThere("there are no snapshots, and so no trash of a snapshottable directory"),
            &[],
        ),
    ],
};
