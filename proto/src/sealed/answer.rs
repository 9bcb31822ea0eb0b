use std::str::FromStr;

use bytes::Bytes;

use super::{RequestDigest, SEALED_EDEKS_MAX};
use crate::{
    Failure, ParseError, Reason,
    signed::{Reader, Writer, malformed},
};

const FORMAT: u8 = 1;
const ITEM_DEK: u8 = 0;
const ITEM_FAILURE: u8 = 1;
/// Bytes of a failure's message that the answer carries.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Where a DEK was while it was sealed, or moved to another key or zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldIn {
    /// In the token, which it left only wrapped.
    Token,
    /// In the memory of the token worker: its suite, or the token, has no other way.
    Worker,
}

impl FromStr for HeldIn {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let places = [Self::Token, Self::Worker];
        let known = places.into_iter().find(|place| place.as_str() == s);
        known.ok_or_else(|| ParseError::new("place of a DEK", s, "\"token\" or \"worker\""))
    }
}

impl HeldIn {
    /// The word for it in records and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Worker => "worker",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Token => 1,
            Self::Worker => 2,
        }
    }

    fn of(code: u8) -> Result<Self, Failure> {
        match code {
            1 => Ok(Self::Token),
            2 => Ok(Self::Worker),
            _ => Err(malformed("a DEK that was sealed nowhere known")),
        }
    }
}

/// The hash that RSA-OAEP and its mask generation were done with. OAEP needs no collision resistance of it, so that
/// SHA-1, the only one of some tokens, is as good as the other (RFC 8017, appendix B.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OaepHash {
    /// SHA-1 with MGF1-SHA-1.
    Sha1,
    /// SHA-256 with MGF1-SHA-256.
    Sha256,
}

impl OaepHash {
    const fn code(self) -> u8 {
        match self {
            Self::Sha1 => 1,
            Self::Sha256 => 2,
        }
    }

    fn of(code: u8) -> Result<Self, Failure> {
        match code {
            1 => Ok(Self::Sha1),
            2 => Ok(Self::Sha256),
            _ => Err(malformed("a hash that is not known here")),
        }
    }
}

/// A transport key, sealed to the request's public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportKey {
    /// Where it was made. It wraps what was sealed there.
    pub made_in: HeldIn,
    /// How it is sealed.
    pub hash: OaepHash,
    /// The RSA-OAEP ciphertext of its 32 bytes.
    pub sealed: Bytes,
}

/// A DEK under the transport key of where it was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedDek {
    /// Names the transport key.
    pub sealed_in: HeldIn,
    /// AES key wrap (RFC 3394) of the DEK: 8 bytes more than it.
    pub wrapped: Bytes,
}

/// What the token worker signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedAnswer {
    /// The request that it answers.
    pub request: RequestDigest,
    /// At most one for each place.
    pub transport_keys: Vec<TransportKey>,
    /// One for each EDEK asked for, in order.
    pub results: Vec<Result<SealedDek, Failure>>,
}

impl SealedAnswer {
    /// The bytes to sign.
    ///
    /// # Errors
    /// If a field does not fit.
    pub fn encode(&self) -> Result<Bytes, Failure> {
        let mut writer = Writer::default();
        writer
            .byte(FORMAT)
            .fixed(&self.request.0)
            .count(self.transport_keys.len())?;
        for key in &self.transport_keys {
            writer
                .byte(key.made_in.code())
                .byte(key.hash.code())
                .field(&key.sealed)?;
        }
        writer.count(self.results.len())?;
        for result in &self.results {
            match result {
                Ok(dek) => writer.byte(ITEM_DEK).byte(dek.sealed_in.code()).field(&dek.wrapped)?,
                Err(failure) => writer
                    .byte(ITEM_FAILURE)
                    .field(failure.reason.as_str().as_bytes())?
                    .field(shortened(&failure.message).as_bytes())?,
            };
        }
        Ok(writer.finish().into())
    }

    /// Reads what was signed.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`] if anything is not as it must be.
    pub fn decode(encoded: &[u8]) -> Result<Self, Failure> {
        let mut reader = Reader::new(encoded);
        if reader.byte()? != FORMAT {
            return Err(malformed("another format than this version reads"));
        }
        let request = RequestDigest(reader.array()?);
        let keys = reader.count()?;
        if keys > 2 {
            return Err(malformed("more than two transport keys"));
        }
        let transport_keys = (0..keys).map(|_| read_key(&mut reader)).collect::<Result<_, _>>()?;
        let results = reader.count()?;
        if results > SEALED_EDEKS_MAX {
            return Err(malformed("more results than EDEKs can be asked for"));
        }
        let results = (0..results)
            .map(|_| read_result(&mut reader))
            .collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self {
            request,
            transport_keys,
            results,
        })
    }
}

fn read_key(reader: &mut Reader<'_>) -> Result<TransportKey, Failure> {
    Ok(TransportKey {
        made_in: HeldIn::of(reader.byte()?)?,
        hash: OaepHash::of(reader.byte()?)?,
        sealed: Bytes::copy_from_slice(reader.field()?),
    })
}

fn read_result(reader: &mut Reader<'_>) -> Result<Result<SealedDek, Failure>, Failure> {
    match reader.byte()? {
        ITEM_DEK => Ok(Ok(SealedDek {
            sealed_in: HeldIn::of(reader.byte()?)?,
            wrapped: Bytes::copy_from_slice(reader.field()?),
        })),
        ITEM_FAILURE => {
            let reason = reader.text()?.parse().unwrap_or(Reason::Internal);
            Ok(Err(Failure::new(reason, reader.text()?)))
        }
        _ => Err(malformed("a result that is neither a DEK nor a failure")),
    }
}

fn shortened(message: &str) -> &str {
    &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)]
}
