//! For tests: a PKCS#11 module that stands in front of another one and fails in the way and at the moment a test asks for.
//!
//! [`Shim::in_front_of`] puts a module ([`Shim::module`]) into a directory of its own; any process that loads it works the
//! real one through it. The test steers it from outside, while it is in use: both sides share one file, which the module
//! (`shim.c`) maps into its memory, so that a call costs no system call and a fault takes effect at the next call. What was
//! asked for and what was counted outlives the processes that load the module, as a token outlives them.

mod control;
mod fault;

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use control::{Control, Field};
pub use fault::{Ckr, Fault, Function, When};

/// The module, compiled by `build.rs`.
const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim.so"));

/// A module in front of another one. Dropping it removes the module's file; processes that have loaded it work on.
#[derive(Debug)]
pub struct Shim {
    folder: TempDir,
    control: Control,
}

impl Shim {
    /// A module that works `module` and fails in nothing yet.
    ///
    /// # Errors
    /// If its files cannot be written to the temporary directory.
    pub fn in_front_of(module: &Path) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("shim.so"), LIBRARY)?;
        symlink(module, folder.path().join("module"))?;
        let control = Control::create(&folder.path().join("control"))?;
        Ok(Self { folder, control })
    }

    /// The module to load.
    #[must_use]
    pub fn module(&self) -> PathBuf {
        self.folder.path().join("shim.so")
    }

    /// From now on calls of `function` meet `fault`, `when` so often. It takes the place of the function's fault before.
    pub fn set(&self, function: Function, fault: Fault, when: When) {
        self.control.set(function, fault, when);
    }

    /// The function works again.
    pub fn clear(&self, function: Function) {
        self.control.clear(function);
    }

    /// Every function works again, the token is there, and handles stay. A PIN that is locked stays so.
    pub fn clear_all(&self) {
        for function in Function::ALL {
            self.control.clear(function);
        }
        self.control.write(Field::Renumber, 0);
        self.control.write(Field::Gone, 0);
    }

    /// How often the function was called, by all processes.
    #[must_use]
    pub fn calls(&self, function: Function) -> u64 {
        self.control.read(Field::Calls(function))
    }

    /// How many calls of the function met a fault.
    #[must_use]
    pub fn fired(&self, function: Function) -> u64 {
        self.control.read(Field::Fired(function))
    }

    /// Attempts to log in, by all processes.
    #[must_use]
    pub fn logins(&self) -> u64 {
        self.calls(Function::Login)
    }

    /// The token locks its PIN after so many wrong ones in a row, whoever gives them; SoftHSM2 by itself never does.
    pub fn lock_pin_after(&self, wrong_pins: u32) {
        self.control.write(Field::LockAfter, wrong_pins.into());
    }

    /// The security officer sets the count of wrong PINs back.
    pub fn unlock_pin(&self) {
        self.control.write(Field::WrongPins, 0);
    }

    /// Whether handles of objects change their meaning each time that a process opens its first session: a handle kept from
    /// an earlier session then names another object.
    pub fn renumber_handles(&self, renumber: bool) {
        self.control.write(Field::Renumber, renumber.into());
    }

    /// Pulls the token out of its slot.
    pub fn vanish(&self) {
        self.control.write(Field::Gone, 1);
        let returns = self.control.read(Field::Returns);
        self.control.write(Field::Returns, returns + 1);
    }

    /// Puts it back. Who had initialised the library before must do so again to see it.
    pub fn come_back(&self) {
        self.control.write(Field::Gone, 0);
    }
}
