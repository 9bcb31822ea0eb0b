use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::TLS13,
};

use super::{
    Network,
    identity::{PeerIdentity, Role, of_certificate},
    network::Tcp,
    private::mode_open_to_others,
    renewal::Current,
    signing::Trust,
};
use crate::{ParseError, limits::CONNECTION_AGE_MAX};

/// Where a process finds its certificate, its key and the CA that it trusts: PEM files.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificates of the CA that issued every peer's certificate.
    pub ca: PathBuf,
    /// This process' certificate chain, leaf first.
    pub certificate: PathBuf,
    /// The certificate's private key. Only its owner may read the file.
    pub key: PathBuf,
}

impl TlsFiles {
    /// The same with relative paths taken from `base`.
    #[must_use]
    pub fn relative_to(&self, base: &Path) -> Self {
        Self {
            ca: base.join(&self.ca),
            certificate: base.join(&self.certificate),
            key: base.join(&self.key),
        }
    }
}

/// Why TLS cannot be set up, or why a peer is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file holds no usable PEM.
    #[error("{} holds no usable {what}; make the certificates anew", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Others can read a private key.
    #[error("{} can be read by others (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    KeyReadable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A token file holds no token.
    #[error("{} holds no bearer token; put the token there, alone", path.display())]
    NoToken {
        /// The file.
        path: PathBuf,
    },
    /// The own certificate's dates do not cover now.
    #[error("the certificate {} is {what} ({date}); replace it or check this machine's clock", path.display())]
    OutOfDate {
        /// The file.
        path: PathBuf,
        /// `expired` or `not valid yet`.
        what: &'static str,
        /// The date that is past or to come.
        date: String,
    },
    /// The certificate names no identity.
    #[error("the certificate names no Strongroom identity")]
    Identity(#[from] ParseError),
    /// The other end is a Strongroom process, but not the one asked for.
    #[error("expected the {expected} service there, but its certificate says {found}; check the address")]
    WrongRole {
        /// Who should be there.
        expected: Role,
        /// Who is.
        found: String,
    },
    /// The files were replaced by somebody else's.
    #[error("the certificate {} is now that of {found}; this process is {expected} and keeps its old one", path.display())]
    AnotherIdentity {
        /// The certificate.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who the process is.
        expected: String,
    },
    /// rustls refused.
    #[error("TLS was refused")]
    Rustls(#[from] rustls::Error),
    /// The client verifier could not be built.
    #[error("the CA certificates cannot verify clients")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// A process' own certificate and key and the CA it trusts, loaded and checked. While the process serves it takes up what
/// the files are replaced with; clones do so together.
#[derive(Clone)]
pub struct TlsIdentity {
    identity: PeerIdentity,
    files: TlsFiles,
    current: Current,
    connection_age_max: Duration,
    network: Arc<dyn Network>,
}

/// What the files held when they were read.
pub(super) struct Material {
    pub(super) certified: CertifiedKey,
    pub(super) roots: Arc<RootCertStore>,
    trust: Trust,
    pub(super) server: Arc<ServerConfig>,
    /// For clients without certificates.
    pub(super) open_server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TlsIdentity({})", self.identity)
    }
}

impl TlsIdentity {
    /// Loads and checks the files, at the time `now`.
    ///
    /// # Errors
    /// Says which file is missing, unusable, out of date or readable by others.
    pub fn load(files: &TlsFiles, now: SystemTime) -> Result<Self, TlsError> {
        let (identity, material) = Material::load(files, now)?;
        Ok(Self {
            identity,
            files: files.clone(),
            current: Current::new(material),
            connection_age_max: CONNECTION_AGE_MAX,
            network: Arc::new(Tcp),
        })
    }

    /// The same, for a server whose connections end at that age instead of one hour: then a peer connects anew, if the CA that
    /// is trusted by then vouches for it.
    #[must_use]
    pub fn with_connection_age_max(mut self, age_max: Duration) -> Self {
        self.connection_age_max = age_max;
        self
    }

    /// The same, for a client whose connections, all of them TLS as before, are made over another network than the system's.
    #[must_use]
    pub fn over(mut self, network: Arc<dyn Network>) -> Self {
        self.network = network;
        self
    }

    pub(super) const fn network(&self) -> &Arc<dyn Network> {
        &self.network
    }

    pub(super) const fn connection_age_max(&self) -> Duration {
        self.connection_age_max
    }

    /// Who this process is.
    #[must_use]
    pub const fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    /// The file that the certificate came from, for messages.
    #[must_use]
    pub fn certificate_path(&self) -> &Path {
        &self.files.certificate
    }

    /// The CA that this process trusts now, to verify signatures of its certificates with. Ask again for each: where the files
    /// are followed ([`super::serve`], [`Self::keep_fresh`]) it changes with them.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.material().trust.clone()
    }

    pub(super) const fn files(&self) -> &TlsFiles {
        &self.files
    }

    pub(super) const fn current(&self) -> &Current {
        &self.current
    }

    /// What is in use now.
    pub(super) fn material(&self) -> Arc<Material> {
        self.current.material()
    }
}

impl Material {
    /// Reads and checks the files, at the time `now`.
    pub(super) fn load(files: &TlsFiles, now: SystemTime) -> Result<(PeerIdentity, Self), TlsError> {
        refuse_open_key(&files.key)?;
        let chain = certificates(&files.certificate)?;
        let leaf = chain.first().ok_or_else(|| TlsError::Pem {
            path: files.certificate.clone(),
            what: "certificate",
        })?;
        check_dates(leaf, &files.certificate, now)?;
        let identity = of_certificate(leaf)?;
        let roots = roots_of(&files.ca)?;
        let material = Self {
            certified: CertifiedKey::from_der(chain.clone(), private_key(&files.key)?, &provider())?,
            trust: Trust::of_roots(Arc::clone(&roots))?,
            roots: Arc::clone(&roots),
            server: Arc::new(server_config(&roots, &chain, private_key(&files.key)?)?),
            open_server: Arc::new(open_server_config(&chain, private_key(&files.key)?)?),
            client: Arc::new(client_config(&roots, &chain, private_key(&files.key)?)?),
        };
        Ok((identity, material))
    }

    /// Whether certificates and CA are the same. A key goes with its certificate, which rustls has checked.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert && self.roots.roots == other.roots.roots
    }
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The CA's certificates in a PEM file.
pub(super) fn roots_of(ca: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate)?;
    }
    Ok(Arc::new(roots))
}

fn server_config(
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'static>],
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.to_vec(), key)?;
    // A session that is taken up again brings its client's certificate along unchecked (RFC 8446, 2.2): one that has expired
    // by now, or whose CA is trusted no more. So there are none.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// TLS 1.2 or 1.3 that proves the server alone: clients of other makes prove themselves in their own ways.
fn open_server_config(
    chain: &[CertificateDer<'static>],
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)?
        .with_no_client_auth()
        .with_single_cert(chain.to_vec(), key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn client_config(
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'static>],
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(Arc::clone(roots))
        .with_client_auth_cert(chain.to_vec(), key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unusable = || TlsError::Pem {
        path: path.to_owned(),
        what: "certificate",
    };
    let pem = read(path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| unusable())?;
    if found.is_empty() { Err(unusable()) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = zeroize::Zeroizing::new(read(path)?);
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::Pem {
        path: path.to_owned(),
        what: "private key",
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn refuse_open_key(path: &Path) -> Result<(), TlsError> {
    let metadata = std::fs::metadata(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })?;
    match mode_open_to_others(path, &metadata) {
        None => Ok(()),
        Some(mode) => Err(TlsError::KeyReadable {
            path: path.to_owned(),
            mode,
        }),
    }
}

fn check_dates(leaf: &CertificateDer<'_>, path: &Path, now: SystemTime) -> Result<(), TlsError> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).map_err(|_| TlsError::Pem {
        path: path.to_owned(),
        what: "certificate",
    })?;
    let validity = certificate.validity();
    let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let out_of_date = |what, date: &x509_parser::time::ASN1Time| TlsError::OutOfDate {
        path: path.to_owned(),
        what,
        date: date.to_string(),
    };
    if now > validity.not_after.timestamp() {
        return Err(out_of_date("expired", &validity.not_after));
    }
    if now < validity.not_before.timestamp() {
        return Err(out_of_date("not valid yet", &validity.not_before));
    }
    Ok(())
}
