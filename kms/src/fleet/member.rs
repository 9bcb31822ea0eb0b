//! One token of the fleet: what is known of it and whether it is used.

use std::{
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use strongroom_proto::{KeyName, KeyVersion};

use super::{inventory::Holdings, load::Load};
use crate::token::Token;

/// How long a token that failed a call is asked last: doubled with each further failure until it answers one.
const SHUNNED_FIRST: Duration = Duration::from_millis(250);
const SHUNNED_MAX: Duration = Duration::from_secs(30);

/// A token and its state.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) token: Token,
    pub(super) load: Load,
    status: RwLock<Status>,
    breaker: Breaker,
}

/// What is known of a token.
#[derive(Debug, Clone)]
pub(super) struct Status {
    pub(super) health: Health,
    pub(super) held: Holdings,
    /// Expected versions that the token does not hold, or not as expected.
    pub(super) lacking: usize,
    pub(super) checked: Option<Timestamp>,
}

/// Whether a token is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does not answer yet, or not any more, or takes no PIN; what its supervisor says of it.
    Away(String),
    /// It is up and is being compared with what is expected.
    Checking,
    /// It takes part.
    Serving,
    /// It answers, but wrongly: not used until a check finds it mended. The reason was raised as an alarm.
    Out(String),
}

impl Health {
    /// The state in a word, for people and `--json`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Away(_) => "away",
            Self::Checking => "checking",
            Self::Serving => "serving",
            Self::Out(_) => "out",
        }
    }

    /// Why it is not used, if there is more to say than the word.
    #[must_use]
    pub fn why(&self) -> &str {
        match self {
            Self::Away(why) | Self::Out(why) => why,
            Self::Checking | Self::Serving => "",
        }
    }
}

impl Member {
    pub(super) fn new(token: Token) -> Self {
        Self {
            token,
            load: Load::new(),
            status: RwLock::new(Status {
                health: Health::Away("its worker is being started".to_owned()),
                held: Holdings::default(),
                lacking: 0,
                checked: None,
            }),
            breaker: Breaker::new(),
        }
    }

    pub(super) fn label(&self) -> &str {
        self.token.label()
    }

    pub(super) fn serves(&self) -> bool {
        self.read(|status| status.health == Health::Serving)
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&Status) -> T) -> T {
        look(&self.status.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Status) -> T) -> T {
        change(&mut self.status.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many of the versions that a call needs the token does not hold as expected.
    pub(super) fn lacks(&self, needs: &[(&KeyName, KeyVersion)]) -> usize {
        self.read(|status| match status.lacking {
            0 => 0,
            _ => needs
                .iter()
                .filter(|(key, version)| !status.held.has(key, *version))
                .count(),
        })
    }

    /// Whether it failed a call lately, or answers nothing while calls wait for it.
    pub(super) fn is_doubtful(&self, silence: Duration) -> bool {
        self.breaker.is_open() || (self.load.calls() > 0 && self.token.silent_for(silence))
    }

    pub(super) fn failed(&self) {
        self.breaker.strike();
    }

    pub(super) fn answered(&self) {
        self.breaker.reset();
    }
}

/// Keeps calls away from a token that fails them, for a while.
#[derive(Debug)]
struct Breaker {
    start: Instant,
    strikes: AtomicU64,
    open_until_ms: AtomicU64,
}

impl Breaker {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            strikes: AtomicU64::new(0),
            open_until_ms: AtomicU64::new(0),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_open(&self) -> bool {
        let until = self.open_until_ms.load(Ordering::Relaxed);
        until > 0 && self.now_ms() < until
    }

    fn strike(&self) {
        // Calls that fail together are one failure.
        if self.is_open() {
            return;
        }
        let strikes = self.strikes.fetch_add(1, Ordering::Relaxed).min(16);
        let pause = SHUNNED_FIRST.saturating_mul(1 << strikes).min(SHUNNED_MAX);
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.open_until_ms.store(self.now_ms() + pause_ms, Ordering::Relaxed);
    }

    fn reset(&self) {
        if self.strikes.load(Ordering::Relaxed) > 0 {
            self.strikes.store(0, Ordering::Relaxed);
            self.open_until_ms.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_opens_with_a_failure_and_closes_with_an_answer() {
        let breaker = Breaker::new();
        assert!(!breaker.is_open());
        breaker.strike();
        assert!(breaker.is_open());
        breaker.reset();
        assert!(!breaker.is_open());
    }
}
