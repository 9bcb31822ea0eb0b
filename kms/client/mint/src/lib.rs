//! Client of the key service for the metadata service: mints EDEKs, wraps them again, and presents what users signed to have
//! them moved. Nothing that it is answered opens a file.

mod transfer;

pub use transfer::Transferred;

use std::time::Duration;

use bytes::Bytes;
use strongroom_proto::{
    EdekSuite, Failure, KeyName, KeyVersion, Reason, ZoneId,
    kms::v1::{self as pb, mint_client::MintClient as Grpc, rewrap_result},
    limits::MESSAGE_BYTES_MAX,
    transport::{Remotes, Repeat, Role, TlsIdentity, connect_any, identified, retry_for},
};
use tonic::transport::Channel;

/// EDEKs fresh from the token, all under one key version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minted {
    /// The key's own name, also if an alias was asked for. EDEKs hold it.
    pub key: KeyName,
    /// The version that wraps them.
    pub version: KeyVersion,
    /// How they are wrapped.
    pub suite: EdekSuite,
    /// The wrapped DEKs.
    pub edeks: Vec<Bytes>,
}

/// The outcome of wrapping a batch again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrapped {
    /// The version that every success is wrapped under.
    pub version: KeyVersion,
    /// One for each EDEK asked for, in order.
    pub results: Vec<Result<Bytes, Failure>>,
}

/// How long a call is repeated after its first failure. Short, since the metadata service bounds its waits itself, goes
/// on trying, and is to hear within that wait what failed.
const PATIENCE: Duration = Duration::from_secs(3);

/// A connection to the key service's `Mint`. Clones share it. Calls that fail for a reason that passes by itself are
/// repeated for at most 3 s.
#[derive(Debug, Clone)]
pub struct MintClient {
    grpc: Grpc<Channel>,
}

impl MintClient {
    /// A client that connects at its first call, in the runtime that it is made in.
    #[must_use]
    pub fn connect(remotes: &Remotes, tls: &TlsIdentity) -> Self {
        let grpc = Grpc::new(connect_any(remotes, tls, Role::Kms))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self { grpc }
    }

    /// `count` EDEKs (0 to 1000) of fresh DEKs for `zone`, under the current version of `key`, a key's name or an
    /// alias. With 0 it tells that version and the suite, and the key does not come to serve the zone.
    ///
    /// # Errors
    /// What the key service says, or why it cannot be reached.
    pub async fn mint(&self, key: &KeyName, zone: &ZoneId, count: usize) -> Result<Minted, Failure> {
        let request = pb::MintRequest {
            key_name: key.as_str().to_owned(),
            zone_id: (*zone).into(),
            // More than fits is more than the service allows: it says so.
            count: u32::try_from(count).unwrap_or(u32::MAX),
        };
        let answer = retry_for(PATIENCE, Repeat::Harmless, || {
            let (mut grpc, request) = (self.grpc.clone(), request.clone());
            async move { grpc.mint(identified(request)).await }
        })
        .await?;
        same_count(answer.wrapped.len(), count)?;
        Ok(Minted {
            key: answer.key_name.parse()?,
            version: KeyVersion(answer.key_version),
            suite: answer.suite.parse()?,
            edeks: answer.wrapped,
        })
    }

    /// Wraps 1 to 1000 EDEKs of `key` and `zone` again, under the current version of `key`.
    ///
    /// # Errors
    /// What the key service says of the whole call, or why it cannot be reached. A single EDEK's failure is in its
    /// result.
    pub async fn rewrap(
        &self,
        key: &KeyName,
        zone: &ZoneId,
        edeks: &[(KeyVersion, Bytes)],
    ) -> Result<Rewrapped, Failure> {
        let request = pb::RewrapRequest {
            key_name: key.as_str().to_owned(),
            zone_id: (*zone).into(),
            edeks: edeks.iter().map(wrapped_dek).collect(),
        };
        let answer = retry_for(PATIENCE, Repeat::Harmless, || {
            let (mut grpc, request) = (self.grpc.clone(), request.clone());
            async move { grpc.rewrap(identified(request)).await }
        })
        .await?;
        same_count(answer.results.len(), edeks.len())?;
        Ok(Rewrapped {
            version: KeyVersion(answer.key_version),
            results: answer.results.into_iter().map(rewrapped).collect(),
        })
    }
}

fn wrapped_dek((version, wrapped): &(KeyVersion, Bytes)) -> pb::WrappedDek {
    pb::WrappedDek {
        key_version: version.0,
        wrapped: wrapped.clone(),
    }
}

fn rewrapped(wire: pb::RewrapResult) -> Result<Bytes, Failure> {
    match wire.result {
        Some(rewrap_result::Result::Wrapped(wrapped)) => Ok(wrapped),
        Some(rewrap_result::Result::Failure(failure)) => {
            let reason = failure.reason.parse().unwrap_or(Reason::Internal);
            Err(Failure::new(reason, failure.message))
        }
        None => Err(Failure::new(
            Reason::Internal,
            "the key service answered with an empty result",
        )),
    }
}

fn same_count(found: usize, expected: usize) -> Result<(), Failure> {
    if found == expected {
        Ok(())
    } else {
        Err(Failure::new(
            Reason::Internal,
            format!("the key service answered {found} results for {expected} EDEKs"),
        ))
    }
}
