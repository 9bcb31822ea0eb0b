//! Sealed delivery as the key service sees it: signed bytes that it carries between a user and the token worker.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use bytes::Bytes;
use strongroom_proto::{Failure, KeyName, ParseError, transport::CertificateSignature};

use super::{pb, wire::malformed};

/// A user's signed request on its way to the token worker.
#[derive(Debug, Clone)]
pub struct SealedCall {
    /// The signed bytes.
    pub request: Bytes,
    /// The user's signature.
    pub signature: CertificateSignature,
    /// Places of EDEKs that the key service refuses; the signed request itself cannot be cut.
    pub left_out: BTreeSet<usize>,
}

/// The token worker's signed answer on its way to the user.
#[derive(Debug, Clone)]
pub struct SealedReply {
    /// The signed bytes.
    pub answer: Bytes,
    /// The token worker's signature.
    pub signature: CertificateSignature,
}

/// What a token worker did at a user's signed request, which it verified first.
#[derive(Debug, Clone)]
pub struct Verified<T> {
    /// What came of it.
    pub done: T,
    /// Label of the token whose worker verified the request.
    pub by: String,
}

/// What token workers need for sealed delivery: a table `[sealed]` of the key service's configuration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct SealedConfig {
    /// The token worker's certificate, with the URI `spiffe://strongroom/service/token-worker`. It signs answers.
    pub certificate: PathBuf,
    /// The certificate's private key. Only its owner may read it.
    pub key: PathBuf,
    /// Keys whose DEKs token workers hand out sealed and no other way, whatever the key service asks of them.
    #[serde(default)]
    pub only: Vec<SealedOnly>,
    /// Certificates of the CA that vouches for users: `ca` of the table `[tls]`.
    #[serde(skip)]
    pub client_ca: PathBuf,
}

impl SealedConfig {
    /// The same with relative paths taken from `base`, and with the CA that users' certificates are held against.
    #[must_use]
    pub fn complete(&self, base: &Path, client_ca: PathBuf) -> Self {
        Self {
            certificate: base.join(&self.certificate),
            key: base.join(&self.key),
            only: self.only.clone(),
            client_ca,
        }
    }

    /// What a token worker is started with.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let files = [
            ("--client-ca", &self.client_ca),
            ("--answer-certificate", &self.certificate),
            ("--answer-key", &self.key),
        ];
        let files = files.into_iter().flat_map(|(name, path)| [name.into(), path.into()]);
        let only = self
            .only
            .iter()
            .flat_map(|only| ["--sealed-only".into(), only.to_string().into()]);
        files.chain(only).collect()
    }
}

/// A key, or all keys, for which sealed delivery is the only one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealedOnly {
    /// `*`: every key.
    All,
    /// One key by its name.
    Key(KeyName),
}

impl SealedOnly {
    /// Whether it speaks of that key.
    #[must_use]
    pub fn covers(&self, key: &KeyName) -> bool {
        match self {
            Self::All => true,
            Self::Key(name) => name == key,
        }
    }
}

impl FromStr for SealedOnly {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        match s {
            "*" => Ok(Self::All),
            name => name.parse().map(Self::Key),
        }
    }
}

impl fmt::Display for SealedOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Key(name) => name.fmt(f),
        }
    }
}

impl<'de> serde::Deserialize<'de> for SealedOnly {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for SealedOnly {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<SealedCall> for pb::UnwrapSealedRequest {
    fn from(call: SealedCall) -> Self {
        Self {
            request: call.request,
            signature: Some(call.signature.into()),
            left_out: call
                .left_out
                .into_iter()
                .filter_map(|at| u32::try_from(at).ok())
                .collect(),
        }
    }
}

impl TryFrom<pb::UnwrapSealedRequest> for SealedCall {
    type Error = Failure;

    fn try_from(wire: pb::UnwrapSealedRequest) -> Result<Self, Failure> {
        Ok(Self {
            request: wire.request,
            signature: signature(wire.signature)?,
            left_out: wire.left_out.into_iter().map(|at| at as usize).collect(),
        })
    }
}

impl From<SealedReply> for pb::UnwrapSealedResponse {
    fn from(reply: SealedReply) -> Self {
        Self {
            answer: reply.answer,
            signature: Some(reply.signature.into()),
        }
    }
}

impl TryFrom<pb::UnwrapSealedResponse> for SealedReply {
    type Error = Failure;

    fn try_from(wire: pb::UnwrapSealedResponse) -> Result<Self, Failure> {
        Ok(Self {
            answer: wire.answer,
            signature: signature(wire.signature)?,
        })
    }
}

impl From<CertificateSignature> for pb::CertificateSignature {
    fn from(signature: CertificateSignature) -> Self {
        Self {
            chain: signature.chain,
            scheme: u32::from(signature.scheme),
            signature: signature.signature,
        }
    }
}

/// A signature that may be missing.
pub(super) fn optional_signature(
    wire: Option<pb::CertificateSignature>,
) -> Result<Option<CertificateSignature>, Failure> {
    wire.map(|wire| signature(Some(wire))).transpose()
}

pub(super) fn signature(wire: Option<pb::CertificateSignature>) -> Result<CertificateSignature, Failure> {
    let wire = wire.ok_or_else(|| malformed("no signature"))?;
    Ok(CertificateSignature {
        chain: wire.chain,
        scheme: u16::try_from(wire.scheme).map_err(|_| malformed("a signature"))?,
        signature: wire.signature,
    })
}
