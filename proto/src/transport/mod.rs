//! Mutual TLS 1.3, peer identity and deadlines for every service and client.
//!
//! There is no plaintext mode. One listener asks its clients for no certificate ([`serve_without_certificates`]), for
//! callers with bearer tokens; it knows nobody until somebody else has checked the token. Who a peer is comes from one URI in its certificate ([`PeerIdentity`]); a
//! client names the role that it expects to reach, so that one service's certificate cannot stand in for
//! another's.

mod bearer;
mod client;
mod connection;
mod doors;
mod https;
mod identity;
mod network;
mod private;
mod remotes;
mod renewal;
mod retry;
mod server;
mod signing;
mod tls;

pub use bearer::{Authorization, BearerFiles, BearerIdentity, CallerChannel};
pub use client::{Remote, connect, connect_any, connect_bearer, connect_outside};
pub use doors::network;
pub use https::{HttpsClient, HttpsUrl};
pub use identity::{PeerIdentity, Role, UserName, address, authenticated, identified, peer, peer_in};
pub use network::{Listen, Network, Wire};
pub use private::mode_open_to_others;
pub use remotes::Remotes;
pub use retry::{PATIENCE, Pauses, Repeat, once, retry, retry_for};
pub use server::{ServeError, bind, serve, serve_without_certificates};
pub use signing::{CertificateSignature, Trust};
pub use tls::{TlsError, TlsFiles, TlsIdentity};
