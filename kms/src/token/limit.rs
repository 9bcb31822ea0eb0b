//! How long a worker may take over a call before it counts as hanging: as long for all calls, but for those that make a key pair.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// A worker's start with its login, and every call but those of [`Limit::KeyPair`].
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Tokens on a smart card search 20 to 120 s for the primes of an RSA key of 3072 bits, and do nothing else meanwhile.
const KEY_PAIR_TIMEOUT: Duration = Duration::from_mins(3);

/// The time that a call may take, by what it has the token do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// What a token does in milliseconds: all work with EZ keys, the making of them too.
    Usual,
    /// The call may make a key pair: the import key, or the one that signs the audit log.
    KeyPair,
}

impl Limit {
    pub(super) const fn time(self) -> Duration {
        match self {
            Self::Usual => CALL_TIMEOUT,
            Self::KeyPair => KEY_PAIR_TIMEOUT,
        }
    }
}

/// Calls to one worker that may make a key pair.
#[derive(Debug, Default)]
pub(super) struct KeyPairCalls(Arc<AtomicUsize>);

/// A call to a worker that is under way.
#[derive(Debug)]
pub(super) struct Waiting {
    limit: Limit,
    patience: Duration,
    key_pairs: Arc<AtomicUsize>,
}

impl KeyPairCalls {
    /// Notes that a call begins. A worker does one thing at a time: who comes after one that may make a key pair waits for
    /// that too, and does not take the worker for stuck. Who came before it does.
    pub(super) fn begin(&self, limit: Limit) -> Waiting {
        let before = self.0.load(Ordering::Relaxed);
        if limit == Limit::KeyPair {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Waiting {
            limit,
            patience: if before > 0 { KEY_PAIR_TIMEOUT } else { limit.time() },
            key_pairs: Arc::clone(&self.0),
        }
    }
}

impl Waiting {
    /// After how long without any answer this call takes the worker for stuck.
    pub(super) const fn patience(&self) -> Duration {
        self.patience
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.limit == Limit::KeyPair {
            self.key_pairs.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_after_a_call_that_may_make_a_key_pair_is_as_patient_and_nobody_else() {
        let calls = KeyPairCalls::default();
        let first = calls.begin(Limit::Usual);
        let pair = calls.begin(Limit::KeyPair);
        let behind = calls.begin(Limit::Usual);
        let patience = [&first, &pair, &behind].map(Waiting::patience);
        assert_eq!(patience, [CALL_TIMEOUT, KEY_PAIR_TIMEOUT, KEY_PAIR_TIMEOUT]);
        drop(pair);
        assert_eq!(calls.begin(Limit::Usual).patience(), CALL_TIMEOUT);
    }
}
