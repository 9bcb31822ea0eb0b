//! What the tests of the key service share: a CA, a stand-in for the token, and a service that runs in the
//! test's process and is reached over real mutual TLS.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test binary uses a part of what they share"
)]

mod audit_key;
mod memory_hsm;
mod page;
mod pki;
mod way;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use strongroom_kms::{
    Clock, Config, InstancesConfig, KeysConfig, MetricsConfig, RunError,
    audit::{AuditConfig, Reader, Record, Verified, VerifyOptions, verify},
    fleet::RedundancyConfig,
    hsm::Hsm,
    token::TokenConfig,
};
use strongroom_kv::{PostgresConfig, StoreConfig};
use strongroom_proto::{
    Failure, Reason, RequestId, ZoneId,
    kms::v1 as pb,
    kms::v1::{key_admin_client::KeyAdminClient, mint_client::MintClient, unwrap_client::UnwrapClient},
    transport::{self, Role},
};
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

pub use audit_key::SoftKey;
pub use memory_hsm::{Crash, CutAt, MemoryHsm};
pub use page::{ask, page};
pub use pki::{Pki, load};
pub use way::Way;

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory with a CA, a configuration and the data of one key service, which may be started many times.
pub struct Site {
    pub pki: Pki,
    pub config: Config,
    pub clock: Clock,
}

impl Site {
    pub fn new() -> Self {
        Self::with_policy(strongroom_kms::policy::SAMPLE)
    }

    pub fn with_policy(policy: &str) -> Self {
        let pki = Pki::new();
        let path = pki.path("policy.cedar");
        std::fs::write(&path, policy).expect("the policy is written");
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            policy: path,
            groups: None,
            bearer: None,
            data_dir: pki.path("data"),
            tls: pki.issue("kms", "service/kms"),
            connection_age_max_s: std::num::NonZeroU32::MAX,
            store: StoreConfig::default(),
            instances: InstancesConfig { poll_ms: 50 },
            audit: AuditConfig::default(),
            keys: KeysConfig::default(),
            // Unused: the token is a stand-in.
            tokens: vec![TokenConfig::new(
                "/nonexistent/module.so",
                "stand-in",
                "/nonexistent/pin",
            )],
            redundancy: RedundancyConfig::default(),
            metrics: None,
            traces: None,
            sealed: None,
        };
        let clock = Clock::default();
        Self { pki, config, clock }
    }

    /// One of several over the database whose URL is in that file; all is permitted.
    pub fn shared(url_file: &Path) -> Self {
        let mut site = Self::with_policy("permit (principal, action, resource);");
        site.config.store = StoreConfig::Postgres(PostgresConfig {
            url_file: url_file.to_owned(),
            ca: None,
            connections: 8,
            connect_timeout_ms: 1_000,
            statement_timeout_ms: 3_000,
        });
        site
    }

    /// With a port for monitoring that user prometheus may read, and the port's address.
    pub fn monitored(mut self) -> (Self, SocketAddr) {
        let free = std::net::TcpListener::bind(self.config.listen).expect("a free port");
        let listen = free.local_addr().expect("an address");
        let readers = vec!["prometheus".parse().expect("a user name")];
        self.config.metrics = Some(MetricsConfig { listen, readers });
        (self, listen)
    }

    /// Starts the service on `hsm` and waits until it has compared the token with its store.
    pub async fn start<H: Hsm>(&self, hsm: &Arc<H>) -> Kms<'_> {
        let kms = self.start_unready(hsm).await;
        kms.wait_health(true).await;
        kms
    }

    pub async fn start_unready<H: Hsm>(&self, hsm: &Arc<H>) -> Kms<'_> {
        let listener = transport::bind(self.config.listen).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let (config, hsm, clock) = (self.config.clone(), Arc::clone(hsm), self.clock.clone());
        let task = tokio::spawn(async move {
            let stop = async { _ = stopped.await };
            strongroom_kms::serve_at(&config, hsm, clock, listener, stop).await
        });
        Kms {
            site: self,
            address,
            stop,
            task,
        }
    }

    pub fn audit_path(&self) -> PathBuf {
        self.config.data_dir.join("audit").join("000001.log")
    }

    /// Every record but the checkpoints.
    pub fn audit(&self) -> Vec<Record> {
        let mut reader = Reader::open(&[self.audit_dir()]).expect("an audit log");
        let mut records = Vec::new();
        while let Some((_, record)) = reader.read_next().expect("a record") {
            records.push(record);
        }
        records.retain(|record| record.entry.checkpoint.is_none());
        records
    }

    pub fn audit_dir(&self) -> PathBuf {
        self.config.data_dir.join("audit")
    }

    pub fn verify(&self) -> Verified {
        verify(&[self.audit_dir()], VerifyOptions::default()).expect("a chain")
    }

    /// Waits until the log has at least that many records.
    pub async fn wait_audit(&self, records: usize) {
        let started = Instant::now();
        let lines = || std::fs::read_to_string(self.audit_path()).map_or(0, |text| text.lines().count());
        while lines() < records {
            assert!(started.elapsed() < PATIENCE, "no {records} records");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn remove_store(&self) {
        std::fs::remove_file(self.config.data_dir.join("keys.redb")).expect("the store was there");
    }
}

/// A running service.
pub struct Kms<'a> {
    site: &'a Site,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), RunError>>,
}

impl<'a> Kms<'a> {
    /// A service that runs elsewhere, with the certificates of `site`.
    pub fn at(site: &'a Site, address: SocketAddr) -> Self {
        let (stop, _) = oneshot::channel();
        Self {
            site,
            address,
            stop,
            task: tokio::spawn(async { Ok(()) }),
        }
    }

    /// Ends the service without a farewell, as far as a task can.
    pub async fn kill(self) {
        self.task.abort();
        _ = self.task.await;
    }
}

impl Kms<'_> {
    pub async fn stop(self) {
        drop(self.stop);
        self.task.await.expect("no panic").expect("a clean stop");
    }

    /// A connection as `who`: `user/alice`, `service/metadata`.
    pub fn channel(&self, who: &str) -> Channel {
        self.channel_to(self.address, who)
    }

    /// A connection to another port of the service.
    pub fn channel_to(&self, address: SocketAddr, who: &str) -> Channel {
        let files = self.site.pki.issue(&who.replace('/', "-"), who);
        let remote = address.to_string().parse().expect("an address");
        transport::connect(&remote, &pki::load(&files), Role::Kms)
    }

    pub fn as_user(&self, who: &str) -> Caller {
        let channel = self.channel(who);
        Caller {
            admin: KeyAdminClient::new(channel.clone()),
            mint: MintClient::new(channel.clone()),
            unwrap: UnwrapClient::new(channel),
        }
    }

    pub async fn healthy(&self, service: &str) -> bool {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        match HealthClient::new(self.channel("user/prober")).check(request).await {
            Ok(answer) => answer.into_inner().status() == ServingStatus::Serving,
            Err(_) => false,
        }
    }

    pub async fn wait_health(&self, expected: bool) {
        let started = Instant::now();
        while self.healthy("").await != expected {
            assert!(started.elapsed() < PATIENCE, "health did not become {expected}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// One identity's clients.
pub struct Caller {
    pub admin: KeyAdminClient<Channel>,
    pub mint: MintClient<Channel>,
    pub unwrap: UnwrapClient<Channel>,
}

pub type Answer<T> = Result<T, Failure>;

fn answer<T>(result: Result<tonic::Response<T>, Status>) -> Answer<T> {
    Ok(result?.into_inner())
}

impl Caller {
    pub async fn create(&mut self, name: &str) -> Answer<pb::Key> {
        self.create_as(name, RequestId::generate()).await
    }

    pub async fn create_as(&mut self, name: &str, id: RequestId) -> Answer<pb::Key> {
        let request = pb::CreateKeyRequest {
            name: name.to_owned(),
            request_id: id.into(),
            ..pb::CreateKeyRequest::default()
        };
        answer(self.admin.create_key(request).await)
    }

    pub async fn roll(&mut self, name: &str) -> Answer<pb::Key> {
        self.roll_as(name, RequestId::generate()).await
    }

    pub async fn roll_as(&mut self, name: &str, id: RequestId) -> Answer<pb::Key> {
        let request = pb::RollKeyRequest {
            name: name.to_owned(),
            request_id: id.into(),
        };
        answer(self.admin.roll_key(request).await)
    }

    pub async fn confirm(&mut self, name: &str) -> Answer<pb::Key> {
        let newest = self.describe(name).await?.versions.pop().expect("a version");
        self.confirm_version(name, newest.version, newest.kcv.to_vec()).await
    }

    pub async fn confirm_version(&mut self, name: &str, version: u32, kcv: Vec<u8>) -> Answer<pb::Key> {
        let request = pb::ConfirmKeyRequest {
            name: name.to_owned(),
            version: Some(version),
            kcv: kcv.into(),
        };
        answer(self.admin.confirm_key(request).await)
    }

    pub async fn import_key(&mut self, name: &str) -> Answer<pb::GetImportKeyResponse> {
        let name = name.to_owned();
        answer(self.admin.get_import_key(pb::GetImportKeyRequest { name }).await)
    }

    pub async fn import_as(&mut self, request: pb::ImportKeyRequest) -> Answer<pb::Key> {
        answer(self.admin.import_key(request).await)
    }

    pub async fn update(&mut self, request: pb::UpdateKeyRequest) -> Answer<pb::Key> {
        answer(self.admin.update_key(request).await)
    }

    pub async fn set_disabled(&mut self, name: &str, disabled: bool) -> Answer<pb::Key> {
        self.update(pb::UpdateKeyRequest {
            name: name.to_owned(),
            disabled: Some(disabled),
            ..pb::UpdateKeyRequest::default()
        })
        .await
    }

    pub async fn set_alias(&mut self, alias: &str, key: &str, moving: bool) -> Answer<pb::Alias> {
        let request = pb::SetAliasRequest {
            alias: alias.to_owned(),
            key_name: key.to_owned(),
            r#move: moving,
        };
        answer(self.admin.set_alias(request).await)
    }

    pub async fn delete(&mut self, name: &str, version: Option<u32>, proofs: Vec<Bytes>) -> Answer<pb::Key> {
        let request = pb::DeleteKeyRequest {
            name: name.to_owned(),
            version,
            after_days: 7,
            proofs,
        };
        answer(self.admin.delete_key(request).await)
    }

    pub async fn cancel_delete(&mut self, name: &str, version: Option<u32>) -> Answer<pb::Key> {
        let name = name.to_owned();
        let request = pb::CancelDeleteRequest { name, version };
        answer(self.admin.cancel_delete(request).await)
    }

    pub async fn approve_delete(&mut self, name: &str, version: Option<u32>) -> Answer<pb::Key> {
        let name = name.to_owned();
        let request = pb::ApproveDeleteRequest { name, version };
        answer(self.admin.approve_delete(request).await)
    }

    pub async fn describe(&mut self, name: &str) -> Answer<pb::Key> {
        let name = name.to_owned();
        answer(self.admin.describe_key(pb::DescribeKeyRequest { name }).await)
    }

    pub async fn list(&mut self, after: &str, limit: u32) -> Answer<pb::ListKeysResponse> {
        let after = after.to_owned();
        answer(self.admin.list_keys(pb::ListKeysRequest { after, limit }).await)
    }

    /// `count` EDEKs.
    pub async fn mint(&mut self, name: &str, zone: ZoneId, count: u32) -> Answer<Vec<pb::Edek>> {
        let request = pb::MintRequest {
            key_name: name.to_owned(),
            zone_id: zone.into(),
            count,
        };
        let minted = answer(self.mint.mint(request).await)?;
        let edek = |wrapped| pb::Edek {
            key_name: minted.key_name.clone(),
            key_version: minted.key_version,
            zone_id: zone.into(),
            suite: minted.suite.clone(),
            wrapped,
        };
        Ok(minted.wrapped.into_iter().map(edek).collect())
    }

    pub async fn rewrap(&mut self, edeks: &[pb::Edek]) -> Answer<pb::RewrapResponse> {
        let request = pb::RewrapRequest {
            key_name: edeks[0].key_name.clone(),
            zone_id: edeks[0].zone_id.clone(),
            edeks: edeks.iter().map(wrapped_dek).collect(),
        };
        answer(self.mint.rewrap(request).await)
    }

    /// For each EDEK the DEK's bytes, or the reason and message of its failure.
    pub async fn unwrap(&mut self, edeks: Vec<pb::Edek>) -> Answer<Vec<Result<Vec<u8>, Failure>>> {
        let results = answer(self.unwrap.unwrap(pb::UnwrapRequest { edeks }).await)?.results;
        Ok(results.into_iter().map(opened).collect())
    }
}

fn wrapped_dek(edek: &pb::Edek) -> pb::WrappedDek {
    pb::WrappedDek {
        key_version: edek.key_version,
        wrapped: edek.wrapped.clone(),
    }
}

fn opened(result: pb::UnwrapResult) -> Result<Vec<u8>, Failure> {
    match result.result.expect("a result") {
        pb::unwrap_result::Result::Dek(dek) => Ok(dek.to_vec()),
        pb::unwrap_result::Result::Failure(failure) => {
            let reason: Reason = failure.reason.parse().expect("a known reason");
            Err(Failure::new(reason, failure.message))
        }
    }
}
