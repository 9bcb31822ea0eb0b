use std::{os::unix::fs::PermissionsExt, time::SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use strongroom_proto::transport::{TlsFiles, TlsIdentity};
use tempfile::TempDir;

/// A certificate authority and the directory of what it issued.
pub(crate) struct Pki {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test CA");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).expect("written");
        Self {
            dir,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn issue(&self, who: &str) -> TlsIdentity {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        let uri = format!("spiffe://strongroom/{who}").try_into().expect("ASCII");
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into()), SanType::URI(uri)];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let name = who.replace('/', "-");
        let files = TlsFiles {
            ca: self.dir.path().join("ca.pem"),
            certificate: self.dir.path().join(format!("{name}.pem")),
            key: self.dir.path().join(format!("{name}.key")),
        };
        std::fs::write(&files.certificate, certificate.pem()).expect("written");
        std::fs::write(&files.key, key.serialize_pem()).expect("written");
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).expect("mode");
        TlsIdentity::load(&files, SystemTime::now()).expect("usable")
    }
}
