//! What sealed delivery costs: the same single unwraps through the Rust client, in the clear and sealed, in turn. The client
//! shares calls among those who wait at the same time, and signs, the worker verifies and signs, once for each call; sealing
//! and opening the transport key happens once and is not in the figures.

use std::{sync::Arc, time::Duration};

use strongroom_kms_unwrap::UnwrapClient;
use strongroom_proto::{Edek, ZoneId};

use super::load::{self, Target};
use crate::{
    report::{Figure, median, note},
    site::{Service, Site},
};

const IN_FLIGHT: usize = 16;
const ROUNDS: usize = 5;
const RUN: Duration = Duration::from_millis(1500);

/// One figure for each suite: sealed, held against the same in the clear.
pub(super) async fn delivery() -> Vec<Figure> {
    note("sealed delivery, and the same DEKs in the clear");
    let site = Site::new(1);
    let service = Service::start(&site, &site.path("kms")).await;
    let mut figures = Vec::new();
    for suite in ["kw", "gcm"] {
        figures.push(both_ways(&service, suite).await);
    }
    figures
}

async fn both_ways(service: &Service<'_>, suite: &str) -> Figure {
    let target = Target {
        channel: service.channel(),
        key: service.key(suite).await,
        zone: ZoneId::generate(),
    };
    let edeks = target.edeks(load::BATCH).await;
    let edeks: Vec<Edek> = edeks
        .into_iter()
        .map(|edek| edek.try_into().expect("an EDEK"))
        .collect();
    let (clear, sealed) = (client(service), client(service));
    sealed.seal_always();
    for edek in &edeks {
        let (one, other) = (clear.unwrap(edek).await, sealed.unwrap(edek).await);
        assert!(
            one.expect("opens").expose() == other.expect("opens").expose(),
            "the same DEK"
        );
    }
    let (mut open, mut shut) = (Rounds::default(), Rounds::default());
    for _ in 0..ROUNDS {
        open.run(&clear, &edeks).await;
        shut.run(&sealed, &edeks).await;
    }
    open.tell(suite, "in the clear");
    shut.tell(suite, "sealed");
    let ratios = shut.rates.iter().zip(&open.rates).map(|(sealed, clear)| sealed / clear);
    Figure {
        bench: format!("kms/unwrap/client{IN_FLIGHT}/sealed/{suite}"),
        implementation: "strongroom",
        value: median(shut.rates.clone()),
        unit: "op/s",
        against: "in-the-clear",
        ratio: Some(median(ratios.collect())),
    }
}

fn client(service: &Service<'_>) -> Arc<UnwrapClient> {
    let (remotes, alice) = (service.remote().into(), service.identity("alice"));
    Arc::new(UnwrapClient::connect(&remotes, &alice))
}

/// What the rounds of one way came to.
#[derive(Default)]
struct Rounds {
    rates: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
}

impl Rounds {
    async fn run(&mut self, client: &Arc<UnwrapClient>, edeks: &[Edek]) {
        let (rate, mut latencies) = load::unary_client(client, edeks, IN_FLIGHT, RUN).await;
        self.rates.push(rate);
        self.p50_ms.push(latencies.at_ms(0.50));
        self.p99_ms.push(latencies.at_ms(0.99));
    }

    fn tell(&self, suite: &str, way: &str) {
        let of = |figures: &Vec<f64>| median(figures.clone());
        note(&format!(
            "{suite}, {IN_FLIGHT} in flight, {way}: {:.0} op/s, p50 {:.2} ms, p99 {:.2} ms",
            of(&self.rates),
            of(&self.p50_ms),
            of(&self.p99_ms)
        ));
    }
}
