//! The vendor library: loaded and initialised once per process, and the search for a token by its label.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    slot::{Slot, TokenInfo},
};

/// Initialising a PKCS#11 library twice in one process has crashed, so the second attempt is refused here.
static LOADED: AtomicBool = AtomicBool::new(false);

/// Why a module or the token in it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The module is not there.
    #[error(
        "the PKCS#11 module {} does not exist; install it with: apt-get install softhsm2, or correct `module` in the configuration",
        path.display()
    )]
    Missing {
        /// The module asked for.
        path: PathBuf,
    },
    /// The module is there but does not load or initialise.
    #[error("the PKCS#11 module {} cannot be {step}", path.display())]
    Load {
        /// The module.
        path: PathBuf,
        /// What was tried: loaded or initialised.
        step: &'static str,
        /// What it said.
        #[source]
        source: cryptoki::error::Error,
    },
    /// A module was loaded before.
    #[error("a PKCS#11 module was loaded in this process already; it can be done once only")]
    LoadedAlready,
    /// No token has the label.
    #[error(
        "no token is labelled {label:?} (found: {found}); make one with: strongroom token init, or correct `label` in the configuration"
    )]
    TokenMissing {
        /// The label asked for.
        label: String,
        /// Labels that were found.
        found: String,
    },
    /// More than one token has the label.
    #[error("{count} tokens are labelled {label:?}; give each its own label")]
    TokenAmbiguous {
        /// The label asked for.
        label: String,
        /// How many have it.
        count: usize,
    },
    /// The library failed while it was asked about slots and tokens.
    #[error("the PKCS#11 library cannot say {what}")]
    Ask {
        /// What was asked.
        what: &'static str,
        /// What it said.
        #[source]
        source: cryptoki::error::Error,
    },
}

/// A loaded, initialised library.
pub(super) struct Module {
    pkcs11: Pkcs11,
}

impl Module {
    /// Loads and initialises the library at `path`. Works once per process.
    ///
    /// # Errors
    /// [`ModuleError`], naming the module.
    pub(super) fn load(path: &Path) -> Result<Self, ModuleError> {
        if !path.exists() {
            return Err(ModuleError::Missing { path: path.to_owned() });
        }
        if LOADED.swap(true, Ordering::SeqCst) {
            return Err(ModuleError::LoadedAlready);
        }
        let failed = |step| {
            move |source| ModuleError::Load {
                path: path.to_owned(),
                step,
                source,
            }
        };
        let pkcs11 = Pkcs11::new(path).map_err(failed("loaded"))?;
        pkcs11
            .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
            .map_err(failed("initialised"))?;
        Ok(Self { pkcs11 })
    }

    pub(super) const fn pkcs11(&self) -> &Pkcs11 {
        &self.pkcs11
    }

    /// The one initialised token with that label.
    ///
    /// # Errors
    /// [`ModuleError::TokenMissing`] or [`ModuleError::TokenAmbiguous`].
    pub(super) fn token(&self, label: &str) -> Result<(Slot, TokenInfo), ModuleError> {
        let tokens = self.tokens()?;
        let found = describe(&tokens);
        let mut matching: Vec<_> = tokens.into_iter().filter(|(_, info)| label_of(info) == label).collect();
        match matching.len() {
            0 => Err(ModuleError::TokenMissing {
                label: label.to_owned(),
                found,
            }),
            1 => Ok(matching.remove(0)),
            count => Err(ModuleError::TokenAmbiguous {
                label: label.to_owned(),
                count,
            }),
        }
    }

    fn tokens(&self) -> Result<Vec<(Slot, TokenInfo)>, ModuleError> {
        let slots = self
            .pkcs11
            .get_slots_with_initialized_token()
            .map_err(ask("which tokens there are"))?;
        slots
            .into_iter()
            .map(|slot| Ok((slot, self.token_info(slot)?)))
            .collect()
    }

    pub(super) fn token_info(&self, slot: Slot) -> Result<TokenInfo, ModuleError> {
        self.pkcs11.get_token_info(slot).map_err(ask("what token is in a slot"))
    }
}

/// A token's label without the padding that PKCS#11 gives it.
pub(super) fn label_of(info: &TokenInfo) -> &str {
    info.label().trim_end()
}

pub(super) fn ask(what: &'static str) -> impl Fn(cryptoki::error::Error) -> ModuleError {
    move |source| ModuleError::Ask { what, source }
}

fn describe(tokens: &[(Slot, TokenInfo)]) -> String {
    if tokens.is_empty() {
        return "none".to_owned();
    }
    let labels: Vec<_> = tokens.iter().take(16).map(|(_, info)| label_of(info)).collect();
    labels.join(", ")
}
