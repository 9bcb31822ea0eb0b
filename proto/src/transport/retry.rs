//! Deadlines and repeats: a service that restarts costs its callers time, not errors.

use std::{
    error::Error,
    hash::{BuildHasher, RandomState},
    io,
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Response, Status};

use crate::{Failure, Reason};

/// How long a call is repeated after its first failure.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);

/// Which failed calls are repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// A second call does no harm: repeated after any failure that passes by itself.
    Harmless,
    /// Repeated only when the service cannot have seen the call.
    Unsent,
}

/// Growing pauses between attempts, until patience ends. Patience starts with the first pause, that is with the
/// first failure.
#[derive(Debug)]
pub struct Pauses {
    patience: Duration,
    end: Option<Instant>,
    next: Duration,
    told: bool,
}

impl Pauses {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(1);

    /// Pauses for [`PATIENCE`], of which none was made yet.
    #[must_use]
    pub const fn new() -> Self {
        Self::lasting(PATIENCE)
    }

    const fn lasting(patience: Duration) -> Self {
        Self {
            patience,
            end: None,
            next: Self::FIRST,
            told: false,
        }
    }

    /// Waits before another attempt, 25 ms to 1 s; false, without waiting, once patience has ended.
    pub async fn pause(&mut self) -> bool {
        self.pause_at_least(Duration::ZERO).await
    }

    /// As [`Self::pause`], for as long as the service asked for if that is longer.
    async fn pause_at_least(&mut self, asked: Duration) -> bool {
        let now = Instant::now();
        if now + self.next + asked > *self.end.get_or_insert(now + self.patience) {
            return false;
        }
        sleep(asked + spread(self.next)).await;
        self.next = (self.next * 2).min(Self::LONGEST);
        true
    }

    /// Whether the last pause is the one after which somebody who waits should be told why: true once.
    fn became_long(&mut self) -> bool {
        let long = self.next == Self::LONGEST && !self.told;
        self.told |= long;
        long
    }

    /// When an attempt that starts now has to end: patience bounds every attempt but the first.
    fn attempt_end(&self) -> Instant {
        let limit = Instant::now() + ATTEMPT_TIMEOUT;
        self.end.map_or(limit, |end| end.min(limit))
    }
}

impl Default for Pauses {
    fn default() -> Self {
        Self::new()
    }
}

/// Calls until it succeeds, fails for good, or patience ends: at most 15 s for the first attempt and 20 s for all
/// others together.
///
/// # Errors
/// The first failure that no repeat mends, or the last one when patience ends.
pub async fn retry<T, F>(repeat: Repeat, attempt: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    retry_for(PATIENCE, repeat, attempt).await
}

/// [`retry`] with another patience, for callers who wait less and still want to hear what failed.
///
/// # Errors
/// As [`retry`].
pub async fn retry_for<T, F>(patience: Duration, repeat: Repeat, mut attempt: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut pauses = Pauses::lasting(patience);
    let mut last = None;
    loop {
        let (failure, unsent) = match timeout_at(pauses.attempt_end(), attempt()).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => {
                let unsent = is_unsent(&status);
                (Failure::from(status), unsent)
            }
            // An attempt that patience cut short says less than the one before it.
            Err(_) => (last.take().unwrap_or_else(late), false),
        };
        let again = failure.is_transient() && (unsent || repeat == Repeat::Harmless);
        if !again || !pauses.pause_at_least(failure.retry_after.unwrap_or_default()).await {
            return Err(failure);
        }
        if pauses.became_long() {
            tracing::warn!("{failure}; trying again for up to {} s", patience.as_secs());
        }
        last = Some(failure);
    }
}

/// One attempt with its deadline.
///
/// # Errors
/// What the service says; [`Reason::DeadlineExceeded`] after `limit`.
pub async fn once<T>(
    limit: Duration,
    attempt: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    match timeout(limit, attempt).await {
        Ok(outcome) => outcome.map(Response::into_inner).map_err(Failure::from),
        Err(_) => Err(late()),
    }
}

fn late() -> Failure {
    Failure::new(
        Reason::DeadlineExceeded,
        "the service did not answer in time; check that it is up and not overloaded",
    )
}

/// Begins the text of an HTTP/2 error of a call that the server will not look at: it says in its GOAWAY up to which call it
/// does (RFC 9113, 6.8), and only the others fail with it. The type behind the text is none that a dependency of ours shows.
const GOING_AWAY: &str = "connection error received: not a result of an error";

/// Whether no service saw the call: the connection itself was refused, or the server ended it, in good order, before the call
/// was sent or looked at.
fn is_unsent(status: &Status) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = next {
        // Hyper cancels what it has not sent; what it has sent fails otherwise.
        if error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_canceled)
        {
            return true;
        }
        if error.to_string().starts_with(GOING_AWAY) {
            return true;
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::ConnectionRefused;
        }
        next = error.source();
    }
    false
}

/// Half of the pause to all of it, so that clients that failed together do not come back together.
fn spread(pause: Duration) -> Duration {
    let half_us = u64::try_from(pause.as_micros() / 2).unwrap_or(u64::MAX);
    // RandomState is seeded by the system; spreading needs no more than that.
    Duration::from_micros(half_us + RandomState::new().hash_one(half_us) % (half_us + 1))
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        sync::mpsc,
    };
    use tokio_stream::StreamExt as _;
    use tonic::transport::{Channel, Endpoint, Server, Uri};
    use tower::service_fn;

    use super::*;
    use crate::block::v1::{
        CheckBlocksRequest, CheckBlocksResponse, GetBlockRequest, GetBlockResponse, PutBlockRequest, PutBlockResponse,
        blocks_client::BlocksClient,
        blocks_server::{Blocks, BlocksServer},
    };

    /// HTTP/2 frames without flags on stream 0 (RFC 9113, 4.1): empty settings, and GOAWAY after stream 0 with an error code.
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const fn go_away(code: u8) -> [u8; 17] {
        [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, code]
    }
    const PREFACE_BYTES: usize = 24;
    const HEADERS: u8 = 1;

    struct Full;

    #[tonic::async_trait]
    impl Blocks for Full {
        async fn put_block(&self, _: tonic::Request<PutBlockRequest>) -> Result<Response<PutBlockResponse>, Status> {
            Err(Failure::new(Reason::NoSpace, "full").into())
        }

        async fn get_block(&self, _: tonic::Request<GetBlockRequest>) -> Result<Response<GetBlockResponse>, Status> {
            Ok(Response::new(GetBlockResponse::default()))
        }

        async fn check_blocks(
            &self,
            _: tonic::Request<CheckBlocksRequest>,
        ) -> Result<Response<CheckBlocksResponse>, Status> {
            Err(Failure::new(Reason::NotFound, "no block is here").into())
        }
    }

    /// A server that goes away when the first call reaches it.
    async fn leave(mut stream: DuplexStream, code: u8) {
        stream.write_all(&SETTINGS).await.expect("the client is there");
        let mut preface = [0; PREFACE_BYTES];
        stream.read_exact(&mut preface).await.expect("a client speaks first");
        loop {
            let mut header = [0; 9];
            stream.read_exact(&mut header).await.expect("a frame");
            let [a, b, c, kind, ..] = header;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            stream.read_exact(&mut payload).await.expect("its payload");
            if kind == HEADERS {
                break;
            }
        }
        stream.write_all(&go_away(code)).await.expect("the client is there");
        _ = stream.read_to_end(&mut Vec::new()).await;
    }

    /// A channel whose first connection is to a server that goes away, and every other to one that stays; and the count of both.
    fn channel_to_leaving(code: u8) -> (Channel, Arc<AtomicUsize>) {
        let (arrivals, mut arriving) = mpsc::channel::<DuplexStream>(4);
        tokio::spawn(async move {
            let incoming = tokio_stream::once(arriving.recv().await).chain(tokio_stream::pending());
            let incoming = incoming.filter_map(|stream| stream.map(Ok::<_, io::Error>));
            let server = Server::builder().add_service(BlocksServer::new(Full));
            server.serve_with_incoming(incoming).await.expect("serves");
        });
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let channel = Endpoint::from_static("http://block").connect_with_connector_lazy(service_fn(move |_: Uri| {
            let (arrivals, number) = (arrivals.clone(), count.fetch_add(1, Ordering::Relaxed));
            async move {
                let (ours, theirs) = duplex(64 << 10);
                if number == 0 {
                    tokio::spawn(leave(theirs, code));
                } else {
                    arrivals.send(theirs).await.map_err(io::Error::other)?;
                }
                Ok::<_, io::Error>(TokioIo::new(ours))
            }
        }));
        (channel, connections)
    }

    /// Code 0 is how a server ends in good order, 2 is an error of its own, after which the call may have been looked at.
    #[tokio::test]
    async fn a_call_that_a_leaving_server_does_not_look_at_is_made_on_another_connection() {
        for (code, repeat, repeated) in [
            (0, Repeat::Unsent, true),
            (2, Repeat::Unsent, false),
            (2, Repeat::Harmless, true),
        ] {
            let (channel, connections) = channel_to_leaving(code);
            let call = || {
                let channel = channel.clone();
                async move { BlocksClient::new(channel).get_block(GetBlockRequest::default()).await }
            };
            let outcome = retry(repeat, call).await.map_err(|failure| failure.reason);
            let expected = if repeated {
                Ok(GetBlockResponse::default())
            } else {
                Err(Reason::Unavailable)
            };
            assert_eq!((&outcome, repeat), (&expected, repeat), "code {code}");
            assert_eq!(connections.load(Ordering::Relaxed), 1 + usize::from(repeated));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn transient_failures_are_repeated_until_they_pass() {
        let calls = Cell::new(0);
        let outcome = retry(Repeat::Harmless, || async {
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
        let outcome = retry(Repeat::Harmless, || async {
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
            let outcome = retry(repeat, || {
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
        let outcome = retry(Repeat::Unsent, || async {
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

    #[tokio::test(start_paused = true)]
    async fn a_repeat_that_hangs_ends_with_patience_and_says_what_failed_before() {
        let (start, calls) = (Instant::now(), Cell::new(0));
        let outcome = retry(Repeat::Harmless, || {
            calls.set(calls.get() + 1);
            let hangs = calls.get() > 1;
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                Err::<Response<()>, _>(Status::unavailable("going down"))
            }
        });
        assert_eq!(outcome.await, Err(Failure::new(Reason::Unavailable, "going down")));
        assert!(start.elapsed() <= PATIENCE, "{:?}", start.elapsed());
    }
}
