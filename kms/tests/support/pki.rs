//! A certificate authority and the files of what it issues.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use strongroom_pki::{Authority, PrivateKey, Request, Validity};
use strongroom_proto::transport::{TlsFiles, TlsIdentity};
use tempfile::TempDir;

pub struct Pki {
    dir: TempDir,
    authority: Authority,
}

impl Pki {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let key = PrivateKey::generate().expect("random numbers");
        let authority = Authority::new("test CA", key, today()).expect("signs itself");
        authority
            .write_certificate(&dir.path().join("ca.pem"))
            .expect("written");
        Self { dir, authority }
    }

    /// Files of a certificate for `spiffe://strongroom/` + `who`.
    pub fn issue(&self, file: &str, who: &str) -> TlsFiles {
        self.issue_for(file, who, today())
    }

    pub fn issue_for(&self, file: &str, who: &str, validity: Validity) -> TlsFiles {
        let files = TlsFiles {
            ca: self.path("ca.pem"),
            certificate: self.path(&format!("{file}.pem")),
            key: self.path(&format!("{file}.key")),
        };
        let request = Request {
            common_name: who,
            uri: Some(&format!("spiffe://strongroom/{who}")),
            names: &["localhost", "127.0.0.1"],
            validity,
        };
        let leaf = self.authority.issue(&request).expect("valid names");
        leaf.write(&files.certificate, &files.key).expect("written");
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn today() -> Validity {
    Validity::starting(SystemTime::now(), Duration::from_secs(24 * 3600))
}

pub fn load(files: &TlsFiles) -> TlsIdentity {
    TlsIdentity::load(files, SystemTime::now()).expect("usable TLS files")
}
