//! What somebody can try who holds the user PIN of linked tokens and is after their EZ keys: for this crate's tests only.
//! Knows nothing of the token layer but its labels.
//!
//! `token_thief intercept MODULE LABEL PIN-FILE` wraps the EZ key of a token as a clone for the other one and prints it in
//! hexadecimal. `token_thief steal MODULE LABEL PIN-FILE HEX` tries on a token all that could make it readable, there or
//! elsewhere, and prints a line for each attempt: its name, a colon, and `done` or the token's answer.
//! `token_thief peep MODULE LABEL` tries it without a PIN.

use std::{error::Error, ffi::c_ulong, fs};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::Error as TokenError,
    mechanism::{
        Mechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
        vendor_defined::VendorDefinedMechanism,
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::AuthPin,
};

const OWN: &[u8] = b"strongroom:clone-key:1";

/// `CK_KEY_DERIVATION_STRING_DATA` (PKCS#11 3.1, section 6.43), which the binding has no mechanism for.
#[repr(C)]
struct StringData {
    data: *const u8,
    length: c_ulong,
}

type Answer<T = ()> = Result<T, TokenError>;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["intercept", module, label, pin_file] => intercept(&open(module, label, Some(pin_file))?),
        ["steal", module, label, pin_file, clone] => {
            let session = open(module, label, Some(pin_file))?;
            let clone = hex::decode(clone)?;
            open_clone(&session, &clone)?;
            loosen_clone_key(&session, &clone)?;
            abuse_keys(&session)
        }
        ["peep", module, label] => peep(&open(module, label, None)?),
        _ => Err("intercept, steal or peep, with their arguments, expected".into()),
    }
}

fn open(module: &str, label: &str, pin_file: Option<&str>) -> Result<Session, Box<dyn Error>> {
    let pkcs11 = Pkcs11::new(module)?;
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    for slot in pkcs11.get_slots_with_initialized_token()? {
        if pkcs11.get_token_info(slot)?.label().trim_end() == label {
            let session = pkcs11.open_rw_session(slot)?;
            if let Some(pin_file) = pin_file {
                session.login(UserType::User, Some(&AuthPin::from(fs::read_to_string(pin_file)?)))?;
            }
            return Ok(session);
        }
    }
    Err("no such token".into())
}

#[allow(clippy::print_stdout)]
fn intercept(session: &Session) -> Result<(), Box<dyn Error>> {
    let (key, peer) = (ez_key(session)?, only(session, &peer_search())?);
    println!("{}", hex::encode(session.wrap_key(&oaep(), peer, key)?));
    Ok(())
}

/// Unwraps a clone as anything but what it should become.
fn open_clone(session: &Session, clone: &[u8]) -> Result<(), Box<dyn Error>> {
    let private = own_private(session)?;
    let open = |template: &[Attribute]| session.unwrap_key(&oaep(), private, clone, template);
    let aes = |sensitive, private, trusted_only: Option<bool>| {
        let mut template = secret(KeyType::AES, sensitive, private);
        template.extend(trusted_only.map(Attribute::WrapWithTrusted));
        template
    };
    tell("clone as readable", open(&aes(false, true, Some(true))));
    tell("clone as public object", open(&aes(true, false, Some(true))));
    tell("clone as wrappable", open(&aes(true, true, Some(false))));
    let generic = open(&secret(KeyType::GENERIC_SECRET, false, true));
    tell("clone as readable generic secret", generic);
    let decrypted = session.decrypt(&oaep(), private, clone);
    tell("clone decrypted", decrypted);

    // Whether left out or not, the key comes out bound to trusted keys.
    let unwrapped = open(&aes(true, true, None)).or_else(|_| open(&aes(true, true, Some(true))));
    match unwrapped {
        Ok(key) => {
            abuse(session, "opened clone", key)?;
            let mut derives = aes(true, true, Some(true));
            derives.push(Attribute::Derive(true));
            match open(&derives) {
                Ok(key) => derive(session, "opened clone", key)?,
                Err(error) => tell::<()>("clone that derives", Err(error)),
            }
        }
        // A clone for another token.
        Err(error) => tell::<()>("opened clone", Err(error)),
    }
    Ok(())
}

/// Takes the restrictions off the clone key, or off a copy of it.
fn loosen_clone_key(session: &Session, clone: &[u8]) -> Result<(), Box<dyn Error>> {
    let private = own_private(session)?;
    let no_template = Attribute::VendorDefined((AttributeType::VendorDefined(0x4000_0212), Vec::new()));
    let changes = [
        ("decrypting", Attribute::Decrypt(true)),
        ("template-free", no_template),
        ("extractable", Attribute::Extractable(true)),
        ("readable", Attribute::Sensitive(false)),
        ("modifiable", Attribute::Modifiable(true)),
    ];
    for (what, change) in changes {
        let changed = session.update_attributes(private, std::slice::from_ref(&change));
        tell(&format!("clone key made {what}"), changed);
        let copy = session.copy_object(private, &[Attribute::Token(false), change]);
        if let Ok(copy) = &copy {
            tell(
                &format!("clone decrypted by copy {what}"),
                session.decrypt(&oaep(), *copy, clone),
            );
            let readable = session.unwrap_key(&oaep(), *copy, clone, &secret(KeyType::AES, false, true));
            tell(&format!("clone opened readable by copy {what}"), readable);
        }
        tell(&format!("clone key copied {what}"), copy);
    }
    let exponent = read(session, private, AttributeType::PrivateExponent);
    tell("private exponent read", exponent);
    let own = own_aes(session, &[])?;
    tell(
        "clone key wrapped",
        session.wrap_key(&Mechanism::AesKeyWrapPad, own, private),
    );
    Ok(())
}

/// The same for the EZ key itself, and the keys that it may be wrapped under.
fn abuse_keys(session: &Session) -> Result<(), Box<dyn Error>> {
    let key = ez_key(session)?;
    abuse(session, "EZ key", key)?;
    derive(session, "EZ key", key)?;
    let trusted = own_aes(session, &[Attribute::Trusted(true)]);
    if let Ok(trusted) = &trusted {
        for mechanism in [Mechanism::AesKeyWrap, Mechanism::AesKeyWrapPad] {
            let wrapped = session.wrap_key(&mechanism, *trusted, key);
            tell("EZ key wrapped under own trusted AES key", wrapped);
        }
    }
    tell("own AES key made trusted", trusted);
    let untrusted = own_aes(session, &[])?;
    let trusted = session.update_attributes(untrusted, &[Attribute::Trusted(true)]);
    tell("own AES key declared trusted", trusted);
    let trusted = own_rsa(session, &[Attribute::Trusted(true)]);
    if let Ok((trusted, _)) = &trusted {
        let wrapped = session.wrap_key(&oaep(), *trusted, key);
        tell("EZ key wrapped under own trusted RSA key", wrapped);
    }
    tell("own RSA key made trusted", trusted);
    let (public, _) = own_rsa(session, &[])?;
    let trusted = session.update_attributes(public, &[Attribute::Trusted(true)]);
    tell("own RSA key declared trusted", trusted);
    let copied = session.copy_object(public, &[Attribute::Token(false), Attribute::Trusted(true)]);
    tell("own RSA key copied trusted", copied);
    let Ok(peer) = only(session, &peer_search()) else {
        // A token that cannot be told whom to trust.
        tell::<()>("trusted key found", Err(TokenError::NotSupported));
        return Ok(());
    };
    let modulus = read(session, public, AttributeType::Modulus)?;
    let modulus = [Attribute::Modulus(modulus)];
    tell(
        "trusted key given own modulus",
        session.update_attributes(peer, &modulus),
    );
    let [modulus] = modulus;
    let copied = session.copy_object(peer, &[Attribute::Token(false), modulus]);
    tell("trusted key copied with own modulus", copied);
    Ok(())
}

fn abuse(session: &Session, what: &str, key: ObjectHandle) -> Result<(), Box<dyn Error>> {
    tell(&format!("{what} read"), read(session, key, AttributeType::Value));
    let aes = own_aes(session, &[])?;
    for (how, mechanism) in [
        ("AES-KW", Mechanism::AesKeyWrap),
        ("AES-KWP", Mechanism::AesKeyWrapPad),
        ("AES-CBC", Mechanism::AesCbc([0; 16])),
    ] {
        let wrapped = session.wrap_key(&mechanism, aes, key);
        tell(&format!("{what} wrapped under own key by {how}"), wrapped);
    }
    let (public, _) = own_rsa(session, &[])?;
    tell(
        &format!("{what} wrapped under own RSA key"),
        session.wrap_key(&oaep(), public, key),
    );
    tell(
        &format!("{what} wrapped by RSA PKCS 1"),
        session.wrap_key(&Mechanism::RsaPkcs, public, key),
    );
    for (how, change) in [
        ("readable", Attribute::Sensitive(false)),
        ("wrappable", Attribute::WrapWithTrusted(false)),
        ("public", Attribute::Private(false)),
        ("modifiable", Attribute::Modifiable(true)),
        ("encrypting", Attribute::Encrypt(true)),
    ] {
        // Of the clone that the thief unwrapped himself he may set the use: that is stated in the threat model.
        let of_ez_key = what == "EZ key" || !["encrypting", "modifiable"].contains(&how);
        if of_ez_key {
            let changed = session.update_attributes(key, std::slice::from_ref(&change));
            tell(&format!("{what} made {how}"), changed);
            let copied = session.copy_object(key, &[Attribute::Token(false), change]);
            tell(&format!("{what} copied {how}"), copied);
        }
    }
    Ok(())
}

/// Derives what holds the key itself, or tells it bit by bit, as a readable secret or one that can be wrapped.
fn derive(session: &Session, what: &str, key: ObjectHandle) -> Result<(), Box<dyn Error>> {
    let (own, offset, zeros) = (own_aes(session, &[])?.handle(), 0, [0; 32]);
    let data = StringData {
        data: zeros.as_ptr(),
        length: c_ulong::try_from(zeros.len())?,
    };
    for (how, mechanism) in [
        ("key and data", by(MechanismType::CONCATENATE_BASE_AND_DATA, &data)),
        ("data and key", by(MechanismType::CONCATENATE_DATA_AND_BASE, &data)),
        ("key xor zeros", by(MechanismType::XOR_BASE_AND_DATA, &data)),
        ("key and own key", by(MechanismType::CONCATENATE_BASE_AND_KEY, &own)),
        (
            "part of key",
            by::<c_ulong>(MechanismType::EXTRACT_KEY_FROM_KEY, &offset),
        ),
    ] {
        for (as_what, sensitive) in [("readable", false), ("wrappable", true)] {
            let mut template = secret(KeyType::GENERIC_SECRET, sensitive, true);
            template.push(Attribute::WrapWithTrusted(false));
            // Some tokens want a length, others none.
            let with_length = [template.as_slice(), &[Attribute::ValueLen(16.into())]].concat();
            let derived = session.derive_key(&mechanism, key, &template);
            let derived = derived.or_else(|_| session.derive_key(&mechanism, key, &with_length));
            tell(&format!("{what} derived {as_what} as {how}"), derived);
        }
    }
    Ok(())
}

fn by<T>(kind: MechanismType, parameter: &T) -> Mechanism<'_> {
    Mechanism::VendorDefined(VendorDefinedMechanism::new(kind, Some(parameter)))
}

/// Without a login.
fn peep(session: &Session) -> Result<(), Box<dyn Error>> {
    let secrets = session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY)])?;
    let privates = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)])?;
    let found = match secrets.len() + privates.len() {
        0 => Err(TokenError::NotSupported),
        _ => Ok(()),
    };
    tell("secret or private objects seen", found);
    tell(
        "own AES key made trusted",
        own_aes(session, &[Attribute::Trusted(true)]),
    );
    Ok(())
}

#[allow(clippy::print_stdout)]
fn tell<T>(attempt: &str, answer: Answer<T>) {
    match answer {
        Ok(_) => println!("{attempt}: done"),
        Err(TokenError::Pkcs11(value, _)) => println!("{attempt}: {value:?}"),
        Err(error) => println!("{attempt}: {error}"),
    }
}

fn read(session: &Session, key: ObjectHandle, what: AttributeType) -> Answer<Vec<u8>> {
    match session.get_attributes(key, &[what])?.into_iter().next() {
        Some(Attribute::Value(bytes) | Attribute::Modulus(bytes) | Attribute::PrivateExponent(bytes)) => Ok(bytes),
        _ => Err(TokenError::NotSupported),
    }
}

fn secret(kind: KeyType, sensitive: bool, private: bool) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(kind),
        Attribute::Token(false),
        Attribute::Private(private),
        Attribute::Sensitive(sensitive),
        Attribute::Extractable(true),
        Attribute::Encrypt(true),
    ]
}

fn own_aes(session: &Session, more: &[Attribute]) -> Answer<ObjectHandle> {
    let mut template = vec![
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Wrap(true),
        Attribute::Decrypt(true),
        Attribute::ValueLen(32.into()),
    ];
    template.extend_from_slice(more);
    session.generate_key(&Mechanism::AesKeyGen, &template)
}

fn own_rsa(session: &Session, more: &[Attribute]) -> Answer<(ObjectHandle, ObjectHandle)> {
    let mut public = vec![
        Attribute::Token(false),
        Attribute::ModulusBits(2048.into()),
        Attribute::PublicExponent(vec![1, 0, 1]),
        Attribute::Wrap(true),
    ];
    public.extend_from_slice(more);
    let private = [
        Attribute::Token(false),
        Attribute::Decrypt(true),
        Attribute::Unwrap(true),
    ];
    session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private)
}

fn own_private(session: &Session) -> Result<ObjectHandle, Box<dyn Error>> {
    only(
        session,
        &[
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::Label(OWN.to_vec()),
        ],
    )
}

fn ez_key(session: &Session) -> Result<ObjectHandle, Box<dyn Error>> {
    only(
        session,
        &[
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::Label(b"strongroom:1:kw:payroll@0".to_vec()),
        ],
    )
}

fn peer_search() -> [Attribute; 2] {
    [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Trusted(true)]
}

fn only(session: &Session, search: &[Attribute]) -> Result<ObjectHandle, Box<dyn Error>> {
    match session.find_objects(search)?.as_slice() {
        &[handle] => Ok(handle),
        several => Err(format!("{} objects where one is expected", several.len()).into()),
    }
}

fn oaep() -> Mechanism<'static> {
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(
        MechanismType::SHA1,
        PkcsMgfType::MGF1_SHA1,
        PkcsOaepSource::empty(),
    ))
}
