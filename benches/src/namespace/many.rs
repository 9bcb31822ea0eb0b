//! Many files: made at the pace of the token, looked at, re-encrypted, and started over.

use std::time::{Duration, Instant};

use strongroom_proto::{
    KeyName, RequestId,
    metadata::v1::{self as pb, zones_client::ZonesClient},
};

use super::{
    cases::{Bench, CLIENTS, ROUNDS, RUN, ZONE},
    load::Operation,
    watch::watched,
};
use crate::{
    kms::parts::Raw,
    report::{Figure, median, medians, note, tell},
    site::Service,
};

/// How many files there are, unless `FILES` says otherwise. A million take minutes to be made, ten million hours.
const FILES: u32 = 1_000_000;
/// With fewer the throttled re-encryption ends while something is still measured beside it. The operations that are measured before make
/// some more.
const FILES_MIN: u32 = 15_000;
const FILES_MAX: u32 = 100_000_000;
const RAW_MS: u64 = 700;
/// Files a second of the re-encryption beside which files are made. It has to last as long as that is measured.
const THROTTLE: u32 = 1_000;
/// How long clients are at it, before and after the re-encryption began, when what they do begins to count: a beginning throws the stock away.
const LEAD: Duration = Duration::from_millis(300);
/// A re-encryption is given up when it has not come as far as this, in files a second.
const REENCRYPTION_MIN: u32 = 500;
const REENCRYPTION_MAX: Duration = Duration::from_secs(60);

/// How many files are to be made.
pub(super) fn files() -> u32 {
    let Ok(given) = std::env::var("FILES") else {
        return FILES;
    };
    let files = given
        .parse()
        .ok()
        .filter(|files| (FILES_MIN..=FILES_MAX).contains(files));
    files.unwrap_or_else(|| panic!("FILES={given} is not a number from {FILES_MIN} to {FILES_MAX}"))
}

impl Bench<'_> {
    pub(super) async fn many_files(&mut self, kms: &Service<'_>, key: &KeyName, count: u32) -> Vec<Figure> {
        note(&format!("engine {}, {count} files", self.name));
        // The bare loop works on two versions.
        self.roll(kms, key).await;
        let mut raw = self.site.raw();
        let mut figures = self.made(&mut raw, count).await;
        tell(&figures);
        let beside = self.beside_others(count).await;
        tell(&beside);
        figures.extend(beside);
        self.roll(kms, key).await;
        let (mut last, left) = self.beside_reencryption().await;
        last.push(self.reencrypted(&mut raw, left, count).await);
        last.extend(self.at_rest(count).await);
        tell(&last);
        figures.extend(last);
        figures
    }

    async fn roll(&self, kms: &Service<'_>, key: &KeyName) {
        kms.admin().roll(key, RequestId::generate()).await.expect("rolled");
    }

    /// The fill, and what it takes on the disk.
    async fn made(&self, raw: &mut Raw, count: u32) -> Vec<Figure> {
        let (bytes, files) = (self.namespace.store_bytes(), self.files_by_version().await);
        let before = raw.rate("mint", "kw", RAW_MS);
        let made = self.load.fill(count).await;
        let mint = f64::midpoint(before, raw.rate("mint", "kw", RAW_MS));
        let there = self.files_by_version().await;
        let sum = |versions: &[pb::VersionCount]| versions.iter().map(|version| version.files).sum::<u64>();
        assert_eq!(sum(&there) - sum(&files), u64::from(count), "files of the zone");
        let bytes = self.namespace.store_bytes().saturating_sub(bytes);
        vec![
            self.figure(&format!("fill/{count}"), "op/s", "raw-mint", (made, made / mint)),
            self.alone(&format!("disk/{count}"), "B/file", bytes as f64 / f64::from(count)),
        ]
    }

    /// Each operation again, with so many files beside; opened and looked at are all of them, not a thousand again and again.
    async fn beside_others(&self, count: u32) -> Vec<Figure> {
        let mut figures = Vec::new();
        for clients in CLIENTS {
            for operation in Operation::ALL {
                let mut rates = Vec::new();
                for _ in 0..ROUNDS {
                    rates.push(self.load.rate(operation, clients, RUN).await.0);
                }
                let what = format!("{}/c{clients}/{count}", operation.name());
                figures.push(self.alone(&what, "op/s", median(rates)));
            }
        }
        figures
    }

    /// What creates lose to a throttled re-encryption that goes on meanwhile. It is canceled afterwards; the files that it has left.
    async fn beside_reencryption(&self) -> (Vec<Figure>, u64) {
        let mut zones = ZonesClient::new(self.namespace.channel());
        let (mut figures, mut left) = (Vec::new(), 0);
        for clients in CLIENTS {
            let mut measured = Vec::new();
            for _ in 0..ROUNDS {
                let alone = self.creates(clients).await;
                let start = pb::StartReencryptionRequest {
                    path: ZONE.into(),
                    throttle: Some(THROTTLE),
                };
                zones.start_reencryption(start).await.expect("started");
                let beside = self.creates(clients).await;
                let cancel = pb::CancelReencryptionRequest { path: ZONE.into() };
                let status = zones.cancel_reencryption(cancel).await.expect("canceled").into_inner();
                assert!(
                    status.files_done > 0 && status.files_left > 0,
                    "it did not go on meanwhile: {status:?}"
                );
                left = status.files_left;
                measured.push((beside, beside / alone));
            }
            let what = format!("create-beside-reencryption/c{clients}");
            figures.push(self.figure(&what, "op/s", "without", medians(&measured)));
        }
        (figures, left)
    }

    async fn creates(&self, clients: u32) -> f64 {
        self.load.rate(Operation::Create, clients, LEAD).await;
        self.load.rate(Operation::Create, clients, RUN).await.0
    }

    /// Files a second of a re-encryption of all that is `left` to do.
    async fn reencrypted(&self, raw: &mut Raw, left: u64, count: u32) -> Figure {
        let before = raw.rate("rewrap", "kw", RAW_MS);
        let rate = self.reencrypt(left).await;
        let rewrap = f64::midpoint(before, raw.rate("rewrap", "kw", RAW_MS));
        let versions = self.files_by_version().await;
        assert_eq!(versions.len(), 1, "every file is of one version: {versions:?}");
        self.figure(
            &format!("reencrypt/{count}"),
            "op/s",
            "raw-rewrap",
            (rate, rate / rewrap),
        )
    }

    async fn reencrypt(&self, left: u64) -> f64 {
        let mut zones = ZonesClient::new(self.namespace.channel());
        let started = Instant::now();
        let start = pb::StartReencryptionRequest {
            path: ZONE.into(),
            throttle: None,
        };
        zones.start_reencryption(start).await.expect("started");
        let may_take = REENCRYPTION_MAX + Duration::from_secs(left / u64::from(REENCRYPTION_MIN));
        let ended = watched(self.reencryption_ended(started + may_take), async || {
            let status = self.reencryption().await;
            format!("re-encrypted {} files of {left}", status.files_done)
        })
        .await;
        assert_eq!(
            (ended.failures, ended.files_done, ended.files_left),
            (0, left, 0),
            "{}",
            ended.message
        );
        left as f64 / started.elapsed().as_secs_f64()
    }

    async fn reencryption_ended(&self, at_last: Instant) -> pb::Reencryption {
        loop {
            let status = self.reencryption().await;
            if status.state() == pb::ReencryptionState::Completed {
                return status;
            }
            assert!(Instant::now() < at_last, "it does not end: {status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn reencryption(&self) -> pb::Reencryption {
        let request = pb::GetReencryptionRequest { path: ZONE.into() };
        let status = ZonesClient::new(self.namespace.channel())
            .get_reencryption(request)
            .await;
        status.expect("a status").into_inner()
    }

    /// Memory at work and after a new beginning, and what is on the disk after all that.
    async fn at_rest(&mut self, count: u32) -> [Figure; 4] {
        let of = |what: &str| format!("{what}/{count}");
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let bytes = self.namespace.store_bytes() as f64 / f64::from(count);
        let peak = self.namespace.memory_peak();
        let start = self.namespace.restart().await.as_secs_f64() * 1e3;
        [
            self.alone(&of("disk-reencrypted"), "B/file", bytes),
            self.alone(&of("memory-peak"), "MiB", mib(peak)),
            self.alone(&of("restart"), "ms", start),
            self.alone(&of("memory-restarted"), "MiB", mib(self.namespace.memory())),
        ]
    }

    async fn files_by_version(&self) -> Vec<pb::VersionCount> {
        self.namespace.zone_at(ZONE).await.files
    }
}
