//! Keeps a session open: logs in once, opens the session anew when it is lost, and says when nothing helps any more.

use std::{path::Path, sync::mpsc::Receiver};

use cryptoki::{
    error::{Error, RvError},
    session::{Session, UserType},
    slot::Slot,
};
use strongroom_proto::{Failure, Reason};

use super::{
    WorkerOptions,
    growth::Growth,
    profile,
    queue::{Access, Gone, Job},
    remedy::{Trouble, refuses_pin, while_doing},
    vault::{Memory, Vault},
};
use crate::token::{
    ModuleError, PinError, TokenProfile,
    module::Module,
    pin::Pin,
    pin_mark::{Login, PinMark, rejected_file},
};

/// The token's thread: takes calls off the queue until it closes or the token is lost for this process.
pub(super) fn serve(options: &WorkerOptions, jobs: &Receiver<Job>) {
    let mut engine = Engine::open(options);
    let mut growth = Growth::default();
    if let Err(failure) = &engine {
        tracing::error!(reason = %failure.reason, "{failure}");
    }
    while let Ok(job) = jobs.recv() {
        match &mut engine {
            Err(failure) => job.run(Access::Refused(failure)),
            Ok(open) => {
                job.run(Access::Open(open));
                match std::mem::replace(&mut open.outlook, Outlook::Good) {
                    Outlook::Good => {}
                    Outlook::Refusing(failure) => {
                        tracing::error!(reason = %failure.reason, "{failure}");
                        engine = Err(failure);
                    }
                    Outlook::Gone => return,
                }
                if let Some(grown_bytes) = growth.excess() {
                    tracing::warn!(
                        grown_bytes,
                        "the module does not give memory back; this worker makes way for a fresh one"
                    );
                    return;
                }
            }
        }
    }
}

/// The module, the token and, once logged in, the open session.
pub(super) struct Engine {
    options: WorkerOptions,
    module: Module,
    vault: Option<Vault>,
    outlook: Outlook,
}

/// What comes after the current call.
enum Outlook {
    Good,
    /// There is no login: every further call gets this.
    Refusing(Failure),
    /// Only another process can help.
    Gone,
}

/// Why a login was not made or not taken.
#[derive(Debug, thiserror::Error)]
enum LoginError {
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error("the token took no login: {0}")]
    Token(Error),
}

impl LoginError {
    /// Whether the token was asked, and must not be asked again with that PIN.
    fn refuses_pin(&self) -> bool {
        matches!(self, Self::Token(Error::Pkcs11(value, _)) if refuses_pin(*value))
    }
}

/// Why no session could be opened.
enum OpenError {
    PinRejected(Failure),
    Other(String),
}

impl Engine {
    /// Loads the module and sees that the token is there. Works once per process.
    pub(super) fn open(options: &WorkerOptions) -> Result<Self, Failure> {
        let module = Module::load(&options.module).map_err(|error| unavailable(chain(&error)))?;
        module
            .token(&options.token_label)
            .map_err(|error| unavailable(chain(&error)))?;
        Ok(Self {
            options: options.clone(),
            module,
            vault: None,
            outlook: Outlook::Good,
        })
    }

    /// What the token is and can do.
    pub(super) fn inspect(&mut self) -> Result<Result<TokenProfile, Failure>, Gone> {
        let profile = find_token(&self.module, &self.options.token_label).and_then(|(slot, info)| {
            profile::inspect(&self.module, slot, &info, self.vault.as_ref().map(Vault::abilities))
        });
        match profile {
            Ok(profile) => Ok(Ok(profile)),
            Err(Trouble::Failed(failure)) => Ok(Err(failure)),
            Err(Trouble::Lost(why) | Trouble::Gone(why)) => Err(self.give_up(&why)),
        }
    }

    /// Logs in and finds the token's keys. If that fails, every further call gets its failure.
    pub(super) fn log_in(&mut self) -> Result<Result<(), Failure>, Gone> {
        if self.vault.is_some() {
            return Ok(Ok(()));
        }
        let failure = match open_vault(&self.module, &self.options, Memory::default()) {
            Ok(vault) => {
                self.vault = Some(vault);
                return Ok(Ok(()));
            }
            Err(OpenError::PinRejected(failure)) => failure,
            Err(OpenError::Other(why)) => unavailable(why),
        };
        self.outlook = Outlook::Refusing(failure.clone());
        Ok(Err(failure))
    }

    pub(super) fn token_label(&self) -> &str {
        &self.options.token_label
    }

    /// Runs a call. When the session is lost on the way it is opened anew, once, and the call runs again.
    pub(super) fn run<T>(
        &mut self,
        mut call: impl FnMut(&mut Vault) -> Result<T, Trouble>,
    ) -> Result<Result<T, Failure>, Gone> {
        let why = match self.attempt(&mut call) {
            Ok(value) => return Ok(Ok(value)),
            Err(Trouble::Failed(failure)) => return Ok(Err(failure)),
            Err(Trouble::Gone(why)) => return Err(self.give_up(&why)),
            Err(Trouble::Lost(why)) => why,
        };
        tracing::warn!(why, "the token's session is lost; opening another");
        if let Err(failure) = self.reopen()? {
            return Ok(Err(failure));
        }
        match self.attempt(&mut call) {
            Ok(value) => Ok(Ok(value)),
            Err(Trouble::Failed(failure)) => Ok(Err(failure)),
            Err(Trouble::Lost(why)) => Ok(Err(unavailable(why))),
            Err(Trouble::Gone(why)) => Err(self.give_up(&why)),
        }
    }

    fn attempt<T>(&mut self, call: &mut impl FnMut(&mut Vault) -> Result<T, Trouble>) -> Result<T, Trouble> {
        match &mut self.vault {
            Some(vault) => call(vault),
            None => Err(Trouble::Gone("no session is open".to_owned())),
        }
    }

    /// Opens the session anew, reading the PIN file again: it is not kept in memory. That the token took it before does
    /// not make it right now, so a rejection is final here too.
    fn reopen(&mut self) -> Result<Result<(), Failure>, Gone> {
        let before = self.vault.take().map(Vault::close).unwrap_or_default();
        match open_vault(&self.module, &self.options, before) {
            Ok(vault) => {
                self.vault = Some(vault);
                Ok(Ok(()))
            }
            Err(OpenError::PinRejected(failure)) => {
                self.outlook = Outlook::Refusing(failure.clone());
                Ok(Err(failure))
            }
            Err(OpenError::Other(why)) => Err(self.give_up(&why)),
        }
    }

    fn give_up(&mut self, why: &str) -> Gone {
        tracing::error!(why, "the token is lost for this worker process, which ends");
        self.outlook = Outlook::Gone;
        Gone
    }
}

fn open_vault(module: &Module, options: &WorkerOptions, before: Memory) -> Result<Vault, OpenError> {
    let (slot, info) = module
        .token(&options.token_label)
        .map_err(|error| OpenError::Other(chain(&error)))?;
    let session = module
        .pkcs11()
        .open_rw_session(slot)
        .map_err(|error| OpenError::Other(format!("the token opens no session: {error}")))?;
    log_in(&session, info.serial_number(), options)?;
    let offered = module
        .pkcs11()
        .get_mechanism_list(slot)
        .map_err(|error| OpenError::Other(format!("the token does not list its mechanisms: {error}")))?;
    Vault::new(session, before, &offered).map_err(|trouble| match trouble {
        Trouble::Failed(failure) => OpenError::Other(failure.message),
        Trouble::Lost(why) | Trouble::Gone(why) => OpenError::Other(why),
    })
}

/// The one C_Login. A token that loses all sessions has all its workers come here at once: the marks see to it that one of
/// them tries a PIN that is wrong by now, and not each.
fn log_in(session: &Session, serial: &str, options: &WorkerOptions) -> Result<(), OpenError> {
    let read = || Ok(Pin::read(&options.pin_file)?);
    let login = |pin: &Pin| match session.login(UserType::User, Some(&pin.to_auth())) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(error) => Err(LoginError::Token(error)),
    };
    let mark = PinMark::open(&options.marks, &options.module, &options.token_label, &options.pin_file);
    let guarded = mark.and_then(|mark| mark.guard(serial, read, login, LoginError::refuses_pin));
    match guarded.map_err(|error| OpenError::Other(chain(&error)))? {
        Login::Answered(Ok(())) => Ok(()),
        Login::Answered(Err(error)) if error.refuses_pin() => {
            tracing::error!(%error, token = options.token_label, "the token refused the PIN");
            Err(pin_rejected(options))
        }
        Login::Answered(Err(error)) => Err(OpenError::Other(chain(&error))),
        Login::Withheld => Err(pin_rejected(options)),
        Login::Unanswered(logins) => Err(OpenError::PinRejected(unanswered(options, logins))),
    }
}

fn find_token(module: &Module, label: &str) -> Result<(Slot, cryptoki::slot::TokenInfo), Trouble> {
    module.token(label).map_err(|error| match error {
        ModuleError::Ask { what, source } => while_doing(what)(source),
        error => Trouble::Gone(chain(&error)),
    })
}

fn pin_rejected(options: &WorkerOptions) -> OpenError {
    OpenError::PinRejected(pin_rejected_by(&options.token_label, &options.pin_file, &options.marks))
}

/// The message of a rejected PIN: which token, which file, and what to do. The supervisor says it too, without a worker.
pub(in crate::token) fn pin_rejected_by(label: &str, pin_file: &Path, marks: &Path) -> Failure {
    let (pin_file, mark) = (pin_file.display(), rejected_file(marks));
    Failure::new(
        Reason::PinRejected,
        format!(
            "token {label:?} rejected the PIN in {pin_file}; correct the PIN file; it is read again when it changes, and where the \
             same PIN is right by now, when {} is removed",
            mark.display()
        ),
    )
}

fn unanswered(options: &WorkerOptions, logins: usize) -> Failure {
    let (label, pin_file, mark) = (
        &options.token_label,
        options.pin_file.display(),
        rejected_file(&options.marks),
    );
    Failure::new(
        Reason::PinRejected,
        format!(
            "token {label:?} did not answer {logins} logins with the PIN in {pin_file}, which is not tried again, lest the token \
             lock; see that the PIN is right and the token works, then remove {}",
            mark.display()
        ),
    )
}

fn unavailable(why: impl Into<String>) -> Failure {
    Failure::new(Reason::TokenUnavailable, why)
}

/// An error with its sources, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
