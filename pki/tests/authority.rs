//! What is issued is what was asked for, and stays the owner's.

use std::{
    error::Error as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use strongroom_pki::{Authority, PkiError, PrivateKey, Request, Validity};
use x509_parser::extensions::GeneralName;

const ALICE: &str = "spiffe://strongroom/user/alice";
const DAY: Duration = Duration::from_secs(24 * 3600);

fn today() -> Validity {
    Validity::starting(SystemTime::now(), DAY)
}

fn key() -> PrivateKey {
    PrivateKey::generate().expect("random numbers")
}

fn authority() -> Authority {
    Authority::new("test CA", key(), today()).expect("signs itself")
}

fn request<'a>(uri: Option<&'a str>, names: &'a [&'a str]) -> Request<'a> {
    Request {
        common_name: "somebody",
        uri,
        names,
        validity: today(),
    }
}

/// The names of a certificate, and whether it may serve.
fn parse(certificate_pem: &str) -> (Vec<String>, bool) {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes()).expect("PEM");
    let certificate = pem.parse_x509().expect("a certificate");
    let names = certificate.subject_alternative_name().expect("unique");
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::URI(text) | GeneralName::DNSName(text) => (*text).to_owned(),
        GeneralName::IPAddress(bytes) => format!("{bytes:?}"),
        other => panic!("{other:?}"),
    };
    let names = names.map_or(Vec::new(), |names| names.value.general_names.iter().map(text).collect());
    let usage = certificate.extended_key_usage().expect("unique").expect("there");
    assert!(usage.value.client_auth);
    (names, usage.value.server_auth)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("is there").permissions().mode() & 0o777
}

#[test]
fn a_leaf_has_the_names_that_were_asked_for() {
    let authority = authority();
    for (uri, names, expected, serves) in [
        (Some(ALICE), &[][..], vec![ALICE], false),
        (
            Some(ALICE),
            &["localhost", "127.0.0.1"],
            vec!["localhost", "[127, 0, 0, 1]", ALICE],
            true,
        ),
        (None, &["localhost"], vec!["localhost"], true),
        (None, &[], vec![], false),
    ] {
        let leaf = authority.issue(&request(uri, names)).expect("valid");
        let (found, server) = parse(leaf.certificate_pem());
        assert_eq!(
            (found, server),
            (expected.into_iter().map(String::from).collect(), serves)
        );
    }
}

#[test]
fn an_authority_vouches_for_what_it_issued_and_nothing_else() {
    let (authority, other) = (authority(), authority());
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("alice.key");
    let open = || PrivateKey::open_or_make(&path).expect("made, then read");
    let leaf = authority.issue_for(open(), &request(Some(ALICE), &[])).expect("valid");
    let pem = leaf.certificate_pem();
    let now = SystemTime::now();
    assert!(authority.vouches(pem, &open(), ALICE, now));
    for (what, vouches) in [
        ("another authority", other.vouches(pem, &open(), ALICE, now)),
        ("another key", authority.vouches(pem, &key(), ALICE, now)),
        (
            "another name",
            authority.vouches(pem, &open(), "spiffe://strongroom/user/bob", now),
        ),
        ("too early", authority.vouches(pem, &open(), ALICE, now - DAY)),
        ("too late", authority.vouches(pem, &open(), ALICE, now + 2 * DAY)),
        ("no certificate", authority.vouches("", &open(), ALICE, now)),
    ] {
        assert!(!vouches, "{what}");
    }
}

#[test]
fn a_reloaded_authority_is_the_same() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (certificate, path) = (folder.path().join("ca.pem"), folder.path().join("ca.key"));
    let made_key = PrivateKey::open_or_make(&path).expect("made");
    let made = Authority::new("test CA", made_key, today()).expect("signs itself");
    made.write_certificate(&certificate).expect("own directory");
    let again = PrivateKey::from_pem(&fs::read_to_string(&path).expect("written")).expect("a key");
    let pem = fs::read_to_string(&certificate).expect("written");
    let reloaded = Authority::reload(&pem, again).expect("the same");

    let alice = folder.path().join("alice.key");
    let alice = || PrivateKey::open_or_make(&alice).expect("made, then read");
    let leaf = reloaded.issue_for(alice(), &request(Some(ALICE), &[])).expect("valid");
    assert!(made.vouches(leaf.certificate_pem(), &alice(), ALICE, SystemTime::now()));
    assert_eq!(made.certificate_pem(), reloaded.certificate_pem());
}

#[test]
fn what_is_no_authority_is_not_loaded() {
    let authority = authority();
    let refused = |pem: &str, key| Authority::reload(pem, key).expect_err("must be refused");
    assert!(matches!(refused("nothing", key()), PkiError::Certificate));
    assert!(matches!(
        refused(authority.certificate_pem(), key()),
        PkiError::OtherKey
    ));
    let leaf = authority.issue(&request(Some(ALICE), &[])).expect("valid");
    let error = refused(leaf.certificate_pem(), key()).to_string();
    assert!(error.contains("CN=somebody"), "{error}");
}

#[test]
fn only_the_owner_reads_a_key_and_nothing_is_left_beside_it() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (certificate, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
    // What a crash may have left, readable by all.
    fs::write(folder.path().join("a.key.new"), "half").expect("own directory");
    let leaf = authority().issue(&request(Some(ALICE), &[])).expect("valid");
    for _ in 0..2 {
        leaf.write(&certificate, &key).expect("own directory");
        assert_eq!((mode(&key), mode(&certificate)), (0o600, 0o644));
        assert_eq!(fs::read_dir(folder.path()).expect("own directory").count(), 2);
    }
}

#[test]
fn errors_name_the_thing() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let authority = authority();
    let damaged = folder.path().join("a.key");
    fs::write(&damaged, "no key").expect("own directory");
    let error = PrivateKey::open_or_make(&damaged).expect_err("damaged");
    assert!(error.to_string().contains("a.key holds no private key"), "{error}");
    assert!(error.source().is_some());

    let error = key().write(&folder.path().join("absent/a.key")).expect_err("no folder");
    assert!(error.to_string().contains("absent/a.key"), "{error}");

    let error = authority.issue(&request(Some("spiffe://zürich"), &[]));
    let error = error.expect_err("not ASCII").to_string();
    assert!(error.contains("zürich"), "{error}");

    let mut never = request(None, &[]);
    never.validity.not_after = UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 1000);
    let error = authority.issue(&never).expect_err("year 138000").to_string();
    assert!(error.contains("somebody"), "{error}");
}

#[test]
fn secrets_are_not_shown() {
    let authority = authority();
    let leaf = authority.issue(&request(Some(ALICE), &[])).expect("valid");
    assert_eq!(format!("{:?}", key()), "PrivateKey(redacted)");
    assert_eq!(format!("{authority:?}"), "Authority { .. }");
    assert_eq!(format!("{leaf:?}"), "Leaf { .. }");
}
