//! The limit: the PKCS#11 calls that the token worker makes for an operation, those by which it verifies what it re-wrapped
//! included, in a loop on one session with everything cached and nothing around them, on the keys that the service made. A
//! batch's canary is not among them.

use std::{
    error::Error,
    path::Path,
    time::{Duration, Instant},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::Error as TokenError,
    mechanism::{Mechanism, MechanismType, aead::GcmParams, ekdf::AesCbcDeriveParams},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::{AuthPin, Ulong},
};

/// Operations between two looks at the clock.
const ROUND: u32 = 50;
/// What suite `gcm` encrypts: a DEK of 32 bytes and a check of 8; and its IV.
const DEK_BYTES: usize = 40;
const IV_BYTES: usize = 12;
const CHECK_MESSAGE: &[u8] = b"strongroom/kw-check/v1";

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Opens a session on the token, logged in.
pub(super) fn open(module: &Path, label: &str, pin: &str) -> Outcome<Session> {
    let library = Pkcs11::new(module)?;
    library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    for slot in library.get_slots_with_initialized_token()? {
        if library.get_token_info(slot)?.label().trim_end() == label {
            let session = library.open_rw_session(slot)?;
            session.login(UserType::User, Some(&AuthPin::new(pin.to_owned().into())))?;
            return Ok(session);
        }
    }
    Err(format!("no token {label}").into())
}

/// Operations a second of `operation suite milliseconds`; or 0 once `fill kw count` has made that many keys.
pub(super) fn measure(session: &Session, request: &str) -> Outcome<f64> {
    let words: Vec<&str> = request.split(' ').collect();
    let [operation, suite, millis] = words[..] else {
        return Err("operation, suite and milliseconds expected".into());
    };
    if operation == "fill" {
        fill(session, millis.parse()?)?;
        return Ok(0.0);
    }
    let time = Duration::from_millis(millis.parse()?);
    let (old, new) = (find(session, suite, 0)?, find(session, suite, 1)?);
    match (suite, operation) {
        ("kw", operation) => {
            let (old, new) = (derive(session, old)?, derive(session, new)?);
            let wrapped = kw_mint(session, old)?;
            let rate = match operation {
                "mint" => rate(time, || kw_mint(session, new).map(drop)),
                "unwrap" => rate(time, || kw_unwrap(session, old, &wrapped)),
                _ => rate(time, || kw_rewrap(session, old, new, &wrapped)),
            }?;
            session.destroy_object(old)?;
            session.destroy_object(new)?;
            Ok(rate)
        }
        (_, operation) => {
            let mut random = Random::default();
            let edek = gcm_mint(session, old, &mut random)?;
            Ok(match operation {
                "mint" => rate(time, || gcm_mint(session, new, &mut random).map(drop)),
                "unwrap" => rate(time, || gcm_open(session, old, &edek).map(drop)),
                _ => rate(time, || {
                    let dek = gcm_open(session, old, &edek)?;
                    let again = gcm_seal(session, new, &dek, &mut random)?;
                    gcm_open(session, new, &again).map(drop)
                }),
            }?)
        }
    }
}

fn rate(time: Duration, mut operation: impl FnMut() -> Result<(), TokenError>) -> Result<f64, TokenError> {
    let started = Instant::now();
    let mut done = 0;
    while started.elapsed() < time {
        for _ in 0..ROUND {
            operation()?;
        }
        done += ROUND;
    }
    Ok(f64::from(done) / started.elapsed().as_secs_f64())
}

fn find(session: &Session, suite: &str, version: u32) -> Outcome<ObjectHandle> {
    let label = format!("strongroom:1:{suite}:bench-{suite}@{version}");
    let found = session.find_objects(&[Attribute::Label(label.clone().into_bytes())])?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| format!("no object {label}").into())
}

/// Makes keys as the service does, past the service, which would keep a record of each.
fn fill(session: &Session, keys: u32) -> Outcome<()> {
    for n in 0..keys {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        let template = [
            Attribute::ValueLen(Ulong::new(32)),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Modifiable(false),
            Attribute::Derive(true),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::Sign(false),
            Attribute::Verify(false),
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
            Attribute::AllowedMechanisms(vec![MechanismType::AES_CBC_ENCRYPT_DATA]),
            Attribute::Label(format!("strongroom:1:kw:fill-{n:05}@0").into_bytes()),
            Attribute::Id(id.to_vec()),
        ];
        session.generate_key(&Mechanism::AesKeyGen, &template)?;
    }
    Ok(())
}

fn derive(session: &Session, base: ObjectHandle) -> Result<ObjectHandle, TokenError> {
    let mechanism = Mechanism::AesCbcEncryptData(AesCbcDeriveParams::new([0; 16], &[7; 32]));
    let mut template = secret(true, false);
    template.extend([
        Attribute::ValueLen(Ulong::new(32)),
        Attribute::Wrap(true),
        Attribute::Unwrap(true),
    ]);
    session.derive_key(&mechanism, base, &template)
}

fn kw_mint(session: &Session, wrapping: ObjectHandle) -> Result<Vec<u8>, TokenError> {
    let mut template = dek(true);
    template.push(Attribute::ValueLen(Ulong::new(32)));
    let dek = session.generate_key(&Mechanism::AesKeyGen, &template)?;
    let wrapped = session.wrap_key(&Mechanism::AesKeyWrap, wrapping, dek)?;
    for _ in 0..2 {
        session.sign(&Mechanism::AesCMac, dek, CHECK_MESSAGE)?;
    }
    session.destroy_object(dek)?;
    Ok(wrapped)
}

fn kw_unwrap(session: &Session, wrapping: ObjectHandle, wrapped: &[u8]) -> Result<(), TokenError> {
    let dek = session.unwrap_key(&Mechanism::AesKeyWrap, wrapping, wrapped, &dek(false))?;
    session.get_attributes(dek, &[AttributeType::Value])?;
    session.destroy_object(dek)
}

fn kw_rewrap(session: &Session, from: ObjectHandle, to: ObjectHandle, wrapped: &[u8]) -> Result<(), TokenError> {
    let dek = session.unwrap_key(&Mechanism::AesKeyWrap, from, wrapped, &dek(true))?;
    session.sign(&Mechanism::AesCMac, dek, CHECK_MESSAGE)?;
    for _ in 0..2 {
        session.wrap_key(&Mechanism::AesKeyWrap, to, dek)?;
    }
    session.destroy_object(dek)
}

fn dek(sensitive: bool) -> Vec<Attribute> {
    let mut template = secret(sensitive, true);
    template.push(Attribute::Sign(true));
    template
}

/// Random bytes of the token, drawn for a whole batch as the service does.
#[derive(Default)]
struct Random(Vec<u8>);

impl Random {
    fn take(&mut self, session: &Session, bytes: usize) -> Result<Vec<u8>, TokenError> {
        if self.0.len() < bytes {
            self.0 = session.generate_random_vec(100 * (DEK_BYTES + IV_BYTES) as u32)?;
        }
        Ok(self.0.split_off(self.0.len() - bytes))
    }
}

fn gcm_mint(session: &Session, key: ObjectHandle, random: &mut Random) -> Result<Vec<u8>, TokenError> {
    let dek = random.take(session, DEK_BYTES)?;
    gcm_seal(session, key, &dek, random)
}

fn gcm_seal(session: &Session, key: ObjectHandle, dek: &[u8], random: &mut Random) -> Result<Vec<u8>, TokenError> {
    let mut iv = random.take(session, IV_BYTES)?;
    let sealed = {
        let mechanism = Mechanism::AesGcm(GcmParams::new(&mut iv, &[7; 64], Ulong::new(128))?);
        session.encrypt(&mechanism, key, dek)?
    };
    Ok([iv, sealed].concat())
}

fn gcm_open(session: &Session, key: ObjectHandle, edek: &[u8]) -> Result<Vec<u8>, TokenError> {
    let (iv, sealed) = edek.split_at(IV_BYTES);
    let mut iv = iv.to_vec();
    let mechanism = Mechanism::AesGcm(GcmParams::new(&mut iv, &[7; 64], Ulong::new(128))?);
    session.decrypt(&mechanism, key, sealed)
}

/// A session key that can be used for nothing else.
fn secret(sensitive: bool, extractable: bool) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(sensitive),
        Attribute::Extractable(extractable),
    ]
}
