//! What a token is and which suites it can serve.

use cryptoki::{
    mechanism::MechanismType,
    slot::{Limit, Slot, TokenInfo},
};
use strongroom_proto::EdekSuite;

use super::{
    remedy::{Trouble, while_doing},
    suite::suite,
    trial::Abilities,
};
use crate::token::{
    TokenProfile,
    module::{Module, label_of},
};

/// Mechanisms that keys are made, wrapped, cloned, imported or delivered with: worth knowing of a token.
const RELEVANT: [MechanismType; 11] = [
    MechanismType::AES_KEY_GEN,
    MechanismType::AES_CBC_ENCRYPT_DATA,
    MechanismType::AES_KEY_WRAP,
    MechanismType::AES_KEY_WRAP_PAD,
    MechanismType::AES_CMAC,
    MechanismType::AES_GCM,
    MechanismType::AES_CTR,
    MechanismType::RSA_PKCS_KEY_PAIR_GEN,
    MechanismType::RSA_PKCS_OAEP,
    MechanismType::RSA_PKCS_PSS,
    MechanismType::ECDSA,
];

/// Asks the token and the library what they are. `seen` is what the token was seen to do, if anybody has logged in; before
/// that its list of mechanisms is all there is to go by.
pub(super) fn inspect(
    module: &Module,
    slot: Slot,
    info: &TokenInfo,
    seen: Option<&Abilities>,
) -> Result<TokenProfile, Trouble> {
    let offered = module
        .pkcs11()
        .get_mechanism_list(slot)
        .map_err(while_doing("to list its mechanisms"))?;
    let library = module
        .pkcs11()
        .get_library_info()
        .map_err(while_doing("to describe its library"))?;
    let abilities = seen.cloned().unwrap_or_else(|| promised(&offered));
    Ok(TokenProfile {
        label: label_of(info).to_owned(),
        manufacturer: info.manufacturer_id().trim_end().to_owned(),
        model: info.model().trim_end().to_owned(),
        serial: info.serial_number().trim_end().to_owned(),
        library: format!(
            "{} {}",
            library.library_description().trim_end(),
            library.library_version()
        ),
        mechanisms: RELEVANT
            .iter()
            .filter(|mechanism| offered.contains(mechanism))
            .map(ToString::to_string)
            .collect(),
        suites: abilities.suites,
        tried: seen.is_some(),
        gcm_iv: abilities.gcm_iv,
        oaep_hashes: abilities.oaep_hashes.iter().map(ToString::to_string).collect(),
        sessions_max: match info.max_session_count() {
            Limit::Max(count) => Some(count),
            Limit::Unavailable | Limit::Infinite => None,
        },
    })
}

fn promised(offered: &[MechanismType]) -> Abilities {
    let offers = |name: &EdekSuite| suite(*name).mechanisms().iter().all(|needed| offered.contains(needed));
    Abilities {
        suites: EdekSuite::ALL.into_iter().filter(offers).collect(),
        ..Abilities::default()
    }
}
