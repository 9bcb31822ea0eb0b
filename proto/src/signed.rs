//! The one encoding of what is signed: big-endian numbers, and fields that vary in length after their length.

use bytes::Bytes;

use crate::{Edek, Failure, Reason};

/// Builds a signed body.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn byte(&mut self, value: u8) -> &mut Self {
        self.fixed(&[value])
    }

    pub(crate) fn number(&mut self, value: u32) -> &mut Self {
        self.fixed(&value.to_be_bytes())
    }

    pub(crate) fn time_ms(&mut self, value: u64) -> &mut Self {
        self.fixed(&value.to_be_bytes())
    }

    /// Bytes whose number both ends know.
    pub(crate) fn fixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Bytes after their number, which fits 16 bits.
    pub(crate) fn field(&mut self, bytes: &[u8]) -> Result<&mut Self, Failure> {
        self.count(bytes.len())?;
        Ok(self.fixed(bytes))
    }

    pub(crate) fn count(&mut self, count: usize) -> Result<&mut Self, Failure> {
        let count = u16::try_from(count).map_err(|_| malformed("a length over 65535"))?;
        Ok(self.fixed(&count.to_be_bytes()))
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes a signed body apart.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        let (first, rest) = self.0.split_first_chunk().ok_or_else(short)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Failure> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn number(&mut self) -> Result<u32, Failure> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn time_ms(&mut self) -> Result<u64, Failure> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn count(&mut self) -> Result<usize, Failure> {
        self.array().map(|bytes| usize::from(u16::from_be_bytes(bytes)))
    }

    pub(crate) fn field(&mut self) -> Result<&'a [u8], Failure> {
        let length = self.count()?;
        let (field, rest) = self.0.split_at_checked(length).ok_or_else(short)?;
        self.0 = rest;
        Ok(field)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Failure> {
        std::str::from_utf8(self.field()?).map_err(|_| malformed("a text that is not UTF-8"))
    }

    /// Nothing may follow: every byte that was signed has a meaning.
    pub(crate) fn end(self) -> Result<(), Failure> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(malformed("bytes after its end"))
        }
    }
}

/// An EDEK's wrapped bytes.
pub(crate) fn wrapped(reader: &mut Reader<'_>) -> Result<Bytes, Failure> {
    let bytes = reader.field()?;
    if (1..=Edek::WRAPPED_BYTES_MAX).contains(&bytes.len()) {
        Ok(Bytes::copy_from_slice(bytes))
    } else {
        Err(malformed("an EDEK that has not 1 to 128 bytes"))
    }
}

fn short() -> Failure {
    malformed("too few bytes")
}

pub(crate) fn malformed(what: &str) -> Failure {
    Failure::new(
        Reason::InvalidArgument,
        format!("a signed request or answer has {what}"),
    )
}
