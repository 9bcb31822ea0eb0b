//! The development CA and the certificates it issues: ECDSA P-256, one identity URI each.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use strongroom_proto::transport::TlsFiles;
use time::OffsetDateTime;

use super::{
    DevError,
    files::{self, Audience},
    layout::{Layout, Role},
};

/// How long a leaf is valid.
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long the CA is valid.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A leaf with less than this left is issued anew.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Certificates are valid from a little before now, for clocks that differ.
const BACKDATE: Duration = Duration::from_secs(3600);

/// The people of a development Strongroom: the first manages keys, the second zones, alice was granted every key,
/// guest none.
pub(super) const USERS: [&str; 4] = ["keyadmin", "fsadmin", "alice", "guest"];

/// Makes the CA and every certificate that is missing or runs out soon. Keys are kept; only certificates are renewed.
pub(super) fn ensure(layout: &Layout, now: SystemTime) -> Result<(), DevError> {
    let ca = ensure_ca(layout, now)?;
    for role in Role::ALL {
        ensure_leaf(&layout.tls(&role.name()), &service_params(role), &ca, now)?;
    }
    for user in USERS {
        ensure_leaf(&layout.tls(user), &user_params(user), &ca, now)?;
    }
    Ok(())
}

fn ensure_ca(layout: &Layout, now: SystemTime) -> Result<Issuer<'static, KeyPair>, DevError> {
    let key = ensure_key(&layout.ca_key())?;
    let path = layout.ca_certificate();
    if files::read(&path)?.is_none() {
        let pem = ca_params(now).self_signed(&key)?.pem();
        files::write(&path, &pem, Audience::Everyone)?;
    }
    let pem = files::read(&path)?.ok_or_else(|| DevError::DamagedCertificate { path: path.clone() })?;
    Issuer::from_ca_cert_pem(&pem, key).map_err(|_| DevError::DamagedCertificate { path })
}

/// The private key at `path`, made if there is none. Its file comes first, so that a crash leaves a key without a
/// certificate, which the next start completes, and never a certificate of another key.
fn ensure_key(path: &Path) -> Result<KeyPair, DevError> {
    if let Some(pem) = files::read(path)? {
        return KeyPair::from_pem(&pem).map_err(|_| DevError::DamagedCertificate { path: path.to_owned() });
    }
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    files::write(path, &key.serialize_pem(), Audience::Owner)?;
    Ok(key)
}

/// What makes one leaf differ from another.
struct Leaf {
    common_name: String,
    identity: String,
    serves: bool,
}

fn service_params(role: Role) -> Leaf {
    let name = role.name();
    let identity = match role {
        Role::Block(_) => format!("spiffe://strongroom/service/block/{name}"),
        Role::Kms | Role::Metadata => format!("spiffe://strongroom/service/{name}"),
    };
    Leaf {
        common_name: format!("strongroom dev {name}"),
        identity,
        serves: true,
    }
}

fn user_params(user: &str) -> Leaf {
    Leaf {
        common_name: user.to_owned(),
        identity: format!("spiffe://strongroom/user/{user}"),
        serves: false,
    }
}

fn ensure_leaf(files: &TlsFiles, leaf: &Leaf, ca: &Issuer<'static, KeyPair>, now: SystemTime) -> Result<(), DevError> {
    let key = ensure_key(&files.key)?;
    let known = files::read(&files.certificate)?;
    if known.is_some_and(|pem| is_good(&pem, &leaf.identity, now)) {
        return Ok(());
    }
    let certificate = leaf_params(leaf, now)?.signed_by(&key, ca)?;
    files::write(&files.certificate, &certificate.pem(), Audience::Everyone)
}

/// Whether a certificate names `identity` and lasts at least [`RENEW_BEFORE`] more.
fn is_good(pem: &str, identity: &str, now: SystemTime) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else {
        return false;
    };
    let Ok(certificate) = pem.parse_x509() else {
        return false;
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let named = names.is_some_and(|names| {
        let is_identity = |name: &_| matches!(name, x509_parser::extensions::GeneralName::URI(uri) if *uri == identity);
        names.value.general_names.iter().any(is_identity)
    });
    let until = (now + RENEW_BEFORE)
        .duration_since(UNIX_EPOCH)
        .map_or(0, |until| until.as_secs());
    named && i64::try_from(until).is_ok_and(|until| certificate.validity().not_after.timestamp() >= until)
}

fn ca_params(now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "strongroom dev CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_dates(&mut params, now, CA_LIFETIME);
    params
}

fn leaf_params(leaf: &Leaf, now: SystemTime) -> Result<CertificateParams, DevError> {
    // Services are reached by these names only; a user's certificate names nothing but the user.
    let hosts = if leaf.serves {
        vec!["localhost".to_owned(), "127.0.0.1".to_owned()]
    } else {
        Vec::new()
    };
    let mut params = CertificateParams::new(hosts)?;
    params
        .subject_alt_names
        .push(SanType::URI(leaf.identity.as_str().try_into()?));
    params
        .distinguished_name
        .push(DnType::CommonName, leaf.common_name.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if leaf.serves {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    set_dates(&mut params, now, LEAF_LIFETIME);
    Ok(params)
}

fn set_dates(params: &mut CertificateParams, now: SystemTime, lifetime: Duration) {
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = OffsetDateTime::from(now + lifetime);
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

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
}
