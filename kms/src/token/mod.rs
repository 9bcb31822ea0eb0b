//! The token layer: everything that touches PKCS#11.
//!
//! The key service itself never maps a vendor library and never holds the PIN. It holds a [`Token`], which starts and
//! supervises one worker process ([`worker::run`]) and speaks gRPC with it over a socket pair. A worker that crashes or
//! hangs costs a retry; a rejected PIN is tried once and then not again until its file changes.

mod audit;
mod board;
mod clone_key;
mod cloning;
mod edeks;
mod gather;
mod handle;
pub mod init;
mod limit;
mod link;
mod listing;
mod module;
mod own_trust;
mod pin;
mod pin_gate;
mod pin_mark;
mod pin_print;
mod sealed;
mod signed;
mod supervisor;
pub mod trust;
mod types;
mod wire;
pub mod worker;

pub use clone_key::{ClonePublicKey, Fingerprint as CloneFingerprint};
pub use handle::Token;
pub(crate) use limit::CALL_TIMEOUT;
pub use listing::Listing;
pub use module::ModuleError;
pub use pin::PinError;
pub use pin_mark::{MarkError, marks_directory};
pub use sealed::{SealedCall, SealedConfig, SealedOnly, SealedReply, Verified};
pub use signed::{TransferCall, TransferReply};
pub(crate) use types::default_suite;
pub use types::{
    ImportKey, IvSource, Kcv, NewVersion, OaepHash, Origin, TokenConfig, TokenKeyVersion, TokenName, TokenObjectId,
    TokenProfile, TokenStartError, TokenState, UnfitVersion, WireDek, WrappedClone,
};

/// Generated code of `strongroom.kms.worker.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    elided_lifetimes_in_paths
)]
mod pb {
    tonic::include_proto!("strongroom.kms.worker.v1");
}
