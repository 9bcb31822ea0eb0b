//! Client of the key service for key administrators. None of its calls can read data or a DEK.

mod audit;

pub use audit::{AuditClient, AuditKey};

use strongroom_proto::{
    EdekSuite, Failure, KeyName, KeyVersion, Reason, RequestId,
    kms::v1::{self as pb, key_admin_client::KeyAdminClient as Grpc},
    limits::MESSAGE_BYTES_MAX,
    transport::{BearerIdentity, CallerChannel, Remote, Repeat, Role, TlsIdentity, identified, retry},
};
use tonic::{Response, Status};

/// An EZ key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: KeyName,
    /// How its EDEKs are wrapped.
    pub suite: EdekSuite,
    /// The version that mints; none while no version may.
    pub current: Option<KeyVersion>,
    /// Oldest first.
    pub versions: Vec<KeyVersionInfo>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
}

/// A version of an EZ key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyVersionInfo {
    /// Its number.
    pub version: KeyVersion,
    /// What it may do.
    pub state: VersionState,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// The key check value.
    pub kcv: [u8; 3],
    /// `CKA_ID` of the token object.
    pub token_id: [u8; 16],
}

/// What a version may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VersionState {
    /// Mints, unwraps and is the target of re-wrapping.
    Active,
    /// Unwraps only.
    DecryptOnly,
    /// Nothing: the token does not hold it.
    Missing,
}

impl VersionState {
    /// The state's word for people and `--json`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::DecryptOnly => "decrypt-only",
            Self::Missing => "missing",
        }
    }
}

/// A page of keys, in order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPage {
    /// The keys.
    pub keys: Vec<Key>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// A connection to the key service's `KeyAdmin`. Clones share it. Failures that pass by themselves are retried for
/// at most 20 s, which changes nothing twice.
#[derive(Debug, Clone)]
pub struct KeyAdminClient {
    grpc: Grpc<CallerChannel>,
}

impl KeyAdminClient {
    /// A client that connects at its first call, in the runtime that it is made in.
    #[must_use]
    pub fn connect(remote: &Remote, tls: &TlsIdentity) -> Self {
        Self::over(CallerChannel::certified(remote, tls, Role::Kms))
    }

    /// As [`Self::connect`], with a bearer token, to the key service's port for them.
    #[must_use]
    pub fn connect_bearer(remote: &Remote, bearer: &BearerIdentity) -> Self {
        Self::over(CallerChannel::bearer(remote, bearer, Role::Kms))
    }

    fn over(channel: CallerChannel) -> Self {
        let grpc = Grpc::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self { grpc }
    }

    /// Makes a key with version 0 in the token. A repeat with the same id is answered as the first call was.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn create(&self, name: &KeyName, suite: EdekSuite, id: RequestId) -> Result<Key, Failure> {
        let request = pb::CreateKeyRequest {
            name: name.as_str().to_owned(),
            suite: suite.as_str().to_owned(),
            request_id: id.into(),
        };
        self.key(|mut grpc| {
            let request = request.clone();
            async move { grpc.create_key(identified(request)).await }
        })
        .await
    }

    /// The key as it is.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn describe(&self, name: &KeyName) -> Result<Key, Failure> {
        let request = pb::DescribeKeyRequest {
            name: name.as_str().to_owned(),
        };
        self.key(|mut grpc| {
            let request = request.clone();
            async move { grpc.describe_key(identified(request)).await }
        })
        .await
    }

    /// At most `limit` keys (1 to 1000; 0 means 100) after `after`, of those that the caller may view.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn list(&self, after: Option<&KeyName>, limit: u32) -> Result<KeyPage, Failure> {
        let request = pb::ListKeysRequest {
            after: after.map(|name| name.as_str().to_owned()).unwrap_or_default(),
            limit,
        };
        let page = retry(Repeat::Harmless, || {
            let (mut grpc, request) = (self.grpc.clone(), request.clone());
            async move { grpc.list_keys(identified(request)).await }
        })
        .await?;
        Ok(KeyPage {
            keys: page.keys.iter().map(parse).collect::<Result<_, _>>()?,
            more: page.more,
        })
    }

    /// Makes a new version, which mints from then on. A repeat with the same id is answered as the first call was.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn roll(&self, name: &KeyName, id: RequestId) -> Result<Key, Failure> {
        let request = pb::RollKeyRequest {
            name: name.as_str().to_owned(),
            request_id: id.into(),
        };
        self.key(|mut grpc| {
            let request = request.clone();
            async move { grpc.roll_key(identified(request)).await }
        })
        .await
    }

    /// Lets a key that was rebuilt from the token mint again, under its newest version.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn confirm(&self, name: &KeyName) -> Result<Key, Failure> {
        let request = pb::ConfirmKeyRequest {
            name: name.as_str().to_owned(),
        };
        self.key(|mut grpc| {
            let request = request.clone();
            async move { grpc.confirm_key(identified(request)).await }
        })
        .await
    }

    /// Makes a call that is answered with a key.
    async fn key<F>(&self, call: impl Fn(Grpc<CallerChannel>) -> F) -> Result<Key, Failure>
    where
        F: Future<Output = Result<Response<pb::Key>, Status>>,
    {
        parse(&retry(Repeat::Harmless, || call(self.grpc.clone())).await?)
    }
}

fn parse(wire: &pb::Key) -> Result<Key, Failure> {
    Ok(Key {
        name: wire.name.parse()?,
        suite: wire.suite.parse()?,
        current: wire.current_version.map(KeyVersion),
        versions: wire.versions.iter().map(parse_version).collect::<Result<_, _>>()?,
        created_ms: wire.created_ms,
    })
}

fn parse_version(wire: &pb::KeyVersion) -> Result<KeyVersionInfo, Failure> {
    let malformed = |_| {
        Failure::new(
            Reason::Internal,
            "the key service answered with a malformed key version",
        )
    };
    Ok(KeyVersionInfo {
        version: KeyVersion(wire.version),
        state: state(wire.state())?,
        created_ms: wire.created_ms,
        kcv: wire.kcv.as_ref().try_into().map_err(malformed)?,
        token_id: wire.token_id.as_ref().try_into().map_err(malformed)?,
    })
}

fn state(wire: pb::KeyVersionState) -> Result<VersionState, Failure> {
    match wire {
        pb::KeyVersionState::Active => Ok(VersionState::Active),
        pb::KeyVersionState::DecryptOnly => Ok(VersionState::DecryptOnly),
        pb::KeyVersionState::Missing => Ok(VersionState::Missing),
        pb::KeyVersionState::Unspecified => Err(Failure::new(
            Reason::Internal,
            "the key service answered with a state of a key version that this program does not know; update it",
        )),
    }
}
