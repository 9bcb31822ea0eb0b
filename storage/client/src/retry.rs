//! Deadlines and repeats: a service that restarts costs its callers time, not errors.

use std::{error::Error, future::Future, io, time::Duration};

use strongroom_proto::{Failure, Reason};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Response, Status};

use crate::random;

/// How long a call is repeated after its first failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);

/// Which failed calls are repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// A second call does no harm: repeated after any transient failure.
    Harmless,
    /// Repeated only when the service cannot have seen the call.
    Unsent,
}

/// Growing pauses, until patience ends. Patience starts with the first pause, that is with the first failure.
pub(crate) struct Pauses {
    end: Option<Instant>,
    next: Duration,
}

impl Pauses {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(1);

    pub(crate) const fn new() -> Self {
        Self {
            end: None,
            next: Self::FIRST,
        }
    }

    /// Waits before another attempt; false, without waiting, once patience has ended.
    pub(crate) async fn pause(&mut self) -> bool {
        let now = Instant::now();
        if now + self.next > *self.end.get_or_insert(now + PATIENCE) {
            return false;
        }
        // Between half the pause and all of it, so that many clients do not come back at once.
        let share = 128 + random::spread() as u32 % 128;
        sleep(self.next * share / 256).await;
        self.next = (self.next * 2).min(Self::LONGEST);
        true
    }
}

/// Calls until it succeeds, fails for good, or patience ends.
pub(crate) async fn call<T, F>(repeat: Repeat, attempt: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut pauses = Pauses::new();
    loop {
        let (failure, unsent) = match timeout(ATTEMPT_TIMEOUT, attempt()).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => {
                let unsent = is_unsent(&status);
                (Failure::from(status), unsent)
            }
            Err(_) => (late(), false),
        };
        // Block nodes report themselves within seconds to a metadata service that restarted.
        let passing = failure.is_transient() || failure.reason == Reason::TooFewNodes;
        let again = passing && (unsent || repeat == Repeat::Harmless);
        if !again || !pauses.pause().await {
            return Err(failure);
        }
        tracing::debug!(%failure, "calling again");
    }
}

/// One attempt with its deadline.
pub(crate) async fn once<T>(
    limit: Duration,
    attempt: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    match timeout(limit, attempt).await {
        Ok(outcome) => outcome.map(Response::into_inner).map_err(Failure::from),
        Err(_) => Err(late()),
    }
}

fn late() -> Failure {
    Failure::new(Reason::DeadlineExceeded, "the service did not answer in time")
}

/// Whether the connection itself was refused, so that no service saw the call.
fn is_unsent(status: &Status) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::ConnectionRefused;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn transient_failures_are_repeated_until_they_pass() {
        let calls = Cell::new(0);
        let outcome = call(Repeat::Harmless, || async {
            calls.set(calls.get() + 1);
            if calls.get() < 5 {
                Err(Status::unavailable("restarting"))
            } else {
                Ok(Response::new(7))
            }
        });
        assert_eq!(outcome.await, Ok(7));
        assert_eq!(calls.get(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends() {
        let start = Instant::now();
        let outcome = call(Repeat::Harmless, || async {
            Err::<Response<()>, _>(Status::unavailable("gone"))
        });
        assert_eq!(outcome.await.map_err(|f| f.reason), Err(Reason::Unavailable));
        assert!(
            (PATIENCE / 2..=PATIENCE).contains(&start.elapsed()),
            "{:?}",
            start.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_and_calls_that_may_have_arrived_are_not_repeated() {
        for (repeat, status) in [
            (Repeat::Harmless, Status::permission_denied("no")),
            (Repeat::Unsent, Status::unavailable("lost after it was sent")),
        ] {
            let calls = Cell::new(0);
            let outcome = call(repeat, || {
                calls.set(calls.get() + 1);
                let status = status.clone();
                async { Err::<Response<()>, _>(status) }
            });
            assert!(outcome.await.is_err());
            assert_eq!(calls.get(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_connection_is_repeated_whatever_the_call() {
        let calls = Cell::new(0);
        let outcome = call(Repeat::Unsent, || async {
            calls.set(calls.get() + 1);
            if calls.get() == 1 {
                Err(Status::from_error(Box::new(io::Error::from(
                    io::ErrorKind::ConnectionRefused,
                ))))
            } else {
                Ok(Response::new(()))
            }
        });
        assert_eq!(outcome.await, Ok(()));
        assert_eq!(calls.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_hangs_ends() {
        let outcome = once(
            Duration::from_secs(1),
            std::future::pending::<Result<Response<()>, Status>>(),
        );
        assert_eq!(outcome.await.map_err(|f| f.reason), Err(Reason::DeadlineExceeded));
    }
}
