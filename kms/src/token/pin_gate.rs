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
    rejected: StdMutex<Option<Rejected>>,
    turn: Mutex<()>,
}

/// The state of the PIN file that was rejected.
#[derive(Debug)]
struct Rejected {
    state: Fingerprint,
    /// Whether there was a mark of it.
    marked: bool,
}

impl PinGate {
    /// # Errors
    /// [`MarkError`] if there is a mark that cannot be read.
    pub(super) fn new(mark: PinMark) -> Result<Self, MarkError> {
        let rejected = mark.rejected()?.map(|state| Rejected { state, marked: true });
        Ok(Self {
            mark,
            rejected: StdMutex::new(rejected),
            turn: Mutex::new(()),
        })
    }

    /// The right to log in: one worker at a time, so that the others hear of a rejection before they try.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Whether the PIN is known to be wrong.
    pub(super) fn is_rejected(&self) -> bool {
        self.on_rejected(|rejected| rejected.is_some())
    }

    /// Whether, since the PIN was rejected, its file has changed or the mark was removed. A file that is just being replaced
    /// is waited for.
    pub(super) fn is_due_for_another_look(&self) -> bool {
        let (now, mark) = (self.mark.fingerprint(), self.mark.rejected());
        self.on_rejected(|rejected| {
            let news = |rejected: &Rejected| now != rejected.state || (rejected.marked && matches!(mark, Ok(None)));
            now.is_known() && rejected.as_ref().is_some_and(news)
        })
    }

    /// The PIN in this state of its file was rejected, and marked as far as it could be.
    pub(super) fn reject(&self, state: Fingerprint) {
        let marked = matches!(self.mark.rejected(), Ok(Some(_)));
        self.on_rejected(|rejected| *rejected = Some(Rejected { state, marked }));
    }

    /// The PIN was accepted, or is to be looked at again.
    pub(super) fn forget(&self) {
        self.on_rejected(|rejected| *rejected = None);
    }

    fn on_rejected<T>(&self, act: impl FnOnce(&mut Option<Rejected>) -> T) -> T {
        act(&mut self.rejected.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
