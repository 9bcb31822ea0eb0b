//! What the configuration says of bearer tokens.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use strongroom_proto::{
    ParseError,
    transport::{HttpsUrl, TlsError},
};

use super::source::Source;

/// Seconds that clocks may differ if the configuration does not say.
const CLOCK_SKEW_DEFAULT_S: u64 = 30;
/// Seconds that clocks may differ at the most.
const CLOCK_SKEW_MAX_S: u64 = 300;

/// The port for bearer tokens, and whose tokens count.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BearerConfig {
    /// Where the service listens for callers with tokens.
    pub listen: SocketAddr,
    /// `iss` of every token.
    pub issuer: String,
    /// What `aud` of every token has to hold.
    pub audience: String,
    /// The issuer's keys (RFC 7517): a file, or an https URL.
    pub jwks: String,
    /// The CA of the URL's server.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// The claim that names the user.
    #[serde(default = "user_claim")]
    pub user_claim: String,
    /// The claim that lists the user's groups.
    #[serde(default = "groups_claim")]
    pub groups_claim: String,
    /// Whether a token without that claim is refused. Otherwise its user is in no group.
    #[serde(default = "require_groups")]
    pub require_groups: bool,
    /// By how much the clocks of issuer and key service may differ, at most 300.
    #[serde(default = "clock_skew_s")]
    pub clock_skew_s: u64,
}

fn user_claim() -> String {
    "sub".to_owned()
}

fn groups_claim() -> String {
    "groups".to_owned()
}

const fn require_groups() -> bool {
    true
}

const fn clock_skew_s() -> u64 {
    CLOCK_SKEW_DEFAULT_S
}

/// Why bearer tokens cannot be accepted, or the issuer's keys not be read.
#[derive(Debug, thiserror::Error)]
pub enum BearerError {
    /// Clocks that differ by so much make `exp` meaningless.
    #[error("bearer.clock_skew_s is {0}; it may be at most 300")]
    ClockSkew(u64),
    /// A URL that is not https, or none at all.
    #[error("bearer.jwks is neither a file nor an https URL")]
    Url(#[from] ParseError),
    /// Nobody vouches for the URL's server.
    #[error("bearer.jwks is a URL: name the CA of its server with bearer.ca")]
    NoCa,
    /// The CA cannot be used.
    #[error("bearer.ca cannot be used")]
    Ca(#[source] TlsError),
    /// The keys cannot be had.
    #[error("cannot read the issuer's keys at {place}")]
    Read {
        /// The file or URL.
        place: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What is there is no set of keys with which tokens could be checked.
    #[error("{place} holds no usable key set: {reason}")]
    Keys {
        /// The file or URL.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl BearerConfig {
    pub(super) fn source(&self) -> Result<Source, BearerError> {
        if self.clock_skew_s > CLOCK_SKEW_MAX_S {
            return Err(BearerError::ClockSkew(self.clock_skew_s));
        }
        if !self.jwks.contains("://") {
            return Ok(Source::File(PathBuf::from(&self.jwks)));
        }
        let url: HttpsUrl = self.jwks.parse()?;
        let ca = self.ca.as_ref().ok_or(BearerError::NoCa)?;
        Source::url(url, ca)
    }

    /// The same with relative paths taken from `base`.
    #[must_use]
    pub(crate) fn relative_to(mut self, base: &Path) -> Self {
        if !self.jwks.contains("://") {
            self.jwks = base.join(&self.jwks).to_string_lossy().into_owned();
        }
        self.ca = self.ca.map(|ca| base.join(ca));
        self
    }
}
