//! Certificates that are replaced on disk are taken up while the process runs, so that short-lived ones need no restart.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use super::{
    TlsError, TlsIdentity,
    tls::{Material, TlsFiles},
};

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The certificates and keys in use. Connections keep what they began with; new ones take what is current.
#[derive(Clone)]
pub(super) struct Current(Arc<RwLock<Arc<Material>>>);

impl Current {
    pub(super) fn new(material: Material) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(material))))
    }

    pub(super) fn material(&self) -> Arc<Material> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, material: Material) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(material);
    }
}

impl TlsIdentity {
    /// Takes up certificate, key and CA as the files are now, at the time `now`; answers whether they had changed.
    ///
    /// # Errors
    /// As [`TlsIdentity::load`], and [`TlsError::AnotherIdentity`]; what was in use stays in use.
    pub fn renew(&self, now: SystemTime) -> Result<bool, TlsError> {
        let (identity, material) = Material::load(self.files(), now)?;
        if material.is_same_as(&self.current().material()) {
            return Ok(false);
        }
        if identity != *self.identity() {
            return Err(TlsError::AnotherIdentity {
                path: self.certificate_path().to_owned(),
                found: identity.short(),
                expected: self.identity().short(),
            });
        }
        self.current().replace(material);
        Ok(true)
    }

    /// Looks at the files every five seconds for ever. What is broken is said once, until it changes. Servers do so by
    /// themselves; a process that only verifies or signs has to.
    pub async fn keep_fresh(&self) {
        let mut complaint = None;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            match self.renew(SystemTime::now()) {
                Ok(renewed) => {
                    complaint = None;
                    if renewed {
                        tracing::info!(certificate = %self.certificate_path().display(), "took up new certificates");
                    }
                }
                Err(error) => complain(&mut complaint, &error, self.files()),
            }
        }
    }
}

fn complain(last: &mut Option<String>, error: &TlsError, files: &TlsFiles) {
    let text = error.to_string();
    if last.as_ref() != Some(&text) {
        tracing::error!(certificate = %files.certificate.display(), %error, "the certificates on disk cannot be used; the old ones stay in use");
        *last = Some(text);
    }
}
