//! A client command's view of the profile: who it is and whom it talks to.

use std::{sync::Arc, time::SystemTime};

use strongroom_fs::ZoneFs;
use strongroom_kms_admin::{AuditClient, KeyAdminClient, TokenAdminClient};
use strongroom_proto::transport::{BearerIdentity, TlsError, TlsIdentity};

use crate::{
    cli::Global,
    error::Error,
    profile::{PlainPath, Profile, Proof, chosen_path},
};

/// The profile and the identity asked for with `--as`.
pub(super) struct Session {
    profile: Profile,
    identity: Option<String>,
}

impl Session {
    /// Reads the profile.
    pub(super) fn open(global: Global) -> Result<Self, Error> {
        let path = chosen_path(global.profile.as_deref())?;
        let mut profile = Profile::load(&path)?;
        profile.sealed |= global.sealed;
        Ok(Self {
            profile,
            identity: global.identity,
        })
    }

    /// The key service, as a key administrator.
    pub(super) fn keys(&self) -> Result<KeyAdminClient, Error> {
        let name = self.name(&self.profile.defaults.key);
        match self.profile.proof(name)? {
            Proof::Certificate(_) => Ok(KeyAdminClient::connect(&self.profile.kms, &self.tls(name)?)),
            Proof::Bearer(files) => {
                let bearer = BearerIdentity::load(&files).map_err(unusable(name))?;
                Ok(KeyAdminClient::connect_bearer(self.profile.bearer_port(name)?, &bearer))
            }
        }
    }

    /// The key service's audit log, as a key administrator.
    pub(super) fn audit(&self) -> Result<AuditClient, Error> {
        let name = self.name(&self.profile.defaults.key);
        match self.profile.proof(name)? {
            Proof::Certificate(_) => Ok(AuditClient::connect(&self.profile.kms, &self.tls(name)?)),
            Proof::Bearer(files) => {
                let bearer = BearerIdentity::load(&files).map_err(unusable(name))?;
                Ok(AuditClient::connect_bearer(self.profile.bearer_port(name)?, &bearer))
            }
        }
    }

    /// The tokens behind the key service, as a key administrator.
    pub(super) fn tokens(&self) -> Result<TokenAdminClient, Error> {
        let name = self.name(&self.profile.defaults.key);
        match self.profile.proof(name)? {
            Proof::Certificate(_) => Ok(TokenAdminClient::connect(&self.profile.kms, &self.tls(name)?)),
            Proof::Bearer(files) => {
                let bearer = BearerIdentity::load(&files).map_err(unusable(name))?;
                Ok(TokenAdminClient::connect_bearer(
                    self.profile.bearer_port(name)?,
                    &bearer,
                ))
            }
        }
    }

    /// The filesystem, as its administrator.
    pub(super) fn zones(&self) -> Result<ZoneFs, Error> {
        self.filesystem(&self.profile.defaults.zone)
    }

    /// The filesystem, as a user of files.
    pub(super) fn files(&self) -> Result<ZoneFs, Error> {
        self.filesystem(&self.profile.defaults.fs)
    }

    fn filesystem(&self, default: &str) -> Result<ZoneFs, Error> {
        let tls = Arc::new(self.tls(default)?);
        let fs = ZoneFs::connect(&self.profile.kms, &self.profile.metadata, tls);
        if self.profile.sealed {
            fs.seal_always();
        }
        if let Some(umask) = self.profile.umask {
            fs.set_umask(umask.bits());
        }
        fs.allow_plain(self.profile.plain.iter().map(PlainPath::path).collect());
        Ok(fs)
    }

    /// The identity asked for, or the default.
    fn name<'a>(&'a self, default: &'a str) -> &'a str {
        self.identity.as_deref().unwrap_or(default)
    }

    fn tls(&self, default: &str) -> Result<TlsIdentity, Error> {
        let name = self.name(default);
        let files = self.profile.identity(name)?;
        TlsIdentity::load(&files, SystemTime::now()).map_err(unusable(name))
    }
}

fn unusable(name: &str) -> impl FnOnce(TlsError) -> Error {
    let identity = name.to_owned();
    move |source| Error::Identity { identity, source }
}
