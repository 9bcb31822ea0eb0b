//! Gathers concurrent callers into calls. A caller that comes alone is sent at once; while calls are in flight
//! those who come meanwhile share the next one. So batches grow with the load and nobody waits for a timer.

use std::sync::Arc;

use strongroom_proto::{
    Edek, Failure, Reason,
    kms::v1::{UnwrapRequest, UnwrapResult, unwrap_client::UnwrapClient as Grpc, unwrap_result::Result as Outcome},
    limits::EDEKS_PER_CALL_MAX,
    sealed::SEALED_EDEKS_MAX,
    transport::{CallerChannel, Repeat, identified, retry},
};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{Dek, sealed::Sealer};

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
pub(crate) async fn run(grpc: Grpc<CallerChannel>, sealer: Arc<Sealer>, mut jobs: mpsc::Receiver<Job>) {
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
        let (grpc, sealer) = (grpc.clone(), Arc::clone(&sealer));
        tokio::spawn(async move {
            serve(&grpc, &sealer, batch).await;
            drop(permit);
        });
    }
}

/// Asks for each EDEK in the way that is known to do, and once more, sealed, where that turns out to be demanded.
async fn serve(grpc: &Grpc<CallerChannel>, sealer: &Sealer, batch: Vec<Job>) {
    let (mut sealed, open): (Vec<_>, Vec<_>) = batch.into_iter().partition(|job| sealer.seals(&job.edek.key));
    if !open.is_empty() {
        sealed.extend(call(grpc, sealer, open).await);
    }
    let mut sealed = signable(sealer, sealed);
    while !sealed.is_empty() {
        let rest = sealed.split_off(sealed.len().min(SEALED_EDEKS_MAX));
        call_sealed(grpc, sealer, sealed).await;
        sealed = rest;
    }
}

/// Answers the jobs that are to be sealed.
async fn call(grpc: &Grpc<CallerChannel>, sealer: &Sealer, batch: Vec<Job>) -> Vec<Job> {
    let edeks: Vec<_> = batch.iter().map(|job| job.edek.clone().into()).collect();
    let request = UnwrapRequest { edeks };
    let outcome = retry(Repeat::Harmless, || {
        let (mut grpc, request) = (grpc.clone(), request.clone());
        async move { grpc.unwrap(identified(request)).await }
    })
    .await;
    let outcome = outcome.and_then(|answer| same_count(answer.results, batch.len()));
    let results = outcome.map(|results| results.into_iter().map(dek).collect());
    let mut sealed = Vec::new();
    for (job, result) in settled(batch, results) {
        match result {
            Err(failure) if failure.reason == Reason::SealedRequired => {
                // A demand that cannot be met is asked about again: it may be lifted.
                if sealer.check(&job.edek.key).is_ok() {
                    sealer.require(&job.edek.key);
                }
                sealed.push(job);
            }
            result => job.answer(result),
        }
    }
    sealed
}

/// Jobs of a caller who cannot sign are told so, each of its own key.
fn signable(sealer: &Sealer, jobs: Vec<Job>) -> Vec<Job> {
    let mut signable = Vec::with_capacity(jobs.len());
    for job in jobs {
        match sealer.check(&job.edek.key) {
            Ok(()) => signable.push(job),
            Err(failure) => job.answer(Err(failure)),
        }
    }
    signable
}

async fn call_sealed(grpc: &Grpc<CallerChannel>, sealer: &Sealer, batch: Vec<Job>) {
    let edeks: Vec<_> = batch.iter().map(|job| job.edek.clone()).collect();
    let results = sealer.unwrap(grpc, &edeks).await;
    for (job, result) in settled(batch, results) {
        job.answer(result);
    }
}

/// Each job with its own result, or with the failure of all.
fn settled(batch: Vec<Job>, results: Result<Vec<Result<Dek, Failure>>, Failure>) -> Vec<(Job, Result<Dek, Failure>)> {
    match results {
        Ok(results) => batch.into_iter().zip(results).collect(),
        Err(failure) => batch.into_iter().map(|job| (job, Err(failure.clone()))).collect(),
    }
}

impl Job {
    fn answer(self, result: Result<Dek, Failure>) {
        // A caller that has gone away needs no answer; its DEK is cleared as it is dropped.
        _ = self.answer.send(result);
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
