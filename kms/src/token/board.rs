//! One state out of those of a token's workers.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::TokenState;

/// Where the supervisors of a token's workers publish what they know.
#[derive(Debug)]
pub(super) struct Board {
    workers: Mutex<Vec<TokenState>>,
    state: watch::Sender<TokenState>,
}

impl Board {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers: Mutex::new(vec![TokenState::Starting; workers]),
            state: watch::Sender::new(TokenState::Starting),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<TokenState> {
        self.state.subscribe()
    }

    /// Notes the state of one worker. Whoever watches hears of it if the token's state is another then.
    pub(super) fn set(&self, worker: usize, state: TokenState) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = workers.get_mut(worker) {
            *place = state;
        }
        let best = workers.iter().min_by_key(|state| rank(state)).cloned();
        if let Some(best) = best {
            self.state.send_if_modified(|state| {
                let changed = *state != best;
                *state = best;
                changed
            });
        }
    }
}

/// A token can do what the best of its workers can; of two that cannot work, the one that still may is better.
const fn rank(state: &TokenState) -> u8 {
    match state {
        TokenState::Ready => 0,
        TokenState::Starting => 1,
        TokenState::PinRejected => 2,
        TokenState::Unavailable { .. } => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_ready_while_one_worker_is() {
        let board = Board::new(2);
        let mut state = board.subscribe();
        board.set(0, TokenState::Ready);
        assert_eq!(*state.borrow_and_update(), TokenState::Ready);
        let why = || "lost".to_owned();
        board.set(1, TokenState::Unavailable { why: why() });
        assert!(!state.has_changed().expect("the board is here"));
        board.set(0, TokenState::Starting);
        assert_eq!(*state.borrow_and_update(), TokenState::Starting);
        board.set(0, TokenState::Unavailable { why: why() });
        assert_eq!(*state.borrow_and_update(), TokenState::Unavailable { why: why() });
    }
}
