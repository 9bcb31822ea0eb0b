//! The audit log's keys and segments.

use bytes::Bytes;
use strongroom_proto::{
    Failure,
    kms::v1::{self as pb, audit_client::AuditClient as Grpc},
    transport::{BearerIdentity, CallerChannel, Remote, Remotes, Repeat, Role, TlsIdentity, identified, retry},
};

/// A public key that signs checkpoints of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditKey {
    /// The label of the token that has the private half.
    pub token: String,
    /// SubjectPublicKeyInfo in DER: ECDSA on P-256.
    pub public_key: Bytes,
}

/// What an instance of the key service answered, and which one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered<T> {
    /// The answer.
    pub answer: T,
    /// The id of the instance's audit log, in hex, as its records have it.
    pub instance: String,
    /// Where it listens, and its process.
    pub address: String,
}

impl<T> Answered<T> {
    fn by(answering: Option<pb::Answering>, answer: T) -> Self {
        let pb::Answering { id, address } = answering.unwrap_or_default();
        Self {
            answer,
            instance: hex::encode(id),
            address,
        }
    }
}

/// A connection to the key service's `Audit`. Clones share it. Failures that pass by themselves are retried for at most
/// 20 s.
#[derive(Debug, Clone)]
pub struct AuditClient {
    grpc: Grpc<CallerChannel>,
}

impl AuditClient {
    /// A client that connects at its first call, in the runtime that it is made in.
    #[must_use]
    pub fn connect(remotes: &Remotes, tls: &TlsIdentity) -> Self {
        Self {
            grpc: Grpc::new(CallerChannel::certified(remotes, tls, Role::Kms)),
        }
    }

    /// As [`Self::connect`], with a bearer token, to the key service's port for them.
    #[must_use]
    pub fn connect_bearer(remote: &Remote, bearer: &BearerIdentity) -> Self {
        Self {
            grpc: Grpc::new(CallerChannel::bearer(remote, bearer, Role::Kms)),
        }
    }

    /// The public keys that sign checkpoints now.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn keys(&self) -> Result<Answered<Vec<AuditKey>>, Failure> {
        let answer = retry(Repeat::Harmless, || {
            let mut grpc = self.grpc.clone();
            async move { grpc.get_audit_keys(identified(pb::GetAuditKeysRequest {})).await }
        })
        .await?;
        let key = |key: pb::AuditKey| AuditKey {
            token: key.token,
            public_key: key.public_key,
        };
        let keys = answer.keys.into_iter().map(key).collect();
        Ok(Answered::by(answer.answering, keys))
    }

    /// Begins a new segment of the log, unless the present one is empty, and says which one is written to.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn rotate(&self) -> Result<Answered<u64>, Failure> {
        let answer = retry(Repeat::Harmless, || {
            let mut grpc = self.grpc.clone();
            async move { grpc.rotate_audit(identified(pb::RotateAuditRequest {})).await }
        })
        .await?;
        Ok(Answered::by(answer.answering, answer.segment))
    }
}
