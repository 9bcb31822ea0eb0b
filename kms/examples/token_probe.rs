//! Looks at a token, and puts things into it, past the token layer: for this crate's tests only.
//!
//! `token_probe dump MODULE LABEL PIN-FILE` prints one line per secret key object of the token.
//! `token_probe plant MODULE LABEL PIN-FILE OBJECT-LABEL HEX-ID yes|no` makes a key object that is modifiable or not;
//! `replace` does so after it has destroyed every object with that label.
//! `token_probe steal MODULE LABEL PIN-FILE HEX` tries to unwrap what was wrapped to the import key in ways that give it
//! away, and prints how many worked.

use std::{error::Error, fs};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::{
        Mechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::AuthPin,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["dump", module, label, pin_file] => dump(&open(module, label, pin_file)?),
        ["plant", module, label, pin_file, object, id, modifiable] => {
            let session = open(module, label, pin_file)?;
            plant(&session, object, hex::decode(id)?, *modifiable == "yes")
        }
        ["replace", module, label, pin_file, object, id, modifiable] => {
            let session = open(module, label, pin_file)?;
            for handle in session.find_objects(&[Attribute::Label(object.as_bytes().to_vec())])? {
                session.destroy_object(handle)?;
            }
            plant(&session, object, hex::decode(id)?, *modifiable == "yes")
        }
        ["steal", module, label, pin_file, wrapped] => steal(&open(module, label, pin_file)?, &hex::decode(wrapped)?),
        _ => Err("dump, plant, replace or steal, with their arguments, expected".into()),
    }
}

fn open(module: &str, label: &str, pin_file: &str) -> Result<Session, Box<dyn Error>> {
    let pkcs11 = Pkcs11::new(module)?;
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    for slot in pkcs11.get_slots_with_initialized_token()? {
        if pkcs11.get_token_info(slot)?.label().trim_end() == label {
            let session = pkcs11.open_rw_session(slot)?;
            session.login(UserType::User, Some(&AuthPin::from(fs::read_to_string(pin_file)?)))?;
            return Ok(session);
        }
    }
    Err("no such token".into())
}

fn plant(session: &Session, label: &str, id: Vec<u8>, modifiable: bool) -> Result<(), Box<dyn Error>> {
    let off = [
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
    ];
    let mut template = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Derive(true),
        Attribute::ValueLen(32.into()),
        Attribute::AllowedMechanisms(vec![MechanismType::AES_CBC_ENCRYPT_DATA]),
        Attribute::Modifiable(modifiable),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(id),
    ];
    template.extend(off);
    session.generate_key(&Mechanism::AesKeyGen, &template)?;
    Ok(())
}

#[allow(clippy::print_stdout)]
fn steal(session: &Session, wrapped: &[u8]) -> Result<(), Box<dyn Error>> {
    let label = b"strongroom:1:import".to_vec();
    let search = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label(label)];
    let private = *session.find_objects(&search)?.first().ok_or("no import key")?;
    let mut stolen = 0;
    for hash in [
        (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
    ] {
        let oaep = Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash.0, hash.1, PkcsOaepSource::empty()));
        for (sensitive, trusted_only) in [(false, false), (false, true), (true, false)] {
            let template = [
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::Token(false),
                Attribute::Extractable(true),
                Attribute::Sensitive(sensitive),
                Attribute::WrapWithTrusted(trusted_only),
            ];
            stolen += usize::from(session.unwrap_key(&oaep, private, wrapped, &template).is_ok());
        }
        stolen += usize::from(session.decrypt(&oaep, private, wrapped).is_ok());
    }
    println!("{stolen}");
    Ok(())
}

#[allow(clippy::print_stdout)]
fn dump(session: &Session) -> Result<(), Box<dyn Error>> {
    for handle in session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY)])? {
        println!("{}", describe(session, handle)?);
    }
    Ok(())
}

fn describe(session: &Session, handle: ObjectHandle) -> Result<String, Box<dyn Error>> {
    const TYPES: [AttributeType; 20] = [
        AttributeType::Label,
        AttributeType::ValueLen,
        AttributeType::Token,
        AttributeType::Private,
        AttributeType::Sensitive,
        AttributeType::AlwaysSensitive,
        AttributeType::Extractable,
        AttributeType::NeverExtractable,
        AttributeType::Local,
        AttributeType::Modifiable,
        AttributeType::Encrypt,
        AttributeType::Decrypt,
        AttributeType::Sign,
        AttributeType::Verify,
        AttributeType::Wrap,
        AttributeType::Unwrap,
        AttributeType::Derive,
        AttributeType::AllowedMechanisms,
        AttributeType::WrapWithTrusted,
        // Must not come back: the key is sensitive.
        AttributeType::Value,
    ];
    let mut parts = Vec::new();
    for attribute in session.get_attributes(handle, &TYPES)? {
        parts.push(match attribute {
            Attribute::Label(label) => String::from_utf8_lossy(&label).into_owned(),
            Attribute::ValueLen(length) => format!("ValueLen({length})"),
            Attribute::AllowedMechanisms(list) => {
                let names: Vec<_> = list.iter().map(ToString::to_string).collect();
                format!("AllowedMechanisms({})", names.join(" "))
            }
            Attribute::Value(_) => "Value(readable)".to_owned(),
            other => format!("{other:?}"),
        });
    }
    Ok(parts.join(" "))
}
