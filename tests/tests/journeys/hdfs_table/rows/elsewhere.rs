//! What HDFS has beside its files: HTTP, its wire, and what others put in front of it or beside it.

use super::super::{
    Here::{Better, NotThere},
    Topic, row,
    steps::Step::Test,
};

const NO_HTTP: &str = "files are reached by gRPC alone; every client has the cryptography in itself";
const NO_S3: &str = "there is no S3 gateway";

pub(super) const WEBHDFS: Topic = Topic {
    title: "WebHDFS",
    rows: &[
        row(
            "a client that sends `X-Hadoop-Accept-EZ: true` is answered `X-Hadoop-feInfo` and sent on to the raw path, and decrypts itself",
            NotThere(NO_HTTP),
            &[],
        ),
        row(
            "for clients without that header the data node decrypts",
            NotThere(
                "there is no HTTP, and a block node has no way to the key service and no code that decrypts (`ARCHITECTURE.md`, invariant 1)",
            ),
            &[],
        ),
        row(
            "all that is written by WebHDFS is encrypted by the data node",
            NotThere(
                "there is no HTTP; a block node is given ciphertext, or what its writer and the metadata service agree to leave plain",
            ),
            &[],
        ),
    ],
};

pub(super) const WIRE: Topic = Topic {
    title: "Transport",
    rows: &[
        row(
            "block tokens are off unless switched on, HMAC-SHA1 under a key that all data nodes have, and last 600 minutes",
            Better("capabilities always, signed with Ed25519 by the metadata service, for one holder and ten minutes"),
            &[
                Test(
                    "storage/metadata/tests/service/files.rs",
                    "capabilities_name_right_holder_and_extent",
                ),
                Test(
                    "storage/block/tests/node.rs",
                    "capabilities_allow_what_they_say_and_no_more",
                ),
            ],
        ),
        row(
            "a block token is for READ, WRITE, COPY or REPLACE of one block",
            Better(
                "a capability is for reading or writing named extents; nodes copy and delete at the metadata service's command only, so there is nothing of the kind to steal",
            ),
            &[
                Test(
                    "storage/block/tests/node.rs",
                    "capabilities_allow_what_they_say_and_no_more",
                ),
                Test("storage/block/tests/node.rs", "commands_replicate_and_delete"),
            ],
        ),
        row(
            "data transfer is in the clear unless `dfs.encrypt.data.transfer` is on; then it is under 3DES or RC4 unless the AES suite is set",
            Better("TLS 1.3 with certificates on both sides, always"),
            &[
                Test(
                    "tests/tests/journeys/refusals.rs",
                    "services_check_certificates_themselves",
                ),
                Test("proto/tests/transport.rs", "a_plaintext_client_gets_nothing"),
            ],
        ),
    ],
};

pub(super) const S3: Topic = Topic {
    title: "S3 server-side encryption",
    rows: &[
        row("default encryption of a bucket", NotThere(NO_S3), &[]),
        row(
            "SSE-S3 and SSE-KMS on PUT, POST, copy and multipart upload",
            NotThere(NO_S3),
            &[],
        ),
        row(
            "GET and HEAD with headers of SSE-KMS are answered 400",
            NotThere(NO_S3),
            &[],
        ),
        row("modes that contradict each other are refused", NotThere(NO_S3), &[]),
        row("conditions of bucket policies on encryption", NotThere(NO_S3), &[]),
        row(
            "bucket keys: short-lived, fetched at least once for each requester, with the bucket as encryption context, for new objects and not for DSSE-KMS",
            NotThere(NO_S3),
            &[],
        ),
    ],
};

pub(super) const BDR: Topic = Topic {
    title: "BDR",
    rows: &[row(
        "replication between clusters decrypts at the source and encrypts at the destination; raw DistCp alone does without keys",
        NotThere("nothing replicates between clusters by itself; `fs --raw` carries files without a key"),
        &[Test(
            "tests/tests/journeys/raw.rs",
            "ciphertext_goes_to_another_cluster_by_hands_that_have_no_key",
        )],
    )],
};
