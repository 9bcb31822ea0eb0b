use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use strongroom_proto::transport::TlsFiles;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Since an hour ago, for a day.
    Now,
    /// Until yesterday.
    Expired,
    /// From tomorrow on.
    NotYet,
}

/// A CA for tests: a Strongroom's own, or one that nobody trusts.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

impl Ca {
    /// A CA of its own, which no deployment knows.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("random numbers");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key).expect("valid parameters").pem();
        Self {
            issuer: Issuer::new(params, key),
            certificate_pem,
        }
    }

    /// The CA whose `ca.pem` and `ca.key` lie in `folder`, for example a development deployment's.
    pub fn load(folder: &Path) -> Self {
        let read = |name: &str| fs::read_to_string(folder.join(name)).expect("the CA's files are there");
        let certificate_pem = read("ca.pem");
        let key = KeyPair::from_pem(&read("ca.key")).expect("the CA's key");
        Self {
            issuer: Issuer::from_ca_cert_pem(&certificate_pem, key).expect("the CA's certificate"),
            certificate_pem,
        }
    }

    /// The CA's certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A certificate for `identity` (`user/alice`, `service/kms` …), valid for localhost, in files named `name` in
    /// `folder`, with this CA as the one to trust.
    pub fn issue(&self, folder: &Path, name: &str, identity: &str, validity: Validity) -> TlsFiles {
        let key = KeyPair::generate().expect("random numbers");
        let certificate = params(identity, validity)
            .signed_by(&key, &self.issuer)
            .expect("valid parameters");
        let files = TlsFiles {
            ca: folder.join(format!("{name}.ca.pem")),
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
        };
        fs::write(&files.ca, &self.certificate_pem).expect("writable folder");
        fs::write(&files.certificate, certificate.pem()).expect("writable folder");
        fs::write(&files.key, key.serialize_pem()).expect("writable folder");
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).expect("own file");
        files
    }
}

fn params(identity: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("valid names");
    let uri = format!("spiffe://strongroom/{identity}");
    params
        .subject_alt_names
        .push(SanType::URI(uri.as_str().try_into().expect("ASCII")));
    params.distinguished_name.push(DnType::CommonName, identity);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let now = SystemTime::now();
    let (from, to) = match validity {
        Validity::Now => (now - DAY / 24, now + DAY),
        Validity::Expired => (now - 3 * DAY, now - DAY),
        Validity::NotYet => (now + DAY, now + 3 * DAY),
    };
    params.not_before = from.into();
    params.not_after = to.into();
    params
}

#[cfg(test)]
mod tests {
    use strongroom_proto::transport::TlsIdentity;

    use super::*;

    #[test]
    fn certificates_are_what_they_are_asked_to_be() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let ca = Ca::new("test CA");
        let load = |name, validity| {
            let files = ca.issue(folder.path(), name, "user/alice", validity);
            TlsIdentity::load(&files, SystemTime::now()).map(|tls| tls.identity().short())
        };
        assert_eq!(load("now", Validity::Now).expect("valid"), "user alice");
        let expired = load("expired", Validity::Expired).expect_err("expired").to_string();
        assert!(expired.contains("is expired"), "{expired}");
        let early = load("early", Validity::NotYet).expect_err("not valid yet").to_string();
        assert!(early.contains("not valid yet"), "{early}");
    }
}
