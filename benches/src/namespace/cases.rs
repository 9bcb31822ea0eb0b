//! What is measured of each engine. Each round runs the limit and every operation once, in turn; medians of the rounds count, and a
//! ratio is the median of the rounds' ratios.

use std::time::Duration;

use super::{
    limit,
    load::{CLIENTS_MAX, Load, Operation},
    many,
    site::{Engine, Namespace, STOCK, STOCK_LOW},
};
use crate::{
    report::{Figure, medians, note, tell},
    site::{Service, Site},
};

const ENGINES: [&str; 2] = ["embedded", "postgres"];
pub(super) const CLIENTS: [u32; 2] = [1, CLIENTS_MAX];
pub(super) const ROUNDS: usize = 3;
pub(super) const RUN: Duration = Duration::from_millis(1500);
/// The zone that everything is in.
pub(super) const ZONE: &str = "/zone";
/// What is held against it: in no zone, not encrypted.
const PLAIN: &str = "/plain";
/// Files that are made of a full stock, as many by each client, before it is filled up again; and how often that is done in a round.
const BURST: u32 = 7 * CLIENTS_MAX;
const BURSTS: u32 = 3;

pub(crate) fn are_engines(names: &[&str]) -> bool {
    names.iter().all(|name| ENGINES.contains(name))
}

/// Runs the engines that are named, or both.
pub(crate) fn run(names: &[&str]) -> Vec<Figure> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let files = many::files();
    let wanted = ENGINES
        .into_iter()
        .filter(|engine| names.is_empty() || names.contains(engine));
    runtime.block_on(async {
        let mut figures = Vec::new();
        for engine in wanted {
            figures.extend(Box::pin(of_engine(engine, files)).await);
        }
        figures
    })
}

async fn of_engine(name: &'static str, files: u32) -> Vec<Figure> {
    let (site, engine) = (Site::new(1), Engine::named(name));
    let kms = Service::start(&site, &site.path("kms")).await;
    let key = kms.key("kw").await;
    let config = engine.fresh();
    let namespace = Namespace::start(&site, &kms, &engine, config).await;
    let load = Load::prepare(
        || namespace.channel(),
        ZONE,
        async || namespace.zone(ZONE, key.as_str()).await,
    )
    .await;
    let plain = Load::prepare(|| namespace.channel(), PLAIN, async || {}).await;
    let mut bench = Bench {
        name,
        site: &site,
        namespace,
        load,
        plain,
    };
    let store = limit::open(&engine.fresh(), &site.path("metadata")).await;
    let mut figures = Vec::new();
    for clients in CLIENTS {
        note(&format!("engine {name}, {clients} clients"));
        let mut found = bench.operations(&store, clients).await;
        found.extend(bench.against_plain(clients).await);
        tell(&found);
        figures.extend(found);
    }
    drop(store);
    figures.extend(bench.many_files(&kms, &key, files).await);
    figures
}

/// An engine with the service over it.
pub(super) struct Bench<'a> {
    pub(super) name: &'static str,
    pub(super) site: &'a Site,
    pub(super) namespace: Namespace<'a>,
    pub(super) load: Load,
    /// The same clients with files in no zone.
    plain: Load,
}

impl Bench<'_> {
    async fn operations(&self, store: &strongroom_kv::AnyStore, clients: u32) -> Vec<Figure> {
        let mut measured = vec![Vec::new(); Operation::ALL.len()];
        let mut p99 = vec![Vec::new(); Operation::ALL.len()];
        let mut stocked = Vec::new();
        for _ in 0..ROUNDS {
            let commits = limit::commits_a_second(store, clients as usize, RUN).await;
            let lookups = limit::lookups_a_second(store, clients as usize, RUN).await;
            for (at, operation) in Operation::ALL.into_iter().enumerate() {
                let (rate, mut took) = self.load.rate(operation, clients, RUN).await;
                let limit = match operation.commits() {
                    0 => lookups,
                    each => commits / f64::from(each),
                };
                measured[at].push((rate, rate / limit));
                let ms = took.at_ms(0.99);
                p99[at].push((ms, 1000.0 / rate * f64::from(clients) / ms));
            }
            let rate = self.rate_of_bursts(&self.load, clients).await;
            stocked.push((rate, rate * f64::from(limit::COMMITS_PER_FILE) / commits));
        }
        let mut figures = Vec::new();
        for (at, operation) in Operation::ALL.into_iter().enumerate() {
            let against = if operation.commits() > 0 {
                "kv-commits"
            } else {
                "kv-lookups"
            };
            let what = format!("{}/c{clients}", operation.name());
            figures.push(self.figure(&what, "op/s", against, medians(&measured[at])));
            figures.push(self.figure(&format!("{what}-p99"), "ms", "mean", medians(&p99[at])));
        }
        let what = format!("create-stocked/c{clients}");
        figures.push(self.figure(&what, "op/s", "kv-commits", medians(&stocked)));
        figures
    }

    /// What a zone costs: creates from a full stock, and the other operations, in it and outside of every zone, one right after the other and in
    /// turns which one first.
    async fn against_plain(&self, clients: u32) -> Vec<Figure> {
        let mut measured = vec![Vec::new(); 1 + Operation::IN_BOTH.len()];
        for round in 0..ROUNDS {
            for (at, measured) in measured.iter_mut().enumerate() {
                let zone = async || match at {
                    0 => self.rate_of_bursts(&self.load, clients).await,
                    _ => self.load.rate(Operation::IN_BOTH[at - 1], clients, RUN).await.0,
                };
                let plain = async || match at {
                    0 => self.rate_of_bursts(&self.plain, clients).await,
                    _ => self.plain.rate(Operation::IN_BOTH[at - 1], clients, RUN).await.0,
                };
                let (zone, plain) = if round % 2 == 0 {
                    let zone = zone().await;
                    (zone, plain().await)
                } else {
                    let plain = plain().await;
                    (zone().await, plain)
                };
                measured.push((zone, zone / plain));
            }
        }
        let names = ["create-stocked"]
            .into_iter()
            .chain(Operation::IN_BOTH.map(Operation::name));
        let figure = |(name, rounds): (&str, &Vec<_>)| {
            let what = format!("{name}-in-zone/c{clients}");
            self.figure(&what, "op/s", "plain", medians(rounds))
        };
        names.zip(&measured).map(figure).collect()
    }

    /// Files a second while all EDEKs come out of a full stock and none is made: what is left of a zone's cost when the token has nothing to do.
    /// Where nothing is encrypted the files are made in the same bursts, as each has a beginning and an end with fewer clients.
    async fn rate_of_bursts(&self, load: &Load, clients: u32) -> f64 {
        let mut took = Duration::ZERO;
        for _ in 0..BURSTS {
            self.fill_stock().await;
            took += load.burst(BURST, clients).await;
        }
        f64::from(BURST * BURSTS) / took.as_secs_f64()
    }

    /// Returns when the stock has enough for a burst and is not being filled. It is filled up when it is low: until then files are made.
    async fn fill_stock(&self) {
        const { assert!(STOCK - STOCK_LOW > BURST) };
        loop {
            let ready = self.namespace.zone_at(ZONE).await.edeks_in_stock;
            if ready >= STOCK_LOW + BURST {
                return;
            }
            if ready >= STOCK_LOW {
                self.load.burst(CLIENTS_MAX, CLIENTS_MAX).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) fn figure(
        &self,
        what: &str,
        unit: &'static str,
        against: &'static str,
        (value, ratio): (f64, f64),
    ) -> Figure {
        Figure {
            bench: format!("namespace/{}/{what}", self.name),
            implementation: "strongroom",
            value,
            unit,
            against,
            ratio: Some(ratio),
        }
    }

    pub(super) fn alone(&self, what: &str, unit: &'static str, value: f64) -> Figure {
        Figure {
            ratio: None,
            ..self.figure(what, unit, "", (value, 0.0))
        }
    }
}
