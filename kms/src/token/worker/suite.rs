//! What an EDEK suite is to the worker. Each suite has a file of its own (`kw`, `gcm`, `hadoop`); everything else here works
//! with any of them and never asks which one it is.

use aws_lc_rs::digest;
use cryptoki::{
    error::Error,
    mechanism::{Mechanism, MechanismType},
    object::{Attribute, ObjectHandle},
    session::Session,
};
use strongroom_proto::{EdekSuite, KeyName, KeyVersion, ZoneId};

use super::{dek::Dek, derived::DerivedKeys, gcm::Gcm, hadoop::Hadoop, kw::Kw};
use crate::token::{Kcv, TokenObjectId};

const CHECK_DOMAIN: &str = "strongroom/kcv/v1";

/// The operations of one suite against an open session.
pub(super) trait Suite: Sync {
    /// Mechanisms that the token must offer.
    fn mechanisms(&self) -> &'static [MechanismType];

    /// Mechanisms that an EZ key is confined to.
    fn key_mechanisms(&self) -> &'static [MechanismType];

    /// What an EZ key may be used for; everything else is forbidden to it.
    fn key_usage(&self) -> &'static [Attribute];

    /// Sizes that an EZ key may have, in bits.
    fn key_bits(&self) -> &'static [u32];

    /// Whether an EDEK opens only for the zone that it was minted for.
    fn binds_zone(&self) -> bool;

    /// Whether a version may make only so many EDEKs, so that none is made but what the key service has counted.
    fn counts_uses(&self) -> bool {
        false
    }

    /// Whether [`Self::rewrap`] leaves the DEK in the token, to whatever key of the token it wraps.
    fn rewraps_inside(&self) -> bool {
        false
    }

    /// Whether an EDEK can have that many bytes.
    fn has_length(&self, wrapped_bytes: usize) -> bool;

    /// Whether a DEK can have that many bytes.
    fn has_dek_length(&self, bytes: usize) -> bool;

    /// The key check value of an EZ key.
    fn check_value(
        &self,
        session: &Session,
        base: ObjectHandle,
        name: &KeyName,
        version: KeyVersion,
    ) -> Result<Kcv, Error>;

    /// Makes a version ready for one zone.
    fn zone_key(&self, session: &Session, derived: &mut DerivedKeys, spot: &Spot<'_>) -> Result<ZoneKey, Error>;

    /// `count` EDEKs of fresh DEKs.
    fn mint(&self, session: &Session, key: &ZoneKey, count: usize) -> Result<Vec<Vec<u8>>, Error>;

    /// The DEK of an EDEK.
    fn open(&self, session: &Session, key: &ZoneKey, wrapped: &[u8]) -> Result<Dek, OpenError>;

    /// The same by way of a key that owes nothing to what is cached: the proof that what was minted opens.
    fn open_afresh(&self, session: &Session, spot: &Spot<'_>, wrapped: &[u8]) -> Result<Dek, OpenError>;

    /// An EDEK of a DEK that the worker has in its memory, seen to hold it: for one that comes from another suite.
    fn wrap(&self, session: &Session, to: &ZoneKey, dek: &Dek) -> Result<Vec<u8>, OpenError>;

    /// The EDEK of the same DEK under another key, version or zone, seen to hold it.
    fn rewrap(&self, session: &Session, from: &ZoneKey, to: &ZoneKey, wrapped: &[u8]) -> Result<Vec<u8>, OpenError>;
}

/// The operations of a suite.
pub(super) fn suite(suite: EdekSuite) -> &'static dyn Suite {
    match suite {
        EdekSuite::Kw => &Kw,
        EdekSuite::Gcm => &Gcm,
        EdekSuite::Hadoop => &Hadoop,
    }
}

/// Sees that an EDEK that was just made of `dek` holds it.
pub(super) fn holding(wrapped: Vec<u8>, opened: Result<Dek, OpenError>, dek: &Dek) -> Result<Vec<u8>, OpenError> {
    match opened {
        Ok(opened) if opened.equals(dek) => Ok(wrapped),
        Err(OpenError::Token(error)) => Err(OpenError::Token(error)),
        _ => Err(OpenError::Wrong("an EDEK that was wrapped again does not hold its DEK")),
    }
}

/// A key version, its object, and the zone that it is used for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot<'a> {
    pub(super) name: &'a KeyName,
    pub(super) version: KeyVersion,
    pub(super) zone: &'a ZoneId,
    pub(super) suite: EdekSuite,
    /// The EZ key.
    pub(super) base: ObjectHandle,
    pub(super) id: TokenObjectId,
    pub(super) kcv: Kcv,
    pub(super) key_bytes: usize,
}

/// What a suite needs to work on the EDEKs of one version and zone.
#[derive(Debug)]
pub(super) struct ZoneKey {
    /// The key that wraps: derived for the zone, or the EZ key itself.
    pub(super) handle: ObjectHandle,
    /// Additional data that binds name, version and zone; empty where the key does that or nothing does.
    pub(super) bound: Vec<u8>,
    /// Bytes of the EZ key.
    pub(super) key_bytes: usize,
}

/// Why an EDEK was not opened or wrapped again.
#[derive(Debug)]
pub(super) enum OpenError {
    /// The token did not open it: that may be the EDEK's fault or the token's own.
    Refused(Error),
    /// The token failed at something that has nothing to do with the EDEK.
    Token(Error),
    /// The token opened it, twice to the same bytes, which are not a DEK with its check value.
    Unsound,
    /// The token gave a wrong answer, and was caught at it.
    Wrong(&'static str),
}

impl From<Error> for OpenError {
    fn from(error: Error) -> Self {
        Self::Token(error)
    }
}

/// `domain` ‖ 0 ‖ length of the name (u16, big-endian) ‖ name ‖ version (u32, big-endian) ‖ zone.
pub(super) fn context(domain: &str, name: &KeyName, version: KeyVersion, zone: &[u8]) -> Vec<u8> {
    let name = name.as_str().as_bytes();
    let length = u16::try_from(name.len()).expect("a key name has at most 128 bytes");
    [
        domain.as_bytes(),
        &[0],
        &length.to_be_bytes(),
        name,
        &version.0.to_be_bytes(),
        zone,
    ]
    .concat()
}

/// The SHA-256 digest that stands for name and version in a key check value.
pub(super) fn check_context(name: &KeyName, version: KeyVersion) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, &context(CHECK_DOMAIN, name, version, &[]));
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The key check value of an EZ key that cannot derive: the first 3 bytes of its AES-CMAC over [`check_context`].
///
/// Not of a block that is merely encrypted: under GCM the encrypted zero block is the key of the tags, and under CTR every
/// encrypted block is a piece of some key stream. A CMAC over two blocks is neither.
pub(super) fn cmac_check_value(
    session: &Session,
    base: ObjectHandle,
    name: &KeyName,
    version: KeyVersion,
) -> Result<Kcv, Error> {
    let mac = session.sign(&Mechanism::AesCMac, base, &check_context(name, version))?;
    let first = mac.first_chunk::<3>().ok_or(Error::InvalidValue)?;
    Ok(Kcv::from_bytes(*first))
}

/// For suites whose EZ key works itself: seen to be the right one by its check value, which was known before.
pub(super) fn same_key(session: &Session, spot: &Spot<'_>) -> Result<(), OpenError> {
    if cmac_check_value(session, spot.base, spot.name, spot.version)? == spot.kcv {
        Ok(())
    } else {
        Err(OpenError::Wrong("a key's check value is not what it was"))
    }
}

/// Fresh random bytes from the token, in one call.
pub(super) fn random(session: &Session, bytes: &mut [u8]) -> Result<(), Error> {
    session.generate_random_slice(bytes)?;
    // Of 12 bytes and more all zero: a generator that did nothing.
    if bytes.len() >= 12 && bytes.iter().all(|&byte| byte == 0) {
        return Err(Error::InvalidValue);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_the_documented_bytes() {
        let name = "payroll".parse::<KeyName>().expect("valid");
        let bytes = context("strongroom/gcm/v1", &name, KeyVersion(0x0102), &[7; 16]);
        let mut expected = b"strongroom/gcm/v1\0\0\x07payroll\0\0\x01\x02".to_vec();
        expected.extend([7; 16]);
        assert_eq!(bytes, expected);

        let expected = digest::digest(&digest::SHA256, b"strongroom/kcv/v1\0\0\x07payroll\0\0\x01\x02");
        assert_eq!(check_context(&name, KeyVersion(0x0102)), expected.as_ref());
    }
}
