//! What is measured of each engine. Each round runs the limit and every operation once, in turn; medians of the rounds count, and a
//! ratio is the median of the rounds' ratios.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use strongroom_proto::{
    KeyName, RequestId,
    metadata::v1::{self as pb, zones_client::ZonesClient},
};

use super::{
    limit,
    load::{Load, Operation, ZONE},
    site::{Engine, Namespace},
};
use crate::{
    report::{Figure, medians, note},
    site::{Service, Site},
};

const ENGINES: [&str; 2] = ["embedded", "postgres"];
const CLIENTS: [usize; 2] = [1, 64];
const CLIENTS_MAX: u32 = 64;
const ROUNDS: usize = 3;
const RUN: Duration = Duration::from_millis(1500);
const RAW_MS: u64 = 700;
/// Files that are re-encrypted and started over, unless `FILES` says otherwise.
const FILES: u32 = 20_000;
/// Files a second of the re-encryption beside which files are made. It has to last as long as that is measured.
const THROTTLE: u32 = 1_000;
const REENCRYPTION_MAX: Duration = Duration::from_secs(3600);

pub(crate) fn are_engines(names: &[&str]) -> bool {
    names.iter().all(|name| ENGINES.contains(name))
}

/// Runs the engines that are named, or both.
pub(crate) fn run(names: &[&str]) -> Vec<Figure> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let wanted = ENGINES
        .into_iter()
        .filter(|engine| names.is_empty() || names.contains(engine));
    runtime.block_on(async {
        let mut figures = Vec::new();
        for engine in wanted {
            figures.extend(Box::pin(of_engine(engine)).await);
        }
        figures
    })
}

async fn of_engine(name: &'static str) -> Vec<Figure> {
    let (site, engine) = (Site::new(1), Engine::named(name));
    let kms = Service::start(&site, &site.path("kms")).await;
    let key = kms.key("kw").await;
    let mut namespace = Namespace::start(&site, &kms, &engine.fresh()).await;
    Load::make_zone(namespace.channel()).await;
    namespace.zone(ZONE, key.as_str()).await;
    let load = Load::prepare(namespace.channel(), CLIENTS_MAX as usize).await;
    let bench = Bench {
        name,
        site: &site,
        load,
    };
    let store = limit::open(&engine.fresh(), &site.path("metadata")).await;
    let mut figures = Vec::new();
    for clients in CLIENTS {
        note(&format!("engine {name}, {clients} clients"));
        figures.extend(bench.operations(&store, clients).await);
    }
    drop(store);
    figures.extend(bench.many_files(&kms, &key, &mut namespace).await);
    figures
}

struct Bench<'a> {
    name: &'static str,
    site: &'a Site,
    load: Load,
}

impl Bench<'_> {
    async fn operations(&self, store: &strongroom_kv::AnyStore, clients: usize) -> Vec<Figure> {
        let mut measured = vec![Vec::new(); Operation::ALL.len()];
        let mut p99 = vec![Vec::new(); Operation::ALL.len()];
        for _ in 0..ROUNDS {
            let files = limit::files_a_second(store, clients, RUN).await;
            let lookups = limit::lookups_a_second(store, clients, RUN).await;
            for (at, operation) in Operation::ALL.into_iter().enumerate() {
                let (rate, mut took) = self.load.rate(operation, clients, RUN).await;
                let limit = if operation.writes() { files } else { lookups };
                measured[at].push((rate, rate / limit));
                let ms = took.at_ms(0.99);
                p99[at].push((ms, 1000.0 / rate * clients as f64 / ms));
            }
        }
        let mut figures = Vec::new();
        for (at, operation) in Operation::ALL.into_iter().enumerate() {
            let against = if operation.writes() { "kv-files" } else { "kv-lookups" };
            let what = format!("{}/c{clients}", operation.name());
            figures.push(self.figure(&what, "op/s", against, medians(&measured[at])));
            figures.push(self.figure(&format!("{what}-p99"), "ms", "mean", medians(&p99[at])));
        }
        figures
    }

    /// Many files: made at the pace of the token, re-encrypted, and started over.
    async fn many_files(&self, kms: &Service<'_>, key: &KeyName, namespace: &mut Namespace<'_>) -> Vec<Figure> {
        let count = std::env::var("FILES").map_or(FILES, |count| count.parse().expect("FILES is a number"));
        note(&format!("engine {}, {count} files", self.name));
        let before = self.store_bytes();
        let made = self.load.fill(count, CLIENTS_MAX).await;
        kms.admin().roll(key, RequestId::generate()).await.expect("rolled");
        let mut figures = self.beside_reencryption(namespace).await;
        // The bare loop works on both versions.
        let mut raw = self.site.raw();
        let mint = raw.rate("mint", "kw", RAW_MS);
        let (rewrapped, rewrap) = (self.reencrypt(namespace).await, raw.rate("rewrap", "kw", RAW_MS));
        let start = namespace.restart().await.as_secs_f64() * 1e3;
        let (memory, bytes) = (namespace.memory(), self.store_bytes().saturating_sub(before));
        let of = |what: &str| format!("{what}/{count}");
        figures.extend([
            self.figure(&of("fill"), "op/s", "raw-mint", (made, made / mint)),
            self.figure(&of("reencrypt"), "op/s", "raw-rewrap", (rewrapped, rewrapped / rewrap)),
            self.alone(&of("restart"), "ms", start),
            self.alone(&of("memory"), "MiB", memory as f64 / f64::from(1 << 20)),
        ]);
        if bytes > 0 {
            figures.push(self.alone(&of("disk"), "B/file", bytes as f64 / f64::from(count)));
        }
        figures
    }

    /// What creates lose to a throttled re-encryption that goes on meanwhile. It is canceled afterwards.
    async fn beside_reencryption(&self, namespace: &Namespace<'_>) -> Vec<Figure> {
        let mut zones = ZonesClient::new(namespace.channel());
        let mut figures = Vec::new();
        for clients in CLIENTS {
            let mut measured = Vec::new();
            for _ in 0..ROUNDS {
                let (alone, _) = self.load.rate(Operation::Create, clients, RUN).await;
                let start = pb::StartReencryptionRequest {
                    path: ZONE.into(),
                    throttle: Some(THROTTLE),
                };
                zones.start_reencryption(start).await.expect("started");
                let (beside, _) = self.load.rate(Operation::Create, clients, RUN).await;
                let cancel = pb::CancelReencryptionRequest { path: ZONE.into() };
                let status = zones.cancel_reencryption(cancel).await.expect("canceled").into_inner();
                assert!(
                    status.files_done > 0 && status.files_left > 0,
                    "it did not go on meanwhile: {status:?}"
                );
                measured.push((beside, beside / alone));
            }
            let what = format!("create-beside-reencryption/c{clients}");
            figures.push(self.figure(&what, "op/s", "without", medians(&measured)));
        }
        figures
    }

    /// Bytes of the embedded store; of a database nothing is known here.
    fn store_bytes(&self) -> u64 {
        let file = self.site.path("metadata").join("metadata.redb");
        fs::metadata(Path::new(&file)).map_or(0, |metadata| metadata.len())
    }

    /// Files a second of a re-encryption of the whole zone.
    async fn reencrypt(&self, namespace: &Namespace<'_>) -> f64 {
        let mut zones = ZonesClient::new(namespace.channel());
        let (started, path) = (Instant::now(), ZONE.as_bytes());
        let start = pb::StartReencryptionRequest {
            path: path.into(),
            ..pb::StartReencryptionRequest::default()
        };
        zones.start_reencryption(start).await.expect("started");
        loop {
            let request = pb::GetReencryptionRequest { path: path.into() };
            let status = zones.get_reencryption(request).await.expect("a status").into_inner();
            if status.state() == pb::ReencryptionState::Completed {
                assert_eq!(status.failures, 0, "{}", status.message);
                return status.files_done as f64 / started.elapsed().as_secs_f64();
            }
            assert!(started.elapsed() < REENCRYPTION_MAX, "it does not end: {status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn figure(&self, what: &str, unit: &'static str, against: &'static str, (value, ratio): (f64, f64)) -> Figure {
        Figure {
            bench: format!("namespace/{}/{what}", self.name),
            implementation: "strongroom",
            value,
            unit,
            against,
            ratio: Some(ratio),
        }
    }

    fn alone(&self, what: &str, unit: &'static str, value: f64) -> Figure {
        Figure {
            ratio: None,
            ..self.figure(what, unit, "", (value, 0.0))
        }
    }
}
