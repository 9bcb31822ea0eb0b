//! The wire contract and the vocabulary that every Strongroom process speaks.
//!
//! Four things live here and nothing else: the generated gRPC code ([`kms`], [`metadata`], [`block`]),
//! the typed ids and values that wire fields parse into at the edge, the [`transport`]: mutual
//! TLS 1.3, deadlines and peer identity, once for all services, how their [`config`] files are read, and the [`Clock`] that they go by. No type here can hold a DEK other than
//! the generated unwrap answer, whose `Debug` is withheld.

pub mod capability;
mod clock;
pub mod config;
mod edek;
mod frame_size;
pub mod groups;
mod ids;
pub mod limits;
mod path;
pub mod proof;
mod reason;
pub mod sealed;
mod signed;
pub mod transfer;
pub mod transport;
mod wire;

pub use clock::Clock;
pub use edek::Edek;
pub use frame_size::FrameSize;
pub use ids::{
    BlockId, DataSuite, EdekSuite, ExtentId, FileId, Incarnation, JobId, KeyName, KeyVersion, NodeId, ParseError,
    QuotaId, RequestId, ZoneId,
};
pub use path::ZonePath;
pub use reason::{Failure, REASON_HEADER, REQUEST_ID_HEADER, RETRY_AFTER_HEADER, Reason};

/// Generated code of `strongroom.kms.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    elided_lifetimes_in_paths
)]
pub mod kms {
    pub mod v1 {
        tonic::include_proto!("strongroom.kms.v1");

        // Generated without Debug because it holds a DEK.
        impl std::fmt::Debug for UnwrapResult {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("UnwrapResult(withheld)")
            }
        }
        impl std::fmt::Debug for unwrap_result::Result {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("Result(withheld)")
            }
        }
    }
}

/// Generated code of `strongroom.metadata.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    elided_lifetimes_in_paths
)]
pub mod metadata {
    pub mod v1 {
        tonic::include_proto!("strongroom.metadata.v1");
    }
}

/// Generated code of `strongroom.block.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    elided_lifetimes_in_paths
)]
pub mod block {
    pub mod v1 {
        tonic::include_proto!("strongroom.block.v1");
    }
}

/// The encoded `FileDescriptorSet` of all services, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
