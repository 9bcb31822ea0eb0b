//! Which certificates a development Strongroom has, and when they are renewed: one authority, and a leaf for each
//! service and user.

use std::time::{Duration, SystemTime};

use strongroom_pki::{Authority, PrivateKey, Request, Validity};
use strongroom_proto::transport::TlsFiles;

use super::{
    DevError, files,
    layout::{Layout, Role},
};

/// How long a leaf is valid.
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long the CA is valid.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A leaf with less than this left is issued anew.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The people of a development Strongroom: the first manages keys, the second zones, alice was granted every key,
/// guest none.
pub(super) const USERS: [&str; 4] = ["keyadmin", "fsadmin", "alice", "guest"];

/// The name of the certificate that the token worker signs sealed answers with.
pub(super) const TOKEN_WORKER: &str = "token-worker";

/// Makes the CA and every certificate that is missing or runs out soon. Keys are kept; only certificates are renewed.
/// A key's file comes before its certificate's, so that a crash leaves a key without a certificate, which the next
/// start completes, and never a certificate of another key.
pub(super) fn ensure(layout: &Layout, now: SystemTime) -> Result<(), DevError> {
    let ca = ensure_ca(layout, now)?;
    for role in Role::ALL {
        ensure_service(&layout.tls(&role.name()), role, &ca, now)?;
    }
    ensure_token_worker(&layout.tls(TOKEN_WORKER), &ca, now)?;
    for user in USERS {
        ensure_user(&layout.tls(user), user, &ca, now)?;
    }
    Ok(())
}

fn ensure_ca(layout: &Layout, now: SystemTime) -> Result<Authority, DevError> {
    let key = PrivateKey::open_or_make(&layout.ca_key())?;
    let path = layout.ca_certificate();
    if let Some(pem) = files::read(&path)? {
        return Authority::reload(&pem, key).map_err(|source| DevError::DamagedCertificate { path, source });
    }
    let ca = Authority::new("strongroom dev CA", key, Validity::starting(now, CA_LIFETIME))?;
    ca.write_certificate(&path)?;
    Ok(ca)
}

fn ensure_service(files: &TlsFiles, role: Role, ca: &Authority, now: SystemTime) -> Result<(), DevError> {
    let name = role.name();
    let uri = match role {
        Role::Block(_) => format!("spiffe://strongroom/service/block/{name}"),
        Role::Kms | Role::Metadata => format!("spiffe://strongroom/service/{name}"),
    };
    let common_name = format!("strongroom dev {name}");
    // Services are reached by these names only.
    let names = &["localhost", "127.0.0.1"];
    ensure_leaf(files, &common_name, &uri, names, ca, now)
}

/// Nothing connects to the token worker, so its certificate has no names.
fn ensure_token_worker(files: &TlsFiles, ca: &Authority, now: SystemTime) -> Result<(), DevError> {
    let uri = format!("spiffe://strongroom/service/{TOKEN_WORKER}");
    ensure_leaf(files, "strongroom dev token-worker", &uri, &[], ca, now)
}

fn ensure_user(files: &TlsFiles, user: &str, ca: &Authority, now: SystemTime) -> Result<(), DevError> {
    ensure_leaf(files, user, &format!("spiffe://strongroom/user/{user}"), &[], ca, now)
}

fn ensure_leaf(
    files: &TlsFiles,
    common_name: &str,
    uri: &str,
    names: &[&str],
    ca: &Authority,
    now: SystemTime,
) -> Result<(), DevError> {
    let key = PrivateKey::open_or_make(&files.key)?;
    let known = files::read(&files.certificate)?;
    if known.is_some_and(|pem| ca.vouches(&pem, &key, uri, now + RENEW_BEFORE)) {
        return Ok(());
    }
    let request = Request {
        common_name,
        uri: Some(uri),
        names,
        validity: Validity::starting(now, LEAF_LIFETIME),
    };
    Ok(ca.issue_for(key, &request)?.write_certificate(&files.certificate)?)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use strongroom_proto::transport::TlsIdentity;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn fresh() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (layout, lock) = Layout::open(Some(&dir.path().join("data"))).expect("opens");
        drop(lock);
        (dir, layout)
    }

    #[test]
    fn every_certificate_loads_as_its_identity() {
        let (_dir, layout) = fresh();
        ensure(&layout, SystemTime::now()).expect("makes everything");
        for (name, identity) in [
            ("kms", "service kms"),
            ("metadata", "service metadata"),
            ("block-2", "service block/block-2"),
            ("token-worker", "service token-worker"),
            ("alice", "user alice"),
            ("guest", "user guest"),
        ] {
            let loaded = TlsIdentity::load(&layout.tls(name), SystemTime::now()).expect("loads");
            assert_eq!(loaded.identity().short(), identity);
        }
    }

    #[test]
    fn only_the_owner_reads_keys() {
        let (_dir, layout) = fresh();
        ensure(&layout, SystemTime::now()).expect("makes everything");
        for path in [layout.ca_key(), layout.tls("alice").key, layout.tls("kms").key] {
            let mode = fs::metadata(&path).expect("is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
        let mode = fs::metadata(layout.root()).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn leaves_are_renewed_in_time_and_keys_are_kept() {
        let (_dir, layout) = fresh();
        let files = layout.tls("alice");
        let read = || {
            let text = |path: &Path| fs::read_to_string(path).expect("is there");
            (
                text(&files.certificate),
                text(&files.key),
                text(&layout.ca_certificate()),
            )
        };
        let start = SystemTime::now();
        ensure(&layout, start).expect("makes everything");
        let first = read();
        ensure(&layout, start + 330 * DAY).expect("has enough time left");
        assert_eq!(read(), first);
        ensure(&layout, start + 340 * DAY).expect("renews");
        let renewed = read();
        assert_ne!(renewed.0, first.0);
        assert_eq!((renewed.1, renewed.2), (first.1, first.2));
        TlsIdentity::load(&files, start + 600 * DAY).expect("certificate and key still belong together");
    }

    #[test]
    fn a_key_without_certificate_is_completed() {
        let (_dir, layout) = fresh();
        ensure(&layout, SystemTime::now()).expect("makes everything");
        fs::remove_file(layout.tls("kms").certificate).expect("was there");
        ensure(&layout, SystemTime::now()).expect("makes it again");
        TlsIdentity::load(&layout.tls("kms"), SystemTime::now()).expect("loads");
    }

    #[test]
    fn what_was_deleted_is_made_anew_and_fits() {
        let (_dir, layout) = fresh();
        let now = SystemTime::now();
        ensure(&layout, now).expect("makes everything");
        let load = || TlsIdentity::load(&layout.tls("alice"), now);
        fs::remove_file(layout.tls("alice").key).expect("was there");
        ensure(&layout, now).expect("makes key and certificate");
        load().expect("certificate and key belong together");

        fs::remove_file(layout.ca_key()).expect("was there");
        let error = ensure(&layout, now).expect_err("the CA's certificate is of another key");
        assert!(error.to_string().contains("ca.pem"), "{error}");
        fs::remove_file(layout.ca_certificate()).expect("was there");
        let before = fs::read(layout.tls("alice").certificate).expect("is there");
        ensure(&layout, now).expect("makes a new CA and what it vouches for");
        assert_ne!(fs::read(layout.tls("alice").certificate).expect("is there"), before);
        load().expect("loads");
    }
}
