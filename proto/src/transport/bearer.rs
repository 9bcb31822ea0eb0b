//! Callers that prove who they are by a bearer token instead of a certificate.

use std::{
    fmt, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use rustls::ClientConfig;
use tonic::{
    Request, Status,
    body::Body,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use tower::Service;
use zeroize::Zeroizing;

use super::{
    Remote, Remotes, Role, TlsError, TlsIdentity, connect_any, connect_bearer,
    private::mode_open_to_others,
    tls::{provider, roots_of},
};
use crate::{Failure, Reason};

/// Bytes of the largest token file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Where a caller without a certificate finds the CA of the key service, and its token.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct BearerFiles {
    /// Certificates of the CA that issued the service's certificate.
    pub ca: PathBuf,
    /// The token, alone in a file that only its owner may read. It is read again when it changes.
    pub bearer_token_file: PathBuf,
}

impl BearerFiles {
    /// The same with relative paths taken from `base`.
    #[must_use]
    pub fn relative_to(&self, base: &Path) -> Self {
        Self {
            ca: base.join(&self.ca),
            bearer_token_file: base.join(&self.bearer_token_file),
        }
    }
}

/// A caller with a bearer token.
pub struct BearerIdentity {
    client: Arc<ClientConfig>,
    authorization: Authorization,
}

impl BearerIdentity {
    /// Loads the CA and looks at the token's file.
    ///
    /// # Errors
    /// Says which file is missing, unusable or readable by others.
    pub fn load(files: &BearerFiles) -> Result<Self, TlsError> {
        let token = TokenFile::new(&files.bearer_token_file);
        token.stamp()?;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)?
            .with_root_certificates(roots_of(&files.ca)?)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            client: Arc::new(client),
            authorization: Authorization(Some(Arc::new(token))),
        })
    }

    /// What goes with every call.
    #[must_use]
    pub fn authorization(&self) -> Authorization {
        self.authorization.clone()
    }

    pub(super) fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }
}

impl fmt::Debug for BearerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerIdentity(redacted)")
    }
}

/// Puts a bearer token into every call, or nothing.
#[derive(Clone)]
pub struct Authorization(Option<Arc<TokenFile>>);

impl Authorization {
    /// For callers with a certificate.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorization(redacted)")
    }
}

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(file) = &self.0 {
            let value = file.value().map_err(|error| {
                let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                Failure::new(
                    Reason::Unauthenticated,
                    format!("{error}{}", source.unwrap_or_default()),
                )
            })?;
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// A channel to a service, in the name of a caller with a certificate or a bearer token.
#[derive(Debug, Clone)]
pub struct CallerChannel(InterceptedService<Channel, Authorization>);

impl CallerChannel {
    /// As [`super::connect_any`].
    #[must_use]
    pub fn certified(remotes: &Remotes, tls: &TlsIdentity, expected: Role) -> Self {
        Self(InterceptedService::new(
            connect_any(remotes, tls, expected),
            Authorization::none(),
        ))
    }

    /// As [`super::connect_bearer`], with the token in every call.
    #[must_use]
    pub fn bearer(remote: &Remote, bearer: &BearerIdentity, expected: Role) -> Self {
        let channel = connect_bearer(remote, bearer, expected);
        Self(InterceptedService::new(channel, bearer.authorization()))
    }
}

impl Service<http::Request<Body>> for CallerChannel {
    type Response = <InterceptedService<Channel, Authorization> as Service<http::Request<Body>>>::Response;
    type Error = <InterceptedService<Channel, Authorization> as Service<http::Request<Body>>>::Error;
    type Future = <InterceptedService<Channel, Authorization> as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}

/// By what a token file that was replaced shows: device, inode, size, nanoseconds of its last change.
type Stamp = (u64, u64, u64, i64, i64);

/// A token, read again when its file changes.
struct TokenFile {
    path: PathBuf,
    read: Mutex<Option<(Stamp, MetadataValue<Ascii>)>>,
}

impl TokenFile {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            read: Mutex::new(None),
        }
    }

    fn value(&self) -> Result<MetadataValue<Ascii>, TlsError> {
        let stamp = self.stamp()?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, value)) = &*read
            && *known == stamp
        {
            return Ok(value.clone());
        }
        let value = self.fresh()?;
        *read = Some((stamp, value.clone()));
        Ok(value)
    }

    fn fresh(&self) -> Result<MetadataValue<Ascii>, TlsError> {
        let text = Zeroizing::new(std::fs::read_to_string(&self.path).map_err(|error| self.unreadable(error))?);
        let header = Zeroizing::new(format!("Bearer {}", text.trim()));
        let unusable = || TlsError::NoToken {
            path: self.path.clone(),
        };
        if text.trim().is_empty() || text.trim().contains(char::is_whitespace) {
            return Err(unusable());
        }
        let mut value = MetadataValue::try_from(header.as_str()).map_err(|_| unusable())?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn stamp(&self) -> Result<Stamp, TlsError> {
        let file = std::fs::metadata(&self.path).map_err(|error| self.unreadable(error))?;
        if let Some(mode) = mode_open_to_others(&self.path, &file) {
            return Err(TlsError::KeyReadable {
                path: self.path.clone(),
                mode,
            });
        }
        if file.len() > FILE_BYTES_MAX {
            return Err(self.unreadable(io::Error::other("it is over 64 KiB")));
        }
        Ok((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
    }

    fn unreadable(&self, source: io::Error) -> TlsError {
        TlsError::Read {
            path: self.path.clone(),
            source,
        }
    }
}
