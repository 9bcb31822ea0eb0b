//! Sealed delivery: an unwrap request that its user signs, and an answer that only he can open.
//!
//! The request names EDEKs and the user's public key and is signed with his certificate's key. The token worker, not the
//! key service, verifies it; the DEKs leave the token wrapped under a transport key (AES key wrap, RFC 3394), which
//! itself is sealed to the public key (RSA-OAEP, RFC 8017). The answer names the request by its digest and is signed by
//! the token worker, so that nobody in between can answer with DEKs of his own choice. Signed bytes travel as they were
//! signed: nobody re-encodes them.

mod answer;
mod recipient;
mod request;

pub use answer::{HeldIn, OaepHash, SealedAnswer, SealedDek, TransportKey};
pub use recipient::RecipientKey;
pub use request::{Nonce, RequestDigest, SealedRequest, nonce};

use crate::{Failure, kms::v1 as pb, signed::malformed, transport::CertificateSignature};

/// EDEKs in one sealed request: what the token worker does in one go, as a signed batch cannot be cut.
pub const SEALED_EDEKS_MAX: usize = 200;
/// How long a sealed request may hold, in milliseconds.
pub const SEALED_LIFETIME_MS_MAX: u64 = 60_000;
/// What signatures of sealed requests are for.
pub const REQUEST_DOMAIN: &str = "strongroom/sealed-request/v1";
/// What signatures of sealed answers are for.
pub const ANSWER_DOMAIN: &str = "strongroom/sealed-answer/v1";

impl From<CertificateSignature> for pb::CertificateSignature {
    fn from(signature: CertificateSignature) -> Self {
        Self {
            chain: signature.chain,
            scheme: u32::from(signature.scheme),
            signature: signature.signature,
        }
    }
}

impl TryFrom<pb::CertificateSignature> for CertificateSignature {
    type Error = Failure;

    fn try_from(wire: pb::CertificateSignature) -> Result<Self, Failure> {
        Ok(Self {
            chain: wire.chain,
            scheme: u16::try_from(wire.scheme).map_err(|_| malformed("the signature's scheme"))?,
            signature: wire.signature,
        })
    }
}
