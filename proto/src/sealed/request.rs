use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;

use super::{RecipientKey, SEALED_EDEKS_MAX, SEALED_LIFETIME_MS_MAX};
use crate::{
    Edek, Failure, KeyVersion, Reason, ZoneId,
    signed::{Reader, Writer, malformed, wrapped},
    transport::PeerIdentity,
};

const FORMAT: u8 = 1;

/// 16 random bytes that no other sealed request has.
pub type Nonce = [u8; 16];

/// A new nonce.
#[must_use]
pub fn nonce() -> Nonce {
    uuid::Uuid::new_v4().into_bytes()
}

/// SHA-256 of a sealed request's signed bytes: what its answer names it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestDigest(pub(super) [u8; 32]);

impl RequestDigest {
    /// Of the bytes that [`SealedRequest::encode`] made.
    #[must_use]
    pub fn of(encoded: &[u8]) -> Self {
        let digest = digest(&SHA256, encoded);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// What a user signs to be given DEKs that only he can open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRequest {
    /// Makes it the only one of its kind.
    pub nonce: Nonce,
    /// When it was signed, in milliseconds since 1970.
    pub issued_ms: u64,
    /// When it ends: at most [`SEALED_LIFETIME_MS_MAX`] later.
    pub expires_ms: u64,
    /// Who signs it.
    pub signer: PeerIdentity,
    /// The key that the DEKs are sealed to.
    pub recipient: RecipientKey,
    /// 1 to [`SEALED_EDEKS_MAX`], whole: with suite, key, version and zone.
    pub edeks: Vec<Edek>,
}

impl SealedRequest {
    /// The bytes to sign.
    ///
    /// # Errors
    /// If it is not a request that [`SealedRequest::decode`] takes.
    pub fn encode(&self) -> Result<Bytes, Failure> {
        self.check()?;
        let mut writer = Writer::default();
        writer
            .byte(FORMAT)
            .fixed(&self.nonce)
            .time_ms(self.issued_ms)
            .time_ms(self.expires_ms)
            .field(self.signer.to_string().as_bytes())?
            .field(self.recipient.der())?
            .count(self.edeks.len())?;
        for edek in &self.edeks {
            writer
                .field(edek.key.as_str().as_bytes())?
                .number(edek.version.0)
                .fixed(edek.zone.as_bytes())
                .field(edek.suite.as_str().as_bytes())?
                .field(&edek.wrapped)?;
        }
        Ok(writer.finish().into())
    }

    /// Reads what was signed. Whether it was signed, and by whom, is another question.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`] if anything is not as it must be.
    pub fn decode(encoded: &[u8]) -> Result<Self, Failure> {
        let mut reader = Reader::new(encoded);
        if reader.byte()? != FORMAT {
            return Err(malformed("another format than this version reads"));
        }
        let mut request = Self {
            nonce: reader.array()?,
            issued_ms: reader.time_ms()?,
            expires_ms: reader.time_ms()?,
            signer: reader.text()?.parse()?,
            recipient: RecipientKey::from_der(reader.field()?)?,
            edeks: Vec::new(),
        };
        let count = reader.count()?;
        if count > SEALED_EDEKS_MAX {
            return Err(wrong_count(count));
        }
        for _ in 0..count {
            request.edeks.push(read_edek(&mut reader)?);
        }
        reader.end()?;
        request.check()?;
        Ok(request)
    }

    fn check(&self) -> Result<(), Failure> {
        if !(1..=SEALED_EDEKS_MAX).contains(&self.edeks.len()) {
            return Err(wrong_count(self.edeks.len()));
        }
        match self.expires_ms.checked_sub(self.issued_ms) {
            Some(1..=SEALED_LIFETIME_MS_MAX) => Ok(()),
            _ => Err(malformed("a lifetime that is not 1 to 60000 ms")),
        }
    }
}

fn read_edek(reader: &mut Reader<'_>) -> Result<Edek, Failure> {
    Ok(Edek {
        key: reader.text()?.parse()?,
        version: KeyVersion(reader.number()?),
        zone: ZoneId::from_bytes(reader.array()?),
        suite: reader.text()?.parse()?,
        wrapped: wrapped(reader)?,
    })
}

fn wrong_count(count: usize) -> Failure {
    Failure::new(
        Reason::InvalidArgument,
        format!("a sealed request is about 1 to {SEALED_EDEKS_MAX} EDEKs, not {count}"),
    )
}
