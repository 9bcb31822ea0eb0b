use std::{fmt, str::FromStr};

use tokio::sync::watch;
use tonic::Request;

use crate::{Failure, NodeId, ParseError, REQUEST_ID_HEADER, Reason, RequestId, ids::is_name};

/// A service of Strongroom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The key service.
    Kms,
    /// The metadata service.
    Metadata,
    /// A block node.
    Block,
}

impl Role {
    /// The role's word in certificates and policies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kms => "kms",
            Self::Metadata => "metadata",
            Self::Block => "block",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a person or application: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserName(String);

impl UserName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        const RULE: &str = "1 to 64 characters of A-Z a-z 0-9 . _ -, starting with a letter or digit";
        if is_name(s, 64) {
            Ok(Self(s.to_owned()))
        } else {
            Err(ParseError::new("user name", s, RULE))
        }
    }
}

impl<'de> serde::Deserialize<'de> for UserName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a peer is: the one URI of the form `spiffe://strongroom/…` in its certificate's subject alternative
/// names (SPIFFE-ID, section 2): `…/user/NAME`, `…/service/kms`, `…/service/metadata`, `…/service/block/NODE` or
/// `…/service/token-worker`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PeerIdentity {
    /// A person or application.
    User(UserName),
    /// The key service.
    Kms,
    /// The metadata service.
    Metadata,
    /// A block node.
    Block(NodeId),
    /// A process that works a token. It signs answers and is never connected to.
    TokenWorker,
}

/// The start of every identity.
const PREFIX: &str = "spiffe://strongroom/";

impl PeerIdentity {
    /// The service that the peer is, if it is one.
    #[must_use]
    pub const fn role(&self) -> Option<Role> {
        match self {
            Self::User(_) | Self::TokenWorker => None,
            Self::Kms => Some(Role::Kms),
            Self::Metadata => Some(Role::Metadata),
            Self::Block(_) => Some(Role::Block),
        }
    }

    /// How people read it: `user alice`, `service metadata`, `service block/node-1`.
    #[must_use]
    pub fn short(&self) -> String {
        match self {
            Self::User(name) => format!("user {name}"),
            Self::Kms => "service kms".to_owned(),
            Self::Metadata => "service metadata".to_owned(),
            Self::Block(node) => format!("service block/{node}"),
            Self::TokenWorker => "service token-worker".to_owned(),
        }
    }
}

impl FromStr for PeerIdentity {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        const RULE: &str = "spiffe://strongroom/user/NAME or …/service/ with kms, metadata, token-worker or block/NODE";
        let rest = s
            .strip_prefix(PREFIX)
            .ok_or_else(|| ParseError::new("identity", s, RULE))?;
        if let Some(name) = rest.strip_prefix("user/") {
            return Ok(Self::User(name.parse()?));
        }
        if let Some(node) = rest.strip_prefix("service/block/") {
            return Ok(Self::Block(node.parse()?));
        }
        match rest {
            "service/kms" => Ok(Self::Kms),
            "service/metadata" => Ok(Self::Metadata),
            "service/token-worker" => Ok(Self::TokenWorker),
            _ => Err(ParseError::new("identity", s, RULE)),
        }
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "{PREFIX}user/{name}"),
            Self::Block(node) => write!(f, "{PREFIX}service/block/{node}"),
            Self::Kms | Self::Metadata | Self::TokenWorker => write!(f, "{PREFIX}{}", self.short().replace(' ', "/")),
        }
    }
}

/// Reads the identity from a certificate in DER.
pub(super) fn of_certificate(der: &[u8]) -> Result<PeerIdentity, ParseError> {
    const RULE: &str = "its certificate must carry exactly one spiffe://strongroom/… URI";
    use x509_parser::extensions::GeneralName;
    let (_, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|_| ParseError::new("peer", "certificate", RULE))?;
    let names = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => uri.parse(),
        _ => Err(ParseError::new("peer", &certificate.subject().to_string(), RULE)),
    }
}

/// What the TLS listener knows of a connection; tonic hands it to every request.
#[derive(Debug, Clone)]
pub(super) struct ConnectionInfo {
    /// None on a port where certificates are not asked for.
    pub(super) identity: Option<PeerIdentity>,
    pub(super) address: std::net::SocketAddr,
    /// Whether it is known who the peer is: by his certificate, or since [`authenticated`].
    pub(super) known: watch::Sender<bool>,
}

/// Who sent a request and from where, as the TLS listener established it.
///
/// # Errors
/// [`Reason::Unauthenticated`] if the request did not come through [`super::serve`].
pub fn peer<T>(request: &Request<T>) -> Result<(PeerIdentity, std::net::SocketAddr), Failure> {
    let info = request.extensions().get::<ConnectionInfo>();
    info.and_then(|info| Some((info.identity.clone()?, info.address)))
        .ok_or_else(|| Failure::new(Reason::Unauthenticated, "the connection has no verified peer"))
}

/// Says that who sent a request without a certificate has proven who he is: until then his connection counts among those of
/// newcomers, and ends soon.
pub fn authenticated(extensions: &http::Extensions) {
    if let Some(info) = extensions.get::<ConnectionInfo>() {
        info.known.send_if_modified(|known| !std::mem::replace(known, true));
    }
}

/// Where a request comes from, whoever sent it; none if it did not come through one of our listeners.
#[must_use]
pub fn address(extensions: &http::Extensions) -> Option<std::net::SocketAddr> {
    extensions.get::<ConnectionInfo>().map(|info| info.address)
}

/// The holder of the certificate that a request came with, for what stands around the services.
#[must_use]
pub fn peer_in(extensions: &http::Extensions) -> Option<PeerIdentity> {
    extensions.get::<ConnectionInfo>()?.identity.clone()
}

/// A request with an id of its own, by which the key service's audit log and log lines name the call.
pub fn identified<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let id = RequestId::generate().to_string();
    if let Ok(id) = id.parse() {
        request.metadata_mut().insert(REQUEST_ID_HEADER, id);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_round_trip_and_others_are_refused() {
        for uri in [
            "spiffe://strongroom/user/alice",
            "spiffe://strongroom/service/kms",
            "spiffe://strongroom/service/metadata",
            "spiffe://strongroom/service/block/node-1",
            "spiffe://strongroom/service/token-worker",
        ] {
            let identity: PeerIdentity = uri.parse().expect("valid");
            assert_eq!(identity.to_string(), uri);
        }
        for uri in [
            "",
            "spiffe://other/user/alice",
            "spiffe://strongroom/user/",
            "spiffe://strongroom/user/a/b",
            "spiffe://strongroom/service/root",
            "spiffe://strongroom/service/block/../kms",
        ] {
            assert!(uri.parse::<PeerIdentity>().is_err(), "{uri} is accepted");
        }
    }
}
