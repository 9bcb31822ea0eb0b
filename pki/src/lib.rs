//! A small certificate authority: it makes what mutual TLS between Strongroom's processes needs.
//!
//! [`Authority`] signs, [`Request`] says what a certificate is to hold, [`Leaf`] is a certificate with its
//! [`PrivateKey`]. All keys are ECDSA P-256. An identity is a URI among the certificate's names (SPIFFE X.509-SVID,
//! section 2); a process that is called also has the DNS names and addresses that it is called by.
//!
//! It serves development and tests. Whoever runs Strongroom in earnest brings certificates of an authority of their
//! own: this one keeps its key in a file, revokes nothing and keeps no record of what it issued.

mod authority;
mod error;
mod file;
mod key;
mod validity;

pub use authority::{Authority, Leaf, Request};
pub use error::PkiError;
pub use key::PrivateKey;
pub use validity::Validity;
