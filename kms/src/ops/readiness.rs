//! Whether calls should be sent here, and if not, why: a token that is down is another matter than too many calls.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::Metrics;
use crate::{api::places::Places, token::TokenState};

/// How long a call that was refused for want of room makes the service count as overloaded.
const OVERLOAD_WINDOW: Duration = Duration::from_secs(5);

/// Whether calls should be sent to this instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Calls are served.
    Ready,
    /// The token is not usable now, and why.
    TokenDown(String),
    /// Calls were refused for want of room within the last five seconds, or no more can be taken.
    Overloaded,
    /// The service was told to stop and finishes what it has.
    Stopping,
}

impl Readiness {
    /// The word for programs.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::TokenDown(_) => "token-down",
            Self::Overloaded => "overloaded",
            Self::Stopping => "stopping",
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TokenDown(why) => write!(f, "{}: {why}", self.as_str()),
            _ => f.write_str(self.as_str()),
        }
    }
}

/// What readiness is read off.
pub(crate) struct Vitals {
    pub(crate) token: watch::Receiver<TokenState>,
    /// Whether the token is up and compared with the store.
    pub(crate) compared: watch::Receiver<bool>,
    /// Places for calls that are left.
    pub(crate) places: Places,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stopping: Arc<AtomicBool>,
}

impl Vitals {
    pub(crate) fn readiness(&self) -> Readiness {
        if self.stopping.load(Ordering::Relaxed) {
            return Readiness::Stopping;
        }
        let token = self.token.borrow();
        if let Some(why) = why_down(&token, *self.compared.borrow()) {
            return Readiness::TokenDown(why);
        }
        if self.places.are_taken() || self.metrics.overloaded_within(OVERLOAD_WINDOW) {
            return Readiness::Overloaded;
        }
        Readiness::Ready
    }
}

fn why_down(token: &TokenState, compared: bool) -> Option<String> {
    match token {
        TokenState::Starting => Some("its worker is being started".to_owned()),
        TokenState::Unavailable { why } => Some(why.clone()),
        TokenState::PinRejected => Some("it rejected the PIN".to_owned()),
        TokenState::Ready if !compared => Some("it is up and being compared with the store".to_owned()),
        TokenState::Ready => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_down_is_told_from_too_many_calls() {
        let (token, token_state) = watch::channel(TokenState::Ready);
        let (compared, is_compared) = watch::channel(true);
        let vitals = Vitals {
            token: token_state,
            compared: is_compared,
            places: Places::of(1, 1),
            metrics: Arc::new(Metrics::new()),
            stopping: Arc::default(),
        };
        assert_eq!(vitals.readiness(), Readiness::Ready);

        let alice = "spiffe://strongroom/user/alice".parse().expect("an identity");
        let place = vitals.places.take(&alice).expect("there is one");
        assert_eq!(vitals.readiness(), Readiness::Overloaded);
        token.send_replace(TokenState::Unavailable {
            why: "no answer".to_owned(),
        });
        assert_eq!(vitals.readiness(), Readiness::TokenDown("no answer".to_owned()));
        drop(place);
        token.send_replace(TokenState::Ready);
        compared.send_replace(false);
        assert_eq!(vitals.readiness().as_str(), "token-down");
        vitals.stopping.store(true, Ordering::Relaxed);
        assert_eq!(vitals.readiness(), Readiness::Stopping);
    }
}
