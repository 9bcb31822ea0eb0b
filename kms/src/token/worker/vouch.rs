//! The word of the worker that wrapped a clone, for the one that takes it in. Nothing in PKCS#11 says who wrapped a clone: anybody
//! can encrypt a key of his own to a token's clone key, which is public, and open what is minted under it from then on. So a worker
//! signs what it wrapped, and under a name whose DEKs go out sealed only takes in nothing else. The key service carries both
//! and has neither's key.

use std::time::SystemTime;

use prost::Message as _;
use strongroom_proto::{
    Failure, Reason,
    transport::{CertificateSignature, PeerIdentity},
};

use super::gate::Delivery;
use crate::token::{ClonePublicKey, TokenKeyVersion, WrappedClone, pb};

/// What a signature under a clone is about.
const CLONE_DOMAIN: &str = "strongroom/clone/v1";

impl Delivery {
    /// The signature of this worker, which wrapped the clone; none if it has no certificate.
    ///
    /// # Errors
    /// If its key cannot sign.
    pub(super) fn vouch(
        &self,
        version: &TokenKeyVersion,
        destination: &ClonePublicKey,
        clone: &WrappedClone,
    ) -> Result<Option<CertificateSignature>, Failure> {
        let Ok(gate) = self.gate() else { return Ok(None) };
        let signature = gate.own().sign(CLONE_DOMAIN, &statement(version, destination, clone))?;
        Ok(Some(signature))
    }

    /// Refuses a clone that no worker vouches for, if the key's DEKs may go out sealed only.
    ///
    /// # Errors
    /// `token-refused` with what is missing.
    pub(super) fn check_clone(
        &self,
        version: &TokenKeyVersion,
        own: &ClonePublicKey,
        clone: &WrappedClone,
        now: SystemTime,
    ) -> Result<(), Failure> {
        if !self.is_sealed_only(&version.key) {
            return Ok(());
        }
        let refused = |why: &str| {
            let key = &version.key;
            let text = format!(
                "DEKs of key {key} are handed out by sealed delivery only, so a clone of it is taken in if the token worker that \
                 wrapped it has signed it: {why}"
            );
            Failure::new(Reason::TokenRefused, text)
        };
        let gate = self.gate().map_err(|failure| refused(&failure.message))?;
        let signature = clone.signature.as_ref();
        let signature = signature.ok_or_else(|| refused("there is no signature"))?;
        let text = statement(version, own, clone);
        match gate.own().trust().verify(CLONE_DOMAIN, &text, signature, now) {
            Ok(PeerIdentity::TokenWorker) => Ok(()),
            Ok(other) => Err(refused(&format!("{} signed it", other.short()))),
            Err(failure) => Err(refused(&failure.message)),
        }
    }
}

/// The signed text: which version it is, the key that it is wrapped under, and the wrapped bytes, as they go over the link. Without
/// an origin, which no token vouches for of a key that can leave it.
fn statement(version: &TokenKeyVersion, destination: &ClonePublicKey, clone: &WrappedClone) -> Vec<u8> {
    let unsigned = pb::ImportCloneRequest {
        version: Some(pb::TokenKeyVersion {
            origin: String::new(),
            ..version.clone().into()
        }),
        own: Some(destination.into()),
        wrapped: clone.wrapped.clone(),
        key_bits: clone.key_bits,
        signature: None,
    };
    unsigned.encode_to_vec()
}
