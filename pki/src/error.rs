//! Why a key or a certificate cannot be made, read or written.

use std::{io, path::PathBuf};

/// Why a key or a certificate cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The system gave no random numbers, or the key's type is not built in.
    #[error("cannot make a private key")]
    Generate {
        /// What rcgen says.
        #[source]
        source: rcgen::Error,
    },
    /// The text is no private key.
    #[error("this is no private key in PEM (PKCS#8)")]
    Key {
        /// What rcgen says.
        #[source]
        source: rcgen::Error,
    },
    /// The file holds no private key.
    #[error("{} holds no private key in PEM (PKCS#8); restore the file, or delete it to have a new key", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What rcgen says.
        #[source]
        source: rcgen::Error,
    },
    /// The text is no certificate.
    #[error("this is no certificate in PEM")]
    Certificate,
    /// The certificate cannot sign others.
    #[error("the certificate of {subject} is no authority's")]
    NoAuthority {
        /// The certificate's subject.
        subject: String,
    },
    /// An authority's certificate and key do not belong together.
    #[error("the authority's certificate is of another key; restore the one that belongs to it")]
    OtherKey,
    /// A name that cannot be written into a certificate.
    #[error("{name:?} cannot be a name in a certificate; it must be ASCII")]
    Name {
        /// The name.
        name: String,
        /// What rcgen says.
        #[source]
        source: rcgen::Error,
    },
    /// A time that cannot be written into a certificate.
    #[error("the certificate of {subject} cannot be valid from {not_before_s} s to {not_after_s} s after 1970")]
    Validity {
        /// Whom the certificate is for.
        subject: String,
        /// The beginning, 0 also for times before 1970.
        not_before_s: u64,
        /// The end, 0 also for times before 1970.
        not_after_s: u64,
    },
    /// Signing failed.
    #[error("cannot sign the certificate of {subject}")]
    Sign {
        /// Whom the certificate is for.
        subject: String,
        /// What rcgen says.
        #[source]
        source: rcgen::Error,
    },
    /// A file operation failed.
    #[error("{action} {}", path.display())]
    File {
        /// What was tried: "cannot write" …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl PkiError {
    /// A file operation that failed.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
