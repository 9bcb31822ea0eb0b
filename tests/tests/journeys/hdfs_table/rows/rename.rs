//! Moving across the borders of zones.

use super::super::{
    Here::{Better, NotThere, Same},
    Topic,
    given::UNDER_WAY,
    row,
    steps::Step::{Done, Refused, Says, Test},
};

pub(super) const TOPIC: Topic = Topic {
    title: "Rename",
    rows: &[
        row(
            "within a zone as anywhere",
            Same,
            &[
                Done("fs put {f} {z}/a"),
                Done("fs mv {z}/a {z}/b"),
                Says("fs cat {z}/b", &["what is in the file"]),
            ],
        ),
        row(
            "`X can't be moved from an encryption zone.`",
            Better("and says how to do it"),
            &[
                Done("fs put {f} {z}/a"),
                Refused(
                    "fs mv {z}/a {d}/a",
                    8,
                    &[
                        "{z}/a can't be moved from an encryption zone",
                        "strongroom fs get and put",
                    ],
                ),
            ],
        ),
        row(
            "`X can't be moved into an encryption zone.`",
            Better("and says how to do it"),
            &[
                Done("fs mkdir {d}/a"),
                Refused(
                    "fsadmin> fs mv {d}/a {z}/a",
                    8,
                    &[
                        "{d}/a can't be moved into an encryption zone",
                        "strongroom fs get and put",
                    ],
                ),
            ],
        ),
        row(
            "`X can't be moved from encryption zone A to encryption zone B.`",
            Better("with rights on both keys `fs mv --transfer` moves it, and the error says so"),
            &[
                Done("fs put {f} {z}/a"),
                Refused(
                    "fs mv {z}/a {o}/a",
                    8,
                    &[
                        "can't be moved from encryption zone /payroll to encryption zone /other",
                        "strongroom fs mv --transfer {z}/a {o}/a",
                    ],
                ),
                Done("fs mv --transfer {z}/a {o}/a"),
                Says("fs cat {o}/a", &["what is in the file"]),
            ],
        ),
        row(
            "the zones of the parents are compared, so that the root of a zone can be moved",
            Same,
            &[
                Done("fsadmin> fs mkdir {d}/zone"),
                Done("zone create {d}/zone --key payroll"),
                Done("fsadmin> fs mv {d}/zone {d}/moved"),
                Says("zone info {d}/moved", &["payroll"]),
            ],
        ),
        row(
            "a zone within a zone moves only within that",
            Same,
            &[
                Done("fsadmin> fs mkdir {z}/inner"),
                Done("zone create {z}/inner --key other"),
                Done("fsadmin> fs mv {z}/inner {z}/moved"),
                Refused("fsadmin> fs mv {z}/moved {d}/moved", 8, &["from an encryption zone"]),
            ],
        ),
        row(
            "`X can't be moved because encryption zone Z is currently under re-encryption`",
            Better("a re-encryption keeps nobody from moving, and loses no file by it"),
            &[
                UNDER_WAY,
                Done("fs mv {d}/tree/f00 {d}/a"),
                Done("fs mv {d}/tree {d}/moved"),
                Says("--json zone status {d}", &["\"state\":\"running\""]),
                Done("zone reencrypt {d} --throttle 0 --wait"),
                Says(
                    "--json zone status {d}",
                    &["\"state\":\"completed\"", "\"failures\":0", "\"files_done\":20"],
                ),
                Says("--json fs stat {d}/a", &["\"key_version\":1"]),
                Says("--json fs stat {d}/moved/f19", &["\"key_version\":1"]),
            ],
        ),
        row(
            "`concat` is refused if its target is in a zone",
            NotThere("a file of several extents is put in one piece by `fs compact`, in a zone as well"),
            &[
                Done("fs put {f} {z}/a"),
                Done("fs append {f} {z}/a"),
                Says("--json fs compact {z}/a", &["\"files\":1", "\"failed\":0"]),
                Says("fs cat {z}/a", &["what is in the filewhat is in the file"]),
                Test(
                    "storage/metadata/tests/service/rewriting.rs",
                    "a_second_body_takes_the_place_of_the_first",
                ),
            ],
        ),
    ],
};
