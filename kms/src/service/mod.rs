//! The assembly point: configuration in, a running key service out.

mod ports;
mod tasks;

use std::{
    fs::{DirBuilder, File, TryLockError},
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use sd_notify::NotifyState;
use strongroom_kv::StoreConfig;
use strongroom_proto::transport::{self, Role, ServeError, TlsError, TlsIdentity};
use tokio::{net::TcpListener, time::timeout};

use self::{
    ports::{BearerPort, Monitoring, Ports},
    tasks::Tasks,
};
use crate::{
    Clock, Config, InstancesConfig, KeysConfig, MetricsConfig,
    api::{self, Desk, calls::tagged, places::Places},
    audit::{AuditConfig, AuditError, AuditLog, AuditWriter},
    bearer::{Bearer, BearerError},
    fleet::{Fleet, FleetError},
    hsm::Hsm,
    keys::{Keys, KeysError, ProofChecker, StorePlace},
    ops::{Metrics, Standing, Vitals, observed},
    policy::{Policy, PolicyError},
};

/// How long a stop waits for the last audit records.
const AUDIT_FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the key service does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The certificates cannot be used.
    #[error("cannot set up TLS")]
    Tls(#[from] TlsError),
    /// The certificate is another role's.
    #[error("the certificate {} is that of {found}; the key service needs one for spiffe://strongroom/service/kms", path.display())]
    WrongCertificate {
        /// The certificate.
        path: PathBuf,
        /// Whose it is.
        found: String,
    },
    /// The policy file cannot be used.
    #[error("cannot use the policy")]
    Policy(#[from] PolicyError),
    /// Bearer tokens cannot be checked.
    #[error("cannot accept bearer tokens")]
    Bearer(#[from] BearerError),
    /// The data directory cannot be made.
    #[error("cannot make the data directory {}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process works in the data directory.
    #[error("the data directory {} is in use by another key service; give each instance its own", path.display())]
    DataDirInUse {
        /// The directory.
        path: PathBuf,
    },
    /// The store cannot be used.
    #[error("cannot read the keys")]
    Keys(#[from] KeysError),
    /// The audit log cannot be used.
    #[error("cannot go on with the audit log")]
    Audit(#[from] AuditError),
    /// The tokens cannot be supervised.
    #[error("cannot start the token workers")]
    Tokens(#[from] FleetError),
    /// This program's own file, which the worker is started from, cannot be found.
    #[error("cannot find the program to start the token worker with")]
    Executable(#[source] io::Error),
    /// The descriptors of the services do not fit together.
    #[error("cannot offer gRPC reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The system does not say where the service listens.
    #[error("cannot tell the own address")]
    Address(#[source] io::Error),
    /// The port cannot be taken.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Runs the key service until `stop` resolves. It stays up while its token cannot be used, and says so in its
/// answers and its health.
///
/// # Errors
/// Whatever keeps it from starting, or the server's failure.
pub async fn run(config: Config, stop: impl Future<Output = ()> + Send) -> Result<(), RunError> {
    // DEKs pass through this process.
    crate::memory::forbid_core_dumps();
    let parts = Parts::prepare(&config)?;
    let listener = transport::bind(config.listen).await?;
    let executable = std::env::current_exe().map_err(RunError::Executable)?;
    let mut stop = std::pin::pin!(stop);
    // A token may take long to answer; a stop does not wait for it.
    let fleet = tokio::select! {
        fleet = Fleet::start(executable, &config.tokens, config.redundancy.clone(), &config.data_dir) => Arc::new(fleet?),
        () = &mut stop => return Ok(()),
    };
    let outcome = parts.serve(Arc::clone(&fleet), Clock::default(), listener, stop).await;
    fleet.stop().await;
    outcome
}

/// Runs the key service on a given token and an open port: [`run`] without the token worker, for tests.
///
/// # Errors
/// As [`run`].
pub async fn serve<H: Hsm>(
    config: &Config,
    hsm: Arc<H>,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), RunError> {
    serve_at(config, hsm, Clock::default(), listener, stop).await
}

/// As [`serve`], at the time that `clock` shows.
///
/// # Errors
/// As [`run`].
pub async fn serve_at<H: Hsm>(
    config: &Config,
    hsm: Arc<H>,
    clock: Clock,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), RunError> {
    Parts::prepare(config)?.serve(hsm, clock, listener, stop).await
}

/// What is loaded and checked before anything is started.
struct Parts {
    tls: TlsIdentity,
    policy: Arc<Policy>,
    bearer: Option<(SocketAddr, Arc<Bearer>)>,
    data_dir: PathBuf,
    store: StoreConfig,
    instances: InstancesConfig,
    audit: AuditConfig,
    keys: KeysConfig,
    monitoring: Option<MetricsConfig>,
}

impl Parts {
    fn prepare(config: &Config) -> Result<Self, RunError> {
        let tls = TlsIdentity::load(&config.tls, SystemTime::now())?;
        let tls = tls.with_connection_age_max(Duration::from_secs(u64::from(config.connection_age_max_s.get())));
        if tls.identity().role() != Some(Role::Kms) {
            return Err(RunError::WrongCertificate {
                path: tls.certificate_path().to_owned(),
                found: tls.identity().short(),
            });
        }
        let policy = Arc::new(Policy::load(config.policy_files())?);
        let bearer = match &config.bearer {
            Some(bearer) => Some((bearer.listen, Arc::new(Bearer::open(bearer)?))),
            None => None,
        };
        let data_dir = config.data_dir.clone();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&data_dir)
            .map_err(|source| RunError::DataDir {
                path: data_dir.clone(),
                source,
            })?;
        Ok(Self {
            tls,
            policy,
            bearer,
            data_dir,
            store: config.store.clone(),
            instances: config.instances.clone(),
            audit: config.audit,
            keys: config.keys.clone(),
            monitoring: config.metrics.clone(),
        })
    }

    async fn serve<H: Hsm>(
        self,
        hsm: Arc<H>,
        clock: Clock,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), RunError> {
        let address = listener.local_addr().map_err(RunError::Address)?;
        let (desk, writer, _own) = self.open(&hsm, clock, address).await?;
        let vitals = Vitals {
            token: hsm.subscribe(),
            compared: desk.keys.ready(),
            places: desk.places.clone(),
            metrics: Arc::clone(&desk.metrics),
            stopping: Arc::default(),
        };
        let stopping = Arc::clone(&vitals.stopping);
        let stop = async {
            stop.await;
            stopping.store(true, Ordering::Relaxed);
            tell_manager(&[NotifyState::Stopping]);
        };
        let routes = api::routes(&desk)?;
        let ports = Ports {
            monitoring: Monitoring::open(self.monitoring, vitals).await?,
            bearer: BearerPort::open(self.bearer, &routes, &desk.audit, &desk.metrics).await?,
            routes: observed(tagged(routes, desk.audit.clone()), &desk.metrics),
            listener,
        };
        let tasks = Tasks::start(&desk, hsm, &self.audit);
        tracing::info!(%address, "serving");
        tell_manager(&[NotifyState::Ready]);
        Box::pin(ports.serve(&self.tls, stop)).await;
        tasks.finish(&desk).await;
        drop(desk);
        if timeout(AUDIT_FINISH_TIMEOUT, writer.finish()).await.is_err() {
            tracing::warn!("calls were still under way when the service stopped");
        }
        Ok(())
    }

    /// Opens store and audit log. The file that is answered keeps the data directory for this process while it is open.
    async fn open<H: Hsm>(
        &self,
        hsm: &Arc<H>,
        clock: Clock,
        address: SocketAddr,
    ) -> Result<(Arc<Desk<H>>, AuditWriter, File), RunError> {
        let place = StorePlace {
            store: &self.store,
            file: self.data_dir.join("keys.redb"),
            instances: &self.instances,
            instance: format!("{address} (process {})", std::process::id()),
        };
        let instance = place.instance.clone();
        // The embedded store first: its lock names the process that has it.
        let keys = Keys::open(&place, Arc::clone(hsm), clock.clone(), self.keys.clone()).await?;
        let own = lock(&self.data_dir)?;
        let (audit, writer) = AuditLog::open(&self.data_dir.join("audit"), &self.audit)?;
        keys.known_by(audit.id());
        let metrics = Arc::new(Metrics::new());
        let standing = Standing {
            policy: self.policy.status(),
            signing: audit.signing(),
            compared: keys.ready(),
        };
        metrics.with_registry(|registry| {
            registry.register_collector(Box::new(standing));
            hsm.measure(registry);
        });
        let desk = Desk {
            keys,
            policy: Arc::clone(&self.policy),
            audit,
            proofs: ProofChecker::new(self.tls.clone()),
            clock,
            instance,
            metrics,
            places: Places::new(),
        };
        Ok((Arc::new(desk), writer, own))
    }
}

/// Keeps the data directory for this process, as long as the file is open.
fn lock(data_dir: &Path) -> Result<File, RunError> {
    let path = data_dir.join("instance.lock");
    let failed = |source| RunError::DataDir {
        path: path.clone(),
        source,
    };
    let file = File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RunError::DataDirInUse {
            path: data_dir.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Tells systemd, if it started us, where we are.
fn tell_manager(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
