//! The rows.

use super::{
    Here::{Better, Otherwise, Same},
    Row,
    Step::{Done, Refused, Says, Test},
};

const ZONES: &str = "Zones";
const RENAME: &str = "Rename";
const FILES: &str = "Files";
const STOCK: &str = "EDEKs in stock";
const REENCRYPTION: &str = "Re-encryption";
const TRASH: &str = "Trash";
const TRANSPORT: &str = "Transport";
const DEFECTS: &str = "Defects of HDFS";

pub(super) const ROWS: &[Row] = &[
    Row {
        topic: ZONES,
        hdfs: "only a superuser makes a zone",
        here: Same,
        steps: &[Refused(
            "alice> zone create {d} --key payroll",
            4,
            &["alice", "make encryption zones"],
        )],
    },
    Row {
        topic: ZONES,
        hdfs: "`Can't create an encryption zone for X since no key provider is available.`",
        here: Otherwise("a key service has to be configured; while it does not answer, the command says so (code 5)"),
        steps: &[Test(
            "storage/metadata/tests/service/zones.rs",
            "zone_creation_checks_in_hdfs_order",
        )],
    },
    Row {
        topic: ZONES,
        hdfs: "`Must specify a key name…`",
        here: Same,
        steps: &[Refused("fsadmin> zone create {d}", 2, &["--key"])],
    },
    Row {
        topic: ZONES,
        hdfs: "`Key K doesn't exist.`",
        here: Same,
        steps: &[Refused(
            "zone create {d} --key absent",
            3,
            &["key absent does not exist"],
        )],
    },
    Row {
        topic: ZONES,
        hdfs: "`cannot find X`",
        here: Same,
        steps: &[Refused(
            "zone create {d}/none --key payroll",
            3,
            &["cannot find {d}/none"],
        )],
    },
    Row {
        topic: ZONES,
        hdfs: "`Attempt to create an encryption zone for a file.`",
        here: Same,
        steps: &[
            Done("fs put {f} {z}/file"),
            Refused(
                "zone create {z}/file --key payroll",
                8,
                &["attempt to create an encryption zone for a file"],
            ),
        ],
    },
    Row {
        topic: ZONES,
        hdfs: "`Directory X is already an encryption zone.`, also if it is not empty",
        here: Same,
        steps: &[Refused(
            "zone create /payroll --key other",
            8,
            &["directory /payroll is already an encryption zone"],
        )],
    },
    Row {
        topic: ZONES,
        hdfs: "`Attempt to create an encryption zone for a non-empty directory.`",
        here: Same,
        steps: &[
            Done("fs mkdir {d}/inner"),
            Refused("zone create {d} --key payroll", 8, &["non-empty directory"]),
        ],
    },
    Row {
        topic: ZONES,
        hdfs: "the checks come in this order",
        here: Same,
        steps: &[Refused(
            "zone create {d}/none --key absent",
            3,
            &["key absent does not exist"],
        )],
    },
    Row {
        topic: ZONES,
        hdfs: "a zone may be within a zone",
        here: Same,
        steps: &[
            Done("fsadmin> fs mkdir {z}/inner"),
            Done("zone create {z}/inner --key other"),
            Says("zone info {z}/inner", &["other"]),
            Says("zone info {z}", &["payroll"]),
        ],
    },
    Row {
        topic: ZONES,
        hdfs: "`/` may be a zone",
        here: Same,
        steps: &[
            Refused("zone create / --key payroll", 8, &["non-empty directory: /"]),
            Test(
                "storage/metadata/tests/service/zones.rs",
                "the_root_may_be_a_zone_and_zones_nest",
            ),
        ],
    },
    Row {
        topic: ZONES,
        hdfs: "the command makes `.Trash` (1777) in a second step, which may fail after the first",
        here: Better("in the transaction of the zone"),
        steps: &[
            Done("fsadmin> fs mkdir {d}/zone"),
            Done("zone create {d}/zone --key payroll"),
            Says("--json fs stat {d}/zone/.Trash", &["\"mode\":1023"]),
        ],
    },
    Row {
        topic: ZONES,
        hdfs: "no command makes a zone a plain directory again",
        here: Better("and removing a zone removes every trace of it that keeps its key from being retired"),
        steps: &[
            Done("fsadmin> fs mkdir {d}/zone"),
            Done("zone create {d}/zone --key payroll"),
            Done("fsadmin> fs rm -r --skip-trash {d}/zone"),
            Refused("zone info {d}/zone", 3, &["cannot find {d}/zone"]),
        ],
    },
    Row {
        topic: ZONES,
        hdfs: "`-listZones` shows zones to superusers, 100 at a time, those in the trash among them",
        here: Better("each user sees the zones that they can reach"),
        steps: &[Says("zone list", &["/payroll", "/other"])],
    },
    Row {
        topic: ZONES,
        hdfs: "suites are AES/CTR and SM4/CTR",
        here: Otherwise("AES-256-GCM, which shows changed bytes, or `ctr-hdfs` for exchange with HDFS; no SM4"),
        steps: &[
            Refused("zone create {d} --key payroll --suite sm4-ctr", 2, &["gcm", "ctr-hdfs"]),
            Done("key create {k} --suite hadoop"),
            Done("zone create {d} --key {k} --suite ctr-hdfs"),
            Says("zone info {d}", &["ctr-hdfs"]),
        ],
    },
    Row {
        topic: ZONES,
        hdfs: "the root of the zone that a path is in can be asked for",
        here: Same,
        steps: &[Says("--json fs stat {z}", &["\"zone_path\":\"/payroll\""])],
    },
    Row {
        topic: RENAME,
        hdfs: "within a zone as anywhere",
        here: Same,
        steps: &[
            Done("fs put {f} {z}/a"),
            Done("fs mv {z}/a {z}/b"),
            Says("fs cat {z}/b", &["what is in the file"]),
        ],
    },
    Row {
        topic: RENAME,
        hdfs: "`X can't be moved from an encryption zone.`",
        here: Better("and says how to do it"),
        steps: &[
            Done("fs put {f} {z}/a"),
            Refused(
                "fs mv {z}/a {d}/a",
                8,
                &["{z}/a can't be moved from an encryption zone"],
            ),
        ],
    },
    Row {
        topic: RENAME,
        hdfs: "`X can't be moved into an encryption zone.`",
        here: Better("and says how to do it"),
        steps: &[
            Done("fs mkdir {d}/a"),
            Refused(
                "fsadmin> fs mv {d}/a {z}/a",
                8,
                &["{d}/a can't be moved into an encryption zone"],
            ),
        ],
    },
    Row {
        topic: RENAME,
        hdfs: "`X can't be moved from encryption zone A to encryption zone B.`",
        here: Better("with rights on both keys `fs mv --transfer` moves it, and the error says so"),
        steps: &[
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
    },
    Row {
        topic: RENAME,
        hdfs: "the zones of the parents are compared, so that the root of a zone can be moved",
        here: Same,
        steps: &[
            Done("fsadmin> fs mkdir {d}/zone"),
            Done("zone create {d}/zone --key payroll"),
            Done("fsadmin> fs mv {d}/zone {d}/moved"),
            Says("zone info {d}/moved", &["payroll"]),
        ],
    },
    Row {
        topic: RENAME,
        hdfs: "a zone within a zone moves only within that",
        here: Same,
        steps: &[
            Done("fsadmin> fs mkdir {z}/inner"),
            Done("zone create {z}/inner --key other"),
            Done("fsadmin> fs mv {z}/inner {z}/moved"),
            Refused("fsadmin> fs mv {z}/moved {d}/moved", 8, &["from an encryption zone"]),
        ],
    },
    Row {
        topic: RENAME,
        hdfs: "`X can't be moved because encryption zone Z is currently under re-encryption`",
        here: Better("a re-encryption keeps nobody from moving"),
        steps: &[
            Done("fs put {f} {z}/a"),
            Done("zone reencrypt /payroll --throttle 1"),
            Done("fs mv {z}/a {z}/b"),
            Done("zone reencrypt /payroll --cancel"),
        ],
    },
    Row {
        topic: FILES,
        hdfs: "a file in no zone is not encrypted",
        here: Otherwise("there is none, unless the metadata service and the client's profile allow plain files there"),
        steps: &[Refused("fs put {f} {d}/a", 8, &["not in an encryption zone"])],
    },
    Row {
        topic: FILES,
        hdfs: "to encrypt what is there it is copied into a zone",
        here: Better(
            "`strongroom zone adopt` makes the directory a zone and encrypts its files in place, readable throughout",
        ),
        steps: &[Test(
            "tests/tests/journeys/adopt.rs",
            "a_directory_is_adopted_by_a_client_that_is_killed_while_others_read",
        )],
    },
    Row {
        topic: FILES,
        hdfs: "a file's EDEK and key version are its own; suite and key are the zone's",
        here: Same,
        steps: &[
            Done("fs put {f} {z}/a"),
            Says(
                "--json fs stat {z}/a",
                &["\"key_name\":\"payroll\"", "\"data_suite\":\"gcm\""],
            ),
        ],
    },
    Row {
        topic: FILES,
        hdfs: "`-getFileEncryptionInfo`",
        here: Same,
        steps: &[
            Done("fs put {f} {z}/a"),
            Says("fs encryption-info {z}/a", &["cipherSuite", "keyName: payroll"]),
        ],
    },
    Row {
        topic: FILES,
        hdfs: "in the raw view reading takes the ordinary rights, and changing anything a superuser",
        here: Same,
        steps: &[
            Done("fs put {f} {z}/raw"),
            Says("fs --raw stat {z}/raw", &["raw.strongroom.extents=1"]),
            Test(
                "storage/metadata/tests/service/raw.rs",
                "what_a_zone_cannot_have_is_refused",
            ),
        ],
    },
    Row {
        topic: FILES,
        hdfs: "`KeyVersion 'v' does not belong to the key 'k'`, and no EDEK for a path in no zone",
        here: Better("so are versions that the key never had or that the zone was re-encrypted away from"),
        steps: &[Test(
            "storage/metadata/tests/service/raw.rs",
            "what_a_zone_cannot_have_is_refused",
        )],
    },
    Row {
        topic: FILES,
        hdfs: "`/.reserved/raw` copies files without a key",
        here: Otherwise(
            "`fs --raw`: streams that are checked, of files and whole trees, with ACLs and attributes; HDFS' own form for files that it could have written",
        ),
        steps: &[
            Test(
                "tests/tests/journeys/raw.rs",
                "ciphertext_goes_to_another_cluster_by_hands_that_have_no_key",
            ),
            Test(
                "tests/tests/journeys/raw.rs",
                "hdfs_reads_what_strongroom_writes_and_the_other_way_round",
            ),
            Test(
                "tests/tests/journeys/raw_trees.rs",
                "a_zone_goes_to_another_cluster_by_a_carrier_who_is_cut_off_and_has_no_key",
            ),
        ],
    },
    Row {
        topic: FILES,
        hdfs: "a create whose zone changes while it waits for an EDEK starts over, ten times",
        here: Same,
        steps: &[
            Test(
                "storage/metadata/tests/service/files.rs",
                "a_file_opened_in_a_directory_that_becomes_a_zone_is_refused",
            ),
            Test(
                "storage/metadata/tests/service/zones.rs",
                "an_edek_too_old_is_not_handed_out",
            ),
        ],
    },
    Row {
        topic: FILES,
        hdfs: "whoever may read a file's metadata has its EDEK; the key service decides who may open it",
        here: Better("so does the namespace: who may not read the file is not told its EDEK"),
        steps: &[
            Done("fs put {f} {z}/a"),
            Done("fs chmod 600 {z}/a"),
            Refused("guest> fs cat {z}/a", 4, &["guest"]),
        ],
    },
    Row {
        topic: FILES,
        hdfs: "a superuser reads nothing that the key service does not unwrap for him",
        here: Same,
        steps: &[
            Done("fs put {f} {z}/a"),
            Refused("fsadmin> fs cat {z}/a", 4, &["fsadmin", "unwrap"]),
        ],
    },
    Row {
        topic: FILES,
        hdfs: "`concat` is refused in a zone",
        here: Otherwise("there is no concat; files that were appended to are put into one piece by rewriting"),
        steps: &[Test(
            "storage/metadata/tests/service/rewriting.rs",
            "a_second_body_takes_the_place_of_the_first",
        )],
    },
    Row {
        topic: STOCK,
        hdfs: "EDEKs are made ahead; creates go on through an outage of the key service until they are used up, then fail",
        here: Better("and the failure says which key and for how long was waited"),
        steps: &[
            Done("fs put {f} {z}/a"),
            Says("zone info /payroll", &["EDEKs"]),
            Test(
                "storage/metadata/tests/service/zones.rs",
                "creates_go_on_through_an_outage_until_the_stock_is_used",
            ),
        ],
    },
    Row {
        topic: REENCRYPTION,
        hdfs: "only a superuser starts one",
        here: Same,
        steps: &[Refused("alice> zone reencrypt /payroll", 4, &["alice"])],
    },
    Row {
        topic: REENCRYPTION,
        hdfs: "only the root of a zone is re-encrypted",
        here: Better("the message names the zone that the path is in"),
        steps: &[Refused(
            "zone reencrypt {z}",
            8,
            &["{z} is not the root of an encryption zone", "/payroll"],
        )],
    },
    Row {
        topic: REENCRYPTION,
        hdfs: "EDEKs get the newest version, DEK and bytes stay",
        here: Same,
        steps: &[
            Done("key create {k}"),
            Done("zone create {d} --key {k} --owner alice"),
            Done("fs put {f} {d}/a"),
            Done("key roll {k}"),
            Done("zone reencrypt {d} --wait"),
            Says("--json fs stat {d}/a", &["\"key_version\":1"]),
            Says("fs cat {d}/a", &["what is in the file"]),
        ],
    },
    Row {
        topic: REENCRYPTION,
        hdfs: "zones within the zone are left out, and so are files that have the version already",
        here: Same,
        steps: &[
            Done("key create {k}"),
            Done("zone create {d} --key {k} --owner alice"),
            Done("fs mkdir {d}/inner"),
            Done("zone create {d}/inner --key {k} --owner alice"),
            Done("fs put {f} {d}/inner/a"),
            Done("key roll {k}"),
            Done("fs put {f} {d}/new"),
            Done("zone reencrypt {d} --wait"),
            Says("--json fs stat {d}/inner/a", &["\"key_version\":0"]),
            Says("--json zone status {d}", &["\"state\":\"completed\"", "\"failures\":0"]),
        ],
    },
    Row {
        topic: REENCRYPTION,
        hdfs: "`-cancel` ends it, and the next start begins again",
        here: Better("it can be paused, too, and goes on where it was"),
        steps: &[
            Done("key create {k}"),
            Done("zone create {d} --key {k} --owner alice"),
            Done("fs put {f} {d}/a"),
            Done("key roll {k}"),
            Done("zone reencrypt {d} --throttle 1"),
            Done("zone reencrypt {d} --cancel"),
            Done("zone reencrypt {d} --wait"),
            Says("--json zone status {d}", &["\"state\":\"completed\""]),
        ],
    },
    Row {
        topic: REENCRYPTION,
        hdfs: "`-listReencryptionStatus` has nine columns",
        here: Better("with rate and time left"),
        steps: &[
            Done("key create {k}"),
            Done("zone create {d} --key {k} --owner alice"),
            Done("zone reencrypt {d} --wait"),
            Says("zone status", &["{d}", "{k}@0"]),
        ],
    },
    Row {
        topic: REENCRYPTION,
        hdfs: "it goes on at its checkpoint after a restart",
        here: Same,
        steps: &[Test(
            "storage/metadata/tests/service/reencryption.rs",
            "it_resumes_after_a_restart_beside_removals_renames_and_writes",
        )],
    },
    Row {
        topic: REENCRYPTION,
        hdfs: "a batch that failed counts every file as failed and is not tried again",
        here: Better(
            "what passes is tried again, and a batch that is refused costs only the files that it is refused for",
        ),
        steps: &[Test(
            "storage/metadata/tests/service/jobs.rs",
            "a_page_that_is_refused_as_a_whole_costs_only_the_files_that_it_is_refused_for",
        )],
    },
    Row {
        topic: TRASH,
        hdfs: "what is removed goes to `<zone>/.Trash/<user>/Current`",
        here: Better("in one transaction, by the service"),
        steps: &[
            Done("fs put {f} {z}/a"),
            Says("--json fs rm {z}/a", &["/payroll/.Trash/alice/Current{z}/a"]),
            Says("fs cat /payroll/.Trash/alice/Current{z}/a", &["what is in the file"]),
        ],
    },
    Row {
        topic: TRASH,
        hdfs: "the root of a zone goes to the trash at home",
        here: Same,
        steps: &[
            Done("fsadmin> fs mkdir {d}/zone"),
            Done("zone create {d}/zone --key payroll"),
            Says(
                "fsadmin> --json fs rm -r {d}/zone",
                &["/user/fsadmin/.Trash/Current{d}/zone"],
            ),
        ],
    },
    Row {
        topic: TRASH,
        hdfs: "removing a directory for good, also `-expunge`, takes all rights on each directory in it that is not empty; moving it to the trash does not, and the trash ends by itself",
        here: Better(
            "a checkpoint that a user may not expunge keeps no other from it. Up to 1,000 names are looked through in the transaction that removes them. Of more a state of the store is looked through before, for 10 s at most: what somebody moves into it meanwhile goes with it; what another directory has taken the place of is looked through anew, and once it is removed nothing comes into it",
        ),
        steps: &[
            Test(
                "storage/metadata/tests/service/removal.rs",
                "a_large_tree_is_looked_through_before_it_is_removed",
            ),
            Test(
                "storage/metadata/tests/service/expunge.rs",
                "what_holds_a_directory_that_is_closed_to_its_remover_goes_to_the_trash_and_not_for_good",
            ),
            Test(
                "storage/metadata/tests/service/expunge.rs",
                "what_a_user_may_not_expunge_ends_when_its_time_is_over",
            ),
        ],
    },
    Row {
        topic: TRASH,
        hdfs: "`-provisionTrash` is a superuser's",
        here: Same,
        steps: &[
            Refused("alice> zone provision-trash /payroll", 4, &["alice", "superusers"]),
            Done("fsadmin> zone provision-trash /payroll"),
        ],
    },
    Row {
        topic: TRANSPORT,
        hdfs: "block tokens are off unless switched on, HMAC-SHA1, and name one block",
        here: Better("capabilities always, Ed25519, for named extents, one holder and ten minutes"),
        steps: &[Test(
            "storage/metadata/tests/service/files.rs",
            "capabilities_name_right_holder_and_extent",
        )],
    },
    Row {
        topic: TRANSPORT,
        hdfs: "data transfer is in the clear unless switched on",
        here: Better("TLS 1.3 with certificates on both sides, always"),
        steps: &[Test(
            "tests/tests/journeys/refusals.rs",
            "services_check_certificates_themselves",
        )],
    },
    Row {
        topic: DEFECTS,
        hdfs: "`truncate` and `append` use key stream twice",
        here: Better(
            "every writer has a key of his own; a ledger of all key stream is kept by a test over random operations",
        ),
        steps: &[
            Done("fs put {f} {z}/a"),
            Done("fs truncate --length 4 {z}/a"),
            Done("fs append {f} {z}/a"),
            Says("fs cat {z}/a", &["whatwhat is in the file"]),
            Test(
                "tests/tests/model/ledger.rs",
                "a_keystream_that_is_used_twice_is_found_and_a_repeat_is_none",
            ),
        ],
    },
    Row {
        topic: DEFECTS,
        hdfs: "a re-encryption whose checkpoint's file was removed kills its thread",
        here: Better("the cursor is a key in the index, and need not be there"),
        steps: &[Test(
            "storage/metadata/tests/service/reencryption.rs",
            "it_resumes_after_a_restart_beside_removals_renames_and_writes",
        )],
    },
    Row {
        topic: DEFECTS,
        hdfs: "snapshots keep EDEKs of old key versions for ever",
        here: Otherwise("there are no snapshots; that no file uses a version is proved before it is destroyed"),
        steps: &[
            Done("key create {k}"),
            Done("zone create {d} --key {k} --owner alice"),
            Done("fs put {f} {d}/a"),
            Done("key roll {k}"),
            Refused(
                "zone proof {d} --through-version 0 -o {f}.{k}.early",
                8,
                &["use version 0 or older of key {k}"],
            ),
            Done("zone reencrypt {d} --wait"),
            Done("zone proof {d} --through-version 0 -o {f}.{k}.proof"),
        ],
    },
    Row {
        topic: DEFECTS,
        hdfs: "a superuser swaps two files' EDEKs and blocks, and nobody notices",
        here: Better("a manifest under the file's DEK binds file, extents and order; every frame is authenticated"),
        steps: &[Test(
            "storage/client/tests/fs/growing.rs",
            "what_was_cut_off_or_changed_by_the_service_is_refused",
        )],
    },
];
