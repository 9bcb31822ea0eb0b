//! `strongroom token init`: makes a token ready for use. Runs in its own one-shot process, since it loads the module.

use std::path::PathBuf;

use cryptoki::{
    context::Pkcs11,
    error::Error,
    session::{Session, UserType},
    slot::{Slot, TokenInfo},
};

use super::{
    MarkError, ModuleError, PinError,
    module::{Module, ask, label_of},
    pin::Pin,
    pin_mark::{Login, PinMark, officers_marks, rejected_file},
    worker::refuses_pin,
};

/// Bytes of a token's label in PKCS#11 (`CK_TOKEN_INFO`).
const LABEL_BYTES_MAX: usize = 32;

/// What to make.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The PKCS#11 module.
    pub module: PathBuf,
    /// The new token's label: 1 to 32 bytes without leading or trailing blanks.
    pub label: String,
    /// The file that holds the security officer's PIN.
    pub so_pin_file: PathBuf,
    /// The file that holds the user PIN, the one that the key service logs in with.
    pub pin_file: PathBuf,
    /// Where the marks of PINs that the token refused are kept: those of the key service that will use it, if there is one.
    pub marks: PathBuf,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitReport {
    /// The token's label.
    pub label: String,
    /// The serial number that the token was given.
    pub serial: String,
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The label breaks PKCS#11's rule.
    #[error("the label {label:?} is not valid: 1 to 32 bytes without leading or trailing blanks")]
    Label {
        /// The label asked for.
        label: String,
    },
    /// The module cannot be used.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// A PIN file cannot be used.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// A PIN is too short or too long for the token.
    #[error("the PIN in {} has {length} bytes; this token takes {}", path.display(), takes(*min, *max))]
    PinLength {
        /// The PIN's file.
        path: PathBuf,
        /// Bytes of the PIN.
        length: usize,
        /// Least that the token takes.
        min: usize,
        /// Most that the token takes; 0 if it does not say.
        max: usize,
    },
    /// A token of that label exists; it is left alone.
    #[error("a token labelled {label:?} exists already; choose another label, or remove that token first")]
    Exists {
        /// The label.
        label: String,
    },
    /// Every slot holds an initialised token.
    #[error("every slot of the module holds an initialised token; free a slot, or add one on the HSM")]
    NoFreeSlot,
    /// The token refused the security officer's PIN before, and it was not tried again.
    #[error(
        "the token has refused the security officer's PIN in {}, or left it unanswered, and it is not tried again, lest the token \
         lock; correct the file, or where it is right remove {}",
        path.display(),
        mark.display()
    )]
    Withheld {
        /// The PIN's file.
        path: PathBuf,
        /// The mark by which it is known.
        mark: PathBuf,
    },
    /// The marks of refused PINs cannot be kept.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The token refused a step.
    #[error("the token refused {step}")]
    Refused {
        /// Which step.
        step: &'static str,
        /// What it said.
        #[source]
        source: Error,
    },
}

/// Initialises the first uninitialised slot with the label, the SO PIN and the user PIN.
///
/// # Errors
/// [`InitError`]; a token that exists is never touched.
pub fn init_token(options: InitOptions) -> Result<InitReport, InitError> {
    let InitOptions {
        module,
        label,
        so_pin_file,
        pin_file,
        marks,
    } = options;
    check_label(&label)?;
    let so_pin = Pin::read(&so_pin_file)?;
    let pin = Pin::read(&pin_file)?;
    let marks = officers_marks(&marks);
    let mark = PinMark::open(&marks, &module, &label, &so_pin_file)?;
    let module = Module::load(&module)?;
    refuse_existing(&module, &label)?;
    let slot = free_slot(&module)?;
    let info = module.token_info(slot)?;
    check_length(&info, &so_pin, &so_pin_file)?;
    check_length(&info, &pin, &pin_file)?;
    let session = as_officer(module.pkcs11(), (slot, &info), &label, so_pin, &mark)?;
    let session = session.ok_or_else(|| InitError::Withheld {
        path: so_pin_file,
        mark: rejected_file(&marks),
    })?;
    session.init_pin(&pin.to_auth()).map_err(refused("the user PIN"))?;
    let info = module.token_info(slot)?;
    Ok(InitReport {
        label: label_of(&info).to_owned(),
        serial: info.serial_number().trim_end().to_owned(),
    })
}

fn check_label(label: &str) -> Result<(), InitError> {
    let valid = (1..=LABEL_BYTES_MAX).contains(&label.len()) && label.trim() == label && !label.contains('\0');
    if valid {
        Ok(())
    } else {
        Err(InitError::Label {
            label: label.chars().take(64).collect(),
        })
    }
}

fn refuse_existing(module: &Module, label: &str) -> Result<(), InitError> {
    match module.token(label) {
        Err(ModuleError::TokenMissing { .. }) => Ok(()),
        Ok(_) | Err(ModuleError::TokenAmbiguous { .. }) => Err(InitError::Exists {
            label: label.to_owned(),
        }),
        Err(error) => Err(error.into()),
    }
}

fn free_slot(module: &Module) -> Result<Slot, InitError> {
    let slots = module
        .pkcs11()
        .get_slots_with_token()
        .map_err(ask("which slots there are"))?;
    for slot in slots {
        if !module.token_info(slot)?.token_initialized() {
            return Ok(slot);
        }
    }
    Err(InitError::NoFreeSlot)
}

fn check_length(info: &TokenInfo, pin: &Pin, path: &std::path::Path) -> Result<(), InitError> {
    let (min, max) = (info.min_pin_length(), info.max_pin_length());
    // Some tokens state no longest PIN, by a 0.
    let too_long = max != 0 && pin.len() > max;
    if pin.len() >= min && !too_long {
        return Ok(());
    }
    Err(InitError::PinLength {
        path: path.to_owned(),
        length: pin.len(),
        min,
        max,
    })
}

fn takes(min: usize, max: usize) -> String {
    match max {
        0 => format!("{min} or more"),
        max => format!("{min} to {max}"),
    }
}

/// Initialises the token and logs its security officer in, whose PIN an HSM may have been given before. [`None`] if the token
/// has refused it already.
fn as_officer(
    pkcs11: &Pkcs11,
    (slot, info): (Slot, &TokenInfo),
    label: &str,
    so_pin: Pin,
    mark: &PinMark,
) -> Result<Option<Session>, InitError> {
    let mut opened = None;
    let login = |so_pin: &Pin| {
        pkcs11
            .init_token(slot, &so_pin.to_auth(), label)
            .map_err(refused("to be initialised"))?;
        let session = pkcs11.open_rw_session(slot).map_err(refused("a session"))?;
        session
            .login(UserType::So, Some(&so_pin.to_auth()))
            .map_err(refused("the security officer's login"))?;
        opened = Some(session);
        Ok(())
    };
    let refuses = |error: &InitError| matches!(error, InitError::Refused { source: Error::Pkcs11(value, _), .. } if refuses_pin(*value));
    match mark.guard(info.serial_number(), || Ok(so_pin), login, refuses)? {
        Login::Answered(answer) => answer.map(|()| opened),
        Login::Withheld | Login::Unanswered(_) => Ok(None),
    }
}

fn refused(step: &'static str) -> impl Fn(Error) -> InitError {
    move |source| InitError::Refused { step, source }
}
