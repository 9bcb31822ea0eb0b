//! EDEKs and key stream, byte by byte.

use super::super::{
    Here::{Better, Same},
    Topic, row,
    steps::Step::{Done, Keeps, Refused, Says, Test},
};

const JOURNEY: &str = "tests/tests/journeys/raw.rs";

pub(super) const TOPIC: Topic = Topic {
    title: "EDEKs and key stream",
    rows: &[
        row(
            "byte `pos` of a file is under block `pos / 16` of the key stream, from byte `pos % 16` of that on",
            Same,
            &[
                Done("key create {k} --suite hadoop"),
                Done("zone create {d} --key {k} --suite ctr-hdfs --owner alice"),
                Done("fs put {f} {d}/a"),
                Says("fs cat --offset 13 --length 6 {d}/a", &["e file"]),
                Test("dataplane/tests/ctr/backends.rs", "random_ranges_of_random_streams"),
                Test(JOURNEY, "hdfs_reads_what_strongroom_writes_and_the_other_way_round"),
            ],
        ),
        row(
            "the counter is the IV plus the block's number, 128 bits, big-endian, carried through all 16 bytes and modulo 2^128",
            Same,
            &[
                Test(
                    "dataplane/tests/ctr/backends.rs",
                    "counters_carry_through_every_byte_and_wrap",
                ),
                Test("dataplane/tests/ctr/crosschecks.rs", "random_inputs_against_aws_lc"),
            ],
        ),
        row(
            "an EDEK is AES-CTR(EZ key, IV ⊕ FF…, DEK)",
            Better(
                "for keys of suite `hadoop`, which files of `ctr-hdfs` need; others wrap DEKs with a check (`kw`, `gcm`)",
            ),
            &[
                Says("--json key create {k}", &["\"suite\":\"kw\""]),
                Says("--json key create {k}h --suite hadoop", &["\"suite\":\"hadoop\""]),
                Done("zone create {d} --key {k}h --suite ctr-hdfs --owner alice"),
                Done("fs put {f} {d}/a"),
                Says("--json fs encryption-info {d}/a", &["\"edekSuite\":\"hadoop\""]),
                Test(JOURNEY, "hdfs_reads_what_strongroom_writes_and_the_other_way_round"),
                Test("kms/tests/import.rs", "an_imported_hadoop_key_opens_what_hadoop_made"),
            ],
        ),
        row(
            "a DEK is as long as its EZ key",
            Same,
            &[
                Test(
                    "kms/tests/softhsm.rs",
                    "a_hadoop_key_of_128_bits_makes_deks_of_128_bits_before_and_after_a_roll",
                ),
                Test(
                    JOURNEY,
                    "a_zone_of_suite_ctr_hdfs_is_written_read_and_changed_like_any_other",
                ),
            ],
        ),
        row(
            "re-wrapping keeps DEK and IV",
            Same,
            &[
                Done("key create {k} --suite hadoop"),
                Done("zone create {d} --key {k} --suite ctr-hdfs --owner alice"),
                Done("fs put {f} {d}/a"),
                Keeps("--json fs encryption-info {d}/a", "iv"),
                Done("key roll {k}"),
                Done("zone reencrypt {d} --wait"),
                Says(
                    "--json fs encryption-info {d}/a",
                    &["\"ezKeyVersionName\":\"{k}@1\"", "\"iv\":\"{iv}\""],
                ),
                Says("fs cat {d}/a", &["what is in the file"]),
            ],
        ),
        row(
            "an EDEK has no MAC: of changed bytes a wrong DEK comes",
            Better(
                "of suites `kw` and `gcm` a changed bit is refused, and the reader is told the file; of suite `hadoop` it is as in HDFS",
            ),
            &[
                Test(
                    "kms/tests/token/suites.rs",
                    "any_bit_flipped_in_an_edek_or_its_context_is_refused_by_kw_and_gcm",
                ),
                Test(
                    "kms/tests/token/suites.rs",
                    "hadoop_notices_no_flipped_bit_and_binds_no_zone",
                ),
                Test(
                    "storage/client/tests/fs/files.rs",
                    "a_flipped_edek_is_named_with_key_zone_and_file",
                ),
            ],
        ),
        row(
            "an EDEK is not bound to the path, and opens wherever it is put",
            Better(
                "of suites `kw` and `gcm` it is bound to key, version and zone; the manifest, under the DEK, is bound to the file",
            ),
            &[
                Done("fsadmin> fs mkdir {d}/one {d}/two"),
                Done("key create {k}"),
                Done("zone create {d}/one --key {k} --owner alice"),
                Done("zone create {d}/two --key {k} --owner alice"),
                Done("fs put {f} {d}/one/a"),
                Done("fs --raw get {d}/one/a {f}.{k}"),
                Refused(
                    "fsadmin> fs --raw put {f}.{k} {d}/two/a",
                    2,
                    &["bound to zone", "zone create --id"],
                ),
                Test("tests/tests/journeys/keys.rs", "an_edek_opens_only_as_it_was_wrapped"),
                Test(
                    "kms/tests/token/edeks.rs",
                    "an_edek_opens_only_under_its_key_version_and_zone",
                ),
            ],
        ),
    ],
};
