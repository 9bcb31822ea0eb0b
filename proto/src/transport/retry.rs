use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tokio::time::{sleep, timeout};

use crate::{Failure, Reason};

/// Times that an idempotent call is tried.
const ATTEMPTS_MAX: u32 = 5;
/// The first pause; each is twice as long as the one before.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long all attempts together may take.
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);

/// Makes an idempotent call, again and again while it fails for a reason that passes by itself: at most 5 times
/// and 20 s, with random pauses of 25 ms to 1 s in between.
///
/// # Errors
/// The first failure that no retry mends, the last one otherwise; [`Reason::DeadlineExceeded`] after 20 s.
pub async fn retry<T, F>(mut call: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let attempts = async {
        let mut pause = PAUSE_FIRST;
        for _ in 1..ATTEMPTS_MAX {
            match call().await {
                Err(failure) if failure.is_transient() => tracing::debug!(%failure, "trying again"),
                outcome => return outcome,
            }
            sleep(spread(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        call().await
    };
    timeout(RETRY_TIMEOUT, attempts).await.unwrap_or_else(|_| {
        Err(Failure::new(
            Reason::DeadlineExceeded,
            "the service did not answer within 20 s; check that it is up and not overloaded",
        ))
    })
}

/// Half of the pause to all of it, so that clients that failed together do not come back together.
fn spread(pause: Duration) -> Duration {
    let half_us = u64::try_from(pause.as_micros() / 2).unwrap_or(u64::MAX);
    // RandomState is seeded by the system; spreading needs no more than that.
    Duration::from_micros(half_us + RandomState::new().hash_one(half_us) % (half_us + 1))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    async fn attempts(reason: Reason, succeed_at: u32) -> (u32, Result<(), Reason>) {
        let made = Cell::new(0);
        let outcome = retry(|| {
            made.set(made.get() + 1);
            let outcome = if made.get() == succeed_at {
                Ok(())
            } else {
                Err(Failure::new(reason, "no"))
            };
            async { outcome }
        })
        .await;
        (made.get(), outcome.map_err(|failure| failure.reason))
    }

    #[tokio::test]
    async fn only_what_passes_by_itself_is_tried_again_and_not_for_ever() {
        assert_eq!(attempts(Reason::Unavailable, 3).await, (3, Ok(())));
        assert_eq!(
            attempts(Reason::TokenUnavailable, 99).await,
            (5, Err(Reason::TokenUnavailable))
        );
        assert_eq!(
            attempts(Reason::PermissionDenied, 2).await,
            (1, Err(Reason::PermissionDenied))
        );
    }
}
