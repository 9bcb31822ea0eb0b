//! `strongroom token link`: introduces tokens to one another, so that each can send clones to every other.
//!
//! Each step that touches a token runs in its own one-shot process ([`make_key`], [`trust`]), since a process can load one
//! PKCS#11 library once; [`link`] starts them and carries public keys from one to the next. Fingerprints are for the
//! officers of both tokens to compare: who swaps a public key on the way could otherwise read what is cloned later.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cryptoki::{
    error::{Error, RvError},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
};
use strongroom_proto::{Failure, Reason};

pub use super::own_trust::KeysReadable;
use super::{
    ClonePublicKey, MarkError, TokenConfig,
    clone_key::{self, OWN_LABEL, UnwrapTemplate},
    link::environment,
    marks_directory,
    module::Module,
    own_trust::keys_readable,
    pin::Pin,
    pin_mark::{Login, PinMark, officers_marks, rejected_file},
    worker::refuses_pin,
};

const NO_SENDER: &str = "none of the tokens can be told whom to trust, so that none can send clones to the others: their security \
     officers cannot mark a key as CKA_TRUSTED; add a token where that can be done, use a single token, or HSMs that replicate \
     by themselves (redundancy.mode = \"replicated-by-hsm\")";

/// Raised when tokens that were linked before have to be linked again.
pub const LINK_VERSION: u32 = 2;

/// The lines with which one process tells another what the token was seen to do with what only trusted keys wrap.
const VERDICTS: [(&str, Option<KeysReadable>); 3] = [
    ("guarded", None),
    ("user-trusts", Some(KeysReadable::UserTrusts)),
    ("unguarded", Some(KeysReadable::Unguarded)),
];

/// What a one-shot process works on.
#[derive(Debug, Clone)]
pub struct TrustOptions {
    /// The PKCS#11 module.
    pub module: PathBuf,
    /// The token's label.
    pub token_label: String,
    /// The user PIN for [`make_key`], the security officer's for [`trust`].
    pub pin_file: PathBuf,
    /// Where the marks of a PIN that the token refused are kept: the key service's own, which it consults too.
    pub marks: PathBuf,
}

/// What [`link`] is to do.
#[derive(Debug, Clone)]
pub struct LinkOptions<'a> {
    /// The program that is run with `token-link-key` and `token-link-trust`.
    pub executable: &'a Path,
    /// The tokens that are to know each other.
    pub tokens: &'a [TokenConfig],
    /// The security officer's PIN file for each token by its label; none is needed to only check.
    pub so_pin_files: &'a [(String, PathBuf)],
    /// Below it the key service keeps the marks of refused PINs: none that is marked there is tried, and what is refused is marked.
    pub state_dir: &'a Path,
    /// Labels of tokens that are taken although who holds their PIN can read every key that is cloned into them.
    pub keys_readable_with_pin: &'a [String],
    /// Nothing is changed.
    pub check_only: bool,
}

/// A token's clone key, and whether keys that are wrapped under such keys only are safe in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnKey {
    /// The public half.
    pub key: ClonePublicKey,
    /// Why the user can read what is wrappable under trusted keys only, if he can.
    pub readable: Option<KeysReadable>,
}

/// One token among linked ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// Its label.
    pub label: String,
    /// The public half of its clone key.
    pub key: ClonePublicKey,
    /// Labels of tokens whose keys it trusts now.
    pub trusts: Vec<String>,
    /// Labels of tokens whose keys it does not trust.
    pub lacks: Vec<String>,
    /// Whether it was seen that nobody can tell it whom to trust, its security officer neither: it receives clones and sends
    /// none. Found out when it is told, so never with `--check`.
    pub receives_only: bool,
    /// Why who holds its PIN can read every key that can be cloned, if he can.
    pub keys_readable_with_pin: Option<KeysReadable>,
}

/// Whether a token trusts another one's clone key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It does.
    Trusted,
    /// It was not told to.
    Unknown,
    /// It was told to and does not take it.
    Refused,
}

impl Trust {
    const ALL: [Self; 3] = [Self::Trusted, Self::Unknown, Self::Refused];

    /// The word that one process tells another.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Unknown => "unknown",
            Self::Refused => "refused",
        }
    }
}

/// Makes the token's clone key, or finds the one that it has, and shows by trying it that what it unwraps cannot be made
/// readable; and finds out by trying whether the user can read what only trusted keys wrap.
///
/// # Errors
/// `token-unavailable`, `pin-rejected`, `token-refused` with a sentence for the operator.
pub fn make_key(options: &TrustOptions, check_only: bool) -> Result<OwnKey, Failure> {
    let module = load(options)?;
    let session = open(&module, options, Some(UserType::User))?;
    let search = own_search();
    let found = session.find_objects(&search).map_err(failed("to find its clone key"))?;
    let private = match found.as_slice() {
        [] if check_only => return Err(refused("the token has no clone key yet; run: strongroom token link")),
        [] => generate(&session)?,
        &[private] => private,
        _ => {
            return Err(refused(
                "the token has several clone keys; destroy those that are not its own",
            ));
        }
    };
    let key = public_of(&session, private)?;
    try_out(&session, private, &key)?;
    let readable = keys_readable(&session, &key)?;
    Ok(OwnKey { key, readable })
}

/// Has the security officer install other tokens' clone keys as trusted, as far as they are not. Answers which are
/// trusted afterwards, in the order of `peers`.
///
/// # Errors
/// As [`make_key`].
pub fn trust(options: &TrustOptions, peers: &[ClonePublicKey], check_only: bool) -> Result<Vec<Trust>, Failure> {
    let module = load(options)?;
    // Trusted keys are public objects: to look at them takes no login.
    let session = open(&module, options, (!check_only).then_some(UserType::So))?;
    let one = |peer| {
        Ok(match (is_trusted(&session, peer)?, check_only) {
            (true, _) => Trust::Trusted,
            (false, true) => Trust::Unknown,
            (false, false) => install(&session, peer)?,
        })
    };
    peers.iter().map(one).collect()
}

fn is_trusted(session: &Session, peer: &ClonePublicKey) -> Result<bool, Failure> {
    let found = session.find_objects(&peer.peer_attributes());
    Ok(found.map_err(failed("to find trusted keys"))?.len() == 1)
}

/// Tells the token to trust a key. Some take `CKA_TRUSTED` of nobody, or take it and do not keep to it.
fn install(session: &Session, peer: &ClonePublicKey) -> Result<Trust, Failure> {
    match session.create_object(&peer.peer_template()) {
        Ok(_) if is_trusted(session, peer)? => Ok(Trust::Trusted),
        Ok(made) => {
            session
                .destroy_object(made)
                .map_err(failed("to destroy a key that it does not trust"))?;
            Ok(Trust::Refused)
        }
        Err(Error::Pkcs11(value, _)) if refuses_trust(value) => Ok(Trust::Refused),
        Err(error) => Err(failed("to take a trusted key")(error)),
    }
}

const fn refuses_trust(value: RvError) -> bool {
    matches!(
        value,
        RvError::AttributeReadOnly
            | RvError::AttributeTypeInvalid
            | RvError::AttributeValueInvalid
            | RvError::TemplateInconsistent
            | RvError::ActionProhibited
    )
}

/// Introduces all tokens to one another.
///
/// # Errors
/// The first step that failed, naming the token; `token-refused` if no token can be told to trust all others, or if the user of
/// one can read what only trusted keys wrap and that is not accepted. Steps that were done stay done: a repeat goes on from there.
pub fn link(options: &LinkOptions<'_>) -> Result<Vec<Linked>, Failure> {
    let LinkOptions { tokens, check_only, .. } = *options;
    for label in options.keys_readable_with_pin {
        if !tokens.iter().any(|token| token.name() == label) {
            return Err(Failure::new(
                Reason::InvalidArgument,
                format!("there is no token {label:?} whose keys could be readable with its PIN; see the configuration"),
            ));
        }
    }
    let mut keys = Vec::new();
    for token in tokens {
        let own = own_key(options, token)?;
        let accepted = options.keys_readable_with_pin.iter().any(|label| label == token.name());
        if let Some(why) = own.readable.filter(|_| !accepted) {
            return Err(readable_with_pin(token.name(), why));
        }
        keys.push(own);
    }
    let mut linked = Vec::new();
    for (place, token) in tokens.iter().enumerate() {
        let others: Vec<_> = (0..tokens.len()).filter(|&other| other != place).collect();
        let input: String = others.iter().map(|&other| keys[other].key.to_line() + "\n").collect();
        let so_pin = options
            .so_pin_files
            .iter()
            .find(|(label, _)| label == token.name())
            .map(|(_, path)| path);
        if so_pin.is_none() && !check_only {
            let text = format!(
                "token {0:?} has to be told whom to trust by its security officer; name the file with that PIN: --so-pin-file {0:?}=FILE",
                token.name()
            );
            return Err(Failure::new(Reason::InvalidArgument, text));
        }
        let output = step(options, "token-link-trust", token, so_pin.map(PathBuf::as_path), &input)?;
        let told = |line| Trust::ALL.into_iter().find(|trust| trust.as_str() == line);
        let told: Option<Vec<_>> = output.lines().map(told).collect();
        let told = told.filter(|told| told.len() == others.len()).ok_or_else(|| {
            Failure::new(
                Reason::Internal,
                "a process that tells a token whom to trust did not say what came of it",
            )
        })?;
        let of = |wanted: bool| {
            let matching = others
                .iter()
                .zip(&told)
                .filter(move |(_, trust)| (**trust == Trust::Trusted) == wanted);
            matching.map(|(&other, _)| tokens[other].name().to_owned()).collect()
        };
        linked.push(Linked {
            label: token.name().to_owned(),
            key: keys[place].key.clone(),
            trusts: of(true),
            lacks: of(false),
            receives_only: told.contains(&Trust::Refused),
            keys_readable_with_pin: keys[place].readable,
        });
    }
    match linked.iter().any(|token| token.lacks.is_empty()) {
        false if !check_only => Err(refused(NO_SENDER)),
        _ => Ok(linked),
    }
}

/// Has a process make or find a token's clone key.
fn own_key(options: &LinkOptions<'_>, token: &TokenConfig) -> Result<OwnKey, Failure> {
    let output = step(options, "token-link-key", token, Some(&token.pin_file), "")?;
    let mut lines = output.lines();
    let key = lines.next().and_then(ClonePublicKey::from_line);
    let verdict = lines
        .next()
        .and_then(|line| VERDICTS.iter().find(|(word, _)| *word == line));
    let own = key.zip(verdict).map(|(key, &(_, readable))| OwnKey { key, readable });
    own.ok_or_else(|| Failure::new(Reason::Internal, "a process that makes a clone key printed none"))
}

fn readable_with_pin(label: &str, why: KeysReadable) -> Failure {
    let does = match why {
        KeysReadable::UserTrusts => {
            "lets whoever has its user PIN make a trusted key (CKA_TRUSTED), which PKCS#11 leaves to the security officer"
        }
        KeysReadable::Unguarded => {
            "wraps under any key what PKCS#11 has it wrap under trusted keys only (CKA_WRAP_WITH_TRUSTED), for whoever has its user PIN"
        }
    };
    refused(format!(
        "token {label:?} {does}: he can read every key that can be cloned; use another token, or HSMs that replicate by \
         themselves (redundancy.mode = \"replicated-by-hsm\"), or accept that with: --keys-readable-with-pin {label:?}"
    ))
}

/// `token-link-key` as a program: prints the key, and whether what only trusted keys wrap is safe in the token.
///
/// # Errors
/// As [`make_key`]; the output failed.
pub fn run_make_key(options: &TrustOptions, check_only: bool, mut output: impl Write) -> Result<(), Failure> {
    let own = make_key(options, check_only)?;
    let verdict = VERDICTS.iter().find(|(_, readable)| *readable == own.readable);
    let word = verdict.map_or("", |(word, _)| *word);
    writeln!(output, "{}\n{word}", own.key.to_line()).map_err(|error| Failure::new(Reason::Internal, error.to_string()))
}

/// `token-link-trust` as a program: reads a key from each line of `input`, and prints a line for each.
///
/// # Errors
/// As [`trust`]; the input is no list of keys, the output failed.
pub fn run_trust(options: &TrustOptions, check_only: bool, input: &str, mut output: impl Write) -> Result<(), Failure> {
    let peers: Option<Vec<_>> = input.lines().map(ClonePublicKey::from_line).collect();
    let peers = peers.ok_or_else(|| Failure::new(Reason::InvalidArgument, "a line of the input is no clone key"))?;
    for trusted in trust(options, &peers, check_only)? {
        writeln!(output, "{}", trusted.as_str()).map_err(|error| Failure::new(Reason::Internal, error.to_string()))?;
    }
    Ok(())
}

fn command_for(options: &LinkOptions<'_>, command: &str, token: &TokenConfig, pin_file: Option<&Path>) -> Command {
    let mut process = Command::new(options.executable);
    process
        .arg(command)
        .arg("--module")
        .arg(&token.module)
        .args(["--token-label", &token.label]);
    process.arg("--pin-file").arg(pin_file.unwrap_or(Path::new("")));
    process
        .arg("--marks")
        .arg(marks_directory(options.state_dir, token.name()));
    if options.check_only {
        process.arg("--check");
    }
    process.env_clear().envs(environment(token));
    process
}

fn step(
    options: &LinkOptions<'_>,
    command: &str,
    token: &TokenConfig,
    pin_file: Option<&Path>,
    input: &str,
) -> Result<String, Failure> {
    let mut process = command_for(options, command, token, pin_file);
    let lost = |error: std::io::Error| Failure::new(Reason::Internal, format!("cannot run {command}: {error}"));
    process
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = process.spawn().map_err(lost)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A process that has ended already says why below.
        _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(lost)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches("strongroom: ");
    Err(Failure::new(
        Reason::TokenRefused,
        format!("token {:?}: {said}", token.name()),
    ))
}

fn load(options: &TrustOptions) -> Result<Module, Failure> {
    Module::load(&options.module).map_err(|error| Failure::new(Reason::TokenUnavailable, error.to_string()))
}

fn open(module: &Module, options: &TrustOptions, user: Option<UserType>) -> Result<Session, Failure> {
    let unavailable = |error: super::ModuleError| Failure::new(Reason::TokenUnavailable, error.to_string());
    let (slot, info) = module.token(&options.token_label).map_err(unavailable)?;
    let session = match user {
        Some(_) => module.pkcs11().open_rw_session(slot),
        None => module.pkcs11().open_ro_session(slot),
    };
    let session = session.map_err(failed("to open a session"))?;
    let Some(user) = user else { return Ok(session) };
    log_in(&session, info.serial_number(), options, user)?;
    Ok(session)
}

/// One login at most, and none with a PIN that the token is known to have refused.
fn log_in(session: &Session, serial: &str, options: &TrustOptions, user: UserType) -> Result<(), Failure> {
    let rejected = |text: String| Failure::new(Reason::PinRejected, text);
    let (label, file) = (&options.token_label, options.pin_file.display());
    let read = || Pin::read(&options.pin_file).map_err(|error| (false, error.to_string()));
    let login = |pin: &Pin| {
        session.login(user, Some(&pin.to_auth())).map_err(|error| {
            let refuses = matches!(error, Error::Pkcs11(value, _) if refuses_pin(value));
            (
                refuses,
                format!("token {label:?} took no login with the PIN in {file}: {error}"),
            )
        })
    };
    let marks = match user {
        UserType::So => officers_marks(&options.marks),
        _ => options.marks.clone(),
    };
    let unmarked = |error: MarkError| Failure::new(Reason::StoreFailed, error.to_string());
    let mark = PinMark::open(&marks, &options.module, label, &options.pin_file).map_err(unmarked)?;
    let guarded = mark.guard(serial, read, login, |(refuses, _)| *refuses);
    match guarded.map_err(unmarked)? {
        Login::Answered(Ok(())) => Ok(()),
        Login::Answered(Err((_, why))) => Err(rejected(why)),
        Login::Withheld | Login::Unanswered(_) => Err(rejected(format!(
            "token {label:?} has refused the PIN in {file}, or left logins with it unanswered, and it is not tried again, \
             lest the token lock; correct the PIN file, or where it is right remove {}",
            rejected_file(&marks).display()
        ))),
    }
}

fn own_search() -> Vec<Attribute> {
    let mut search = clone_key::private_attributes();
    search.push(Attribute::Label(OWN_LABEL.as_bytes().to_vec()));
    search
}

fn generate(session: &Session) -> Result<ObjectHandle, Failure> {
    let restriction = UnwrapTemplate::new();
    let mut private = own_search();
    private.retain(|attribute| !matches!(attribute, Attribute::Class(_) | Attribute::KeyType(_)));
    private.push(restriction.attribute());
    let made = session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &clone_key::public_template(), &private);
    made.map(|(_, private)| private).map_err(failed("to make a clone key"))
}

fn public_of(session: &Session, private: ObjectHandle) -> Result<ClonePublicKey, Failure> {
    let types = [AttributeType::Modulus, AttributeType::PublicExponent];
    let read = session
        .get_attributes(private, &types)
        .map_err(failed("to read its clone key"))?;
    match read.as_slice() {
        [Attribute::Modulus(modulus), Attribute::PublicExponent(exponent)]
        | [Attribute::PublicExponent(exponent), Attribute::Modulus(modulus)] => {
            Ok(ClonePublicKey::new(modulus, exponent))
        }
        _ => Err(refused("the token does not say what its clone key is")),
    }
}

/// Wraps a throw-away key under the public half and unwraps it in every way that a thief would want: each must be refused,
/// and the right way must work. The binding cannot read `CKA_UNWRAP_TEMPLATE` back, and a token that ignores it would
/// keep it all the same.
fn try_out(session: &Session, private: ObjectHandle, key: &ClonePublicKey) -> Result<(), Failure> {
    let mut public = key.peer_template();
    public.retain(|attribute| {
        !matches!(
            attribute,
            Attribute::Trusted(_) | Attribute::Token(_) | Attribute::Label(_)
        )
    });
    public.push(Attribute::Token(false));
    let public = session.create_object(&public).map_err(failed("to try its clone key"))?;
    let made = session.generate_key(
        &Mechanism::AesKeyGen,
        &trial(&[Attribute::ValueLen(32.into())], true, false),
    );
    let made = made.map_err(failed("to try its clone key"))?;
    let mechanism = clone_key::mechanism();
    let wrapped = session
        .wrap_key(&mechanism, public, made)
        .map_err(failed("to try its clone key"))?;
    for (sensitive, trusted_only) in [(false, false), (false, true), (true, false)] {
        let got = session.unwrap_key(&mechanism, private, &wrapped, &trial(&[], sensitive, trusted_only));
        if got.is_ok() {
            return Err(refused(
                "the token ignores the unwrap template of its clone key, so a clone could be made readable in it; use \
                 another token, or replication by the HSM itself (redundancy.mode = \"replicated-by-hsm\")",
            ));
        }
    }
    let right = session.unwrap_key(&mechanism, private, &wrapped, &trial(&[], true, true));
    right.map(drop).map_err(failed("to unwrap under its clone key"))
}

pub(super) fn trial(more: &[Attribute], sensitive: bool, trusted_only: bool) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(cryptoki::object::KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Extractable(true),
        Attribute::Sensitive(sensitive),
        Attribute::WrapWithTrusted(trusted_only),
    ];
    template.extend_from_slice(more);
    template
}

pub(super) fn failed(doing: &'static str) -> impl Fn(Error) -> Failure {
    move |error| {
        let reason = match &error {
            Error::Pkcs11(RvError::DeviceRemoved | RvError::TokenNotPresent | RvError::DeviceError, _) => {
                Reason::TokenUnavailable
            }
            _ => Reason::TokenRefused,
        };
        Failure::new(reason, format!("the token failed {doing}: {error}"))
    }
}

fn refused(text: impl Into<String>) -> Failure {
    Failure::new(Reason::TokenRefused, text)
}
