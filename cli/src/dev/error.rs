//! Why `strongroom dev` does not start.

use std::{io, path::PathBuf};

use strongroom_pki::PkiError;
use strongroom_proto::{ParseError, transport::TlsError};

use crate::{error::Exit, profile::ProfileError};

/// Why `strongroom dev` does not start. Each message names the way out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DevError {
    #[error("no data directory: neither XDG_DATA_HOME nor HOME is set; name one with --data-dir")]
    NoHome,
    #[error("{} holds other files and is no data directory of strongroom dev; name another with --data-dir", path.display())]
    ForeignDirectory { path: PathBuf },
    #[error("{} was made by a newer version of strongroom (format {found}, this one knows {known}); use that version, or name another directory with --data-dir", path.display())]
    NewerFormat { path: PathBuf, found: u32, known: u32 },
    #[error("{} is not a format version; the data directory is damaged: restore it, or name another with --data-dir", path.display())]
    BadVersion { path: PathBuf },
    #[error("another strongroom dev{holder} uses {}; stop it, or name another directory with --data-dir", path.display())]
    Locked { path: PathBuf, holder: String },
    #[error("{} is damaged; delete it and start again with other ports, or choose the ports with --port-base", path.display())]
    DamagedPorts {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("port {port} for {role} is taken{holder}; stop that process, or choose other ports with --port-base")]
    PortTaken { port: u16, role: String, holder: String },
    #[error("--port-base {base} leaves no room for 5 ports; choose 1024 to 65531")]
    PortBase { base: u16 },
    #[error("no five free ports were found; choose some with --port-base")]
    NoPorts,
    #[error(
        "libsofthsm2.so is not installed; install it (apt-get install softhsm2), or name a PKCS#11 library with --pkcs11-module"
    )]
    NoModule,
    #[error("{} does not exist; name the PKCS#11 library with --pkcs11-module, or install SoftHSM2 (apt-get install softhsm2)", path.display())]
    ModuleMissing { path: PathBuf },
    #[error("the token could not be initialised: {message}")]
    TokenInit { message: String },
    #[error("the two tokens could not be linked: {message}")]
    TokenLink { message: String },
    #[error("{} has two tokens that hold the same keys; leave --tokens out, or name another directory with --data-dir", path.display())]
    FewerTokens { path: PathBuf },
    #[error("{} is missing, one of two tokens that hold the same keys; put it back, or start afresh in another directory with --data-dir", path.display())]
    TokenMissing { path: PathBuf },
    #[error("certificates cannot be made")]
    Certificate(#[from] PkiError),
    #[error("{} is damaged; delete it and start again, new certificates are then made", path.display())]
    DamagedCertificate {
        path: PathBuf,
        #[source]
        source: PkiError,
    },
    #[error("the certificates cannot be used")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error("{} exists and was not written by strongroom dev; name another file with --profile-out", path.display())]
    ProfileInTheWay { path: PathBuf },
    #[error("{action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot start {what}")]
    Spawn {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("not everything came up within {seconds} s: {waiting}; see {}{last_words}", logs.display())]
    NotReady {
        seconds: u64,
        waiting: String,
        logs: PathBuf,
        last_words: String,
    },
}

impl DevError {
    /// A file operation that failed.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// The exit code that this error ends the process with.
    pub(crate) const fn exit(&self) -> Exit {
        match self {
            Self::PortBase { .. } => Exit::Usage,
            Self::ModuleMissing { .. } | Self::NoModule | Self::TokenMissing { .. } => Exit::NotFound,
            Self::Locked { .. }
            | Self::PortTaken { .. }
            | Self::ForeignDirectory { .. }
            | Self::FewerTokens { .. }
            | Self::ProfileInTheWay { .. } => Exit::Conflict,
            Self::NotReady { .. } => Exit::Unavailable,
            _ => Exit::Failed,
        }
    }
}
