//! The worker's messages: conversions from typed values and back, for both ends of the link. Message values that may
//! hold a DEK are zeroed when they are dropped; what the HTTP/2 layer buffers is out of reach.

use bytes::Bytes;
use strongroom_proto::{Failure, KeyName, KeyVersion, Reason, ZoneId};
use zeroize::{Zeroize, Zeroizing};

use super::{
    ClonePublicKey, ImportKey, IvSource, Kcv, NewVersion, OaepHash, Origin, TokenKeyVersion, TokenObjectId,
    TokenProfile, UnfitVersion, pb,
};

impl Drop for pb::item_result::Result {
    fn drop(&mut self) {
        if let Self::Value(bytes) = self {
            bytes.zeroize();
        }
    }
}

// Generated without Debug because it may hold a DEK.
impl std::fmt::Debug for pb::ItemResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ItemResult(withheld)")
    }
}

impl std::fmt::Debug for pb::item_result::Result {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Result(withheld)")
    }
}

/// One item's outcome as the worker's message.
pub(super) fn item_to_wire(result: Result<Zeroizing<Vec<u8>>, Failure>) -> pb::ItemResult {
    let result = match result {
        Ok(mut value) => pb::item_result::Result::Value(std::mem::take(&mut *value)),
        Err(failure) => pb::item_result::Result::Failure(pb::ItemFailure {
            reason: failure.reason.as_str().to_owned(),
            message: failure.message,
        }),
    };
    pb::ItemResult { result: Some(result) }
}

/// One item's outcome out of the worker's message.
pub(super) fn item_from_wire(mut item: pb::ItemResult) -> Result<Zeroizing<Vec<u8>>, Failure> {
    match &mut item.result {
        Some(pb::item_result::Result::Value(value)) => Ok(Zeroizing::new(std::mem::take(value))),
        Some(pb::item_result::Result::Failure(failure)) => Err(Failure::new(
            failure.reason.parse().unwrap_or(Reason::Internal),
            std::mem::take(&mut failure.message),
        )),
        None => Err(malformed("an item without a result")),
    }
}

/// Key, version and zone of a request.
pub(super) fn key_ref(key: &KeyName, version: KeyVersion, zone: &ZoneId) -> pb::KeyRef {
    pb::KeyRef {
        key_name: key.as_str().to_owned(),
        version: version.0,
        zone_id: Bytes::from(*zone),
    }
}

/// Parses what [`key_ref`] makes.
pub(super) fn parse_key_ref(wire: Option<pb::KeyRef>) -> Result<(KeyName, KeyVersion, ZoneId), Failure> {
    let wire = wire.ok_or_else(|| Failure::new(Reason::InvalidArgument, "the request names no key"))?;
    Ok((
        wire.key_name.parse()?,
        KeyVersion(wire.version),
        ZoneId::try_from(wire.zone_id.as_ref())?,
    ))
}

/// Where a version is in listings.
pub(super) fn place(key: &KeyName, version: KeyVersion) -> pb::VersionPlace {
    pb::VersionPlace {
        key_name: key.as_str().to_owned(),
        version: version.0,
    }
}

/// Parses what [`place`] makes.
pub(super) fn parse_place(wire: &pb::VersionPlace) -> Result<(KeyName, KeyVersion), Failure> {
    Ok((wire.key_name.parse()?, KeyVersion(wire.version)))
}

impl From<&NewVersion> for pb::GenerateVersionRequest {
    fn from(new: &NewVersion) -> Self {
        Self {
            key_name: new.key.as_str().to_owned(),
            version: new.version.0,
            suite: new.suite.as_str().to_owned(),
            key_bits: new.key_bits,
            token_id: new.id.into(),
            clonable: false,
        }
    }
}

impl TryFrom<pb::GenerateVersionRequest> for NewVersion {
    type Error = Failure;

    fn try_from(wire: pb::GenerateVersionRequest) -> Result<Self, Failure> {
        Ok(Self {
            key: wire.key_name.parse()?,
            version: KeyVersion(wire.version),
            suite: wire.suite.parse()?,
            key_bits: wire.key_bits,
            id: parse_id(&wire.token_id)?,
        })
    }
}

impl From<&ClonePublicKey> for pb::ClonePublicKey {
    fn from(key: &ClonePublicKey) -> Self {
        Self {
            modulus: key.modulus.clone(),
            exponent: key.exponent.clone(),
        }
    }
}

impl From<pb::ClonePublicKey> for ClonePublicKey {
    fn from(wire: pb::ClonePublicKey) -> Self {
        Self::new(&wire.modulus, &wire.exponent)
    }
}

impl From<TokenKeyVersion> for pb::TokenKeyVersion {
    fn from(version: TokenKeyVersion) -> Self {
        Self {
            key_name: version.key.as_str().to_owned(),
            version: version.version.0,
            suite: version.suite.as_str().to_owned(),
            kcv: version.kcv.into(),
            token_id: version.token_id.into(),
            origin: version.origin.as_str().to_owned(),
        }
    }
}

impl TryFrom<pb::TokenKeyVersion> for TokenKeyVersion {
    type Error = Failure;

    fn try_from(wire: pb::TokenKeyVersion) -> Result<Self, Failure> {
        let kcv = wire.kcv.as_ref().try_into().map_err(|_| malformed("a KCV"))?;
        Ok(Self {
            key: wire.key_name.parse()?,
            version: KeyVersion(wire.version),
            suite: wire.suite.parse()?,
            kcv: Kcv::from_bytes(kcv),
            token_id: parse_id(&wire.token_id)?,
            origin: Origin::ALL
                .into_iter()
                .find(|origin| origin.as_str() == wire.origin)
                .ok_or_else(|| malformed("an origin"))?,
        })
    }
}

impl From<UnfitVersion> for pb::UnfitVersion {
    fn from(unfit: UnfitVersion) -> Self {
        Self {
            key_name: unfit.key.as_str().to_owned(),
            version: unfit.version.0,
            why: unfit.why,
        }
    }
}

impl TryFrom<pb::UnfitVersion> for UnfitVersion {
    type Error = Failure;

    fn try_from(wire: pb::UnfitVersion) -> Result<Self, Failure> {
        Ok(Self {
            key: wire.key_name.parse()?,
            version: KeyVersion(wire.version),
            why: wire.why,
        })
    }
}

impl From<ImportKey> for pb::ImportKey {
    fn from(key: ImportKey) -> Self {
        Self {
            spki: key.spki.into(),
            token_id: key.id.into(),
            hash: key.hash.as_str().to_owned(),
        }
    }
}

impl TryFrom<pb::ImportKey> for ImportKey {
    type Error = Failure;

    fn try_from(wire: pb::ImportKey) -> Result<Self, Failure> {
        Ok(Self {
            spki: wire.spki.into(),
            id: parse_id(&wire.token_id)?,
            hash: OaepHash::ALL
                .into_iter()
                .find(|hash| hash.as_str() == wire.hash)
                .ok_or_else(|| malformed("a hash"))?,
        })
    }
}

impl From<TokenProfile> for pb::TokenProfile {
    fn from(profile: TokenProfile) -> Self {
        Self {
            label: profile.label,
            manufacturer: profile.manufacturer,
            model: profile.model,
            serial: profile.serial,
            library: profile.library,
            mechanisms: profile.mechanisms,
            suites: profile.suites.iter().map(|suite| suite.as_str().to_owned()).collect(),
            tried: profile.tried,
            gcm_iv: profile.gcm_iv.map_or("", IvSource::as_str).to_owned(),
            oaep_hashes: profile.oaep_hashes,
            sessions_max: profile.sessions_max.unwrap_or_default(),
        }
    }
}

impl TryFrom<pb::TokenProfile> for TokenProfile {
    type Error = Failure;

    fn try_from(wire: pb::TokenProfile) -> Result<Self, Failure> {
        let suites = wire
            .suites
            .iter()
            .map(|suite| suite.parse())
            .collect::<Result<_, _>>()?;
        Ok(Self {
            label: wire.label,
            manufacturer: wire.manufacturer,
            model: wire.model,
            serial: wire.serial,
            library: wire.library,
            mechanisms: wire.mechanisms,
            suites,
            tried: wire.tried,
            gcm_iv: [IvSource::Caller, IvSource::Token]
                .into_iter()
                .find(|source| source.as_str() == wire.gcm_iv),
            oaep_hashes: wire.oaep_hashes,
            sessions_max: Some(wire.sessions_max).filter(|&max| max > 0),
        })
    }
}

pub(super) fn parse_id(wire: &[u8]) -> Result<TokenObjectId, Failure> {
    let id = wire.try_into().map_err(|_| malformed("a CKA_ID"))?;
    Ok(TokenObjectId::from_bytes(id))
}

/// A version and the clone key that a request to copy it names.
pub(super) fn parse_clone(
    version: Option<pb::TokenKeyVersion>,
    key: Option<pb::ClonePublicKey>,
) -> Result<(TokenKeyVersion, ClonePublicKey), Failure> {
    let missing = || Failure::new(Reason::InvalidArgument, "the request names no version or no clone key");
    let version = version.ok_or_else(missing)?.try_into()?;
    Ok((version, key.ok_or_else(missing)?.into()))
}

/// An answer that no worker of this version gives.
pub(super) fn malformed(what: &str) -> Failure {
    Failure::new(
        Reason::Internal,
        format!("the token worker answered with {what} out of form"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_survive_the_link_and_their_debug_withholds_them() {
        let wire = item_to_wire(Ok(Zeroizing::new(vec![0xa5; 32])));
        assert!(!format!("{wire:?} {:?}", wire.result).contains("165"), "shows a DEK");
        assert_eq!(item_from_wire(wire).expect("a value").as_slice(), [0xa5; 32]);

        let failure = Failure::new(Reason::EdekInvalid, "why");
        assert_eq!(
            item_from_wire(item_to_wire(Err(failure.clone()))).expect_err("a failure"),
            failure
        );
        assert!(item_from_wire(pb::ItemResult { result: None }).is_err());
    }
}
