//! The bounded queue between the async service and the thread that owns the session.

use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};

use strongroom_proto::{Failure, Reason};
use tokio::sync::oneshot;
use tonic::Status;

use super::engine::Engine;

/// Calls that wait for the token: as many as the connection carries at once, so that a call that was taken has a place. How
/// long they may wait is bounded by the key service, by time.
const CALLS_MAX: usize = 256;

/// The service's end.
#[derive(Debug)]
pub(super) struct Queue(SyncSender<Job>);

/// What the token's thread is asked to do.
pub(super) struct Job(Box<dyn FnOnce(Access<'_>) + Send>);

/// What a job gets to work with.
pub(super) enum Access<'a> {
    /// The open token.
    Open(&'a mut Engine),
    /// Why there is none.
    Refused(&'a Failure),
}

/// The token is lost for this process: the call is left unanswered, and the key service starts another worker.
#[derive(Debug)]
pub(super) struct Gone;

impl Queue {
    pub(super) fn new() -> (Self, Receiver<Job>) {
        let (sender, receiver) = mpsc::sync_channel(CALLS_MAX);
        (Self(sender), receiver)
    }

    /// Has the token's thread run `operation`, and waits for what it says. A call whose caller has gone away is skipped.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Engine) -> Result<Result<T, Failure>, Gone> + Send + 'static,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let job = Job(Box::new(move |access: Access<'_>| {
            if reply.is_closed() {
                return;
            }
            let outcome = match access {
                Access::Open(engine) => operation(engine),
                Access::Refused(failure) => Ok(Err(failure.clone())),
            };
            if let Ok(outcome) = outcome {
                // A caller that went away meanwhile has no use for it.
                _ = reply.send(outcome);
            }
        }));
        match self.0.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(overloaded().into()),
            Err(TrySendError::Disconnected(_)) => return Err(thread_gone()),
        }
        match answer.await {
            Ok(outcome) => outcome.map_err(Status::from),
            Err(_) => Err(thread_gone()),
        }
    }
}

impl Job {
    pub(super) fn run(self, access: Access<'_>) {
        (self.0)(access);
    }
}

fn overloaded() -> Failure {
    Failure::new(
        Reason::Overloaded,
        format!("the token has {CALLS_MAX} calls waiting; try again after a pause"),
    )
}

/// Without a reason header on purpose: for the key service that is a broken link, not an answer.
fn thread_gone() -> Status {
    Status::unavailable("the token worker is stopping")
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use strongroom_proto::REASON_HEADER;

    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_dead_thread_is_no_answer() {
        let (queue, jobs) = Queue::new();
        let call = || queue.call(|_| Ok(Ok(())));
        let mut waiting = Box::pin(call());
        assert!((&mut waiting).now_or_never().is_none(), "nobody takes it off the queue");
        for _ in 1..CALLS_MAX {
            assert!(call().now_or_never().is_none(), "there is room");
        }
        let status = call().now_or_never().expect("refused at once").expect_err("full");
        assert_eq!(Failure::from(status).reason, Reason::Overloaded);

        drop(jobs);
        for outcome in [waiting.await, call().await] {
            let status = outcome.expect_err("nobody answers");
            assert!(!status.metadata().contains_key(REASON_HEADER), "{status:?}");
        }
    }
}
