//! What is measured, case by case. Each round runs the bare loop and every load once, in turn; medians of the rounds count,
//! and a ratio is the median of the rounds' ratios.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use strongroom_kms_admin::{KeyAdminClient, KeyVersionInfo};
use strongroom_kms_unwrap::UnwrapClient;
use strongroom_proto::{Edek, KeyName, RequestId, ZoneId, kms::v1 as pb};

use super::{
    load::{self, Target},
    parts::Raw,
};
use crate::{
    report::{Figure, medians, note},
    site::{Service, Site},
};

const ROUNDS: usize = 5;
/// How long one load runs, and the bare loop.
const RUN: Duration = Duration::from_millis(1500);
const RAW_MS: u64 = 700;
const RAW: &str = "raw-pkcs11";

/// What can be asked for by name.
const CASES: [&str; 6] = ["kw", "gcm", "audit", "tokens", "keys", "sealed"];

pub(crate) fn are_cases(names: &[&str]) -> bool {
    names.iter().all(|name| CASES.contains(name))
}

/// Runs the cases that are named, or all.
pub(crate) fn run(names: &[&str]) -> Vec<Figure> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut figures = Vec::new();
        for case in CASES.iter().filter(|case| names.is_empty() || names.contains(case)) {
            figures.extend(match *case {
                "audit" => Box::pin(audit_in_memory()).await,
                "tokens" => Box::pin(two_tokens()).await,
                "keys" => Box::pin(many_keys()).await,
                "sealed" => Box::pin(super::sealed::delivery()).await,
                suite => Box::pin(one_token(suite)).await,
            });
        }
        figures
    })
}

/// A service, a key with two versions, and EDEKs of the first.
struct Bench<'a> {
    suite: &'static str,
    service: Service<'a>,
    target: Target,
    edeks: Vec<pb::Edek>,
    raw: Raw,
}

impl<'a> Bench<'a> {
    async fn start(site: &'a Site, suite: &'static str, data_dir: &Path) -> Self {
        let service = Service::start(site, data_dir).await;
        let key = service.key(suite).await;
        let target = Target {
            channel: service.channel(),
            key,
            zone: ZoneId::generate(),
        };
        let edeks = target.edeks(load::BATCH).await;
        let rolled = service.admin().roll(&target.key, RequestId::generate()).await;
        rolled.expect("a second version");
        let raw = site.raw();
        Self {
            suite,
            service,
            target,
            edeks,
            raw,
        }
    }

    /// Median of the rates, and of their ratios to the bare loop's rate of `operation`.
    async fn held_against_raw(&mut self, operation: &str, load: impl AsyncFn(&Self) -> f64) -> (f64, f64) {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            let limit = self.raw.rate(operation, self.suite, RAW_MS);
            let rate = load(self).await;
            rates.push((rate, rate / limit));
        }
        medians(&rates)
    }

    fn figure(&self, what: &str, (value, ratio): (f64, f64)) -> Figure {
        Figure {
            bench: format!("kms/{what}/{}", self.suite),
            implementation: "strongroom",
            value,
            unit: "op/s",
            against: RAW,
            ratio: Some(ratio),
        }
    }
}

async fn one_token(suite: &'static str) -> Vec<Figure> {
    note(&format!("suite {suite}, one token"));
    let site = Site::new(1);
    let data_dir = site.path("kms");
    let mut bench = Bench::start(&site, suite, &data_dir).await;
    let mut figures = batched(&mut bench).await;
    figures.extend(unary(&mut bench).await);
    figures.extend(half_load(&mut bench, &data_dir).await);
    figures
}

async fn batched(bench: &mut Bench<'_>) -> Vec<Figure> {
    let mint = bench
        .held_against_raw("mint", async |bench| load::mint(&bench.target, RUN).await)
        .await;
    let unwrap = bench
        .held_against_raw("unwrap", async |bench| {
            load::unwrap(&bench.target, std::slice::from_ref(&bench.edeks), RUN).await
        })
        .await;
    let rewrap = bench
        .held_against_raw("rewrap", async |bench| {
            load::rewrap(&bench.target, &bench.edeks, RUN).await
        })
        .await;
    vec![
        bench.figure("mint/batch100", mint),
        bench.figure("unwrap/batch100", unwrap),
        bench.figure("rewrap/batch100", rewrap),
    ]
}

/// Single calls, bare and through the Rust client.
async fn unary(bench: &mut Bench<'_>) -> Vec<Figure> {
    let mut figures = Vec::new();
    for in_flight in [1, 16, 64] {
        let (mut rates, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let limit = bench.raw.rate("unwrap", bench.suite, RAW_MS);
            let (rate, mut latencies) = load::unary(&bench.target, &bench.edeks, in_flight, RUN).await;
            rates.push((rate, rate / limit));
            for (percentile, at) in [(&mut p50, 0.50), (&mut p99, 0.99)] {
                let ms = latencies.at_ms(at);
                percentile.push((ms, 1000.0 / limit / ms));
            }
        }
        let what = format!("unwrap/unary{in_flight}");
        figures.push(bench.figure(&what, medians(&rates)));
        for (name, percentile) in [("p50", p50), ("p99", p99)] {
            let mut figure = bench.figure(&format!("{what}-{name}"), medians(&percentile));
            figure.unit = "ms";
            figures.push(figure);
        }
    }
    let client = Arc::new(UnwrapClient::connect(
        &bench.service.remote().into(),
        &bench.service.identity("alice"),
    ));
    let edeks: Vec<Edek> = bench
        .edeks
        .iter()
        .cloned()
        .map(|edek| edek.try_into().expect("an EDEK"))
        .collect();
    let through_client = bench
        .held_against_raw("unwrap", async |_| load::unary_client(&client, &edeks, 64, RUN).await.0)
        .await;
    figures.push(bench.figure("unwrap/client64", through_client));
    figures
}

/// Single calls at half the rate that 64 in flight reach, begun on time: their latencies beside that of one fsync.
async fn half_load(bench: &mut Bench<'_>, data_dir: &Path) -> Vec<Figure> {
    let (full, _) = load::unary(&bench.target, &bench.edeks, 64, RUN).await;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let goal = 2.0 + fsync_p99_ms(data_dir);
        let mut latencies = load::paced(&bench.target, &bench.edeks, full / 2.0, RUN).await;
        for (percentile, at) in [(&mut p50, 0.50), (&mut p99, 0.99)] {
            let ms = latencies.at_ms(at);
            percentile.push((ms, goal / ms));
        }
    }
    [("p50", p50), ("p99", p99)]
        .into_iter()
        .map(|(name, percentile)| {
            let mut figure = bench.figure(&format!("unwrap/half-load-{name}"), medians(&percentile));
            (figure.unit, figure.against) = ("ms", "2ms+fsync");
            figure
        })
        .collect()
}

/// The 99th percentile of appending a line and syncing it, where the audit log is.
fn fsync_p99_ms(directory: &Path) -> f64 {
    let mut file = File::create(directory.join("fsync-probe")).expect("own directory");
    let mut latencies = crate::latency::Latencies::default();
    for _ in 0..200 {
        let at = Instant::now();
        file.write_all(&[b'x'; 300]).expect("written");
        file.sync_data().expect("synced");
        latencies.push(at.elapsed());
    }
    latencies.at_ms(0.99)
}

/// The audit log, and the store, in memory instead of on disk: what their disk costs. There is no service without audit.
async fn audit_in_memory() -> Vec<Figure> {
    let shm = Path::new("/dev/shm");
    note("suite kw, the audit log in memory and on disk");
    let (memory_site, disk_site) = (Site::new(1), Site::new(1));
    let memory = tempfile::tempdir_in(shm).expect("memory that looks like a disk");
    let in_memory = Bench::start(&memory_site, "kw", memory.path()).await;
    let on_disk = Bench::start(&disk_site, "kw", &disk_site.path("kms")).await;
    side_by_side("audit-on-disk", "audit-in-memory", &on_disk, &in_memory).await
}

/// Every key in two tokens of one machine.
async fn two_tokens() -> Vec<Figure> {
    note("suite kw, two tokens and one");
    let (one_site, two_site) = (Site::new(1), Site::new(2));
    let one = Bench::start(&one_site, "kw", &one_site.path("kms")).await;
    let two = Bench::start(&two_site, "kw", &two_site.path("kms")).await;
    side_by_side("two-tokens", "one-token", &two, &one).await
}

/// Batches and single calls of `ours`, held against those of `other` in the same rounds.
async fn side_by_side(name: &str, against: &'static str, ours: &Bench<'_>, other: &Bench<'_>) -> Vec<Figure> {
    let batch = async |bench: &Bench<'_>| {
        let edeks = std::slice::from_ref(&bench.edeks);
        load::unwrap(&bench.target, edeks, RUN).await
    };
    let unary = async |bench: &Bench<'_>| load::unary(&bench.target, &bench.edeks, 64, RUN).await.0;
    vec![
        compared(
            &format!("unwrap/batch100/{name}"),
            against,
            async || batch(ours).await,
            async || batch(other).await,
        )
        .await,
        compared(
            &format!("unwrap/unary64/{name}"),
            against,
            async || unary(ours).await,
            async || unary(other).await,
        )
        .await,
    ]
}

async fn compared(
    what: &str,
    against: &'static str,
    ours: impl AsyncFn() -> f64,
    other: impl AsyncFn() -> f64,
) -> Figure {
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let (other, ours) = (other().await, ours().await);
        rates.push((ours, ours / other));
    }
    let (value, ratio) = medians(&rates);
    Figure {
        bench: format!("kms/{what}"),
        implementation: "strongroom",
        value,
        unit: "op/s",
        against,
        ratio: Some(ratio),
    }
}

/// Keys in the token of [`many_keys`], and those of them that its load goes over, [`KEYS_FEW`] of them in a batch: so that both
/// services write as many audit records.
const KEYS_MANY: u32 = 10_000;
const KEYS_USED: u32 = 1000;
const KEYS_FEW: u32 = 10;
/// How long the service may take to find what is in its token.
const FOUND_MAX: Duration = Duration::from_secs(300);

/// A token of 10,000 keys, of which a thousand are used in turn, beside one of ten.
async fn many_keys() -> Vec<Figure> {
    note(&format!("suite kw, {KEYS_FEW} and {KEYS_MANY} keys"));
    let (few_site, many_site) = (Site::new(1), Site::new(1));
    let (few, few_edeks) = filled(&few_site, KEYS_FEW, KEYS_FEW).await;
    let (many, many_edeks) = filled(&many_site, KEYS_MANY, KEYS_USED).await;
    let load = async |service: &Service<'_>, edeks: &[Vec<pb::Edek>]| {
        let target = Target {
            channel: service.channel(),
            key: "fill-00000".parse().expect("a key name"),
            zone: ZoneId::generate(),
        };
        load::unwrap(&target, edeks, RUN).await
    };
    let figure = compared(
        "unwrap/batch100/10000-keys",
        "10-keys",
        async || load(&many, &many_edeks).await,
        async || load(&few, &few_edeks).await,
    );
    vec![figure.await]
}

/// The versions of a key, once the service has found it in the token.
async fn found(admin: &KeyAdminClient, key: &KeyName) -> Vec<KeyVersionInfo> {
    let started = Instant::now();
    loop {
        match admin.list_versions(key, None, 1).await {
            Ok((versions, _)) => return versions,
            Err(failure) => assert!(started.elapsed() < FOUND_MAX, "key {key} is not found: {failure}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A service over a token with `keys` keys, and batches of EDEKs over the first `used` of them.
async fn filled(site: &Site, keys: u32, used: u32) -> (Service<'_>, Vec<Vec<pb::Edek>>) {
    site.raw().fill(keys);
    let service = Service::start(site, &site.path("kms")).await;
    let admin = service.admin();
    let mut edeks = Vec::new();
    for n in 0..used {
        let key: KeyName = format!("fill-{n:05}").parse().expect("a key name");
        // Found in the token and not made by the service: somebody has to say that they count.
        let versions = found(&admin, &key).await;
        let confirmed = admin.confirm(&key, versions[0].version, versions[0].kcv).await;
        confirmed.expect("confirmed");
        let target = Target {
            channel: service.channel(),
            key,
            zone: ZoneId::generate(),
        };
        edeks.extend(target.edeks(load::BATCH / KEYS_FEW).await);
    }
    // Neighbours in a batch are of different keys.
    let of_each = (load::BATCH / KEYS_FEW) as usize;
    let spread = edeks.chunks(load::BATCH as usize).map(|batch| {
        let nth = |at: usize| batch.iter().skip(at).step_by(of_each).cloned();
        (0..of_each).flat_map(nth).collect()
    });
    (service, spread.collect())
}
