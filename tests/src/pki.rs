use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use strongroom_pki::{Authority, PrivateKey, Request};
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
pub struct Ca(Authority);

impl Ca {
    /// A CA of its own, which no deployment knows.
    pub fn new(name: &str) -> Self {
        let key = PrivateKey::generate().expect("random numbers");
        Self(Authority::new(name, key, Validity::Now.dates()).expect("signs itself"))
    }

    /// The CA whose `ca.pem` and `ca.key` lie in `folder`, for example a development deployment's.
    pub fn load(folder: &Path) -> Self {
        let read = |name: &str| fs::read_to_string(folder.join(name)).expect("the CA's files are there");
        let key = PrivateKey::from_pem(&read("ca.key")).expect("the CA's key");
        Self(Authority::reload(&read("ca.pem"), key).expect("the CA's certificate"))
    }

    /// A certificate for `identity` (`user/alice`, `service/kms` …), valid for localhost, in files named `name` in
    /// `folder`, with this CA as the one to trust.
    pub fn issue(&self, folder: &Path, name: &str, identity: &str, validity: Validity) -> TlsFiles {
        let files = TlsFiles {
            ca: folder.join(format!("{name}.ca.pem")),
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
        };
        let request = Request {
            common_name: identity,
            uri: Some(&format!("spiffe://strongroom/{identity}")),
            names: &["localhost", "127.0.0.1"],
            validity: validity.dates(),
        };
        let leaf = self.0.issue(&request).expect("valid names");
        leaf.write(&files.certificate, &files.key).expect("writable folder");
        self.0.write_certificate(&files.ca).expect("writable folder");
        files
    }
}

impl Validity {
    fn dates(self) -> strongroom_pki::Validity {
        let now = SystemTime::now();
        let (not_before, not_after) = match self {
            Self::Now => return strongroom_pki::Validity::starting(now, DAY),
            Self::Expired => (now - 3 * DAY, now - DAY),
            Self::NotYet => (now + DAY, now + 3 * DAY),
        };
        strongroom_pki::Validity { not_before, not_after }
    }
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
