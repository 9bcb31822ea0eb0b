//! The loads: batches and single calls, closed loops and an open one, all over gRPC and TLS. Answers are checked before
//! they count.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use strongroom_kms_unwrap::UnwrapClient;
use strongroom_proto::{
    Edek, KeyName, ZoneId,
    kms::v1::{self as pb, mint_client::MintClient, unwrap_client::UnwrapClient as Grpc},
};
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::latency::Latencies;

/// EDEKs in a batch, and batches in flight, so that the service always has the next one at hand.
pub(super) const BATCH: u32 = 100;
const BATCHES_IN_FLIGHT: usize = 3;

/// What a load works on.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) channel: Channel,
    pub(super) key: KeyName,
    pub(super) zone: ZoneId,
}

/// Batched minting: EDEKs a second.
pub(super) async fn mint(target: &Target, time: Duration) -> f64 {
    batches(time, || {
        let (mut client, request) = (MintClient::new(target.channel.clone()), target.mint_request(BATCH));
        async move {
            let minted = client.mint(request).await.expect("minted").into_inner().wrapped;
            assert_eq!(minted.len(), BATCH as usize);
        }
    })
    .await
}

/// Batched unwrapping, one batch after the other: EDEKs a second.
pub(super) async fn unwrap(target: &Target, edeks: &[Vec<pb::Edek>], time: Duration) -> f64 {
    let next = AtomicUsize::new(0);
    batches(time, || {
        let mut client = Grpc::new(target.channel.clone());
        let batch = &edeks[next.fetch_add(1, Ordering::Relaxed) % edeks.len()];
        let request = pb::UnwrapRequest { edeks: batch.clone() };
        async move {
            let opened = client.unwrap(request).await.expect("answered").into_inner().results;
            assert!(opened.iter().all(is_dek) && opened.len() == BATCH as usize);
        }
    })
    .await
}

/// Batched re-wrapping: EDEKs a second.
pub(super) async fn rewrap(target: &Target, edeks: &[pb::Edek], time: Duration) -> f64 {
    let wrapped: Vec<_> = edeks.iter().map(wrapped_dek).collect();
    batches(time, || {
        let mut client = MintClient::new(target.channel.clone());
        let request = pb::RewrapRequest {
            key_name: target.key.as_str().to_owned(),
            zone_id: target.zone.into(),
            edeks: wrapped.clone(),
        };
        async move {
            let done = client.rewrap(request).await.expect("answered").into_inner().results;
            let wrapped = |one: &pb::RewrapResult| matches!(one.result, Some(pb::rewrap_result::Result::Wrapped(_)));
            assert!(done.iter().all(wrapped) && done.len() == BATCH as usize);
        }
    })
    .await
}

/// Single unwrap calls of the bare gRPC client with `in_flight` under way: calls a second, and how long each took.
pub(super) async fn unary(target: &Target, edeks: &[pb::Edek], in_flight: usize, time: Duration) -> (f64, Latencies) {
    let started = Instant::now();
    let runs = (0..in_flight).map(|n| {
        let (mut client, edek) = (Grpc::new(target.channel.clone()), edeks[n % edeks.len()].clone());
        tokio::spawn(async move {
            let mut took = Latencies::default();
            let mut calls = 0_u32;
            while started.elapsed() < time {
                let at = Instant::now();
                single(&mut client, edek.clone()).await;
                took.push(at.elapsed());
                calls += 1;
            }
            (calls, took)
        })
    });
    gather(runs, started).await
}

/// The same through the Rust client, which shares calls among those who wait at the same time.
pub(super) async fn unary_client(
    client: &Arc<UnwrapClient>,
    edeks: &[Edek],
    in_flight: usize,
    time: Duration,
) -> (f64, Latencies) {
    let started = Instant::now();
    let runs = (0..in_flight).map(|n| {
        let (client, edek) = (Arc::clone(client), edeks[n % edeks.len()].clone());
        tokio::spawn(async move {
            let mut took = Latencies::default();
            let mut calls = 0_u32;
            while started.elapsed() < time {
                let at = Instant::now();
                client.unwrap(&edek).await.expect("opened");
                took.push(at.elapsed());
                calls += 1;
            }
            (calls, took)
        })
    });
    gather(runs, started).await
}

/// Single calls that begin `rate` times a second whether or not others have ended: how long each took from when it was due.
pub(super) async fn paced(target: &Target, edeks: &[pb::Edek], rate: f64, time: Duration) -> Latencies {
    let calls = (rate * time.as_secs_f64()) as usize;
    let mut begun = ticks(calls, Duration::from_secs_f64(1.0 / rate));
    let mut runs = Vec::with_capacity(calls);
    while let Some(due) = begun.recv().await {
        let (mut client, edek) = (
            Grpc::new(target.channel.clone()),
            edeks[runs.len() % edeks.len()].clone(),
        );
        runs.push(tokio::spawn(async move {
            single(&mut client, edek).await;
            due.elapsed()
        }));
    }
    let mut latencies = Latencies::default();
    for took in join_all(runs).await {
        latencies.push(took.expect("no panic"));
    }
    latencies
}

/// The instants of an open loop, each told when it comes. A thread's sleep is precise to some 50 us; the runtime's timers tick
/// in milliseconds, and would begin several calls at once.
fn ticks(count: usize, every: Duration) -> mpsc::Receiver<Instant> {
    let (told, ticks) = mpsc::channel(count.max(1));
    let started = Instant::now();
    std::thread::spawn(move || {
        for n in 0..count {
            let due = started + every.mul_f64(n as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if told.blocking_send(due).is_err() {
                return;
            }
        }
    });
    ticks
}

async fn single(client: &mut Grpc<Channel>, edek: pb::Edek) {
    let request = pb::UnwrapRequest { edeks: vec![edek] };
    let opened = client.unwrap(request).await.expect("answered").into_inner().results;
    assert!(opened.len() == 1 && is_dek(&opened[0]));
}

async fn gather(
    runs: impl Iterator<Item = tokio::task::JoinHandle<(u32, Latencies)>>,
    started: Instant,
) -> (f64, Latencies) {
    let mut latencies = Latencies::default();
    let mut calls = 0;
    for run in join_all(runs).await {
        let (done, took) = run.expect("no panic");
        calls += done;
        latencies.extend(took);
    }
    (f64::from(calls) / started.elapsed().as_secs_f64(), latencies)
}

/// EDEKs a second of batches that follow each other.
async fn batches<F: Future<Output = ()>>(time: Duration, call: impl Fn() -> F) -> f64 {
    let started = Instant::now();
    let line = || async {
        let mut done = 0_u32;
        while started.elapsed() < time {
            call().await;
            done += BATCH;
        }
        done
    };
    let done: u32 = join_all((0..BATCHES_IN_FLIGHT).map(|_| line())).await.iter().sum();
    f64::from(done) / started.elapsed().as_secs_f64()
}

impl Target {
    pub(super) fn mint_request(&self, count: u32) -> pb::MintRequest {
        pb::MintRequest {
            key_name: self.key.as_str().to_owned(),
            zone_id: self.zone.into(),
            count,
        }
    }

    /// EDEKs under the key's current version.
    pub(super) async fn edeks(&self, count: u32) -> Vec<pb::Edek> {
        let mut client = MintClient::new(self.channel.clone());
        let minted = client
            .mint(self.mint_request(count))
            .await
            .expect("minted")
            .into_inner();
        let edek = |wrapped| pb::Edek {
            key_name: self.key.as_str().to_owned(),
            key_version: minted.key_version,
            zone_id: self.zone.into(),
            suite: minted.suite.clone(),
            wrapped,
        };
        minted.wrapped.into_iter().map(edek).collect()
    }
}

fn is_dek(result: &pb::UnwrapResult) -> bool {
    matches!(&result.result, Some(pb::unwrap_result::Result::Dek(dek)) if dek.len() == 32)
}

fn wrapped_dek(edek: &pb::Edek) -> pb::WrappedDek {
    pb::WrappedDek {
        key_version: edek.key_version,
        wrapped: edek.wrapped.clone(),
    }
}
