//! Checkpoints: the head of the chain, signed by a key that lives in a token.
//!
//! What is signed is `strongroom/audit-checkpoint/v1 ‖ 0x00 ‖ log (16) ‖ seq (8, big-endian) ‖ head (32)`, by ECDSA on P-256
//! over its SHA-256 (FIPS 186-5); the signature is r ‖ s, 64 bytes. The worker that signs builds these bytes itself, so that
//! the key signs nothing else.

use std::{fmt, str::FromStr};

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

const DOMAIN: &[u8] = b"strongroom/audit-checkpoint/v1\0";

/// What stands before the point in a P-256 key's SubjectPublicKeyInfo (RFC 5480, section 2): 26 bytes, then 65.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const POINT_BYTES: usize = 65;

/// Which log: 16 random bytes, drawn when the log is begun. Written into every record as `instance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogId([u8; 16]);

impl LogId {
    /// The id whose bytes these are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A text is not 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an audit log's id is 32 hexadecimal digits")]
pub struct LogIdError;

impl FromStr for LogId {
    type Err = LogIdError;

    fn from_str(s: &str) -> Result<Self, LogIdError> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(s, &mut bytes).map_err(|_| LogIdError)?;
        Ok(Self(bytes))
    }
}

/// The end of a log at some moment: what a checkpoint signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditHead {
    /// The log.
    pub log: LogId,
    /// Its last record's number.
    pub seq: u64,
    /// SHA-256 of that record's line.
    pub hash: [u8; 32],
}

impl AuditHead {
    /// The bytes that are signed.
    #[must_use]
    pub fn signed_text(&self) -> Vec<u8> {
        [DOMAIN, self.log.as_bytes(), &self.seq.to_be_bytes(), &self.hash].concat()
    }

    /// SHA-256 of [`Self::signed_text`]: what `CKM_ECDSA` takes.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let digest = digest(&SHA256, &self.signed_text());
        digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// The public half of a token's audit key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditKey {
    /// The token's label.
    pub token: String,
    /// SubjectPublicKeyInfo in DER, 91 bytes.
    pub public_key: Bytes,
}

impl AuditKey {
    /// The key of a token whose public point is `point`, 65 bytes: 0x04, x, y (SEC 1, section 2.3.3).
    #[must_use]
    pub fn of_point(token: String, point: &[u8]) -> Option<Self> {
        (point.len() == POINT_BYTES && point[0] == 4).then(|| Self {
            token,
            public_key: [&SPKI_PREFIX, point].concat().into(),
        })
    }

    /// The first 8 bytes of SHA-256 of the public key, in hex: by which people compare it.
    #[must_use]
    pub fn id(&self) -> String {
        key_id(&self.public_key)
    }
}

/// A head signed in a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSignature {
    /// Whose key signed.
    pub key: AuditKey,
    /// r ‖ s, 64 bytes.
    pub signature: Bytes,
}

/// What a checkpoint record carries. All bytes are in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The last record that it speaks of, and through it of all before.
    pub seq: u64,
    /// The hash of that record's line.
    pub head: String,
    /// The token whose key signed.
    pub token: String,
    /// [`AuditKey::id`] of that key.
    pub key_id: String,
    /// Its SubjectPublicKeyInfo.
    pub public_key: String,
    /// The signature.
    pub signature: String,
}

impl Checkpoint {
    /// The checkpoint of a head.
    #[must_use]
    pub fn new(head: &AuditHead, signed: &AuditSignature) -> Self {
        Self {
            seq: head.seq,
            head: hex::encode(head.hash),
            token: signed.key.token.clone(),
            key_id: signed.key.id(),
            public_key: hex::encode(&signed.key.public_key),
            signature: hex::encode(&signed.signature),
        }
    }

    /// The public key that signed, if the checkpoint is one of `log` and its signature is good.
    pub(super) fn verify(&self, log: LogId) -> Option<Bytes> {
        let public_key = hex::decode(&self.public_key).ok()?;
        let head = AuditHead {
            log,
            seq: self.seq,
            hash: hex::decode(&self.head).ok()?.try_into().ok()?,
        };
        let signature = hex::decode(&self.signature).ok()?;
        let good = self.key_id == key_id(&public_key) && verifies(&public_key, &head, &signature);
        good.then(|| public_key.into())
    }
}

/// Whether `signature` is the key's over the head.
#[must_use]
pub fn verifies(public_key: &[u8], head: &AuditHead, signature: &[u8]) -> bool {
    public_key.strip_prefix(&SPKI_PREFIX).is_some_and(|point| {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(&head.signed_text(), signature)
            .is_ok()
    })
}

/// The first 8 bytes of SHA-256, in hex.
#[must_use]
pub fn key_id(public_key: &[u8]) -> String {
    hex::encode(&digest(&SHA256, public_key).as_ref()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signed_bytes_are_the_documented_ones() {
        let head = AuditHead {
            log: LogId::from_bytes([1; 16]),
            seq: 0x0203,
            hash: [4; 32],
        };
        let expected = [
            b"strongroom/audit-checkpoint/v1\0".as_slice(),
            &[1; 16],
            &[0, 0, 0, 0, 0, 0, 2, 3],
            &[4; 32],
        ]
        .concat();
        assert_eq!(head.signed_text(), expected);
        assert_eq!(head.log.to_string().parse(), Ok(head.log));
        assert!("0101".parse::<LogId>().is_err());
    }
}
