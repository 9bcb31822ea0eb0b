//! What the workers of one token share, so that together they try a PIN no more often than one alone would.

use std::sync::{Mutex as StdMutex, PoisonError};

use tokio::sync::{Mutex, MutexGuard};

use super::{
    MarkError,
    pin_mark::{Fingerprint, PinMark},
};

/// The marks of one token's PIN, and the right to log in.
#[derive(Debug)]
pub(super) struct PinGate {
    pub(super) mark: PinMark,
    /// Also in memory, for the case that the mark cannot be written.
    rejected: StdMutex<Option<Fingerprint>>,
    turn: Mutex<()>,
}

impl PinGate {
    /// # Errors
    /// [`MarkError`] if there is a mark that cannot be read.
    pub(super) fn new(mark: PinMark) -> Result<Self, MarkError> {
        let rejected = StdMutex::new(mark.rejected()?);
        Ok(Self {
            mark,
            rejected,
            turn: Mutex::new(()),
        })
    }

    /// The right to log in: one worker at a time, so that the others hear of a rejection before they try.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The state of the PIN file that was rejected.
    pub(super) fn rejected(&self) -> Option<Fingerprint> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_rejected(&self, rejected: Option<Fingerprint>) {
        *self.rejected.lock().unwrap_or_else(PoisonError::into_inner) = rejected;
    }
}
