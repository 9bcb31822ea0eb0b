//! EDEKs that are made ahead.

use super::super::{
    Here::{Better, Otherwise, Same},
    Topic,
    given::ZONE,
    row,
    steps::Step::{Comes, CrashesMetadata, Done, Says, Test},
};

const SERVICE: &str = "storage/metadata/tests/service/zones.rs";

pub(super) const TOPIC: Topic = Topic {
    title: "EDEKs in stock",
    rows: &[
        row(
            "the cache is for each key and each endpoint of the key service",
            Otherwise("for each zone, since EDEKs are bound to one, whichever key service made them"),
            &[
                Done("key create {k}"),
                Done("fsadmin> fs mkdir {d}/one {d}/two"),
                Done("zone create {d}/one --key {k}"),
                Done("zone create {d}/two --key {k}"),
                Comes("--json zone info {d}/one", &["\"edeks_in_stock\":100"]),
                Comes("--json zone info {d}/two", &["\"edeks_in_stock\":100"]),
                Test(SERVICE, "no_edek_is_handed_out_twice"),
            ],
        ),
        row(
            "500 EDEKs at most, of which the first load has 0.3; more are fetched in the background below that mark, and by the create itself when there are none",
            Otherwise(
                "100 and 30 unless set otherwise (`stock_edeks`, `stock_low_edeks`), and always filled up; a create that finds none waits for at most 5 s (`mint_wait_ms`)",
            ),
            &[
                ZONE,
                Comes("--json zone info {d}", &["\"edeks_in_stock\":100"]),
                Done("fs put {f} {d}/a"),
                Says("--json zone info {d}", &["\"edeks_in_stock\":99"]),
                Test(SERVICE, "creates_go_on_through_an_outage_until_the_stock_is_used"),
                Test(SERVICE, "no_edek_is_handed_out_twice"),
            ],
        ),
        row(
            "creates go on through an outage of the key service until the cache is used up, then fail",
            Better("and the failure says which key and for how long was waited"),
            &[Test(SERVICE, "creates_go_on_through_an_outage_until_the_stock_is_used")],
        ),
        row(
            "an EDEK that is in the cache for 12 h is dropped",
            Same,
            &[Test(SERVICE, "an_edek_too_old_is_not_handed_out")],
        ),
        row(
            "two threads fill the caches of all keys",
            Better("16 calls at once, two of them for one key: a bad key starves no other"),
            &[Test(SERVICE, "one_bad_key_starves_no_other")],
        ),
        row(
            "a roll leaves the cache of the namenode as it is: EDEKs of the old version are handed out until it is drained by hand or a re-encryption starts",
            Better("every minute (`stock_look_ms`) it is asked whether keys were rolled, and what is older is dropped"),
            &[Test(
                SERVICE,
                "a_roll_drains_the_stock_of_a_zone_where_nobody_makes_files",
            )],
        ),
        row(
            "caches are warmed 3 s after a start, ten times at most, a second apart",
            Otherwise(
                "at the start and when a zone is made, six times at most with growing pauses; the next create begins another six",
            ),
            &[
                ZONE,
                Comes("--json zone info {d}", &["\"edeks_in_stock\":100"]),
                Done("fs put {f} {d}/a"),
                CrashesMetadata,
                Comes("--json zone info {d}", &["\"edeks_in_stock\":100"]),
            ],
        ),
        row(
            "with several endpoints of the key service a call goes on with the next, as often as there are endpoints, then the create fails",
            Otherwise("calls go on with the next that answers, for as long as a create waits"),
            &[
                Test(
                    "proto/tests/transport.rs",
                    "a_client_goes_on_with_an_instance_that_answers",
                ),
                Test(SERVICE, "creates_go_on_through_an_outage_until_the_stock_is_used"),
            ],
        ),
    ],
};
