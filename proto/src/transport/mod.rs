//! Mutual TLS 1.3, peer identity and deadlines for every service and client.
//!
//! There is no plaintext mode. Who a peer is comes from one URI in its certificate ([`PeerIdentity`]); a
//! client names the role that it expects to reach, so that one service's certificate cannot stand in for
//! another's.

mod client;
mod identity;
mod renewal;
mod retry;
mod server;
mod signing;
mod tls;

pub use client::{Remote, connect, connect_outside};
pub use identity::{PeerIdentity, Role, UserName, peer};
pub use retry::{PATIENCE, Pauses, Repeat, once, retry, retry_for};
pub use server::{ServeError, bind, serve};
pub use signing::{CertificateSignature, Trust};
pub use tls::{TlsError, TlsFiles, TlsIdentity};
