//! Capabilities: what the metadata service lets one client do with one file's blocks, for a short time.
//!
//! A capability is a signed list of extents, a right, the identity that may use it and an end. Block nodes
//! verify it without asking anybody. Wire form, all integers big-endian:
//! `1 | right (1) | expires_ms (8) | identity length (2) | identity | extent count (2) | extents (16 each) | Ed25519 signature (64)`,
//! the signature over the string `strongroom/capability/v1`, a zero byte and all that stands before it (RFC 8032).

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use bytes::{Buf, Bytes};

use crate::{ExtentId, Failure, Reason, limits::EXTENTS_PER_FILE_MAX, transport::PeerIdentity};

const FORMAT: u8 = 1;
const SIGNATURE_BYTES: usize = 64;
const CONTEXT: &[u8] = b"strongroom/capability/v1\0";

/// What a capability lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Read blocks.
    Read,
    /// Write blocks that do not exist yet.
    Write,
}

/// What a capability says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// What may be done.
    pub right: Right,
    /// Milliseconds since the Unix epoch after which it is void.
    pub expires_ms: u64,
    /// Who may use it. A block node that forwards a block passes it on.
    pub holder: PeerIdentity,
    /// Whose blocks.
    pub extents: Vec<ExtentId>,
}

/// Signs capabilities. Lives in the metadata service.
pub struct Signer {
    key: Ed25519KeyPair,
}

impl Signer {
    /// A signer from a PKCS#8 document (RFC 5958).
    ///
    /// # Errors
    /// If the document is not an Ed25519 key pair.
    pub fn from_pkcs8(document: &[u8]) -> Result<Self, Failure> {
        Ed25519KeyPair::from_pkcs8(document)
            .map(|key| Self { key })
            .map_err(|error| Failure::new(Reason::Internal, format!("the capability key is not usable: {error}")))
    }

    /// The 32-byte public key that verifies what this signs.
    #[must_use]
    pub fn public_key(&self) -> Bytes {
        Bytes::copy_from_slice(self.key.public_key().as_ref())
    }

    /// The signed form of a capability.
    #[must_use]
    pub fn sign(&self, capability: &Capability) -> Bytes {
        let mut bytes = encode(capability);
        let signature = self.key.sign(&signed_text(&bytes));
        bytes.extend_from_slice(signature.as_ref());
        bytes.into()
    }
}

/// Verifies a capability and says what it allows.
///
/// # Errors
/// [`Reason::CapabilityRefused`] if no key of `keys` signed it or it ran out before `now_ms`.
pub fn verify(signed: &[u8], keys: &[Bytes], now_ms: u64) -> Result<Capability, Failure> {
    let refused = |why: &str| Failure::new(Reason::CapabilityRefused, format!("the capability {why}"));
    let cut = signed
        .len()
        .checked_sub(SIGNATURE_BYTES)
        .ok_or_else(|| refused("is too short"))?;
    let (body, signature) = signed.split_at(cut);
    let text = signed_text(body);
    if !keys
        .iter()
        .any(|key| UnparsedPublicKey::new(&ED25519, key).verify(&text, signature).is_ok())
    {
        return Err(refused("is not signed by this cluster's metadata service"));
    }
    let capability = decode(body).ok_or_else(|| refused("cannot be read"))?;
    if capability.expires_ms < now_ms {
        return Err(refused("has expired; open the file again"));
    }
    Ok(capability)
}

fn signed_text(body: &[u8]) -> Vec<u8> {
    [CONTEXT, body].concat()
}

fn encode(capability: &Capability) -> Vec<u8> {
    let holder = capability.holder.to_string();
    let length = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
    let mut bytes = vec![FORMAT, matches!(capability.right, Right::Write).into()];
    bytes.extend_from_slice(&capability.expires_ms.to_be_bytes());
    bytes.extend_from_slice(&length(holder.len()));
    bytes.extend_from_slice(holder.as_bytes());
    bytes.extend_from_slice(&length(capability.extents.len()));
    for extent in &capability.extents {
        bytes.extend_from_slice(extent.as_bytes());
    }
    bytes
}

fn decode(mut body: &[u8]) -> Option<Capability> {
    if body.try_get_u8().ok()? != FORMAT {
        return None;
    }
    let right = match body.try_get_u8().ok()? {
        0 => Right::Read,
        1 => Right::Write,
        _ => return None,
    };
    let expires_ms = body.try_get_u64().ok()?;
    let holder_length = usize::from(body.try_get_u16().ok()?);
    let (holder, mut rest) = body.split_at_checked(holder_length)?;
    let holder = std::str::from_utf8(holder).ok()?.parse().ok()?;
    let count = usize::from(rest.try_get_u16().ok()?);
    if count > EXTENTS_PER_FILE_MAX || rest.len() != count * 16 {
        return None;
    }
    let extents = rest
        .chunks_exact(16)
        .map(ExtentId::try_from)
        .collect::<Result<_, _>>()
        .ok()?;
    Some(Capability {
        right,
        expires_ms,
        holder,
        extents,
    })
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;

    use super::*;

    fn signer() -> Signer {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("random numbers");
        Signer::from_pkcs8(document.as_ref()).expect("own key")
    }

    fn capability() -> Capability {
        Capability {
            right: Right::Write,
            expires_ms: 1000,
            holder: "spiffe://strongroom/user/alice".parse().expect("valid"),
            extents: vec![ExtentId::generate(), ExtentId::generate()],
        }
    }

    #[test]
    fn a_signed_capability_reads_back_until_it_expires() {
        let (signer, capability) = (signer(), capability());
        let signed = signer.sign(&capability);
        let keys = [signer.public_key()];
        assert_eq!(verify(&signed, &keys, 1000), Ok(capability));
        assert!(
            verify(&signed, &keys, 1001)
                .expect_err("expired")
                .message
                .contains("expired")
        );
    }

    #[test]
    fn no_flipped_bit_and_no_foreign_key_passes() {
        let (signer, other) = (signer(), signer());
        let signed = signer.sign(&capability());
        let keys = [signer.public_key()];
        for bit in 0..signed.len() * 8 {
            let mut changed = signed.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&changed, &keys, 0).is_err(), "bit {bit} may be flipped");
        }
        for length in 0..signed.len() {
            assert!(verify(&signed[..length], &keys, 0).is_err(), "length {length} passes");
        }
        assert!(verify(&signed, &[other.public_key()], 0).is_err());
    }
}
