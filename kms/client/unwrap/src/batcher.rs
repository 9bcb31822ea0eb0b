//! Gathers concurrent callers into calls. A caller that comes alone is sent at once; while calls are in flight
//! those who come meanwhile share the next one. So batches grow with the load and nobody waits for a timer.

use std::sync::Arc;

use strongroom_proto::{
    Failure, Reason,
    kms::v1::{
        Edek, UnwrapRequest, UnwrapResult, unwrap_client::UnwrapClient as Grpc, unwrap_result::Result as Outcome,
    },
    limits::EDEKS_PER_CALL_MAX,
    transport::{Repeat, retry},
};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::transport::Channel;

use crate::Dek;

/// Callers that may wait for a call.
pub(crate) const QUEUE_MAX: usize = 4096;
/// Calls in flight at once.
const CALLS_MAX: usize = 4;

/// One caller's EDEK and where its DEK goes.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) edek: Edek,
    pub(crate) answer: oneshot::Sender<Result<Dek, Failure>>,
}

/// Serves the queue until the last client is gone.
pub(crate) async fn run(grpc: Grpc<Channel>, mut jobs: mpsc::Receiver<Job>) {
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    while let Some(first) = jobs.recv().await {
        let Ok(permit) = Arc::clone(&calls).acquire_owned().await else {
            return;
        };
        let mut batch = vec![first];
        while batch.len() < EDEKS_PER_CALL_MAX
            && let Ok(next) = jobs.try_recv()
        {
            batch.push(next);
        }
        // Whoever gave up meanwhile must not cost a use of the key.
        batch.retain(|job| !job.answer.is_closed());
        if batch.is_empty() {
            continue;
        }
        let grpc = grpc.clone();
        tokio::spawn(async move {
            call(grpc, batch).await;
            drop(permit);
        });
    }
}

async fn call(grpc: Grpc<Channel>, batch: Vec<Job>) {
    let (edeks, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|job| (job.edek, job.answer)).unzip();
    let request = UnwrapRequest { edeks };
    let outcome = retry(Repeat::Harmless, || {
        let (mut grpc, request) = (grpc.clone(), request.clone());
        async move { grpc.unwrap(request).await }
    })
    .await;
    match outcome.and_then(|answer| same_count(answer.results, answers.len())) {
        Ok(results) => {
            for (result, answer) in results.into_iter().zip(answers) {
                // A caller that has gone away needs no answer; its DEK is cleared as it is dropped.
                _ = answer.send(dek(result));
            }
        }
        Err(failure) => {
            for answer in answers {
                _ = answer.send(Err(failure.clone()));
            }
        }
    }
}

fn same_count(results: Vec<UnwrapResult>, expected: usize) -> Result<Vec<UnwrapResult>, Failure> {
    if results.len() == expected {
        Ok(results)
    } else {
        Err(Failure::new(
            Reason::Internal,
            format!(
                "the key service answered {} results for {expected} EDEKs",
                results.len()
            ),
        ))
    }
}

fn dek(wire: UnwrapResult) -> Result<Dek, Failure> {
    match wire.result {
        Some(Outcome::Dek(bytes)) => Dek::from_wire(&bytes),
        Some(Outcome::Failure(failure)) => {
            let reason = failure.reason.parse().unwrap_or(Reason::Internal);
            Err(Failure::new(reason, failure.message))
        }
        None => Err(Failure::new(
            Reason::Internal,
            "the key service answered with an empty result",
        )),
    }
}
