use std::time::{Duration, SystemTime};

use strongroom_pki::{Authority, PrivateKey, Request, Validity};
use strongroom_proto::transport::{TlsFiles, TlsIdentity};
use tempfile::TempDir;

/// A certificate authority and the directory of what it issued.
pub(crate) struct Pki {
    dir: TempDir,
    authority: Authority,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let key = PrivateKey::generate().expect("random numbers");
        let authority = Authority::new("test CA", key, today()).expect("signs itself");
        authority
            .write_certificate(&dir.path().join("ca.pem"))
            .expect("written");
        Self { dir, authority }
    }

    pub(crate) fn issue(&self, who: &str) -> TlsIdentity {
        let name = who.replace('/', "-");
        let files = TlsFiles {
            ca: self.dir.path().join("ca.pem"),
            certificate: self.dir.path().join(format!("{name}.pem")),
            key: self.dir.path().join(format!("{name}.key")),
        };
        let request = Request {
            common_name: who,
            uri: Some(&format!("spiffe://strongroom/{who}")),
            names: &["127.0.0.1"],
            validity: today(),
        };
        let leaf = self.authority.issue(&request).expect("valid names");
        leaf.write(&files.certificate, &files.key).expect("written");
        TlsIdentity::load(&files, SystemTime::now()).expect("usable")
    }
}

fn today() -> Validity {
    Validity::starting(SystemTime::now(), Duration::from_secs(24 * 3600))
}
