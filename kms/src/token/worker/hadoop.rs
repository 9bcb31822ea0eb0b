//! Suite `hadoop`: EDEKs exactly as Hadoop's key service makes them (`KeyProviderCryptoExtension`), one PKCS#11 operation
//! after the other.
//!
//! An EDEK is IV (16) ‖ AES-CTR of the DEK, as long as the EZ key. The counter starts at the IV with every bit inverted and
//! counts over 128 bits. There is no tag and no zone in it: whoever changes a bit of an EDEK changes that bit of the DEK, and
//! nothing notices. Since every string of bytes is an EDEK, minting draws IV and EDEK from the token's random numbers and
//! uses no key. Re-wrapping keeps the IV, as Hadoop does.

use std::ffi::c_ulong;

use cryptoki::{
    error::Error,
    mechanism::{Mechanism, MechanismType, vendor_defined::VendorDefinedMechanism},
    object::{Attribute, ObjectHandle},
    session::Session,
};
use strongroom_proto::{KeyName, KeyVersion};
use zeroize::Zeroizing;

use super::{
    dek::Dek,
    derived::DerivedKeys,
    suite::{OpenError, Spot, Suite, ZoneKey, cmac_check_value, holding, random, same_key},
};
use crate::token::Kcv;

const BLOCK_BYTES: usize = 16;
const IV_BYTES: usize = BLOCK_BYTES;

/// The suite.
pub(super) struct Hadoop;

impl Suite for Hadoop {
    fn mechanisms(&self) -> &'static [MechanismType] {
        &[
            MechanismType::AES_KEY_GEN,
            MechanismType::AES_CTR,
            MechanismType::AES_CMAC,
        ]
    }

    fn key_mechanisms(&self) -> &'static [MechanismType] {
        &[MechanismType::AES_CTR, MechanismType::AES_CMAC]
    }

    fn key_usage(&self) -> &'static [Attribute] {
        &[
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Sign(true),
        ]
    }

    fn key_bits(&self) -> &'static [u32] {
        &[128, 192, 256]
    }

    fn binds_zone(&self) -> bool {
        false
    }

    fn has_length(&self, wrapped_bytes: usize) -> bool {
        // A DEK is as long as the EZ key that minted it; versions of one key may differ in that.
        self.has_dek_length(wrapped_bytes.saturating_sub(IV_BYTES))
    }

    fn has_dek_length(&self, bytes: usize) -> bool {
        [16, 24, 32].contains(&bytes)
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
        // Whatever the bytes are, they open to a DEK, and always to the same: no EDEK of this suite is made wrongly.
        let wrapped_bytes = IV_BYTES + key.key_bytes;
        let mut fresh = vec![0; count * wrapped_bytes];
        random(session, &mut fresh)?;
        Ok(fresh.chunks_exact(wrapped_bytes).map(<[u8]>::to_vec).collect())
    }

    fn open(&self, session: &Session, key: &ZoneKey, wrapped: &[u8]) -> Result<Dek, OpenError> {
        let (iv, sealed) = wrapped.split_first_chunk().ok_or(OpenError::Unsound)?;
        let dek = decrypt(session, key.handle, iv, sealed)?;
        // Nothing in an EDEK says whether it opened to the right bytes.
        if decrypt(session, key.handle, iv, sealed)?.equals(&dek) {
            Ok(dek)
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
        let iv: &[u8; IV_BYTES] = wrapped.first_chunk().ok_or(OpenError::Unsound)?;
        seal(session, to, iv, &dek)
    }

    fn wrap(&self, session: &Session, to: &ZoneKey, dek: &Dek) -> Result<Vec<u8>, OpenError> {
        let mut iv = [0; IV_BYTES];
        random(session, &mut iv)?;
        seal(session, to, &iv, dek)
    }
}

fn seal(session: &Session, to: &ZoneKey, iv: &[u8; IV_BYTES], dek: &Dek) -> Result<Vec<u8>, OpenError> {
    let sealed = ctr(iv, dek.bytes(), |mechanism, part| {
        session.encrypt(mechanism, to.handle, part)
    })?;
    let again = [iv.as_slice(), &sealed].concat();
    let opened = Hadoop.open(session, to, &again);
    holding(again, opened, dek)
}

fn decrypt(session: &Session, key: ObjectHandle, iv: &[u8; IV_BYTES], sealed: &[u8]) -> Result<Dek, Error> {
    ctr(iv, sealed, |mechanism, part| session.decrypt(mechanism, key, part)).map(Dek::new)
}

/// `CK_AES_CTR_PARAMS` (PKCS#11 3.1, section 6.13.3), which the binding has no mechanism for.
#[repr(C)]
struct CtrParameters {
    counter_bits: c_ulong,
    counter: [u8; BLOCK_BYTES],
}

/// One run of the key stream over `data`. A counter that passes 2^128 goes on at 0, as Hadoop's does; tokens refuse that, so
/// the run is cut there.
fn ctr(
    iv: &[u8; IV_BYTES],
    data: &[u8],
    run: impl Fn(&Mechanism<'_>, &[u8]) -> Result<Vec<u8>, Error>,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut output = Zeroizing::new(Vec::with_capacity(data.len()));
    for (counter, part) in runs(!u128::from_be_bytes(*iv), data) {
        let parameters = CtrParameters {
            counter_bits: 128,
            counter: counter.to_be_bytes(),
        };
        let mechanism = VendorDefinedMechanism::new(MechanismType::AES_CTR, Some(&parameters));
        let done = Zeroizing::new(run(&Mechanism::VendorDefined(mechanism), part)?);
        if done.len() != part.len() {
            return Err(Error::InvalidValue);
        }
        output.extend_from_slice(&done);
    }
    Ok(output)
}

/// The pieces of `data` by the counter that each starts with: two if the counter wraps, else one.
fn runs(counter: u128, data: &[u8]) -> impl Iterator<Item = (u128, &[u8])> {
    let blocks_left = (u128::MAX - counter).saturating_add(1);
    let bytes_left = usize::try_from(blocks_left)
        .unwrap_or(usize::MAX)
        .saturating_mul(BLOCK_BYTES);
    let (before, after) = data.split_at(bytes_left.min(data.len()));
    [(counter, before), (0, after)]
        .into_iter()
        .filter(|(_, part)| !part.is_empty())
}

const fn ready(spot: &Spot<'_>) -> ZoneKey {
    ZoneKey {
        handle: spot.base,
        bound: Vec::new(),
        key_bytes: spot.key_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_wraps_is_cut_where_it_does() {
        let data = [1; 32];
        let parts =
            |counter| -> Vec<(u128, usize)> { runs(counter, &data).map(|(at, part)| (at, part.len())).collect() };
        assert_eq!(parts(0), [(0, 32)]);
        assert_eq!(parts(u128::MAX - 1), [(u128::MAX - 1, 32)]);
        assert_eq!(parts(u128::MAX), [(u128::MAX, 16), (0, 16)]);
        let uneven: Vec<_> = runs(u128::MAX, &data[..24])
            .map(|(at, part)| (at, part.len()))
            .collect();
        assert_eq!(uneven, [(u128::MAX, 16), (0, 8)]);
    }
}
