//! What a token is and which suites it can serve.

use cryptoki::{
    mechanism::MechanismType,
    slot::{Slot, TokenInfo},
};
use strongroom_proto::EdekSuite;

use super::{
    kw,
    remedy::{Trouble, while_doing},
};
use crate::token::{
    TokenProfile,
    module::{Module, label_of},
};

/// Mechanisms that a suite of ours uses, now or planned: worth knowing of a token.
const RELEVANT: [MechanismType; 7] = [
    MechanismType::AES_KEY_GEN,
    MechanismType::AES_CBC_ENCRYPT_DATA,
    MechanismType::AES_KEY_WRAP,
    MechanismType::AES_CMAC,
    MechanismType::AES_GCM,
    MechanismType::AES_CTR,
    MechanismType::RSA_PKCS_OAEP,
];

/// Asks the token and the library what they are.
pub(super) fn inspect(module: &Module, slot: Slot, info: &TokenInfo) -> Result<TokenProfile, Trouble> {
    let offered = module
        .pkcs11()
        .get_mechanism_list(slot)
        .map_err(while_doing("to list its mechanisms"))?;
    let library = module
        .pkcs11()
        .get_library_info()
        .map_err(while_doing("to describe its library"))?;
    let serves_kw = kw::MECHANISMS.iter().all(|needed| offered.contains(needed));
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
        suites: if serves_kw { vec![EdekSuite::Kw] } else { Vec::new() },
    })
}
