//! Proofs by the metadata service that a zone uses no old version of its key, before the key service destroys one.
//!
//! A proof is bytes that the metadata service signs with the key of its certificate; the key service verifies it without
//! asking anybody. The proof, all integers big-endian:
//! `1 | known (1) | zone (16) | through version (4) | issued_ms (8) | key length (2) | key | identity length (2) | identity`,
//! signed under the domain `strongroom/zone-proof/v1`. Carried with its signature and certificates it is:
//! `SRZPROOF | 1 | proof length (2) | proof | scheme (2) | signature length (2) | signature | certificate count (1) |
//! (certificate length (2) | certificate)…`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes};

use crate::{
    Failure, KeyName, KeyVersion, Reason, ZoneId,
    transport::{CertificateSignature, PeerIdentity, TlsIdentity, Trust},
};

const MAGIC: &[u8] = b"SRZPROOF";
const FORMAT: u8 = 1;
const DOMAIN: &str = "strongroom/zone-proof/v1";

/// Bytes of a signed proof at most.
pub const PROOF_BYTES_MAX: usize = 80 << 10;

/// How far the metadata service's clock may be ahead of the verifier's.
pub const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(60);

/// What the metadata service says of a zone: no file that shows, is being written or waits to be purged has an EDEK of
/// `key` of version `through` or older, none is in stock, and none will be recorded again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneProof {
    /// The zone.
    pub zone: ZoneId,
    /// Its key.
    pub key: KeyName,
    /// The newest version that the proof speaks of; it speaks of all older ones too.
    pub through: KeyVersion,
    /// From when on it holds, in milliseconds since 1970: the time before it was looked.
    pub issued_ms: u64,
    /// Whether the metadata service has a record of the zone. One that was removed and purged has none; nor has any zone
    /// that another metadata service keeps.
    pub known: bool,
    /// Who says so.
    pub issuer: PeerIdentity,
}

/// A proof with its signature and what verifies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedProof {
    proof: Bytes,
    signature: CertificateSignature,
}

impl ZoneProof {
    /// Signs the proof with the key of `by`'s certificate, who must be its issuer.
    ///
    /// # Errors
    /// If the key cannot sign.
    pub fn sign(&self, by: &TlsIdentity) -> Result<SignedProof, Failure> {
        let proof = self.encode();
        let signature = by.sign(DOMAIN, &proof)?;
        Ok(SignedProof {
            proof: proof.into(),
            signature,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT, self.known.into()];
        bytes.extend_from_slice(self.zone.as_bytes());
        bytes.extend_from_slice(&self.through.0.to_be_bytes());
        bytes.extend_from_slice(&self.issued_ms.to_be_bytes());
        put(&mut bytes, self.key.as_str().as_bytes());
        put(&mut bytes, self.issuer.to_string().as_bytes());
        bytes
    }

    fn decode(mut body: &[u8]) -> Option<Self> {
        if body.try_get_u8().ok()? != FORMAT {
            return None;
        }
        let known = match body.try_get_u8().ok()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let (zone, rest) = body.split_first_chunk::<16>()?;
        body = rest;
        let proof = Self {
            known,
            zone: ZoneId::from_bytes(*zone),
            through: KeyVersion(body.try_get_u32().ok()?),
            issued_ms: body.try_get_u64().ok()?,
            key: text(&mut body)?.parse().ok()?,
            issuer: text(&mut body)?.parse().ok()?,
        };
        body.is_empty().then_some(proof)
    }
}

impl SignedProof {
    /// What the proof says, if it is the metadata service's, by a certificate of the CA that holds at `now`, and no older
    /// than `age_max`.
    ///
    /// # Errors
    /// [`Reason::PermissionDenied`] and what is wrong with it.
    pub fn verify(&self, trust: &Trust, now: SystemTime, age_max: Duration) -> Result<ZoneProof, Failure> {
        let signer = trust
            .verify(DOMAIN, &self.proof, &self.signature, now)
            .map_err(|failure| refused(&failure.message))?;
        let proof = ZoneProof::decode(&self.proof).ok_or_else(|| refused("it cannot be read"))?;
        if signer != PeerIdentity::Metadata || proof.issuer != signer {
            let who = signer.short();
            return Err(refused(&format!(
                "{who} signed it; only the metadata service may, in its own name"
            )));
        }
        check_age(proof.issued_ms, now, age_max)?;
        Ok(proof)
    }

    /// The bytes that go into a file or a call.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let CertificateSignature {
            scheme,
            signature,
            chain,
        } = &self.signature;
        let mut bytes = [MAGIC, &[FORMAT]].concat();
        put(&mut bytes, &self.proof);
        bytes.extend_from_slice(&scheme.to_be_bytes());
        put(&mut bytes, signature);
        bytes.push(u8::try_from(chain.len()).unwrap_or(u8::MAX));
        for certificate in chain {
            put(&mut bytes, certificate);
        }
        bytes.into()
    }

    /// Reads what [`Self::to_bytes`] made. Nothing is verified yet.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`] if it is no signed proof.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Failure> {
        Self::decode(bytes).ok_or_else(|| {
            Failure::new(
                Reason::InvalidArgument,
                "this is no zone proof; have one made with: strongroom zone proof",
            )
        })
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > PROOF_BYTES_MAX {
            return None;
        }
        let mut rest = bytes.strip_prefix(MAGIC)?.strip_prefix(&[FORMAT])?;
        let proof = Bytes::copy_from_slice(take(&mut rest)?);
        let scheme = rest.try_get_u16().ok()?;
        let signature = Bytes::copy_from_slice(take(&mut rest)?);
        let count = rest.try_get_u8().ok()?;
        let chain = (0..count)
            .map(|_| take(&mut rest).map(Bytes::copy_from_slice))
            .collect::<Option<Vec<_>>>()?;
        rest.is_empty().then_some(Self {
            proof,
            signature: CertificateSignature {
                scheme,
                signature,
                chain,
            },
        })
    }
}

fn check_age(issued_ms: u64, now: SystemTime, age_max: Duration) -> Result<(), Failure> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let issued = Duration::from_millis(issued_ms);
    if issued > now + CLOCK_AHEAD_MAX {
        return Err(refused("it is dated in the future; check the clocks of both services"));
    }
    if now.saturating_sub(issued) > age_max {
        let (age_s, max_s) = (now.saturating_sub(issued).as_secs(), age_max.as_secs());
        return Err(refused(&format!(
            "it is {age_s} s old and may be {max_s} s; have one made anew with: strongroom zone proof"
        )));
    }
    Ok(())
}

/// Appends a length and the bytes.
fn put(bytes: &mut Vec<u8>, field: &[u8]) {
    let length = u16::try_from(field.len()).expect("names, signatures and certificates are shorter than 64 KiB");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(field);
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::from(rest.try_get_u16().ok()?);
    let (field, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(field)
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(take(rest)?).ok()
}

fn refused(why: &str) -> Failure {
    Failure::new(Reason::PermissionDenied, format!("the zone proof is refused: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_the_documented_bytes() {
        let proof = ZoneProof {
            zone: ZoneId::from_bytes([7; 16]),
            key: "payroll".parse().expect("valid"),
            through: KeyVersion(3),
            issued_ms: 0x0102,
            known: true,
            issuer: PeerIdentity::Metadata,
        };
        let expected = [
            b"\x01\x01".as_slice(),
            &[7; 16],
            b"\0\0\0\x03\0\0\0\0\0\0\x01\x02\0\x07payroll\0\x24spiffe://strongroom/service/metadata",
        ]
        .concat();
        assert_eq!(proof.encode(), expected);
        assert_eq!(ZoneProof::decode(&expected), Some(proof));
        for length in 0..expected.len() {
            assert_eq!(ZoneProof::decode(&expected[..length]), None, "length {length}");
        }
    }
}
