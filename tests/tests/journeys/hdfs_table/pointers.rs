//! Rows that point to a test elsewhere: that it is one, and what kind of test it is.

use std::fs;

use super::workspace;

/// A kind of test, by where it is.
pub(super) struct Kind {
    folder: &'static str,
    /// What the page calls it.
    pub(super) name: &'static str,
    /// What it runs over.
    pub(super) over: &'static str,
}

pub(super) const KINDS: &[Kind] = &[
    kind(
        "tests/tests/journeys/",
        "journey",
        "commands and clients over real processes, as here",
    ),
    kind(
        "storage/metadata/tests/service/",
        "metadata service",
        "the service by its gRPC face, over a real store; the key service and the block nodes are stand-ins",
    ),
    kind(
        "storage/metadata/src/",
        "metadata unit",
        "a part of the metadata service alone",
    ),
    kind(
        "storage/client/tests/fs/",
        "client",
        "the client library with its real cryptography; all services are stand-ins, which may lie",
    ),
    kind(
        "storage/block/tests/",
        "block node",
        "a node over real files and mutual TLS",
    ),
    kind(
        "kms/tests/",
        "key service",
        "the key service or its token worker over a SoftHSM2 token",
    ),
    kind(
        "dataplane/tests/ctr/",
        "cipher",
        "key stream against its definition, published vectors and another library",
    ),
    kind(
        "proto/tests/",
        "transport",
        "both ends of a connection, without a service behind",
    ),
    kind(
        "tests/tests/model/",
        "model",
        "what random operations on the metadata service are checked with; the key service and the block nodes are stand-ins",
    ),
];

const fn kind(folder: &'static str, name: &'static str, over: &'static str) -> Kind {
    Kind { folder, name, over }
}

/// The kind of the tests in a file.
pub(super) fn kind_of(file: &str) -> &'static Kind {
    let found = KINDS.iter().find(|kind| file.starts_with(kind.folder));
    found.unwrap_or_else(|| panic!("{file}: say what kind of test is there"))
}

/// Whether a file has a test of that name that is run with the others.
///
/// # Errors
/// What is there instead.
pub(super) fn check(file: &str, function: &str) -> Result<(), String> {
    let text = fs::read_to_string(workspace().join(file)).map_err(|error| format!("{file}: {error}"))?;
    is_test(&text, function).map_err(|why| format!("{file}: {function} {why}"))
}

fn is_test(text: &str, function: &str) -> Result<(), &'static str> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let heads = ["fn", "async fn"].map(|word| format!("{word} {function}("));
    let begins = |line: &&str| heads.iter().any(|head| line.starts_with(head));
    let at = lines.iter().position(begins).ok_or("is not there")?;
    if lines[at].ends_with('}') || lines.get(at + 1) == Some(&"}") {
        return Err("does nothing");
    }
    let before = lines[..at].iter().rev();
    let attributes: Vec<_> = before.take_while(|line| line.starts_with("#[")).collect();
    if !attributes
        .iter()
        .any(|line| **line == "#[test]" || line.starts_with("#[tokio::test"))
    {
        return Err("is not a test");
    }
    let sometimes = |line: &&&str| ["ignore", "cfg"].iter().any(|word| line[2..].starts_with(word));
    match attributes.iter().any(sometimes) {
        true => Err("is not always run"),
        false => Ok(()),
    }
}

#[test]
fn only_what_is_run_counts_as_a_test() {
    let text = "
        #[test]
        fn plain() {
            look();
        }
        #[tokio::test(flavor = \"multi_thread\")]
        async fn waiting() {
            look();
        }
        fn helper() {
            look();
        }
        #[test]
        #[LEFT_OUT = \"slow\"]
        fn ignored() {
            look();
        }
        #[test]
        fn emptied() {}
        #[test]
        fn hollow() {
        }
        #[test]
        #[cfg(windows)]
        fn elsewhere() {
            look();
        }
        "
    .replace("LEFT_OUT", "ignore");
    for name in ["plain", "waiting"] {
        assert_eq!(is_test(&text, name), Ok(()), "{name}");
    }
    for (name, why) in [
        ("helper", "is not a test"),
        ("ignored", "is not always run"),
        ("elsewhere", "is not always run"),
        ("emptied", "does nothing"),
        ("hollow", "does nothing"),
        ("absent", "is not there"),
    ] {
        assert_eq!(is_test(&text, name), Err(why), "{name}");
    }
}
