//! Sealed delivery over two tokens: one of them fails, or a request comes twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use strongroom_kms::{
    fleet::{Fleet, Health},
    hsm::Hsm,
    token::{SealedCall, SealedConfig, SealedReply, TokenConfig, Verified},
};
use strongroom_proto::{Edek, EdekSuite, Failure, KeyVersion, Reason};
use tokio::task::JoinSet;

use crate::{
    failover::becomes,
    fixture::{fresh, name, zone},
    pair::{LABELS, Pair},
    sealed_user::{SealedUser, Signed},
    support::{Pki, load},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// For as long after its start a worker takes nothing, and a little.
const NOT_TAKEN: Duration = Duration::from_millis(2_200);

/// Two tokens whose workers seal, and who reads.
struct Scene {
    pair: Pair,
    fleet: Fleet,
    /// Workers read their certificates at each start.
    _pki: Pki,
    alice: Arc<SealedUser>,
    edeks: Vec<Edek>,
    deks: Vec<Vec<u8>>,
}

impl Scene {
    async fn new() -> Self {
        let (pair, pki) = (Pair::new(), Pki::new());
        let fleet = pair.start_with(&sealing(&pair, &pki), Pair::settings()).await;
        fleet.generate(&fresh("payroll", 0)).await.expect("in both");
        let minted = fleet.mint(&name("payroll"), KeyVersion(0), &zone(1), 5).await;
        let edek = |wrapped| Edek {
            key: name("payroll"),
            version: KeyVersion(0),
            zone: zone(1),
            suite: EdekSuite::Kw,
            wrapped,
        };
        let edeks: Vec<_> = minted.expect("minted").into_iter().map(edek).collect();
        let opened = fleet.unwrap(&edeks).await.expect("called");
        let deks = opened
            .into_iter()
            .map(|dek| dek.expect("opens").into_wire().to_vec())
            .collect();
        let scene = Self {
            alice: Arc::new(SealedUser::new(load(&pki.issue("alice", "user/alice")))),
            pair,
            fleet,
            _pki: pki,
            edeks,
            deks,
        };
        scene.taken_by_both().await;
        scene
    }

    /// Waits until both workers take requests.
    async fn taken_by_both(&self) {
        let started = Instant::now();
        let mut takers = Vec::new();
        while takers.len() < LABELS.len() {
            assert!(started.elapsed() < PATIENCE, "taken by {takers:?} only");
            let signed = self.alice.sign(self.alice.request(&self.edeks));
            match carry(&self.fleet, &signed).await {
                Ok(reply) if !takers.contains(&reply.by) => takers.push(reply.by),
                Ok(_) => {}
                Err(failure) => assert_eq!(failure.reason, Reason::SignedTooEarly, "{failure}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn sealing(pair: &Pair, pki: &Pki) -> Vec<TokenConfig> {
    let own = pki.issue("token-worker", "service/token-worker");
    let sealed = SealedConfig {
        certificate: own.certificate,
        key: own.key,
        only: Vec::new(),
        client_ca: own.ca,
    };
    let mut configs = pair.configs();
    for config in &mut configs {
        config.sealed = Some(sealed.clone());
    }
    configs
}

async fn carry(fleet: &Fleet, signed: &Signed) -> Result<Verified<SealedReply>, Failure> {
    let call = SealedCall {
        request: signed.encoded.clone(),
        signature: signed.signature.clone(),
        left_out: Default::default(),
    };
    fleet.unwrap_sealed(call).await
}

/// Readers that sign and open all the time; each request is signed once and carried once.
struct Readers {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Readers {
    fn start(scene: &Scene) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let (fleet, alice) = (scene.fleet.clone(), Arc::clone(&scene.alice));
            let (edeks, deks) = (scene.edeks.clone(), scene.deks.clone());
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let signed = alice.sign(alice.request(&edeks));
                    let reply = carry(&fleet, &signed).await.expect("answered").done;
                    let opened = alice.open(&signed, &reply.answer, &reply.signature);
                    let opened: Vec<_> = opened.into_iter().map(|dek| dek.expect("opens").1).collect();
                    assert_eq!(opened, deks, "a wrong answer");
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { stop, rounds, tasks }
    }

    /// Waits until so many more rounds were made, and for that long.
    async fn go_on(&self, rounds: usize, for_at_least: Duration) {
        let (start, since) = (self.rounds.load(Ordering::Relaxed), Instant::now());
        while self.rounds.load(Ordering::Relaxed) < start + rounds || since.elapsed() < for_at_least {
            assert!(since.elapsed() < PATIENCE, "the readers stand still");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends them; every request was answered, or this panics.
    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no request failed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_dies_in_the_middle_costs_no_signed_request() {
    let scene = Scene::new().await;
    let readers = Readers::start(&scene);
    readers.go_on(20, Duration::ZERO).await;
    for label in LABELS {
        scene.pair.signal(label, "KILL");
        readers.go_on(20, Duration::ZERO).await;
        becomes(&scene.fleet, label, |health| *health == Health::Serving).await;
        // Until its new worker takes requests, the other token's has to.
        readers.go_on(20, NOT_TAKEN).await;
    }
    scene.pair.signal(LABELS[0], "STOP");
    readers.go_on(20, Duration::ZERO).await;
    scene.pair.signal(LABELS[0], "CONT");
    readers.end().await;
    scene.fleet.stop().await;
}

/// What is promised of a request that comes twice: each worker answers it once, for the public key in it and no other.
#[tokio::test]
async fn a_request_is_answered_once_by_each_token_and_for_its_signer_only() {
    let scene = Scene::new().await;
    let signed = scene.alice.sign(scene.alice.request(&scene.edeks));
    let mut answered_by = Vec::new();
    for _ in 0..6 {
        match carry(&scene.fleet, &signed).await {
            Ok(reply) => {
                let opened = scene.alice.open(&signed, &reply.done.answer, &reply.done.signature);
                let opened: Vec<_> = opened.into_iter().map(|dek| dek.expect("opens").1).collect();
                assert_eq!(opened, scene.deks);
                answered_by.push(reply.by);
            }
            Err(failure) => {
                assert_eq!(failure.reason, Reason::PermissionDenied, "{failure}");
                assert!(failure.message.contains("answered before"), "{failure}");
            }
        }
    }
    answered_by.sort();
    assert_eq!(answered_by, LABELS, "once each, and never again");
    scene.fleet.stop().await;
}
