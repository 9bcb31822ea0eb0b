//! Suite `gcm`, one PKCS#11 operation after the other.
//!
//! The EZ key encrypts and decrypts by AES-256-GCM (NIST SP 800-38D) and is used for nothing else but its check value. An
//! EDEK is IV (12) ‖ ciphertext of DEK (32) ‖ check (8) ‖ tag (16): 68 bytes. Name, version and zone are additional data.
//! The check finds a token that decrypts wrongly although the tag was right. DEKs are random bytes of the token; they pass
//! through the worker's memory. Where the token makes its own IVs, its IV is the one that counts.

use cryptoki::{
    error::Error,
    mechanism::{Mechanism, MechanismType, aead::GcmParams},
    object::{Attribute, ObjectHandle},
    session::Session,
    types::Ulong,
};
use strongroom_proto::{KeyName, KeyVersion};
use zeroize::Zeroizing;

use super::{
    dek::{CHECK_BYTES, Dek},
    derived::DerivedKeys,
    suite::{OpenError, Spot, Suite, ZoneKey, cmac_check_value, context, holding, random, same_key},
};
use crate::token::Kcv;

pub(super) const IV_BYTES: usize = 12;
pub(super) const TAG_BYTES: usize = 16;
const DEK_BYTES: usize = 32;
const PLAIN_BYTES: usize = DEK_BYTES + CHECK_BYTES;
const WRAPPED_BYTES: usize = IV_BYTES + PLAIN_BYTES + TAG_BYTES;
const DOMAIN: &str = "strongroom/gcm/v1";

/// The suite.
pub(super) struct Gcm;

impl Suite for Gcm {
    fn mechanisms(&self) -> &'static [MechanismType] {
        &[
            MechanismType::AES_KEY_GEN,
            MechanismType::AES_GCM,
            MechanismType::AES_CMAC,
        ]
    }

    fn key_mechanisms(&self) -> &'static [MechanismType] {
        &[MechanismType::AES_GCM, MechanismType::AES_CMAC]
    }

    fn key_usage(&self) -> &'static [Attribute] {
        &[
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Sign(true),
        ]
    }

    fn key_bits(&self) -> &'static [u32] {
        &[256]
    }

    fn binds_zone(&self) -> bool {
        true
    }

    /// Random IVs: NIST SP 800-38D, section 8.3, allows 2^32 encryptions under one key.
    fn counts_uses(&self) -> bool {
        true
    }

    fn has_length(&self, wrapped_bytes: usize) -> bool {
        wrapped_bytes == WRAPPED_BYTES
    }

    fn has_dek_length(&self, bytes: usize) -> bool {
        bytes == DEK_BYTES
    }

    fn check_value(
        &self,
        session: &Session,
        base: ObjectHandle,
        name: &KeyName,
        version: KeyVersion,
    ) -> Result<Kcv, Error> {
        cmac_check_value(session, base, name, version)
    }

    fn zone_key(&self, _: &Session, _: &mut DerivedKeys, spot: &Spot<'_>) -> Result<ZoneKey, Error> {
        Ok(ready(spot))
    }

    fn mint(&self, session: &Session, key: &ZoneKey, count: usize) -> Result<Vec<Vec<u8>>, Error> {
        // DEK and IV of the whole batch in one call.
        let mut fresh = Zeroizing::new(vec![0; count * (DEK_BYTES + IV_BYTES)]);
        random(session, &mut fresh)?;
        let (parts, _) = fresh.as_chunks::<{ DEK_BYTES + IV_BYTES }>();
        parts
            .iter()
            .map(|part| {
                let (dek, iv) = part.split_at(DEK_BYTES);
                let dek = Dek::new(Zeroizing::new(dek.to_vec()));
                seal(session, key, iv.try_into().map_err(|_| Error::InvalidValue)?, &dek)
            })
            .collect()
    }

    fn open(&self, session: &Session, key: &ZoneKey, wrapped: &[u8]) -> Result<Dek, OpenError> {
        let first = decrypt(session, key, wrapped)?;
        if let Some(dek) = dek_of(&first) {
            return Ok(dek);
        }
        // The tag was right and the check is not. What the token says again is what the EDEK holds.
        if *decrypt(session, key, wrapped)? == *first {
            Err(OpenError::Unsound)
        } else {
            Err(OpenError::Wrong("an EDEK opened to two different values"))
        }
    }

    fn open_afresh(&self, session: &Session, spot: &Spot<'_>, wrapped: &[u8]) -> Result<Dek, OpenError> {
        same_key(session, spot)?;
        self.open(session, &ready(spot), wrapped)
    }

    fn rewrap(&self, session: &Session, from: &ZoneKey, to: &ZoneKey, wrapped: &[u8]) -> Result<Vec<u8>, OpenError> {
        let dek = self.open(session, from, wrapped)?;
        self.wrap(session, to, &dek)
    }

    fn wrap(&self, session: &Session, to: &ZoneKey, dek: &Dek) -> Result<Vec<u8>, OpenError> {
        let mut iv = [0; IV_BYTES];
        random(session, &mut iv)?;
        let again = seal(session, to, iv, dek)?;
        let opened = self.open(session, to, &again);
        holding(again, opened, dek)
    }
}

/// Encrypts a DEK. The IV of the answer is the token's where it makes its own.
fn seal(session: &Session, key: &ZoneKey, iv: [u8; IV_BYTES], dek: &Dek) -> Result<Vec<u8>, Error> {
    let mut plain = Zeroizing::new(Vec::with_capacity(PLAIN_BYTES));
    plain.extend_from_slice(dek.bytes());
    plain.extend_from_slice(&dek.check());
    let (iv, sealed) = encrypt(session, key.handle, iv, &key.bound, &plain)?;
    let wrapped = [iv.as_slice(), &sealed].concat();
    if wrapped.len() == WRAPPED_BYTES {
        Ok(wrapped)
    } else {
        Err(Error::InvalidValue)
    }
}

/// One GCM encryption; answers the IV that was used with the ciphertext and its tag.
pub(super) fn encrypt(
    session: &Session,
    key: ObjectHandle,
    mut iv: [u8; IV_BYTES],
    bound: &[u8],
    plain: &[u8],
) -> Result<([u8; IV_BYTES], Vec<u8>), Error> {
    let parameters = GcmParams::new(&mut iv, bound, tag_bits())?;
    let sealed = session.encrypt(&Mechanism::AesGcm(parameters), key, plain)?;
    Ok((iv, sealed))
}

fn decrypt(session: &Session, key: &ZoneKey, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let (iv, sealed) = parse(wrapped).ok_or(OpenError::Unsound)?;
    let mut iv = *iv;
    let parameters = GcmParams::new(&mut iv, &key.bound, tag_bits())?;
    session
        .decrypt(&Mechanism::AesGcm(parameters), key.handle, sealed)
        .map(Zeroizing::new)
        .map_err(OpenError::Refused)
}

/// IV, and ciphertext with tag.
fn parse(wrapped: &[u8]) -> Option<(&[u8; IV_BYTES], &[u8])> {
    let (iv, sealed) = wrapped.split_first_chunk::<IV_BYTES>()?;
    (sealed.len() == PLAIN_BYTES + TAG_BYTES).then_some((iv, sealed))
}

fn dek_of(plain: &[u8]) -> Option<Dek> {
    let (dek, check) = plain.split_last_chunk::<CHECK_BYTES>()?;
    let dek = (dek.len() == DEK_BYTES).then(|| Dek::new(Zeroizing::new(dek.to_vec())))?;
    (dek.check() == *check).then_some(dek)
}

fn ready(spot: &Spot<'_>) -> ZoneKey {
    ZoneKey {
        handle: spot.base,
        bound: context(DOMAIN, spot.name, spot.version, spot.zone.as_bytes()),
        key_bytes: spot.key_bytes,
    }
}

fn tag_bits() -> Ulong {
    Ulong::new(TAG_BYTES as u64 * 8)
}
